"""`python -m raycodellm.evaluation.sandbox SAMPLES.jsonl`: runs each sample, and prints a JSON line for each.

A sample is a JSON object with `task_id`, `prompt`, `completion`, `test` (which defines `check(candidate)`) and
`entry_point`, as in HumanEval; with `canonical_solution` too, the sample gets ten times the computing time of that.
Exit codes: 0 done; 1 no sandbox works here, so that every result is `not_run`; 2 the file is not of this format.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from raycodellm.evaluation.sandbox.inside.checker import NOT_RUN, PASSED
from raycodellm.evaluation.sandbox.isolation import KINDS, SandboxUnavailable
from raycodellm.evaluation.sandbox.probe import find_isolation, proven
from raycodellm.evaluation.sandbox.supervise import Limits, Program, Verdict, limits_for, run

_FIELDS = ("prompt", "completion", "test", "entry_point")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        samples = list(_samples(options.samples))
    except (OSError, ValueError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2
    limits = Limits(options.cpu_seconds, options.wall_seconds, options.memory_mib << 20)
    try:
        isolation = proven(options.isolation) if options.isolation else find_isolation()
    except SandboxUnavailable as error:
        print(f"sandbox: {error}", file=sys.stderr)
        judge: Callable[[dict[str, Any]], Verdict] = functools.partial(_refuse, str(error))
        code = 1
    else:
        judge = functools.partial(_judge, lambda program, limits: run(program, isolation, limits), limits)
        code = 0
    with ThreadPoolExecutor(options.workers) as pool:
        for sample, verdict in zip(samples, pool.map(judge, samples), strict=True):
            line = {"task_id": sample.get("task_id"), "result": verdict.result, "why": verdict.why}
            print(json.dumps(line), flush=True)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raycodellm.evaluation.sandbox", description="Runs code that a model wrote against its tests."
    )
    parser.add_argument("samples", type=Path, metavar="SAMPLES", help="JSON lines in HumanEval's format, or .jsonl.gz")
    parser.add_argument("--isolation", choices=KINDS, help="default: the strongest that works here")
    parser.add_argument(
        "--cpu-seconds", type=_whole_number, default=Limits.cpu_seconds, help="computing time of a program"
    )
    parser.add_argument("--wall-seconds", type=_number, default=Limits.wall_seconds, help="longest time of a program")
    parser.add_argument(
        "--memory-mib", type=_whole_number, default=Limits.memory_bytes >> 20, help="address space of a program"
    )
    parser.add_argument("--workers", type=_whole_number, default=os.cpu_count() or 1, help="programs at once")
    return parser


def _whole_number(text: str) -> int:
    return int(_number(text, int))


def _number(text: str, kind: type[int] | type[float] = float) -> float:
    """A limit's value. To the system a negative limit is none."""
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"found {text!r}; give a {'whole ' if kind is int else ''}number over 0")
    return value


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    """The samples of the file. Raises ValueError with the number of a line that is none."""
    data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be unpacked ({error})") from error
    # Not by `splitlines`, which also parts a text at characters that JSON allows inside a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            sample = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        fields = sample if isinstance(sample, dict) else {}
        missing = ", ".join(name for name in _FIELDS if not isinstance(fields.get(name), str))
        if missing:
            raise ValueError(f"{path}, line {number}: lacks {missing}; a sample has task_id, {', '.join(_FIELDS)}")
        yield sample


def _refuse(why: str, sample: dict[str, Any]) -> Verdict:
    return Verdict(NOT_RUN, why)


def _judge(runs: Callable[[Program, Limits], Verdict], limits: Limits, sample: dict[str, Any]) -> Verdict:
    def program(completion: str) -> Program:
        return Program(sample["prompt"] + completion, sample["test"], sample["entry_point"], sample["prompt"])

    reference = sample.get("canonical_solution")
    if isinstance(reference, str):
        reference_verdict = runs(program(reference), limits)
        if reference_verdict.result != PASSED:
            return Verdict(NOT_RUN, f"the task's own solution does not pass here: {reference_verdict.why}")
        limits = limits_for(reference_verdict, limits)
    return runs(program(sample["completion"]), limits)


if __name__ == "__main__":
    sys.exit(main())
