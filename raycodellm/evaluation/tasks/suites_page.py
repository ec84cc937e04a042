"""Writes docs/evaluation.md: `python -m raycodellm.evaluation.tasks.suites_page docs/evaluation.md`.

The suites' tables come from their files below `raycodellm/tasks/`; what stands below MARKER is written by hand, and is
kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from raycodellm.evaluation.tasks.suites import Suite, SuiteTask, named_in_no_suite, suite, suite_names

MARKER = "<!-- Below this line by hand. -->"
_INTRODUCTION = """\
# Evaluation: suites and tasks

New here? `raycodellm eval MODEL --suites offline` needs no data and takes seconds on a small model: see
[raycodellm eval](#raycodellm-eval), and [Scores](#scores) for what the metrics are. Then the suites, below, and
[Data](#data) for theirs.

<!-- Down to the next comment written by `python -m raycodellm.evaluation.tasks.suites_page docs/evaluation.md`: change
the files in raycodellm/tasks/suites/, not this page. -->

`evaluation.suites` names sets of tasks, `evaluation.tasks` single ones: a task, group or tag of lm-eval by name, a task
of this package, or an lm-eval YAML file. `raycodellm check` shows what is asked for, and where the data of each task
lies. *Items* are those of the data as published; a copy with fewer gives fewer. *Chance* is the accuracy of guessing,
*majority* that of the best constant answer: an accuracy below these says nothing of a model.
"""
_HEAD = ("task", "asked when", "items", "chance", "majority", "source", "licence", "scoring", "departures")


def page(by_hand: str) -> str:
    """The page. `by_hand`: what stands below MARKER."""
    parts = [_INTRODUCTION, *map(_section, suite_names()), _in_no_suite(), f"{MARKER}\n{by_hand}"]
    return "\n".join(parts)


def by_hand(text: str) -> str:
    """The part of a page below MARKER."""
    return text.partition(f"{MARKER}\n")[2]


def _section(name: str) -> str:
    one = suite(name)
    return "\n".join([f"## `{name}`", "", one.about, *([f"Of: {one.paper}."] if one.paper else []), "", *_table(one)])


def _in_no_suite() -> str:
    one = named_in_no_suite()
    return "\n".join(["## By name", "", one.about, "", *_table(one)])


def _table(one: Suite) -> Iterator[str]:
    if not one.tasks:
        return
    columns = [name for name in _HEAD if any(_cell(task, name) for task in one.tasks)]
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for task in one.tasks:
        yield f"| {' | '.join(_cell(task, name) for name in columns)} |"
    yield ""
    for task in one.tasks:
        if task.warning:
            yield f"* `{task.task}`: {task.warning}."
    for average, tasks in one.averages.items():
        yield f"* `{average}` is the unweighted mean over {', '.join(tasks)}."
    if any(task.warning for task in one.tasks) or one.averages:
        yield ""


def _cell(task: SuiteTask, name: str) -> str:
    numbers = {"chance": task.chance, "majority": task.majority}
    if name in numbers:
        value = numbers[name]
        return "" if value is None else f"{value:.3g}"
    texts = {
        "task": f"`{task.task}`",
        "asked when": ", ".join(_conditions(task)),
        "items": "" if task.items is None else f"{task.items:,}",
        "source": task.source + (" (on request only)" if task.gated else ""),
        "licence": task.licence,
        "scoring": task.scoring,
        "departures": task.departures,
    }
    return texts[name].replace("|", "\\|")


def _conditions(task: SuiteTask) -> Iterator[str]:
    for key, value in task.when.items():
        yield f"`{key}: {' or '.join(map(str, value)) if isinstance(value, list) else value}`"
    if task.domain:
        yield f"`texts` has {task.domain}"
    if task.optional:
        yield "`data` is given"


def main(path: Path) -> None:
    """Writes the page at `path`, and keeps what stands there below MARKER."""
    written = by_hand(path.read_text(encoding="utf-8")) if path.exists() else ""
    path.write_text(page(written), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
