"""`raycodellm board`: puts the Grafana board where a Grafana finds it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from raycodellm.commands.into import write_into
from raycodellm.commands.request import DONE
from raycodellm.config import UserError

_SESSION_BOARDS = "/tmp/ray/session_latest/metrics/grafana/dashboards"
"""Folder of Ray's own boards, of the newest session on this machine."""
_OUTPUT_VARIABLE = "RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR"
"""Variable by which a head node puts its boards elsewhere."""


def write_board(into: str | None) -> int:
    """Writes `raycodellm.json` into the folder `into`, which is made where it is missing, or among the boards of this
    machine's Ray session; prints what was written. Raises `UserError` where that is not possible."""
    from raycodellm.observability.board import FILE, board

    print(write_into(_folder_of_ray() if into is None else into, json.dumps(board(), indent=2) + "\n", FILE))
    return DONE


def _folder_of_ray() -> str:
    folder = Path(os.environ.get(_OUTPUT_VARIABLE) or _SESSION_BOARDS)
    if not folder.is_dir():
        raise UserError(
            f"no Ray session on this machine keeps boards ({folder} is missing); run this on the head node while Ray "
            "runs, or give --into FOLDER"
        )
    return str(folder)
