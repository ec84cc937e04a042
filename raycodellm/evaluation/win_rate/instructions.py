"""Open instructions, read from a user's file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raycodellm.config import UserError
from raycodellm.config.errors import nearest_place

_LAYOUTS = "each line needs `instruction` (with `context` or `input`, if there is one) or `prompt`"


def read_instructions(path: str, limit: int | None = None) -> list[str]:
    """The requests of a file of JSON lines, a JSON list, or a Parquet table, the first `limit` of them.

    A record is in the layout of Dolly (`instruction`, `context`; other columns are not used), of Alpaca (`instruction`,
    `input`) or has its request in `prompt`. Raises UserError, naming the record, for a file that holds something else.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        keys = "evaluation.judge.prompts, or --instructions"
        raise UserError(f"the judge's instructions ({keys}): there is no file {path!r}; {nearest_place(path)}")
    requests: list[str] = []
    for number, record in enumerate(_records(file), 1):
        if limit is not None and len(requests) == limit:
            break
        requests.append(_request(record, f"instructions: {path}, record {number}"))
    if not requests:
        raise UserError(f"instructions: {path} holds no instruction; {_LAYOUTS}")
    return requests


def _records(path: Path) -> Iterable[Any]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(path).to_pylist()
        text = path.read_text("utf-8-sig")
        if text.lstrip().startswith("["):
            return json.loads(text)
        # Not by `splitlines`, which also parts a text at characters that JSON allows inside a line.
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except OSError as error:
        raise UserError(f"instructions: {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8 and of Parquet
        if path.suffix == ".parquet":
            raise UserError(f"instructions: {path} is no Parquet table that can be read ({error})") from error
        raise UserError(f"instructions: {path} is neither JSON lines nor a JSON list ({error}); {_LAYOUTS}") from error


def _request(record: Any, where: str) -> str:
    fields = record if isinstance(record, Mapping) else {}
    instruction = fields.get("instruction") or fields.get("prompt")
    if not isinstance(instruction, str) or not instruction.strip():
        raise UserError(f"{where}: has no instruction; {_LAYOUTS}")
    context = fields.get("context") or fields.get("input") or ""
    has_context = isinstance(context, str) and context.strip()
    return f"{instruction.strip()}\n\n{context.strip()}" if has_context else instruction.strip()
