"""Suites name the tasks that exist, and the settings choose among them."""

from __future__ import annotations

import pytest

from raycodellm import config, evaluation
from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation.tasks.names import TaskNames


def test_the_tasks_of_suites_come_before_the_tasks_that_are_named_each_once() -> None:
    offline = tuple(
        one.task for one in evaluation.suite("offline").tasks if one.is_chosen(Evaluation(suites=("offline",)))
    )
    asked = evaluation.asked_tasks(Evaluation(suites=("offline",), tasks=("arc_easy", "boxes")))
    assert asked == (*offline, "arc_easy")
    assert evaluation.asked_tasks(Evaluation(tasks=("arc_easy",))) == ("arc_easy",)


def test_a_task_whose_data_cannot_be_had_is_left_out_of_its_suite_by_name() -> None:
    kept = evaluation.asked_tasks(Evaluation(suites=("aryabumi2024",), leave_out=("storycloze_2018",)))
    assert len(kept) == 14 and "storycloze_2018" not in kept
    with pytest.raises(UserError, match=r"evaluation\.leave_out.*'storycloze'.*storycloze_2018"):
        evaluation.asked_tasks(Evaluation(suites=("aryabumi2024",), leave_out=("storycloze",)))


def test_the_mean_over_a_suite_has_its_name_where_other_tasks_are_asked_for_as_well() -> None:
    assert evaluation.asked_averages(Evaluation(suites=("offline",))) == {}
    both = evaluation.asked_averages(Evaluation(suites=("offline", "bpb")))
    assert list(both) == ["offline/bpb", "offline/acc"]
    assert both["offline/bpb"] == evaluation.asked_tasks(Evaluation(suites=("offline",)))
    assert list(evaluation.asked_averages(Evaluation(suites=("offline",), tasks=("gsm8k",)))) == list(both)


def test_an_objective_may_not_be_an_average_that_lacks_a_task(sweep_text: str) -> None:
    overrides = ("evaluation={suites: [aryabumi2024]}", "search.objective={metric: reasoning/acc, mode: max}")
    evaluation.check_evaluation(config.parse(sweep_text, overrides=overrides))
    without = config.parse(sweep_text, overrides=(*overrides, "evaluation.leave_out=[cb]"))
    with pytest.raises(UserError, match=r"found 'reasoning/acc'.*use for example knowledge/em"):
        evaluation.check_evaluation(without)


def test_an_objective_that_makes_models_worse_is_refused(sweep_text: str) -> None:
    overrides = ("evaluation={tasks: [boxes]}", "search.objective={metric: boxes/acc, mode: min}")
    with pytest.raises(UserError, match=r"boxes/acc is better where it is higher, found mode: min; use mode: max"):
        evaluation.check_evaluation(config.parse(sweep_text, overrides=overrides))


def test_a_metric_of_held_out_text_that_is_not_measured_names_the_suite(sweep_text: str) -> None:
    limit = "search.constraints=[{metric: bpb_prose/bpb, mode: min, bound: 3}]"
    with pytest.raises(UserError, match=r"found 'bpb_prose/bpb'.*add bpb to evaluation\.suites"):
        evaluation.check_evaluation(config.parse(sweep_text, overrides=("evaluation={tasks: [boxes]}", limit)))


@pytest.mark.parametrize("key", ["bpc", "boxes/bpc", "booxes/bpb"])
def test_a_margin_is_of_a_metric_that_the_evaluation_gives(sweep_text: str, key: str) -> None:
    overrides = ("evaluation={tasks: [boxes]}", "search.reference={pretrain.code_ratio: 0.5}")
    given = "search.confirm={best: 1, seeds: [2], margin: {bpb: 0.1, acc: 0.1, boxes/acc: 0.2%s}}"
    evaluation.check_evaluation(config.parse(sweep_text, overrides=(*overrides, given % "")))
    with pytest.raises(UserError, match=rf"search\.confirm\.margin: found '{key}'.*use a unit, such as bpb"):
        evaluation.check_evaluation(config.parse(sweep_text, overrides=(*overrides, given % f", {key}: 0.1")))


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("bpb_code/bpb_corpus_low", None),
        ("bpb_code/bpb_python", None),
        ("bpb_code/bpb_pyton", r"no source 'pyton'.*use bpb_code/bpb or bpb_code/bpb_python"),
        ("bpb_prose/bpb_python", r"no source 'python' is measured by bpb_prose"),
    ],
)
def test_an_objective_over_a_source_names_a_source_that_the_task_measures(
    sweep_text: str, metric: str, why: str | None
) -> None:
    objective = f"search.objective={{metric: {metric}, mode: min}}"
    file = config.parse(sweep_text, overrides=("evaluation={suites: [bpb]}", objective))
    if why is None:
        evaluation.check_evaluation(file)
    else:
        with pytest.raises(UserError, match=why):
            evaluation.check_evaluation(file)


def test_an_unknown_suite_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UserError, match=r"evaluation\.suites.*'ofline'.*offline"):
        evaluation.asked_tasks(Evaluation(suites=("ofline",)))


@pytest.mark.parametrize("name", evaluation.suite_names())
def test_a_suite_names_tasks_that_exist_settings_that_exist_and_averages_of_its_own_tasks(name: str) -> None:
    suite, known = evaluation.suite(name), TaskNames()
    tasks = {one.task for one in suite.tasks}
    assert {one for one in tasks if known.find(one) is None} == set()
    assert {key for one in suite.tasks for key in one.when} <= set(Evaluation.model_fields)
    assert {task.partition("/")[0] for average in suite.averages.values() for task in average} <= tasks
    for one in suite.tasks[:1]:
        assert evaluation.task_facts(one.task, Evaluation(suites=(name,))) == one


def test_check_warns_of_an_objective_that_is_a_mean_over_suites_of_other_scales():
    from test_verdict import SWEEP as ONE_STAGE

    from raycodellm import config
    from raycodellm.check.evaluation_table import mixed_means

    def said(evaluation_settings: str, metric: str) -> list[str]:
        text = ONE_STAGE.replace("SEARCH", f"objective: {{metric: {metric}, mode: min}}")
        file = config.parse(text.replace("{tasks: [boxes, logical_deduction], limit: 120}", evaluation_settings))
        names = evaluation.evaluated_tasks(file)
        return mixed_means(file, {name: evaluation.task_facts(name, file.example().evaluation) for name in names})

    (line,) = said("{suites: [offline, bpb]}", "mean/bpb")
    assert "of offline and bpb, whose scales differ" in line and "offline/bpb" in line
    (line,) = said("{suites: [offline], tasks: [arc_easy]}", "mean/acc")
    assert "offline and the tasks beside them, of which guessing gives" in line
    assert said("{suites: [offline, bpb]}", "offline/bpb") == said("{suites: [offline]}", "mean/bpb") == []
    assert said("{tasks: [boxes, sorting]}", "mean/bpb") == []
