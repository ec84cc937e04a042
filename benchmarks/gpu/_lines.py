"""Shared by the steps: each result is one JSON line, printed and kept as soon as it is there."""

from __future__ import annotations

import json
from typing import Any


def leave(found: dict[str, Any], out: str | None) -> None:
    """Prints the result and appends it to the file `out`."""
    line = json.dumps(found)
    print(line, flush=True)
    if out:
        with open(out, "a", encoding="utf-8") as file:
            file.write(line + "\n")
