"""Malformed sources through the real path: find, read, clean, tokenise, store. What becomes of each is written down.

    python benchmarks/data/fuzz.py --cases 300 --seed 0 --output fuzz

Each case runs in a process of its own, with a limit on time and memory, and ends as

* `store`: a token store, its counts right: documents read twice are the same ones, those kept and those left out add up
  to those read, and where the number of records is known, none of them is missing without a count;
* `error`: a UserError, which says what is wrong;
* `BUG`: any other exception, a hang, a killed process, or a count that is not right.

Writes `<output>.md` and `<output>.csv`; exit code 1 where a case is a BUG.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import _malformed

CAPABILITIES_V3 = 0x20080522
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
MEMORY_MIB = 3072
QUESTION = "There are three boxes on the table and the red one holds the key to the old garden gate"


@dataclass(frozen=True)
class Outcome:
    case: int
    format: str
    wrong: str
    outcome: str
    """store, error or BUG"""
    detail: str
    documents: int = 0
    left_out: int = 0
    seconds: float = 0.0
    peak_mib: int = 0


def run(cases: range, seed: int, scratch: Path, seconds: float = 30.0, workers: int = 2) -> list[Outcome]:
    """Runs the cases, `workers` at once; `scratch` is emptied after each."""
    context = multiprocessing.get_context("fork")
    _import_all()
    tokenizer = scratch / "tokenizer"
    _wait(context.Process(target=_make_tokenizer, args=(tokenizer,)), 120.0)
    waiting, running, outcomes = list(cases), {}, []
    while waiting or running:
        while waiting and len(running) < workers:
            number = waiting.pop(0)
            answer = scratch / f"{number}.json"
            process = context.Process(target=_run_one, args=(number, seed, scratch / str(number), tokenizer, answer))
            process.start()
            running[number] = process, answer, time.monotonic()
        for number, (process, answer, started_at) in list(running.items()):
            process.join(0.02)
            late = time.monotonic() - started_at > seconds
            if process.is_alive() and not late:
                continue
            _wait(process, 0.0)
            outcomes.append(_outcome(number, answer, process.exitcode, late, time.monotonic() - started_at))
            del running[number]
            _remove(scratch / str(number))
    return sorted(outcomes, key=lambda outcome: outcome.case)


def _wait(process: Any, seconds: float) -> None:
    if process.pid is None:
        process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()


def _remove(folder: Path) -> None:
    for path, names, _ in os.walk(folder):
        for name in names:
            if not os.path.islink(inner := os.path.join(path, name)):
                os.chmod(inner, 0o755)
    shutil.rmtree(folder, ignore_errors=True)


def _outcome(number: int, answer: Path, code: int | None, late: bool, seconds: float) -> Outcome:
    fields = json.loads(answer.read_text()) if answer.exists() else {"format": "?", "wrong": "?"}
    if late or "outcome" not in fields:
        ended = "does not end" if late else f"process ended with {code}"
        fields |= {"outcome": "BUG", "detail": f"{ended}; {fields.get('detail', '')}"}
    return Outcome(**{"case": number, "seconds": round(seconds, 2), **fields})


# ------------------------------------------------------------------------------------------------- in the processes


def _import_all() -> None:
    """Before forking, so that no case pays for it; nothing here starts a thread."""
    import pyarrow.parquet  # noqa: F401
    import rensa  # noqa: F401
    import scipy.sparse.csgraph  # noqa: F401
    import tokenizers  # noqa: F401

    from raycodellm import corpora, tokens  # noqa: F401


def _make_tokenizer(folder: Path) -> None:
    from raycodellm.config import Tokenizer
    from raycodellm.files import Folder
    from raycodellm.tokens import build_tokenizer

    build_tokenizer(Tokenizer(train={"vocab_size": 300}), [" ".join(_malformed.WORDS)] * 20, Folder(str(folder)))


def _run_one(number: int, seed: int, folder: Path, tokenizer: Path, answer: Path) -> None:
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # lives as long as the process
    case = _malformed.make(number, seed, folder / "source")
    fields: dict[str, Any] = {"format": case.format, "wrong": "; ".join(case.wrong) or "nothing"}
    fields["wrong"] = fields["wrong"].encode("utf-8", "replace").decode()
    answer.write_text(json.dumps({**fields, "detail": json.dumps(case.source)[:300]}))
    (folder / "store").mkdir()
    _limit()
    try:
        fields |= _through(case, tokenizer, folder / "store")
    except BaseException:
        last = traceback.format_exc().strip().splitlines()
        frames = [line.strip() for line in last if line.strip().startswith("File")][-3:]
        fields |= {"outcome": "BUG", "detail": f"{last[-1][:300]} @ {' < '.join(frames)} {json.dumps(case.source)}"}
    fields["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    answer.write_text(json.dumps(fields))
    os._exit(0)


def _limit() -> None:
    """Less memory, and no rights beyond a file's owner: root may read what is locked."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MIB << 20, MEMORY_MIB << 20))
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for place in (0, 1):  # effective and permitted
        sets[place] &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _through(case: _malformed.Case, tokenizer: Path, folder: Path) -> dict[str, Any]:
    """The outcome of the path that `raycodellm prepare` takes, in this process however large the source is."""
    from pydantic import ValidationError

    from raycodellm.config import Source, UserError
    from raycodellm.corpora import Document, benchmark_of, read_in_process, source_fingerprint
    from raycodellm.files import Folder
    from raycodellm.tokens import prepare_store, sizes

    sizes.IN_PROCESS_BYTES = sizes.SHARD_BYTES = 1 << 40
    try:
        source = Source(**case.source)
    except ValidationError as error:  # `config.load` says it in the words of the sweep file
        return {"outcome": "error", "detail": error.errors()[0]["msg"][:300]}
    benchmark = (
        benchmark_of({"boxes": [QUESTION]}, 13) if (case.source.get("cleaning") or {}).get("decontaminate") else None
    )
    try:
        inputs = source_fingerprint(source)
        store = prepare_store(
            "fuzz", source, inputs, Folder(str(tokenizer)), "print", 0, Folder(str(folder)), None, benchmark
        )
    except UserError as error:
        return {"outcome": "error", "detail": str(error).replace(str(case.folder), "…")[:300]}
    store.verify()
    manifest = store.manifest
    read = [row for row in read_in_process(source, inputs)]
    documents = [row for row in read if isinstance(row, Document)]
    unread = Counter({row.reason: row.count for row in read if not isinstance(row, Document)})
    left_out = sum(count for reason, count in manifest.skipped.items() if reason not in unread)
    counts = {"documents": manifest.num_documents, "left_out": sum(manifest.skipped.values())}
    problem = _wrong_count(case, manifest, len(documents), left_out)
    if problem:
        return {"outcome": "BUG", "detail": f"{problem}; {dict(manifest.skipped)} {json.dumps(case.source)}", **counts}
    return {"outcome": "store", "detail": json.dumps(manifest.skipped), **counts}


