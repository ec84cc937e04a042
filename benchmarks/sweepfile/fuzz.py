"""Runs malformed sweep files through everything that `check` does before it reads data, and counts how each ends.

    python benchmarks/sweepfile/fuzz.py --cases 5000 --seed 0

Each case is a shipped sweep file, a file that sets every field, or a file with searches inside options, changed in one
to five ways: values, types, numbers, keys, nesting, searches, YAML syntax, tags, aliases, unicode. A case ends as

* `accepted`: planned to its last job, with sources of a made-up size;
* `refused`: a UserError in one line of under 300 characters;
* `long`: a UserError in several lines, or of 300 characters or more;
* `slow`: not done within five seconds of processor time, or thirty seconds of the clock;
* `traceback`: any other exception.

Names of lm-eval's tasks count as unknown, and the hub is not asked for models. Exit code 1 if any case is `long`,
`slow` or a `traceback`.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
import traceback
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
if __name__ == "__main__":
    # The hub's library reads this when it is imported; a name that is not on this disk is then refused at once.
    os.environ["HF_HUB_OFFLINE"] = "1"

import _mutations

from raycodellm import check, config, evaluation, preflight, search, stage_store
from raycodellm.config import UserError
from raycodellm.files import Folder

SECONDS = 5.0
OUTCOMES = ("accepted", "refused", "long", "slow", "traceback")
SOURCE_TOKENS = 2_000_000


@dataclass(frozen=True)
class Outcome:
    case: int
    changes: str
    outcome: str
    detail: str
    seconds: float


class Slow(BaseException):
    """A case took too long. No `Exception`, so that no handler on the way takes it for an error of the file."""


def run(number: int, seed: int, seconds: float = SECONDS) -> Outcome:
    changes, text = _mutations.make(number, seed)
    started_at = time.process_time()
    try:
        with _limit(seconds):
            planned(text)
        outcome, detail = "accepted", ""
    except UserError as error:
        detail = f"raycodellm: {error}"
        outcome = "refused" if len(detail) < 300 and len(detail.splitlines()) == 1 else "long"
    except Slow:
        outcome, detail = "slow", f"over {seconds:g} s"
    except Exception:
        outcome, detail = "traceback", traceback.format_exc()
    return Outcome(number, changes, outcome, detail, time.process_time() - started_at)


def planned(text: str) -> int:
    """Number of jobs of the sweep that `text` describes, planned without reading a source."""
    file = config.parse(text)
    search.num_trials(file)
    evaluation.check_evaluation(file)
    contents = stage_store.contents_of_file(file)
    preflight.check_before_start(file, None)
    sources = file.example().sources
    corpora = {name: check.SizedCorpus(Folder(f"/tokens/{name}"), SOURCE_TOKENS, name) for name in sources}
    chains = check.planned(file, check.first_arms(file), corpora, Folder("/storage"), "", contents)
    config.resolved_tree(file)
    return sum(len(chain.jobs) for chain in chains)


@contextmanager
def _limit(seconds: float):
    def stop(number, frame):
        raise Slow

    # Processor time, since others may use the machine; six times as much clock time, for a case that only waits.
    timers = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, 6 * seconds))
    handlers = [signal.signal(number, stop) for _, number, _ in timers]
    for timer, _, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, handlers, strict=True):
            signal.setitimer(timer, 0.0)
            signal.signal(number, handler)


def table(outcomes: list[Outcome]) -> str:
    counts = Counter(outcome.outcome for outcome in outcomes)
    slowest = max(outcome.seconds for outcome in outcomes)
    longest = max((len(outcome.detail) for outcome in outcomes if outcome.outcome in ("refused", "long")), default=0)
    heads = ["cases", "accepted", "refused in one line", "300 characters or more", "over 5 s", "traceback"]
    heads += ["slowest", "longest line, characters"]
    cells = [f"{len(outcomes):,}", *(f"{counts[name]:,}" for name in OUTCOMES), f"{slowest:.2f} s", f"{longest}"]
    rows = (heads, [f"{'-' * (len(head) - 1)}:" for head in heads], map(str.rjust, cells, map(len, heads)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--show", type=int, default=5, help="of each kind of traceback, so many cases")
    options = parser.parse_args()
    # So that no case pays for late imports. The file with every field is refused: some exclude each other.
    with suppress(UserError):
        config.parse(_mutations.EVERY_FIELD)
    planned(_mutations.CONDITIONAL)
    began = time.monotonic()
    outcomes = [run(number, options.seed) for number in range(options.first, options.first + options.cases)]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {time.monotonic() - began:.0f} s\n")
    print(table(outcomes))
    slowest = sorted(outcomes, key=lambda one: -one.seconds)[:3]
    print("\nslowest: " + ", ".join(f"case {one.case} ({one.seconds:.2f} s, {one.outcome})" for one in slowest))
    bad = [one for one in outcomes if one.outcome not in ("accepted", "refused")]
    kinds: dict[str, list[Outcome]] = {}
    for one in bad:
        kinds.setdefault("\n".join(one.detail.strip().splitlines()[-3:]), []).append(one)
    for kind, some in sorted(kinds.items(), key=lambda item: -len(item[1])):
        cases = ", ".join(str(one.case) for one in some[: options.show])
        print(f"\n{len(some)} × {some[0].outcome}: cases {cases}\n{kind}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
