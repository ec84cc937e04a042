"""The number and the place of a stage's phases as a search."""

from __future__ import annotations

import itertools

import pytest

from raycodellm import config, search
from raycodellm.config import SweepFile, UserError

MIXED = ("pretrain.code_ratio=null", "pretrain.schedule=null")
ANY = "{search: {simplex: [0.1, 0.9]}}"
TEXT, CODE = "weights: {prose: 1.0}", "weights: {prose: 0.2, python: 0.8}"
HALF = "weights: {prose: 0.5, python: 0.5}"
THREE = f"[{{share: {ANY}, {TEXT}}}, {{share: {ANY}, {HALF}}}, {{share: {ANY}, {CODE}}}]"
TWO = f"[{{share: {ANY}, {TEXT}}}, {{share: {ANY}, {CODE}}}]"
ONE = f"[{{share: 1.0, {HALF}}}]"
NUMBER = f"{{search: {{choice: [{ONE}, {TWO}, {THREE}]}}}}"


def phased(text: str, phases: str, *overrides: str) -> SweepFile:
    return config.parse(text, overrides=(*MIXED, f"pretrain.phases={phases}", *overrides))


def suggested(file: SweepFile, tmp_path, number: int) -> list[search.Suggestion]:
    study, found = search.SweepStudy(tmp_path / "optuna.log", file), []
    for place in range(number):
        found.append(study.suggest())
        study.tell(found[-1].number, [float(place % 5)])
    return found


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
def test_breakpoints_never_cross_and_every_phase_keeps_its_bounds(sweep_text, tmp_path, sampler) -> None:
    file = phased(sweep_text, THREE, f"search.sampler={sampler}", "search.trials=8")
    assert [one.name for one in file.parameters] == [f"pretrain.phases.{place}.share" for place in range(3)]
    for one in suggested(file, tmp_path, 8):
        phases = config.resolve(file, one.params).stages[0].phases
        assert phases is not None and [phase.share for phase in phases] == [*one.params.values()]
        ends = [*itertools.accumulate(phase.share for phase in phases)]
        assert ends == sorted(ends) and ends[-1] == pytest.approx(1.0)
        assert all(0.1 <= phase.share <= 0.9 for phase in phases)


def test_a_phase_that_does_not_exist_has_no_share_to_sample_and_no_point_comes_twice(sweep_text, tmp_path) -> None:
    file = phased(sweep_text, NUMBER, "search.trials=16")
    found = suggested(file, tmp_path, 16)
    numbers = []
    for one in found:
        phases = config.resolve(file, one.params).stages[0].phases or ()
        numbers.append(len(phases))
        assert sum(name.endswith(".share") for name in one.params) == (0 if len(phases) == 1 else len(phases))
        assert sum(phase.share for phase in phases) == pytest.approx(1.0)
    assert set(numbers) == {1, 2, 3} and numbers.count(1) == 1, "one phase is one point"
    assert len({repr(one.params) for one in found}) == 16


def test_a_continued_study_and_the_saved_file_have_the_same_shares(sweep_text, tmp_path) -> None:
    file = phased(sweep_text, NUMBER, "search.trials=8")
    found = suggested(file, tmp_path, 5)
    saved = config.parse(config.write_yaml(config.resolved_tree(file)))
    assert saved.parameters == file.parameters
    for one in found:
        assert config.resolve(saved, one.params) == config.resolve(file, one.params)
        assert search.distributions(saved, one.params) is not None
    known = [trial.params for trial in search.SweepStudy(tmp_path / "optuna.log", saved).trials()]
    assert len(known) == 5


def test_a_fixed_phase_keeps_its_share_and_a_reference_names_every_share(sweep_text) -> None:
    fixed = f"[{{share: 0.5, {TEXT}}}, {{share: {ANY}, {HALF}}}, {{share: {ANY}, {CODE}}}]"
    names = [f"pretrain.phases.{place}.share" for place in range(3)]
    point = "{" + ", ".join(f"{name}: {share}" for name, share in zip(names, (0.5, 0.3, 0.2), strict=True)) + "}"
    file = phased(sweep_text, fixed, f"search.reference={point}")
    reference = search.reference_point(file)
    assert reference == dict(zip(names, (0.5, 0.3, 0.2), strict=True))
    stage = config.resolve(file, reference).stages[0]
    assert stage.phases is not None and [phase.share for phase in stage.phases] == [0.5, 0.3, 0.2]


@pytest.mark.parametrize(
    ("phases", "why"),
    [
        (f"[{{share: {ANY}, {TEXT}}}, {{share: 0.95, {CODE}}}]", "phases.*add up to"),
        (TWO.replace("0.1, 0.9", "0, 1"), "greater than 0"),
        (
            f"[{{share: {ANY}, {TEXT}}}, {{share: {{search: {{uniform: [0, 1]}}}}, {CODE}}}]",
            "phase 1 has no such share",
        ),
        (f"[{{share: {ANY}, {HALF}}}]", "this is the only phase"),
    ],
)
def test_shares_that_cannot_add_up_are_refused_in_one_line(sweep_text, phases, why) -> None:
    with pytest.raises(UserError, match=why) as refused:
        phased(sweep_text, phases)
    assert "\n" not in str(refused.value)
