"""The Pareto front of several objectives: which arms are on it, what noise leaves of that, and who is confirmed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_report import SWEEP
from test_verdict import row, sweep_file

import raycodellm
from raycodellm import cli, verdict
from raycodellm.config import SweepFile, UserError
from raycodellm.files import Folder
from raycodellm.records import TrialResult, as_json

FILE = sweep_file("objective: [{metric: mean/bpb, mode: min}, {metric: other, mode: max}]")
LOOKED_AT = sweep_file(
    "objective: [{metric: mean/bpb, mode: min}, {metric: other, mode: max}], confirm: {best: 3, seeds: [2, 4, 8]}"
)
ONE = "objective: {metric: mean/bpb, mode: min}"
BOTH = "objective: [{metric: mean/bpb, mode: min}, {metric: mean/acc, mode: max}]"


def rows_of(points: list[tuple[float, float]], seeds: int, noise: float, rng: np.random.Generator) -> list[dict]:
    """One row per arm and seed, around the arm's point."""
    found = []
    for arm, (bpb, other) in enumerate(points):
        for seed in range(seeds):
            one = row(len(found), min(arm, 3), seed, bpb + noise * rng.normal())
            found.append({**one, "arm": arm, "metrics.other": other + noise * rng.normal()})
    return found


def test_arms_far_apart_have_a_known_place_on_the_front_or_off_it():
    points = [(1.0, 0.2), (2.0, 0.9), (2.5, 0.1), (1.5, 0.6)]
    found = verdict.front(FILE, rows_of(points, 4, 0.01, np.random.default_rng(0)), {})
    assert [one.arm for one in found.arms] == [0, 3, 1, 2] and [one.arm for one in found.members] == [0, 3, 1]
    assert found.knows_seeds and all(one.is_known for one in found.arms)
    assert found.arms[-1].rivals == (0, 1, 3) and "Noise accounts for no arm's place" in str(found)


def test_an_arm_of_the_front_that_noise_may_have_put_there_is_said_to_be_unsure_with_its_rivals():
    points = [(1.0, 0.2), (2.0, 0.9), (1.001, 0.201)]
    found = verdict.front(FILE, rows_of(points, 3, 0.05, np.random.default_rng(1)), {})
    by_arm = {one.arm: one for one in found.arms}
    assert by_arm[1].is_known and by_arm[1].is_on_front
    unsure = next(one for one in found.members if one.arm != 1)
    assert not unsure.is_known and set(unsure.rivals) <= {0, 2} and "Not told from being dominated" in str(found)


def test_without_a_second_seed_no_place_on_the_front_is_known():
    found = verdict.front(FILE, rows_of([(1.0, 0.2), (2.0, 0.1)], 1, 0.0, np.random.default_rng(0)), {})
    assert [one.arm for one in found.members] == [0] and not any(one.is_known for one in found.arms)
    assert "Without a second seed" in str(found)


def looked_at(rows: list[dict], file: SweepFile, num_decided: int) -> verdict.Front:
    """The front after so many looks, from fresh seeds alone."""
    confirm = file.example().search.confirm
    seeds = tuple(range(confirm.seeds[num_decided - 1])) if num_decided else ()
    counted = {row["arm"]: seeds for row in rows} if num_decided else {}
    looks = verdict.Looks("confirm", num_decided=num_decided, counted=counted)
    return verdict.front(file, [{**row, "phase": "confirm"} for row in rows], {}, looks)


@pytest.mark.slow
def test_where_all_arms_are_equal_at_most_a_twentieth_of_sweeps_know_a_place_at_any_look():
    rng, wrong, sweeps = np.random.default_rng(3), 0, 100
    for _ in range(sweeps):
        rows = rows_of([(1.0, 1.0)] * 4, 8, 0.1, rng)
        fronts = [looked_at(rows, LOOKED_AT, number) for number in (1, 2, 3)]
        wrong += any(one.is_known for found in fronts for one in found.arms)
    assert wrong <= 0.05 * sweeps + 4  # two standard deviations above a twentieth


