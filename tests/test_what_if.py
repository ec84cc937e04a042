"""Predictions for points that were not run: curves with bands, and parameters that act together."""

from __future__ import annotations

import numpy as np
import pytest
from test_regression import SCHEDULE, WEIGHTS, law, made_arms, sweep_file, write_run

from raycodellm import cli, config
from raycodellm.files import Folder
from raycodellm.regression import MeasuredArm, WhatIf

TWO_STAGES = """
name: NAME
model: {preset: tiny}
tokenizer: {train: {vocab_size: 4096}}
sources:
  prose: {kind: text, path: "builtin:python-prose"}
  python: {kind: code, path: "builtin:python-code"}
stages:
  - {name: first, tokens: 400_000, sequence_length: 128, batch_tokens: 4_096, learning_rate: {peak: 3.0e-3},
     code_ratio: {search: {uniform: [0.0, 0.8]}}}
  - {name: last, tokens: 400_000, sequence_length: 128, batch_tokens: 4_096, learning_rate: {peak: 3.0e-3},
     code_ratio: {search: {uniform: [0.0, 0.8]}}, schedule: {search: {choice: [constant, increase]}}}
evaluation: {tasks: [boxes], limit: 120}
search: {trials: 20, sampler: random}
"""
FIRST, LAST, SHAPE = "first.code_ratio", "last.code_ratio", "last.schedule"


def measured(points, scores, seeds: int = 1) -> list[MeasuredArm]:
    return [
        MeasuredArm(arm, dict(point), score, dict.fromkeys(range(seeds), score))
        for arm, (point, score) in enumerate(zip(points, scores, strict=True))
    ]


def two_stages(score, num_arms: int = 30, seed: int = 0) -> WhatIf:
    rng = np.random.default_rng(seed)
    points = [
        {FIRST: float(a), LAST: float(b), SHAPE: ("constant", "increase")[int(rng.integers(2))]}
        for a, b in rng.uniform(0, 0.8, (num_arms, 2))
    ]
    found = WhatIf.of(config.parse(TWO_STAGES), measured(points, [score(one) + 0.01 * rng.normal() for one in points]))
    assert isinstance(found, WhatIf)
    return found


def test_bands_along_a_weight_hold_the_true_curves_and_the_other_weights_make_room_in_proportion():
    points, scores = made_arms()
    found = WhatIf.of(sweep_file(), measured(points, scores))
    assert isinstance(found, WhatIf)
    inside = []
    for base in points[:8]:
        curve = found.curve(f"{WEIGHTS}.code", base)
        assert curve is not None and curve.values[0] >= 0.0 and curve.values[-1] <= 0.6
        mixed = [found._whole_point_with(base, f"{WEIGHTS}.code", value) for value in curve.values]
        for point in mixed:
            weights = [point[f"{WEIGHTS}.{one}"] for one in ("web", "code", "math")]
            assert sum(weights) == pytest.approx(1) and weights[2] <= 0.5 + 1e-9
        truth = np.array([law(point) for point in mixed])
        inside.append(np.mean((curve.band.low <= truth) & (truth <= curve.band.high)))
    assert np.mean(inside) >= 0.9


def test_a_choice_has_one_interval_per_option():
    points, scores = made_arms()
    found = WhatIf.of(sweep_file(), measured(points, scores))
    assert isinstance(found, WhatIf)
    curve = found.curve(SCHEDULE, points[0])
    assert curve is not None and curve.values == ("cosine", "linear")
    assert curve.band.low.max() < curve.band.high.min()  # the options make no difference, and none is claimed


def test_two_stages_whose_ratios_act_together_are_told_and_their_interval_holds_the_truth():
    found = two_stages(lambda one: 2.0 - one[FIRST] + 2.0 * one[FIRST] * one[LAST])
    top = found.interactions()[0]
    assert {top.one, top.other} == {FIRST, LAST} and top.is_told
    assert top.low <= 2.0 * 0.4 * 0.4 <= top.high  # halves of a range of 0.8 lie 0.4 apart


def test_where_effects_only_add_up_no_interaction_is_told():
    found = two_stages(lambda one: 2.0 - one[FIRST] + 0.5 * one[LAST] + 0.1 * (one[SHAPE] == "increase"))
    rows = found.interactions()
    assert len(rows) == 3 and not any(one.is_told for one in rows)


def test_a_curve_from_a_reference_without_code_takes_the_schedule_that_the_reference_names():
    """Without code a schedule has no effect, so the reference's trials have none."""
    text = TWO_STAGES.replace("random}", f"random, reference: {{{FIRST}: 0.0, {LAST}: 0.0, {SHAPE}: increase}}}}")
    rng = np.random.default_rng(2)
    reference = {FIRST: 0.0, LAST: 0.0}
    points = [reference] + [
        {FIRST: float(a), LAST: float(b), SHAPE: "increase"} for a, b in rng.uniform(0, 0.8, (20, 2))
    ]
    found = WhatIf.of(config.parse(text), measured(points, [2.0 - one[LAST] + 0.01 * rng.normal() for one in points]))
    assert isinstance(found, WhatIf)
    curve = found.curve(LAST, reference)
    assert curve is not None and (curve.values[0], curve.values[-1]) == (0.0, 0.8)
    assert curve.band.low[-1] <= 1.2 <= curve.band.high[-1]
    assert found._whole_point_with(reference, LAST, 0.4)[SHAPE] == "increase" and SHAPE not in found._whole_point_with(
        reference, LAST, 0.0
    )
    assert found.curve(SHAPE, reference) is None


def test_a_weight_that_acts_together_with_a_choice_is_told_and_two_weights_of_one_mixture_are_no_pair():
    points, _ = made_arms(num_arms=40)
    rng = np.random.default_rng(3)
    code = f"{WEIGHTS}.code"
    scores = [2.0 + 2.0 * one[code] * (one[SCHEDULE] == "linear") + 0.005 * rng.normal() for one in points]
    found = WhatIf.of(sweep_file(), measured(points, scores))
    assert isinstance(found, WhatIf)
    rows = found.interactions()
    assert not any(one.one.startswith(WEIGHTS) and one.other.startswith(WEIGHTS) for one in rows)
    pair = next(one for one in rows if {one.one, one.other} == {code, SCHEDULE})
    # Halves of a range of 0.6 lie 0.3 apart.
    assert pair.is_told and pair.low <= 0.6 <= pair.high


def test_a_curve_needs_two_arms_per_free_parameter_and_ten_at_least():
    points, scores = made_arms(num_arms=9)
    assert WhatIf.of(sweep_file(), measured(points, scores)) == 10


@pytest.mark.slow
def test_the_report_draws_the_curves_or_says_how_many_arms_they_need(tmp_path):
    storage = Folder(str(tmp_path))
    run = write_run(storage, "first", *made_arms(num_arms=12))
    few = write_run(storage, "few", *made_arms(num_arms=9))
    assert cli.main(["report", str(run)]) == cli.main(["report", str(few)]) == 0
    page = (run / "report").read_text("report.md")
    assert "the others stay those of arm" in page and "No arm has a second seed" in page
    assert "whatif0" in (run / "report").read_text("index.html")
    assert "Shown from 10 different arms on" in (few / "report").read_text("report.md")
