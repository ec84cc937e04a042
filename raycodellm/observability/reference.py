"""Prints the table of metrics that docs/observability.md holds: `python -m raycodellm.observability.reference`."""

from __future__ import annotations

from raycodellm.observability.metrics import LABELS, METRICS


def tables() -> str:
    """Two Markdown tables: the metrics, and the labels."""
    rows = [f"| `{m.prometheus_name}` | {m.unit or '–'} | {', '.join(m.labels)} | {m.description} |" for m in METRICS]
    labels = [f"| `{name}` | {meaning} |" for name, meaning in LABELS.items()]
    return "\n".join(
        [
            "| metric | unit | labels | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
            "| label | meaning |",
            "|---|---|",
            *labels,
        ]
    )


if __name__ == "__main__":
    print(tables())
