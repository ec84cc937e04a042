"""The table of scores: a row per suite, task, part and metric, with what is known of the task beside it."""

from __future__ import annotations

import json

import pytest

from raycodellm import compare, evaluation, statistics
from raycodellm.config import Evaluation
from raycodellm.evaluation.scores.metrics import mean_metrics
from raycodellm.evaluation.tasks import suites
from raycodellm.pairs import Gap
from raycodellm.tables import remarks, score_table, side_by_side

SETTINGS = Evaluation(suites=("papers",), tasks=("mine",))
SUITE = suites.Suite.model_validate(
    {
        "about": "Two tasks.",
        "tasks": [
            {
                "task": "boolq",
                "source": "hub",
                "licence": "CC",
                "majority": 0.62,
                "warning": "near a coin flip",
            },
            {"task": "code", "source": "hub", "licence": "MIT"},
        ],
        "averages": {"reasoning/acc": ["boolq", "gone"], "coding/pass@1": ["code"]},
    }
)
METRICS = {
    **{"code/items": 3.0, "code/too_long": 0.0, "code/not_run": 1.0, "code/pass@1": 0.5},
    **{"code/pass@1_low": 0.2, "code/pass@1_high": 0.8, "code/bleu": 7.0, "code/pass@1_items": 2.0},
    **{"boolq/items": 100.0, "boolq/too_long": 2.0, "boolq/not_run": 0.0, "boolq/contaminated": 4.0},
    **{"boolq/acc": 0.6, "boolq/acc_low": 0.5, "boolq/acc_high": 0.7, "boolq/chance": 0.5, "boolq/acc_clean": 0.55},
    **{"boolq/bpb": 1.5, "boolq/bpb_corpus": 1.4, "boolq/acc_hard": 0.4, "boolq/acc_hard_low": 0.1},
    **{"boolq/acc_hard_high": 0.9, "boolq/bpb_hard": 1.7, "boolq/items_hard": 10.0},
    "boolq/chance_hard": 0.25,
    **{"mine/items": 5.0, "mine/too_long": 0.0, "mine/not_run": 0.0, "mine/bpb": 2.0, "mine/bpb_corpus": 1.9},
    **{"code/acc": 0.5, "mean/bpb": 1.75, "mean/bpb_low": 1.6, "mean/bpb_high": 1.9, "seconds": 4.0},
    "coding/pass@1": 0.5,
}


@pytest.fixture(autouse=True)
def one_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "suite", lambda name: SUITE)
    monkeypatch.setattr(suites, "suite_names", lambda: ("papers",))
    monkeypatch.setattr(evaluation, "suite", lambda name: SUITE)
    monkeypatch.setattr(evaluation, "suite_names", lambda: ("papers",))


def rows(table) -> list[str]:
    return [" | ".join(row) for row in table.rows]


def test_scores_stand_by_suite_and_task_with_baselines_and_counts_of_items():
    table = score_table(METRICS, SETTINGS)
    assert " | ".join(table.header) == (
        "suite | task | metric | value | 95 % interval | chance | majority | items | too long | not run | "
        "contaminated | clean accuracy"
    )
    assert rows(table) == [
        "papers | boolq | acc | 0.600 | 0.500 to 0.700 | 0.500 | 0.620 | 100 | 2 | 0 | 4 | 0.550",
        "papers | boolq | bpb | 1.500 | – | – | – | 100 | 2 | 0 | 4 | –",
        "papers | boolq · hard | acc | 0.400 | 0.100 to 0.900 | 0.250 | – | 10 | – | – | – | –",
        "papers | code | pass@1 | 0.500 | 0.200 to 0.800 | – | – | 2 | 0 | 1 | – | –",
        "papers | code | bleu | 7.000 | – | – | – | 3 | 0 | 1 | – | –",
        "papers | code | acc | 0.500 | – | – | – | 3 | 0 | 1 | – | –",
        " | mine | bpb | 2.000 | – | – | – | 5 | 0 | 0 | – | –",
        " | mine | bpb_corpus | 1.900 | – | – | – | 5 | 0 | 0 | – | –",
        "papers | coding | pass@1 | 0.500 | – | – | – | – | – | – | – | –",
        " | mean | bpb | 1.750 | 1.600 to 1.900 | – | – | – | – | – | – | –",
    ]


def test_columns_that_would_say_nothing_are_left_out():
    plain = {"mine/items": 5.0, "mine/too_long": 0.0, "mine/not_run": 0.0, "mine/bpb": 2.0}
    assert score_table(plain, Evaluation(tasks=("mine",))).header == (
        "task",
        "metric",
        "value",
        "95 % interval",
        "items",
    )


def test_parts_stand_in_the_order_of_their_numbers():
    plain = {"mine/items": 5.0} | {f"mine/items_{n}_words": 1.0 for n in (12, 2, 4)}
    plain |= {f"mine/acc_{n}_words": 1.0 for n in (12, 2, 4)} | {"mine/acc": 1.0}
    table = score_table(plain, Evaluation(tasks=("mine",)))
    assert [row[0] for row in table.rows] == ["mine", "mine · 2_words", "mine · 4_words", "mine · 12_words"]


def test_the_accuracy_of_clean_items_is_shown_where_others_are_contaminated():
    plain = {"mine/items": 5.0, "mine/acc": 0.4, "mine/acc_clean": 0.5, "mine/contaminated": 0.0}
    settings = Evaluation(tasks=("mine",))
    assert "clean accuracy" not in score_table(plain, settings).header
    assert score_table({**plain, "mine/contaminated": 1.0}, settings).header[-2:] == ("contaminated", "clean accuracy")


