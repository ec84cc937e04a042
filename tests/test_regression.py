"""Mixture regression: the form that fits, honest intervals, and points that the search takes."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from raycodellm import cli, config, regression, report
from raycodellm.commands.suggest import _few_points_lines, _retry_hint, _suggestion_lines, left_out_lines
from raycodellm.config import Objective
from raycodellm.files import Folder
from raycodellm.records import TrialResult, as_json
from raycodellm.regression.document import SuggestedPoint
from raycodellm.regression.encoding import Encoding
from raycodellm.regression.space_points import between, in_round_numbers, random_points

SWEEP = """
name: NAME
seed: 0
model: {preset: tiny}
tokenizer: {train: {vocab_size: 4096}}
sources:
  web: {kind: text, path: "builtin:python-prose"}
  code: {kind: code, path: "builtin:python-code"}
  math: {kind: math, path: "builtin:tasks-instruct"}
stages:
  - name: pretrain
    tokens: 400_000
    sequence_length: 128
    batch_tokens: 4_096
    learning_rate: {peak: 3.0e-3, schedule: {search: {choice: [cosine, linear]}}}
    weights: {search: {simplex: {web: [0, 1], code: [0, 0.6], math: [0, 0.5]}}}
evaluation: {tasks: [boxes], limit: 120}
search: {trials: 20, SEARCH}
"""
NOISE = 0.01
SCHEDULE, WEIGHTS = "pretrain.learning_rate.schedule", "pretrain.weights"


def sweep_file(name: str = "first", search: str = "sampler: random"):
    return config.parse(SWEEP.replace("NAME", name).replace("SEARCH", search))


def law(point: dict) -> float:
    """A data-mixing law: code and mathematics help, each less the more there is of it."""
    code, math = (point[f"{WEIGHTS}.{source}"] for source in ("code", "math"))
    return 2.0 + float(np.exp(-1.2 * np.sqrt(code) - 0.8 * math)) + 0.3 * (code + math) ** 2


def flat(point: dict) -> float:
    """No parameter matters."""
    return 2.0


def made_arms(score=law, num_arms: int = 24, seed: int = 0, noise: float = NOISE):
    """(points, scores)"""
    rng = np.random.default_rng(seed)
    points = random_points(sweep_file(), num_arms, rng)
    return points, [score(point) + noise * rng.normal() for point in points]


def write_run(storage: Folder, name: str, points, scores, search: str = "sampler: random") -> Folder:
    """A run folder with one trial per point; the first one more than once, and one that failed."""
    run = storage / name
    run.write_bytes("sweep.yaml", SWEEP.replace("NAME", name).replace("SEARCH", search).encode())
    results = [
        TrialResult(number, "complete", number, 0, dict(point), {"mean/bpb": score, "boxes/acc": 1 - score / 4})
        for number, (point, score) in enumerate(zip(points, scores, strict=True))
    ]
    results.append(TrialResult(len(results), "failed", len(results), 0, dict(points[0]), {"mean/bpb": -9.0}, error="x"))
    for one in results:
        (run / "trials" / f"{one.number:04d}").write_json("result.json", as_json(one))
    return run


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Folder:
    return Folder(str(tmp_path_factory.mktemp("storage")))


@pytest.fixture(scope="module")
def fitted():
    """The forms for scores that follow the law."""
    points, scores = made_arms()
    encoding = Encoding.of(sweep_file(), points)
    return encoding, regression.choose_form(encoding.matrix(points), np.array(scores), encoding.is_amount)


# ------------------------------------------------------------------------------------------------- forms


def test_scores_of_a_known_law_are_predicted_better_than_by_their_mean(fitted):
    encoding, forms = fitted
    assert [one.error for one in forms] == sorted(one.error for one in forms)
    constant = next(one for one in forms if one.name == "constant")
    assert forms[0].error < 0.5 * constant.error
    points, truth = made_arms(seed=1, num_arms=50, noise=0.0)
    predicted = forms[0].fitted.predict(encoding.matrix(points))
    assert np.sqrt(np.mean((predicted - truth) ** 2)) < 0.5 * np.std(truth)


@pytest.mark.slow
def test_the_prediction_of_an_arm_that_is_held_out_does_not_know_its_score(fitted):
    encoding, _ = fitted
    points, scores = made_arms()
    x, other = encoding.matrix(points), np.array(scores)
    before = {one.name: one.held_out[3] for one in regression.choose_form(x[:6], other[:6], encoding.is_amount)}
    other[3] += 5.0
    after = {one.name: one.held_out[3] for one in regression.choose_form(x[:6], other[:6], encoding.is_amount)}
    alike = [name for name in before if not name.startswith("mean of")]  # the mean chooses its log-linear part anew
    assert alike and all(before[name] == pytest.approx(after[name]) for name in alike)


def test_intervals_of_ninety_percent_cover_new_arms(fitted):
    encoding, forms = fitted
    points, scores = made_arms(seed=2, num_arms=200)
    low, high = regression.conformal_interval(forms[0], encoding.matrix(points))
    assert np.mean((low <= scores) & (scores <= high)) >= 0.85
    wide_low, wide_high = regression.conformal_interval(forms[-1], encoding.matrix(points))
    assert forms[-1].error > forms[0].error and np.mean(high - low) < np.mean(wide_high - wide_low)


def test_an_interval_is_infinite_where_arms_are_too_few_for_its_level(fitted):
    encoding, forms = fitted
    low, high = regression.conformal_interval(forms[0], encoding.matrix(made_arms()[0][:2]), level=0.99)
    assert np.isinf(low).all() and np.isinf(high).all()


# ------------------------------------------------------------------------------------------------- points


def test_points_are_mixtures_within_their_bounds_and_stay_so_in_between_and_in_round_numbers():
    file, rng = sweep_file(), np.random.default_rng(0)
    points = random_points(file, 60, rng)
    mixed = [found for one in points[:8] for two in points if (found := between(file, one, two, float(rng.random())))]
    for point in [in_round_numbers(file, one) for one in (*points, *mixed)]:
        weights = [point[f"{WEIGHTS}.{source}"] for source in ("web", "code", "math")]
        assert sum(weights) == pytest.approx(1.0, abs=1e-9) and weights[1] <= 0.6 and weights[2] <= 0.5
        assert all(round(weight, 3) == weight for weight in weights)
    assert mixed and all(between(file, one, {**one, SCHEDULE: "other"}, 0.5) is None for one in points)


def test_choices_are_one_hot_and_what_does_not_differ_is_left_out():
    points = made_arms()[0]
    encoding = Encoding.of(sweep_file(), points)
    assert [column.name for column in encoding.columns].count(SCHEDULE) == 2
    assert encoding.is_amount.tolist() == [False, False, True, True, True] and encoding.num_free == 3
    same = [{**point, SCHEDULE: "cosine"} for point in points]
    assert SCHEDULE not in {column.name for column in Encoding.of(sweep_file(), same).columns}


# ------------------------------------------------------------------------------------------------- suggestions


def suggestion(points, scores, *settings) -> regression.Suggestion:
    """Without the forms' held-out errors, which take most of the time and change nothing of what is suggested."""
    return regression.suggestion(sweep_file(), points, scores, *settings, compares_forms=False)


