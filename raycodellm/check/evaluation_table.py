"""The table of evaluation tasks in `raycodellm check`: what is known of each, and where its data lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raycodellm import evaluation, win_rates
from raycodellm.config import Sweep, SweepFile, UserError
from raycodellm.config.text_domains import task_of
from raycodellm.evaluation import DataSource, Places, SuiteTask
from raycodellm.records import HeldOutSource
from raycodellm.tables import Table, table_lines


def tasks(file: SweepFile, *, elsewhere: bool = False) -> list[str]:
    """Items, chance and majority baseline of each task that a trial may be evaluated on, warnings, and the names of all
    suites. Raises UserError for a task whose data lies nowhere. `elsewhere`: the sweep is for another machine."""
    settings = file.example().evaluation
    names = evaluation.evaluated_tasks(file)
    facts = {name: evaluation.task_facts(name, settings) for name in names}
    sources = {name: evaluation.find_data([name], Places.of(settings), elsewhere=elsewhere) for name in names}
    limit = f"at most {settings.limit:,} items of each task" if settings.limit else "all items"
    without_data = evaluation.left_out_tasks(settings)
    return [
        f"evaluation: {limit}, {_examples(settings.few_shot)}",
        *table_lines(_table(facts, sources), indent="  "),
        *(f"  {name}: {known.warning}" for name, known in facts.items() if known is not None and known.warning),
        *(f"  {line}" for line in evaluation.overruled_lines(settings)),
        *([f"  left out: {', '.join(settings.leave_out)}"] if settings.leave_out else []),
        *([f"  asked only with a folder in evaluation.data: {', '.join(without_data)}"] if without_data else []),
        *_judge(file),
        f"  all suites that there are: {', '.join(evaluation.suite_names())}",
    ]


def _judge(file: SweepFile) -> list[str]:
    """How many questions the judge may be asked; the endpoint itself is not asked here. Raises UserError for a file of
    instructions that holds none."""
    settings = file.example().evaluation
    if (judge := settings.judge) is None:
        return []
    num_prompts = len(evaluation.requests_of(evaluation.Asking.of(settings)))
    most = win_rates.most_questions(file, num_prompts)
    minutes = f", {most / judge.requests_per_minute:,.0f} minutes at least" if judge.requests_per_minute else ""
    lines = [
        f"  judge {judge.model}: at most {most:,} questions, both orders of {most // 2:,} pairs of answers to "
        f"{num_prompts:,} instructions{minutes}; equal answers are not asked about; the endpoint was not asked now"
    ]
    try:
        evaluation.key_of(judge)
    except UserError as error:
        lines.append(f"  {error}, where the sweep runs")
    return lines


def text_and_code(sweep: Sweep, held_out: Sequence[HeldOutSource]) -> list[str]:
    """The text that is `held_out`, measured and so not trained on, and the tasks that run the model's code, with the
    isolation that this machine has for it."""
    settings, lines = sweep.evaluation, []
    for one in held_out:
        measured = f"about {one.num_tokens:,} tokens of {one.source}, which no stage trains on"
        lines.append(f"  {task_of(one.domain)} measures {measured}")
    running = evaluation.tasks_running_code(evaluation.asked_tasks(settings), Places.of(settings))
    if running:
        lines.append(f"  {', '.join(running)}: the model's code runs in the sandbox, {evaluation.isolation_here()}")
    return lines


def _table(facts: Mapping[str, SuiteTask | None], sources: Mapping[str, Sequence[DataSource]]) -> Table:
    rows = []
    for name, known in facts.items():
        numbers = ("", "", "") if known is None else (_count(known.items), _share(known.chance), _share(known.majority))
        rows.append((name, *numbers, _data(known, sources[name])))
    return Table(("task", "items published", "chance", "majority", "data"), rows, left=(0, 4))


def _examples(few_shot: int | None) -> str:
    if few_shot is None:
        return "as many examples in a prompt as each task's file says"
    return f"{few_shot} examples in a prompt, none where a task's file says 0"


def _count(items: int | None) -> str:
    return "" if items is None else f"{items:,}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _data(known: SuiteTask | None, sources: Sequence[DataSource]) -> str:
    if not sources:
        return known.source if known is not None else ""
    more = f", and {len(sources) - 1} more data sets" if len(sources) > 1 else ""
    return f"{sources[0]}{more}"