def test_a_suite_that_this_version_does_not_have_leaves_the_scores_as_they_are():
    plain = {"mine/items": 5.0, "mine/too_long": 0.0, "mine/not_run": 0.0, "mine/bpb": 2.0}
    settings = Evaluation(suites=("gone",))
    assert rows(score_table(plain, settings)) == ["mine | bpb | 2.000 | – | 5"] and remarks(plain, settings) == []


def test_several_models_stand_side_by_side():
    other = {**METRICS, "boolq/acc": 0.7, "boolq/items": 90.0}
    del other["mine/bpb"]
    table = side_by_side({"a": METRICS, "b": other}, SETTINGS)
    assert " | ".join(table.header) == "suite | task | metric | a | b | chance | majority | items"
    found = rows(table)
    first = "papers | boolq | acc | 0.600 (0.500 to 0.700) | 0.700 (0.500 to 0.700) | 0.500 | 0.620 | 100, 90"
    assert found[0] == first and " | mine | bpb | 2.000 | – | – | – | 5" in found


def test_what_a_reader_should_know_is_said():
    assert remarks(METRICS, SETTINGS) == [
        "reasoning/acc has no value: gone was not evaluated.",
        "code: 1 of 4 items were not run, by a failure of the sandbox or the machine; they are in no score.",
        "boolq: near a coin flip",
    ]


def test_models_that_do_not_fit_side_by_side_stand_one_below_the_other():
    by_model = {"runs/one": METRICS, "runs/two": METRICS}
    wide = compare.scores_text(by_model, SETTINGS, 200)
    narrow = compare.scores_text(by_model, SETTINGS, 80)
    assert wide[0].split()[:5] == ["suite", "task", "metric", "one", "two"]
    assert narrow[0] == "runs/one" and "runs/two" in narrow
    assert wide.count("boolq: near a coin flip") == 1, "said once for all models"


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["runs/one", "runs/two"], ["one", "two"]),
        (["stages/pretrain-1/model", "stages/instruct-2/model/"], ["pretrain-1", "instruct-2"]),
        (["stages/pretrain-1/model"], ["model"]),
        (["a/x", "b/x", "c/y"], ["a/x", "b/x", "y"]),
        (["/model", "one/model"], ["/model", "one"]),
    ],
)
def test_a_model_is_called_by_the_part_of_its_path_that_tells_it_from_the_others(models, names):
    assert [*compare.short_names(models).values()] == names


def test_lm_evals_bits_per_byte_do_not_stand_beside_the_same_number_with_an_interval():
    found = {"mine/items": 2.0, "mine/bpb_corpus": 3.5, "mine/bpb_corpus_low": 3.0, "mine/bpb_corpus_high": 4.0}
    assert len(rows(score_table({**found, "mine/bits_per_byte": 3.5}, Evaluation(tasks=("mine",))))) == 1


def test_clean_accuracy_is_compared_only_where_contaminated_items_were_found():
    gaps = {"mine/acc": None, "mine/acc_clean": None, "other/acc_clean": None}
    results = {
        "a": evaluation.EvaluationResult({"mine/contaminated": 0.0, "other/contaminated": 0.0}),
        "b": evaluation.EvaluationResult({"mine/contaminated": 0.0, "other/contaminated": 2.0}),
    }
    found = compare.text(compare.Compared(SETTINGS, results, {("a", "b"): gaps}, {}))
    assert "mine/acc:" in found and "mine/acc_clean" not in found and "other/acc_clean" in found


def test_the_json_of_scores_holds_numbers_or_null():
    result = evaluation.EvaluationResult({"mine/bpb": 2.0, "mine/bpb_low": float("-inf")})
    gap = {"mine/bpb": None, "mine/acc": Gap(statistics.Interval(0.1, 0.0, float("inf")), 4)}
    found = json.loads(compare.as_json(compare.Compared(SETTINGS, {"a": result}, {("a", "b"): gap}, {})))
    assert found["models"]["a"]["metrics"] == {"mine/bpb": 2.0, "mine/bpb_low": None}
    assert found["models"]["a"]["missing"]["coding/pass@1"] == "code was not evaluated"
    untested = {"p": None, "p_corrected": None, "test": None, "bootstrap": None}
    assert found["pairs"] == [
        {
            "base": "a",
            "other": "b",
            "differences": {
                "mine/bpb": None,
                "mine/acc": {"value": 0.1, "low": 0.0, "high": None, "items": 4, **untested},
            },
        }
    ]


def test_a_task_of_which_nothing_could_be_run_is_told_and_takes_the_means_over_tasks_with_it():
    counts = {"code/items": 0.0, "code/too_long": 0.0, "code/not_run": 4.0}
    one = {"mine/items": 5.0, "mine/bpb": 2.0, "mine/bpb_low": 1.0, "mine/bpb_high": 3.0, "mine/chance": 0.5}
    assert [*mean_metrics(("mine",), one, lambda name: [])] == [
        "mean/bpb",
        "mean/bpb_low",
        "mean/bpb_high",
        "mean/chance",
    ]
    assert mean_metrics(("mine", "code"), {**one, **counts}, lambda name: []) == {}
    said = remarks({**one, **counts}, Evaluation(tasks=("code", "mine")))
    assert "code: 4 of 4 items were not run, by a failure of the sandbox or the machine; they are in no score." in said
    assert "There is no mean over the tasks, since no item of code was scored." in said