def _wrong_count(case: _malformed.Case, manifest: Any, num_read: int, left_out: int) -> str | None:
    expected = num_read - left_out
    if manifest.num_documents != expected:
        return f"{manifest.num_documents} documents kept of {num_read} read, {left_out} counted as left out"
    whole = manifest.num_documents + sum(manifest.skipped.values())
    damaged = any("unreadable" in reason for reason in manifest.skipped)
    if case.rows is not None and case.structure_known and whole < case.rows and not damaged:
        return f"silent loss: of {case.rows} records {whole} are kept or counted"
    return None


# ----------------------------------------------------------------------------------------------------------- report


def table(outcomes: list[Outcome], seed: int) -> str:
    """Markdown: outcomes by format, and each BUG."""
    kinds = ("store", "error", "BUG")
    lines = [
        f"{len(outcomes)} cases, seed {seed}: each ends as a token store with its counts, a clear error, or a bug.",
        "",
        "| format | cases | store | error | BUG | longest, s | peak, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for format in [*dict.fromkeys(outcome.format for outcome in outcomes), "all"]:
        of_format = [outcome for outcome in outcomes if format in (outcome.format, "all")]
        counts = Counter(outcome.outcome for outcome in of_format)
        worst = max(outcome.seconds for outcome in of_format), max(outcome.peak_mib for outcome in of_format)
        cells = [format, len(of_format), *(counts[kind] for kind in kinds), f"{worst[0]:.1f}", worst[1]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for outcome in outcomes:
        if outcome.outcome == "BUG":
            lines.append(f"\n* case {outcome.case}, {outcome.format}, {outcome.wrong}: {outcome.detail}")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=30.0, help="limit per case")
    parser.add_argument("--output", type=Path, default=Path("fuzz"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raycodellm-fuzz-") as scratch:
        os.chmod(scratch, 0o755)
        numbers = range(options.first, options.first + options.cases)
        outcomes = run(numbers, options.seed, Path(scratch), options.seconds, options.workers)
    text = table(outcomes, options.seed)
    options.output.with_suffix(".md").write_text(text)
    with open(options.output.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(outcomes[0])))
        writer.writeheader()
        writer.writerows(map(asdict, outcomes))
    print(text)
    return int(any(outcome.outcome == "BUG" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