def test_where_a_law_holds_the_predicted_best_is_told_apart_from_a_poor_reference():
    points, scores = made_arms()
    worst = int(np.argmax(scores))
    found = suggestion(points, [-score for score in scores], "max", worst, 3)
    assert found.moves and found.best is not None and found.difference is not None
    value, low, high = found.difference
    truth = law(points[worst]) - law(found.best.params)
    assert 0 < low <= truth <= high and low <= value <= high
    assert found.best.low <= -law(found.best.params) <= found.best.high and len(found.points) == 3


def test_where_nothing_matters_it_says_stay_where_you_are():
    points, scores = made_arms(flat, num_arms=10)
    assert not suggestion(points, scores, "min", None, 1).moves


@pytest.mark.slow
def test_suggest_writes_points_that_the_next_sweep_takes_and_their_report_shows_them_measured(
    storage, tmp_path, capsys
):
    points, scores = made_arms(num_arms=10)
    run = write_run(storage, "first", points, scores)
    into = tmp_path / "points.yaml"
    assert cli.main(["suggest", str(run), "--points", "2", "--into", str(into)]) == 0
    said = capsys.readouterr().out
    assert "error on held-out arms" in said and "predicted best: " in said and "difference" in said
    assert "fitted to mean/bpb of 10 arms" in said  # the failed trial is none of them
    enqueue = yaml.safe_load(into.read_text())["search"]["enqueue"]
    taken = sweep_file("second", f"sampler: random, enqueue: {enqueue}").enqueued()
    kept = regression.read_suggested(run)
    assert kept is not None and [dict(one.params) for one in kept.points] == taken
    second = write_run(storage, "second", taken, [law(point) for point in taken])
    assert cli.main(["suggest", str(run), "--against", str(second)]) == 0
    table = capsys.readouterr().out
    assert "predicted mean/bpb" in table and len(table.splitlines()) == 3
    cli.main(["report", str(second)])
    assert "Predicted beside measured" in (second / "report").read_text("report.md")
    page = report.write_report(run, storage).read_text("report.md")
    assert re.search("the predicted optimum (was not measured|is the best measured arm)", page)
    assert "the predicted optimum" not in (second / "report").read_text("report.md")


def test_the_best_measured_arm_stands_beside_what_the_other_arms_predict_of_it():
    points, scores = made_arms(num_arms=20)
    found = suggestion(points, scores, "min", None, 1, [4] * len(points)).optimum
    best = int(np.argmin(scores))
    assert found is not None and (found.arm, found.score, found.num_seeds) == (best, scores[best], 4)
    assert found.low <= law(points[best]) <= found.high and found.low <= found.from_others <= found.high
    alone = suggestion(points, [-score for score in scores], "max", None, 1, [4] * len(points))
    assert alone.optimum.from_others == pytest.approx(-found.from_others)


