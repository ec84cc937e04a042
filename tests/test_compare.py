"""`raycodellm eval` says how models score and how two differ over the same items."""

from __future__ import annotations

import pyarrow as pa
import pytest

from raycodellm import compare, evaluation
from raycodellm.config import Evaluation, UserError
from raycodellm.files import Folder

SETTINGS = Evaluation(tasks=("boxes",), limit=4)


def result(right: list[bool], bits: list[float]) -> evaluation.EvaluationResult:
    rows = [
        {
            "task": "boxes",
            "item": number,
            "doc_hash": str(number),
            "correct": correct,
            "bits_per_byte": value,
            "too_long": False,
            "attributes": "{}",
        }
        for number, (correct, value) in enumerate(zip(right, bits, strict=True))
    ]
    metrics = {"boxes/acc": sum(right) / len(right), "boxes/acc_low": 0.1, "boxes/acc_high": 0.9, "boxes/chance": 0.2}
    return evaluation.EvaluationResult({**metrics, "boxes/too_long": 1.0}, pa.Table.from_pylist(rows))


@pytest.fixture
def models(tmp_path, monkeypatch) -> list[str]:
    names = [str(tmp_path / "base"), str(tmp_path / "other")]
    found = {
        names[0]: result([True, False, False, False], [2.0, 2.1, 1.9, 2.0]),
        names[1]: result([True, True, False, True], [1.0, 1.1, 0.9, 1.0]),
    }
    for name in names:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(evaluation, "evaluate", lambda model, settings: found[model])
    return names


def test_scores_chance_and_paired_differences_are_said(models, tmp_path) -> None:
    said = compare.run(models, SETTINGS, [f"{models[0]}={models[1]}"], str(tmp_path / "out"))
    assert "boxes/acc: 0.7500 [0.1000, 0.9000] (chance 0.200)" in said
    assert "boxes/too_long: 1 items do not fit the context" in said
    assert "boxes/bpb: -1.0000" in said
    (folder,) = [name for name in Folder(str(tmp_path / "out")).list() if name.endswith("base")]
    assert (Folder(str(tmp_path / "out")) / folder).list() == ["items.parquet", "metrics.json"]


@pytest.mark.parametrize("pair", ["base", "base=", "a=b"])
def test_a_pair_of_other_models_is_refused(models, pair: str) -> None:
    with pytest.raises(UserError, match="BASE=OTHER"):
        compare.run(models, SETTINGS, [pair], None)


def test_a_name_that_is_no_folder_and_no_hub_id_is_refused() -> None:
    with pytest.raises(UserError, match="no folder here and no hub id"):
        compare.run(["nothing-here"], SETTINGS, [], None)