def test_before_the_first_look_no_place_on_the_front_is_told():
    rows = rows_of([(1.0, 0.2), (2.0, 0.9), (2.5, 0.1)], 3, 0.001, np.random.default_rng(0))
    early = verdict.front(LOOKED_AT, rows, {}, verdict.Looks("confirm"))
    assert early.arms and not any(one.is_known or one.rivals for one in early.arms)
    assert "No place on it is told before the first look" in str(early)
    assert all(one.is_known for one in looked_at(rows, LOOKED_AT, 1).arms)


def test_where_all_arms_are_equal_at_most_a_twentieth_of_sweeps_know_a_place():
    rng = np.random.default_rng(2)
    sweeps = [verdict.front(FILE, rows_of([(1.0, 1.0)] * 4, 3, 0.1, rng), {}) for _ in range(150)]
    wrong = [found for found in sweeps if any(one.is_known for one in found.arms)]
    assert len(wrong) <= 0.05 * 150 + 6  # two standard deviations above a twentieth


def test_with_several_objectives_the_ends_of_the_front_are_confirmed_first():
    file = sweep_file(f"{BOTH}, confirm: {{best: 2, seeds: [2]}}")
    scores = {0: (1.0, 0.1), 1: (0.5, 0.2), 2: (0.52, 0.25), 3: (0.9, 0.9)}
    rows = [{**row(arm, arm, 7, bpb), "metrics.mean/acc": acc} for arm, (bpb, acc) in scores.items()]
    assert verdict.looks(file, rows, {}).arms == (1, 3)


def test_an_arm_that_breaks_a_constraint_is_not_on_the_front():
    file = sweep_file(f"{BOTH}, constraints: [{{metric: mean/acc, mode: max, bound: 0.15}}]")
    rows = [{**row(arm, arm, 7, 1.0 - arm / 10), "metrics.mean/acc": 0.4 - arm / 10} for arm in range(4)]
    assert {one.arm for one in verdict.front(file, rows, {}).arms} == {0, 1, 2}


@pytest.mark.slow
def test_report_status_and_notebook_show_the_front(tmp_path, capsys):
    run = Folder(str(tmp_path)) / "demo"
    run.write_bytes("sweep.yaml", SWEEP.replace("REPLICATES", "2").replace(ONE, BOTH).encode())
    for number in range(8):
        arm, seed = divmod(number, 2)
        params = {"pretrain.code_ratio": 0.1 * arm, "pretrain.schedule": "constant"}
        metrics = {"mean/bpb": 1.0 + 0.1 * arm + 0.001 * seed, "mean/acc": 0.2 + 0.1 * (arm % 3) - 0.001 * seed}
        result = TrialResult(number, "complete", arm, seed, params, metrics)
        (run / "trials" / f"{number:04d}").write_json("result.json", as_json(result))
    assert cli.main(["report", str(run), "--pictures", "svg"]) == 0
    page = run.read_bytes("report/report.md").decode()
    assert "](pictures/pareto1.svg)" in page and b"Pareto front" in run.read_bytes("report/pictures/pareto1.svg")
    assert "On the Pareto front of mean/bpb, mean/acc, by the means: arm" in page and "told from noise" in page
    opened = raycodellm.open_run(str(run))
    table = opened.pareto_front()
    assert list(table.index[: int(table["is_on_front"].sum())]) == [one.arm for one in opened.status.front.members]
    capsys.readouterr()
    assert cli.main(["status", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["front"]["objectives"] == ["mean/bpb", "mean/acc"]
    assert "On the Pareto front" in str(opened.status)
    # Status reads no items, so it could call a place unsure that the report calls known.
    assert "The report says for which arms this is known." in str(opened.status)
    assert "Not told from" not in str(opened.status) and "not for sure" not in str(opened.status)


def test_a_sweep_with_one_objective_has_no_front(tmp_path):
    run = Folder(str(tmp_path)) / "demo"
    run.write_bytes("sweep.yaml", SWEEP.replace("REPLICATES", "1").encode())
    opened = raycodellm.open_run(str(run))
    assert opened.status.front is None and "Pareto" not in str(opened.status)
    with pytest.raises(UserError, match="has one objective"):
        opened.pareto_front()