def test_suggest_says_what_its_fit_does_not_see():
    text = SWEEP.replace("SEARCH", "constraints: [{metric: boxes/acc, mode: max, bound: 0.25}]")
    rows = [
        {"arm": arm, "state": state} for arm, state in ((0, "complete"), (1, "pruned"), (1, "complete"), (2, "pruned"))
    ]
    constraint, stopped = left_out_lines(config.parse(text), rows)
    assert constraint == "no constraint is predicted: a point may break boxes/acc >= 0.25"
    assert stopped == "stopped early, so without a score and not in the fit: 2 of the arms"
    assert left_out_lines(config.parse(SWEEP.replace("SEARCH", "sampler: tpe")), rows[:1]) == []
    assert _retry_hint(rows) == ""
    assert _retry_hint([{"state": "failed"}]) == ", with --retry-failed for the 1 trial that failed"
    best, objective = SuggestedPoint({}, 2.0, 1.9, 2.1), Objective(metric="mean/bpb", mode="min")
    found = regression.Suggestion((("constant", 0.1),), 1, 0, best, (0.0, -0.1, 0.1), False, False, (best, best))
    assert _few_points_lines(found, 2) == [] and _few_points_lines(found, 5)[0].startswith("2 of 5 points: ")
    none = replace(found, points=())
    assert _few_points_lines(none, 3)[0].startswith("none of 3 points: ")
    for one, last in ((found, "stay where you are; the points below may teach more"), (none, "stay where you are")):
        said = _suggestion_lines(one, [regression.MeasuredArm(0, {}, 2.0, {0: 2.0})], objective, False)
        assert said[-1] == f"not told apart: {last}"


@pytest.mark.slow
def test_what_suggest_prints_is_yaml(storage, capsys):
    run = write_run(storage, "printed", *made_arms(num_arms=12))
    assert cli.main(["suggest", str(run), "--points", "1", "--metric", "boxes/acc"]) == 0
    assert len(yaml.safe_load(capsys.readouterr().out)["search"]["enqueue"]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "9 different arms have mean/bpb; the fit needs 10"),
        (["--metric", "boxes/luck"], "no trial has it; there is boxes/acc, mean/bpb"),
        (["--points", "0"], "--points: found 0"),
        (["--against", "RUN"], "has no suggested.json"),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_what_would_work(storage, capsys, options, said):
    run = write_run(storage, "few", *made_arms(num_arms=9))
    assert cli.main(["suggest", str(run), *(str(run) if one == "RUN" else one for one in options)]) == 2
    printed = capsys.readouterr().err
    assert said in printed and len(printed.splitlines()) == 1


# ------------------------------------------------------------------------------------------------- real mixtures


def read_regmix(folder: Path, name: str):
    """(mixtures, losses on `pile_cc`) of one of RegMix's tables."""
    mixtures, losses = (
        {row["index"]: row for row in csv.DictReader((folder / "regmix" / f"{kind}.csv").open())}
        for kind in (name.replace("_", "_mixture_"), name.replace("_", "_pile_loss_"))
    )
    keys = [key for key in mixtures if key in losses]
    x = np.array([[float(v) for k, v in mixtures[key].items() if k != "index"] for key in keys])
    return x / x.sum(1, keepdims=True), np.array(
        [float(losses[key]["metric/the_pile_pile_cc_val_loss"]) for key in keys]
    )


def regmix(folder: Path, num_runs: int):
    """(chosen form, Spearman at 60M, at 1B, coverage at 1M) from this many runs of 1M parameters."""
    from scipy.stats import spearmanr

    x, y = read_regmix(folder, "train_1m")
    form = regression.choose_form(x[:num_runs], y[:num_runs], [True] * x.shape[1])[0]
    by_size = [read_regmix(folder, f"test_{size}") for size in ("60m", "1B")]
    ranks = [float(spearmanr(form.fitted.predict(at), measured).statistic) for at, measured in by_size]
    at, measured = read_regmix(folder, "test_1m")
    low, high = regression.conformal_interval(form, at)
    return form.name, *ranks, float(np.mean((low <= measured) & (measured <= high)))


@pytest.mark.slow
def test_a_tenth_of_real_small_runs_ranks_the_mixtures_of_larger_ones(test_data):
    _, at_60m, at_1b, coverage = regmix(test_data, 50)
    assert at_60m >= 0.9 and at_1b >= 0.9 and coverage >= 0.8


@pytest.mark.exhaustive
def test_real_small_runs_rank_the_mixtures_of_models_a_thousand_times_larger(test_data):
    _, at_60m, at_1b, coverage = regmix(test_data, 512)
    assert at_60m >= 0.985 and at_1b >= 0.975 and coverage >= 0.85
