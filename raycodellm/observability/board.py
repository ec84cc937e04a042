"""The Grafana board as JSON: the panels on a grid, a choice of sweeps above them."""

from __future__ import annotations

from typing import Any

from raycodellm.observability.metrics import BY_NAME
from raycodellm.observability.panels import ROWS, Panel, Query

UID = "raycodellm"
FILE = "raycodellm.json"
SCHEMA_VERSION = 39
"""The schema's version in Grafana 11. Newer Grafanas bring an older board up to date when they read it."""
_COLUMNS = 24
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def board() -> dict[str, Any]:
    """The board, as a file of Grafana's provisioned folder holds it."""
    return {
        "uid": UID,
        "title": "raycodellm",
        "description": "Sweeps over code and text mixtures: trials, scores, training, devices.",
        "tags": ["raycodellm", "ray"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "schemaVersion": SCHEMA_VERSION,
        "panels": _placed_panels(),
        "templating": {"list": [_datasource_choice(), _sweep_choice()]},
        "annotations": {"list": []},
        "links": [],
    }


def queries(board_content: dict[str, Any]) -> list[str]:
    """All Prometheus queries of the board's panels."""
    return [target["expr"] for panel in board_content["panels"] for target in panel.get("targets", ())]


def _placed_panels() -> list[dict[str, Any]]:
    """The panels with their places: rows below each other, in each row from the left, in new lines where full."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in ROWS:
        grid_position = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row.title, "gridPos": grid_position, **_CLOSED})
        y, x, line_height = y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                y, x, line_height = y + line_height, 0, 0
            grid_position = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            panels.append({"id": len(panels) + 1, "gridPos": grid_position, **_panel(panel)})
            x, line_height = x + panel.width, max(line_height, panel.height)
        y += line_height
    return panels


_CLOSED: dict[str, Any] = {"collapsed": False, "panels": []}


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "targets": [_target(query, chr(ord("A") + index)) for index, query in enumerate(panel.queries)],
        "transformations": list(panel.transformations),
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        **({"options": panel.options} if panel.options else {}),
    }


def _target(query: Query, ref: str) -> dict[str, Any]:
    return {
        "refId": ref,
        "expr": query.expression,
        "datasource": _DATASOURCE,
        "range": not query.is_table,
        "instant": query.is_table,
        "format": "table" if query.is_table else "time_series",
        **({"legendFormat": query.legend} if query.legend else {}),
    }


def _datasource_choice() -> dict[str, Any]:
    return {"type": "datasource", "name": "datasource", "label": "source", "query": "prometheus", "refresh": 1}


def _sweep_choice() -> dict[str, Any]:
    values = f"label_values({BY_NAME['trials_planned'].prometheus_name}, sweep)"
    return {
        "type": "query",
        "name": "sweep",
        "label": "sweep",
        "datasource": _DATASOURCE,
        "query": values,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }
