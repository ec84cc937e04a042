"""The table of evaluation tasks in `raycodellm check`: facts about each task, and where its data lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raycodellm import config, evaluation, win_rates
from raycodellm.config import Sweep, SweepFile, UserError
from raycodellm.config.text_domains import task_of
from raycodellm.evaluation import DataSource, Places, SuiteTask
from raycodellm.records import HeldOutSource
from raycodellm.tables import Table, table_lines


def tasks(file: SweepFile, *, elsewhere: bool = False) -> list[str]:
    """Items, chance and majority baseline of each task that a trial may be evaluated on, warnings, and the names of all
    suites. Raises UserError for data of a task, or a text, that lies nowhere. `elsewhere`: the sweep is for another
    machine."""
    settings = file.example().evaluation
    names = evaluation.evaluated_tasks(file)
    facts = {name: evaluation.task_facts(name, settings) for name in names}
    sources = {name: evaluation.find_data([name], Places.of(settings), elsewhere=elsewhere) for name in names}
    limit = f"at most {settings.limit:,} items of each task" if settings.limit else "all items"
    without_data = evaluation.left_out_tasks(settings)
    return [
        f"evaluation: {limit}, {_examples_text(settings.few_shot)}",
        *table_lines(_table(facts, sources), indent="  "),
        *(
            f"  {name}: {suite_task.warning}"
            for name, suite_task in facts.items()
            if suite_task is not None and suite_task.warning
        ),
        *mixed_means(file, facts),
        *(f"  {line}" for line in evaluation.overruled_lines(settings)),
        *_unmeasured_text_lines(file, elsewhere),
        *([f"  left out: {', '.join(settings.leave_out)}"] if settings.leave_out else []),
        *([f"  asked only with a folder in evaluation.data: {', '.join(without_data)}"] if without_data else []),
        *_judge_lines(file),
        f"  all suites that there are: {', '.join(evaluation.suite_names())}",
    ]


def mixed_means(file: SweepFile, facts: Mapping[str, SuiteTask | None]) -> list[str]:
    """A warning for each objective that is a mean over the tasks of several suites, or of suites and tasks named beside
    them: their scales and their levels of guessing differ, so that one suite may outweigh or hide another."""
    settings = file.example()
    groups = [*settings.evaluation.suites, *(["the tasks beside them"] if settings.evaluation.tasks else [])]
    if len(groups) < 2 or not settings.evaluation.suites:
        return []
    lines = []
    for objective in settings.search.objectives:
        task, _, metric_kind = objective.metric.partition("/")
        if task != evaluation.MEAN:
            continue
        known_tasks = [suite_task for suite_task in facts.values() if suite_task is not None]
        chances = sorted({suite_task.chance for suite_task in known_tasks if suite_task.chance is not None})
        guessing = ""
        if metric_kind.startswith("acc") and len(chances) > 1:
            guessing = f", of which guessing gives {chances[0]:.3f} to {chances[-1]:.3f}"
        suite_averages = [
            name for name in evaluation.asked_averages(settings.evaluation) if name.rpartition("/")[2] == metric_kind
        ]
        better = f"; an average of one suite is {' or '.join(suite_averages)}" if suite_averages else ""
        lines.append(
            f"  objective {objective.metric}: a mean over {len(facts)} tasks of {' and '.join(groups)}{guessing}, "
            f"whose scales differ: a change in one suite may hide one in another{better}"
        )
    return lines


def _unmeasured_text_lines(file: SweepFile, elsewhere: bool) -> list[str]:
    """A line for each text that no task of a trial measures."""
    evaluations = dict.fromkeys(config.resolve(file, point).evaluation for point in file.probe_points())
    tasks = {
        task for settings in evaluations for members in evaluation.asked_units(settings).values() for task in members
    }
    domains_by_point = [evaluation.unmeasured_texts(settings, tasks, elsewhere=elsewhere) for settings in evaluations]
    domains = dict.fromkeys(domain for domains_of_point in domains_by_point for domain in domains_of_point)
    return [
        f"  evaluation.texts.{domain}: no task measures it; add {task_of(domain)} to evaluation.tasks"
        for domain in domains
    ]


def _judge_lines(file: SweepFile) -> list[str]:
    """Lines on the questions that the judge may be asked; the endpoint itself is not asked here. Raises UserError for a
    file of instructions that holds none."""
    settings = file.example().evaluation
    if (judge := settings.judge) is None:
        return []
    num_prompts = len(evaluation.requests_of(evaluation.Asking.of(settings)))
    max_questions = win_rates.most_questions(file, num_prompts)
    minutes = (
        f", {max_questions / judge.requests_per_minute:,.0f} minutes at least" if judge.requests_per_minute else ""
    )
    lines = [
        f"  judge {judge.model}: at most {max_questions:,} questions, both orders of {max_questions // 2:,} pairs of "
        f"answers to {num_prompts:,} instructions{minutes}; equal answers are not asked about",
        f"  {evaluation.address_of(judge)} was not asked now: the sweep begins to ask when its trials have ended",
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
    for source in held_out:
        measured = f"about {source.num_tokens:,} tokens of {source.source}, which no stage trains on"
        lines.append(f"  {task_of(source.domain)} measures {measured}")
    running = evaluation.tasks_running_code(evaluation.asked_tasks(settings), Places.of(settings))
    if running:
        lines.append(f"  {', '.join(running)}: the model's code runs in the sandbox, {evaluation.isolation_here()}")
    return lines


def _table(facts: Mapping[str, SuiteTask | None], sources: Mapping[str, Sequence[DataSource]]) -> Table:
    rows = []
    for name, suite_task in facts.items():
        numbers = ("", "", "")
        if suite_task is not None:
            numbers = (_count(suite_task.items), _share(suite_task.chance), _share(suite_task.majority))
        rows.append((name, *numbers, _data_text(suite_task, sources[name])))
    return Table(("task", "items published", "chance", "majority", "data"), rows, left=(0, 4))


def _examples_text(few_shot: int | None) -> str:
    if few_shot is None:
        return "as many examples in a prompt as each task's file says"
    return f"{few_shot} examples in a prompt, none where a task's file says 0"


def _count(items: int | None) -> str:
    return "" if items is None else f"{items:,}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _data_text(suite_task: SuiteTask | None, sources: Sequence[DataSource]) -> str:
    if not sources:
        return suite_task.source if suite_task is not None else ""
    others = f", and {len(sources) - 1} more data sets" if len(sources) > 1 else ""
    return f"{sources[0]}{others}"
