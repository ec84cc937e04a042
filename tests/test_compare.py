"""`raycodellm eval` says how models score and how two differ over the same items."""

from __future__ import annotations

import math
import statistics

import pyarrow as pa
import pytest
from test_evaluation import write_model

from raycodellm import compare, evaluation, pairs
from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation.scores.items_table import items_table
from raycodellm.files import Folder

SETTINGS = Evaluation(tasks=("boxes",), limit=4)


def items(bits: dict[str, list[float | None]], right: dict[str, list[bool]], named: dict[str, list[str]]) -> pa.Table:
    """`bits` and `right`: per task, of its items."""
    rows = [
        {
            "task": task,
            "item": number,
            "doc_hash": str(number),
            "correct": right[task][number] if task in right else None,
            "bits_per_byte": value,
            "too_long": False,
            "attributes": "{}",
        }
        for task, values in bits.items()
        for number, value in enumerate(values)
    ]
    return items_table(rows, named)


def result(right: list[bool], bits: list[float]) -> evaluation.EvaluationResult:
    metrics = {"boxes/acc": sum(right) / len(right), "boxes/acc_low": 0.1, "boxes/acc_high": 0.9, "boxes/chance": 0.2}
    table = items({"boxes": bits}, {"boxes": right}, {"boxes": ["boxes"]})
    return evaluation.EvaluationResult({**metrics, "boxes/too_long": 1.0}, table)


@pytest.fixture
def models(tmp_path, monkeypatch) -> list[str]:
    names = [str(tmp_path / "base"), str(tmp_path / "other")]
    found = {
        names[0]: result([True, False, False, False], [2.0, 2.1, 1.9, 2.0]),
        names[1]: result([True, True, False, True], [1.0, 1.1, 0.9, 1.0]),
    }
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.setattr(evaluation, "evaluate", lambda model, settings, **how: found[model])
    return names


def test_scores_chance_and_paired_differences_are_said(models, tmp_path) -> None:
    found = compare.run(models, SETTINGS, [f"{models[0]}={models[1]}"], str(tmp_path / "out"))
    said = compare.text(found)
    (row,) = [line for line in said.splitlines() if line.split()[:2] == ["boxes", "acc"]]
    assert row.split()[2:] == ["0.250", "(0.100", "to", "0.900)", "0.750", "(0.100", "to", "0.900)", "0.200", "–"]
    assert "other: 1 of 1 items of boxes do not fit the context" in said
    assert "boxes/bpb: -1.0000" in said
    (folder,) = [name for name in Folder(str(tmp_path / "out")).list() if name.endswith("base")]
    assert (Folder(str(tmp_path / "out")) / folder).list() == ["items.parquet", "metrics.json"]


def test_groups_files_and_tasks_of_likelihood_alone_are_compared_as_they_were_named() -> None:
    named = {"group": ["big", "small"], "own": ["own"]}
    right = {"big": [True, False, False], "small": [True]}
    before = {"big": [2.0, 2.2, 1.8], "small": [4.0], "own": [1.0, 1.5, None]}
    after = {"big": [1.9, 2.0, 1.8], "small": [3.0], "own": [2.0, 2.4, 1.0]}
    lines = compare.difference_lines(pairs.differences(items(before, right, named), items(after, right, named)))
    gaps = [-0.1, -0.2, 0.0, -1.0], [1.0, 0.9]
    group, own = (statistics.fmean(of) for of in gaps)
    lines = [line for line in lines if line.partition(":")[0].endswith(("/acc", "/bpb"))]
    assert [line.split(" (")[0] for line in lines] == [
        "group/acc: +0.0000",
        f"group/bpb: {group:+.4f}",
        f"own/bpb: {own:+.4f}",
        "mean/acc: +0.0000",
        f"mean/bpb: {(group + own) / 2:+.4f}",
    ]
    half = math.hypot(
        3.1824 * statistics.stdev(gaps[0]) / math.sqrt(4), 12.7062 * statistics.stdev(gaps[1]) / math.sqrt(2)
    )
    assert lines[-1].endswith(f"({(group + own - half) / 2:+.4f} to {(group + own + half) / 2:+.4f})")


def test_models_that_no_item_fits_together_are_said_to_have_none_in_common() -> None:
    named = {"boxes": ["boxes"]}
    found = pairs.differences(items({"boxes": [1.0, None]}, {}, named), items({"boxes": [None, 2.0]}, {}, named))
    assert found == {"boxes/bpb": None}
    assert compare.difference_lines(found) == ["boxes/bpb: no items that both models were scored on"]


@pytest.mark.parametrize(
    "error", [evaluation.NothingFits("all 4 items are longer"), FloatingPointError("item 0: is nan")]
)
def test_a_model_that_cannot_be_scored_is_named_in_one_line(models, monkeypatch, error) -> None:
    def fails(model, settings, **how):
        raise error

    monkeypatch.setattr(evaluation, "evaluate", fails)
    with pytest.raises(UserError, match=f"^{models[0]}: {error}$"):
        compare.run(models, SETTINGS, [], None)


def test_a_folder_with_an_equals_sign_in_its_name_can_be_half_of_a_pair() -> None:
    models = ["runs/lr=1", "runs/lr=2"]
    assert compare.pair_of("runs/lr=1=runs/lr=2", models) == ("runs/lr=1", "runs/lr=2")


def test_a_second_call_with_the_same_output_scores_only_what_the_first_did_not(tmp_path, monkeypatch) -> None:
    model = write_model(tmp_path / "model")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "items.jsonl").write_text('{"question": "one", "answer": "two"}\n' * 6)
    for name in ("first", "second"):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\n"
            f"dataset_kwargs: {{data_files: {{test: {tmp_path}/tasks/items.jsonl}}}}\n"
            "output_type: loglikelihood\ntest_split: test\ndoc_to_text: question\ndoc_to_target: answer\n"
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        )
    told: list[tuple[int, int]] = []

    def scored(*tasks: str) -> int:
        told.clear()
        settings = Evaluation(tasks=tasks, include=str(tmp_path / "tasks"))
        found = compare.run([str(model)], settings, [], str(tmp_path / "out"), lambda model, *items: told.append(items))
        assert {*found.results[str(model)].metrics} >= {f"{task}/acc" for task in tasks}
        return told[-1][0] if told else 0

    assert [scored("first"), scored("first"), scored("first", "second"), scored("second")] == [6, 0, 6, 0]
    write_model(tmp_path / "model", context=256)
    assert scored("first") == 6, "another model in the same place"


@pytest.mark.parametrize("pair", ["base", "base=", "a=b"])
def test_a_pair_of_other_models_is_refused(models, pair: str) -> None:
    with pytest.raises(UserError, match="BASE=OTHER"):
        compare.run(models, SETTINGS, [pair], None)


def test_a_name_that_is_no_folder_and_no_hub_id_is_refused() -> None:
    with pytest.raises(UserError, match="no folder here and no hub id"):
        compare.run(["nothing-here"], SETTINGS, [], None)
