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

`raycodellm eval MODEL --suites offline` needs no data and takes seconds on a small model. A sweep evaluates its models
by `evaluation: {suites: [offline]}`.

| to | read |
|---|---|
| evaluate and compare models that you have | [`raycodellm eval`](#raycodellm-eval) |
| do that on a cluster | [given models in a sweep](#given-models-in-a-sweep) |
| know what a number means | [scores](#scores) |
| know which items are left out | [items that do not fit](#items-that-do-not-fit) |
| know what a model has seen | [items that the model was trained on](#items-that-the-model-was-trained-on) |
| choose tasks | the suites below; [`offline`](#offline) and [`kim2024`](#kim2024) need no data |
| measure your own text | [bits per byte](#bits-per-byte-of-held-out-text) |
| give data to a machine without a network | [data](#data) |
| write tasks | [tasks of your own](#tasks-of-your-own) |
| run code that a model writes | [tasks that run the model's code](#tasks-that-run-the-models-code) |
| have a judge compare answers | [win rates](#win-rates) |
| see how near a paper a task is | [Ma et al.](#the-scorings-of-ma-et-al), [QuAC](#quac), [bAbI](#the-scoring-of-babi) |
| | [boxes by the complete rules](#boxes-by-the-complete-rules) |
| know how hard the generated tasks are | [the levels of `offline`](#the-levels-of-offline) |
| spend less time | [how answers are computed](#how-answers-are-computed), [each score once](#each-score-once) |

## The suites

<!-- Down to the next comment written by `python -m raycodellm.evaluation.tasks.suites_page docs/evaluation.md`: change
the files in raycodellm/tasks/suites/, not this page. -->

`evaluation.suites` names sets of tasks, `evaluation.tasks` single ones: a task, group or tag of lm-eval by name, a task
of this package, or an lm-eval YAML file. `raycodellm check` shows what is asked for, and where the data of each task
lies. *Items* are those of the data as published; a copy with fewer gives fewer. *Chance* is the accuracy of guessing,
*majority* that of the best constant answer: an accuracy below these says nothing of a model.
"""
_PROSE = ("source", "licence", "scoring", "departures")
"""Columns that are left out of a suite's table where all of its tasks have the same words there, which stand below."""
_HEAD = ("task", "asked when", "items", "chance", "majority", "source", "licence", "scoring", "departures")


def page(by_hand: str) -> str:
    """The page. `by_hand`: what stands below MARKER."""
    parts = [_INTRODUCTION, *map(_section, suite_names()), _in_no_suite(), f"{MARKER}\n{by_hand}"]
    return "\n".join(parts)


def by_hand(text: str) -> str:
    """The part of a page below MARKER."""
    return text.partition(f"{MARKER}\n")[2]


def _section(name: str) -> str:
    named_suite = suite(name)
    paper = [f"From {named_suite.paper}."] if named_suite.paper else []
    return "\n".join([f"### `{name}`", "", named_suite.about, *paper, "", *_table(named_suite)])


def _in_no_suite() -> str:
    known_tasks = named_in_no_suite()
    return "\n".join(["### By name", "", known_tasks.about, "", *_table(known_tasks)])


def _table(table_suite: Suite) -> Iterator[str]:
    if not table_suite.tasks:
        return
    cells = {name: [_cell(task, name) for task in table_suite.tasks] for name in _HEAD}
    common = [name for name in _PROSE if cells[name][0] and len(table_suite.tasks) > 1 and len(set(cells[name])) == 1]
    columns = [name for name in _HEAD if any(cells[name]) and name not in common]
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in zip(*(cells[name] for name in columns), strict=True):
        yield f"| {' | '.join(row)} |"
    yield ""
    for name in common:
        yield f"* {name.capitalize()} of all of them: {cells[name][0]}."
    warnings: dict[str, list[str]] = {}
    for task in table_suite.tasks:
        if task.warning:
            warnings.setdefault(task.warning, []).append(f"`{task.task}`")
    for warning, task_names in warnings.items():
        yield f"* {', '.join(task_names)}: {warning}."
    for average, tasks in table_suite.averages.items():
        yield f"* `{average}` is the unweighted mean over {', '.join(tasks)}."
    if common or warnings or table_suite.averages:
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
    """Writes the page at `path`, and keeps the part of the old page below MARKER."""
    by_hand_text = by_hand(path.read_text(encoding="utf-8")) if path.exists() else ""
    path.write_text(page(by_hand_text), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
