"""`raycodellm board`: puts the Grafana board where a Grafana finds it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from raycodellm.commands.request import DONE
from raycodellm.config import UserError

_SESSION_BOARDS = "/tmp/ray/session_latest/metrics/grafana/dashboards"
"""Folder of Ray's own boards, of the newest session on this machine."""
_OUTPUT_VARIABLE = "RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR"
"""Variable by which a head node puts its boards elsewhere."""


def write_board(into: str | None) -> int:
    """Writes `raycodellm.json` into the folder `into`, or among the boards of this machine's Ray session; prints what
    was written. Raises `UserError` where there is no such folder."""
    from raycodellm.observability.board import FILE, board

    folder = Path(into).expanduser() if into is not None else _folder_of_ray()
    if not folder.is_dir():
        raise UserError(f"--into {folder}: is no folder; give the folder that your Grafana reads boards from")
    path = folder / FILE
    path.write_text(json.dumps(board(), indent=2) + "\n", encoding="utf-8")
    print(path)
    return DONE


def _folder_of_ray() -> Path:
    folder = Path(os.environ.get(_OUTPUT_VARIABLE) or _SESSION_BOARDS)
    if not folder.is_dir():
        raise UserError(
            f"no Ray session on this machine keeps boards ({folder} is missing); run this on the head node while Ray "
            "runs, or give --into FOLDER"
        )
    return folder
