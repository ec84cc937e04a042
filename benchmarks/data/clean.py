"""How fast each filter of a source's cleaning is, on a folder of text and on one of source code.

    python benchmarks/data/clean.py --text FOLDER --code FOLDER --output clean.md

One process, no Ray: megabytes of UTF-8 text per second of processor time. `read` is the reading alone, which cleaning
does twice; the others are what one filter adds to the first reading, `rest` what bringing all documents together took.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

from raycodellm.config import Source
from raycodellm.corpora import CleaningPlan, Document, benchmark_of, read_in_process, source_fingerprint
from raycodellm.corpora.cleaning.decision import SurveyResult, decide
from raycodellm.corpora.cleaning.survey import survey

QUESTIONS = [
    f"question {n} asks what follows from {n} and {n + 1} when all of the {n * 7} others are known to be false"
    for n in range(5000)
]
FILTERS: dict[str, dict[str, Any]] = {
    "paths and length": {"cleaning": {"min_characters": 50, "paths": {"exclude": ["*.min.js", "tests"]}}},
    "script": {"cleaning": {"script": {"latin": 0.5}}},
    "exact duplicates": {"cleaning": {"exact_duplicates": True}},
    "near duplicates": {"cleaning": {"near_duplicates": True}},
    "decontaminate": {"cleaning": {"decontaminate": True}},
    "all of these": {
        "cleaning": {
            "min_characters": 50,
            "script": {"latin": 0.5},
            "exact_duplicates": True,
            "near_duplicates": True,
            "decontaminate": True,
        }
    },
}


def measure(kind: str, path: Path, documents: str) -> list[list[str]]:
    """Rows of the table for one folder."""
    plain = Source(kind=kind, path=str(path), documents=documents)
    inputs = source_fingerprint(plain)
    started_at = time.process_time()
    rows = [row for row in read_in_process(plain, inputs) if isinstance(row, Document)]
    reading = time.process_time() - started_at
    size = sum(len(row.content.encode()) for row in rows) / 1e6
    label = f"{len(rows):,} {'files' if kind == 'code' else documents}, {size:.1f} MB"
    table = [[label, "read", f"{size / reading:.0f}", "", ""]]
    benchmark = benchmark_of({"questions": QUESTIONS}, 13)
    for name, settings in FILTERS.items():
        decontaminates = "decontaminate" in settings["cleaning"]
        plan = CleaningPlan(
            plain.model_validate({**plain.model_dump(), **settings}), 0, benchmark if decontaminates else None
        )
        with SurveyResult() as gathered:
            started_at = time.process_time()
            for stats in survey(rows, plan):
                gathered.add(stats)
            surveyed = time.process_time()
            decision = decide(plan, gathered)
            ended = time.process_time()
        left_out = sum(code != 0 for code in decision.codes[0])
        table.append(["", name, f"{size / (surveyed - started_at):.0f}", f"{ended - surveyed:.2f}", f"{left_out:,}"])
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="folder of plain text; a document is a paragraph")
    parser.add_argument("--code", type=Path, required=True, help="folder of source code; a document is a file")
    parser.add_argument("--output", type=Path, default=Path("clean.md"))
    options = parser.parse_args()
    lines = ["| source | filter | MB/s and core | rest, s | left out |", "|---|---|---|---|---|"]
    for row in [*measure("text", options.text, "paragraphs"), *measure("code", options.code, "file")]:
        lines.append(f"| {' | '.join(row)} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines.append(f"\nPeak memory {peak:.0f} MiB, the documents themselves included.")
    options.output.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
