"""A ladder of sizes: its sizes are ordinary sweeps with the same arms, and its report claims no more than they know."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from driver_without_ray import Cluster
from test_failures import drive

from raycodellm import OpenedLadder, cli, config, ladder, model, search, statistics, storage_files, sweep, verdict
from raycodellm.cluster.sent_files import SentFiles
from raycodellm.cluster.submit import Submission
from raycodellm.commands import SweepRequest, run, start, submit
from raycodellm.commands.connection import ClusterConnection
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.ladder.effects import _effect, arm_key
from raycodellm.records import CONFIRM_SEEDS, TrialResult, as_json
from raycodellm.report.pictures import picture
from raycodellm.statistics import ArmMeasurements, Difference, Variance

LADDER = """
name: sizes
seed: 7
tokenizer: {train: {vocab_size: 4096}}
sources:
  prose: {kind: text, path: "builtin:python-prose"}
  python: {kind: code, path: "builtin:python-code"}
stages:
  - name: pretrain
    tokens: 300_000
    sequence_length: 128
    batch_tokens: 4_096
    learning_rate: {peak: 3.0e-3}
    code_ratio: {search: {choice: [0.0, 0.25, 0.5]}}
  - name: cooldown
    tokens: 100_000
    sequence_length: 128
    batch_tokens: 4_096
    learning_rate: {peak: 1.0e-3}
    code_ratio: 0.0
evaluation: {tasks: [boxes, induction], limit: 20}
search: {sampler: grid, reference: {pretrain.code_ratio: 0.0}, replicates: 3}
ladder: {presets: [nano, tiny, mini], learning_rate: {tiny: 1, mini: 0.5, nano: 0.25}}
"""
RATIOS = (0.0, 0.25, 0.5)
Score = Callable[[int, int, str], float | None]
"""Arm, seed and preset to the score; None for a trial that has not begun."""


def ladder_file(*overrides: str) -> config.SweepFile:
    return config.parse(LADDER, overrides=overrides)


# ------------------------------------------------------------------------------------------------- sizes


def test_a_size_trains_so_many_tokens_per_parameter_in_the_stages_own_shares() -> None:
    sizes = ladder.sizes_of(ladder_file())
    assert [size.preset for size in sizes] == ["tiny", "mini", "nano"]  # by size, not by the file's order
    for size in sizes:
        used = size.file.example()
        assert size.parameters == model.num_parameters(used.model, 4096)
        assert size.tokens == sum(stage.num_tokens for stage in used.stages)
        assert abs(size.tokens - 20 * size.parameters) <= 4_096  # half a step of each of two stages
        assert used.stages[0].tokens / size.tokens == pytest.approx(0.75, abs=4_096 / size.tokens)


def test_a_size_is_an_ordinary_sweep_file_with_its_preset_its_name_and_its_scaled_rates() -> None:
    file = ladder_file()
    for size, factor in zip(ladder.sizes_of(file), (1, 0.5, 0.25), strict=True):
        used = size.file.example()
        assert (used.name, used.model.preset, used.ladder) == (f"sizes-{size.preset}", size.preset, None)
        assert [stage.learning_rate.peak for stage in used.stages] == [3e-3 * factor, 1e-3 * factor]
        changed = {key for key, _, _ in sweep_keys(config.resolved_tree(file), config.resolved_tree(size.file))}
        rates = {f"stages.{name}.learning_rate.peak" for name in ("pretrain", "cooldown")}
        assert changed <= {"name", "model.preset", "ladder", "stages.pretrain.tokens", "stages.cooldown.tokens", *rates}
        again = config.parse(config.write_yaml(config.resolved_tree(size.file)))
        assert config.resolved_tree(again) == config.resolved_tree(size.file)


def sweep_keys(old: dict, new: dict) -> list:
    from raycodellm.sweep.opening import changed_keys

    return changed_keys(old, new)


@pytest.mark.parametrize("sampler", ["grid", "random", "qmc"])
def test_every_size_has_the_same_arms(sampler: str) -> None:
    overrides = () if sampler == "grid" else (f"search.sampler={sampler}", "search.trials=5")
    space = () if sampler == "grid" else ("pretrain.code_ratio={search: {uniform: [0.0, 0.75]}}",)
    arms = [search.preview(size.file, 5) for size in ladder.sizes_of(ladder_file(*space, *overrides))]
    assert arms[0] == arms[1] == arms[2] and len(arms[0]) == (3 if sampler == "grid" else 5)


def test_arms_that_the_file_gives_whole_need_no_grid() -> None:
    given = ("search.enqueue=[{pretrain.code_ratio: 0.5}]", "search.sampler=tpe", "search.trials=2")
    assert search.num_arms(ladder.sizes_of(ladder_file(*given))[0].file) == 2
    partial = ("cooldown.code_ratio={search: {choice: [0.0, 0.1]}}", *given)
    with pytest.raises(UserError, match="learns from scores"):
        ladder.sizes_of(ladder_file("search.reference={pretrain.code_ratio: 0, cooldown.code_ratio: 0}", *partial))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("ladder.learning_rate=null",),
            "nothing says the learning rate of stage pretrain at each size; set model.par",
        ),
        (("ladder.learning_rate={tiny: 1, mini: 1}",), "has no factor for nano"),
        (("model.parametrization=mup",), "ladder.learning_rate: model.parametrization: mup transfers the rates; leave"),
        (("ladder.learning_rate.small=1",), "'small' is none of presets"),
        (("ladder.presets=[tiny]",), "ladder.presets: found 1 preset; give two or more"),
        (("ladder.presets=[tiny, tiny]",), "found 'tiny' twice"),
        (("ladder.presets=[tiny, huge]",), "preset 'huge' is not known"),
        (("pretrain.tokens={search: {choice: [1_000_000, 2_000_000]}}",), "stages.pretrain.tokens: is searched, but"),
        (("search.reference=null",), "search.reference: is missing; a ladder compares every arm"),
        (("search.sampler=tpe", "search.trials=3"), "tpe chooses other arms at every size"),
        (("model={preset: small}",), "model: found small, but the ladder's presets are the models"),
        (("model={pretrained: gpt2}",), "model: found gpt2, but the ladder's presets are the models"),
        (("stages=[]",), "ladder: trains models of several sizes"),
    ],
)
def test_a_ladder_whose_sizes_could_not_be_compared_is_refused(overrides, said, tmp_path, capsys) -> None:
    path = tmp_path / "sizes.yaml"
    path.write_text(LADDER)
    words = [word for one in overrides for word in ("--set", one)]
    assert cli.main(["check", str(path), "--storage", str(tmp_path / "s"), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


SEARCHED = (
    "pretrain.code_ratio={search: {uniform: [0.0, 0.75]}}",
    "search={sampler: tpe, trials: 4, reference: {pretrain.code_ratio: 0.0}, confirm: {best: 2, seeds: [2, 4]}}",
    "ladder.carry=2",
)


def test_a_learning_search_at_the_smallest_size_chooses_the_arms_of_the_others(tmp_path) -> None:
    storage, file = Folder(str(tmp_path)), ladder_file(*SEARCHED)
    tiny, mini, nano = ladder.sizes_of(file)
    assert (tiny.is_open, mini.is_open, search.num_arms(mini.file)) == (False, True, 3)
    with pytest.raises(UserError, match="tiny, chooses the arms of the others and has not ended; run it first, with"):
        ladder.with_arms(file, mini, tiny, storage)
    run = sweep.Run(tiny.file, storage)
    run.folder.write_bytes("sweep.yaml", config.write_yaml(config.resolved_tree(tiny.file)).encode())
    ratios, scores = (0.0, 0.123456789012345, 0.4, 0.6), (2.0, 1.5, 1.9, 1.7)
    results = [written(run, arm, arm, 7, ratios[arm], scores[arm], "search") for arm in range(4)]
    while pending := verdict.looks(tiny.file, [one.row() for one in results], {}).pending:
        arm, seed = pending[0].arm, 7 + CONFIRM_SEEDS + pending[0].place
        score = scores[arm] + 0.3 * (arm == 1) + 0.001 * pending[0].place  # arm 1 was best by luck
        results.append(written(run, len(results), arm, seed, ratios[arm], score, "confirm"))
    sweep.write_table(run)
    chosen = ladder.with_arms(file, mini, tiny, storage)
    points = chosen.file.example().search.enqueue
    assert points == ({"pretrain.code_ratio": 0.6}, {"pretrain.code_ratio": 0.123456789012345})
    used = chosen.file.example().search
    assert (used.trials, used.confirm.best, search.num_given_arms(chosen.file)) == (3, 2, 3)
    begun = sweep.Run(chosen.file, storage).folder
    one = ladder.with_arms(ladder_file(*SEARCHED[:-1], "ladder.carry=1"), mini, tiny, storage)
    begun.write_bytes("sweep.yaml", config.write_yaml(config.resolved_tree(one.file)).encode())
    with pytest.raises(UserError, match=r"ladder.carry: found 2, but mini began with the best 1 of tiny; give 1, or"):
        ladder.with_arms(file, mini, tiny, storage)
    begun.write_bytes("sweep.yaml", config.write_yaml(config.resolved_tree(chosen.file)).encode())
    with pytest.raises(UserError, match=r"ladder.carry: found 1, but mini began with the best 2 of tiny; give 2, or"):
        ladder.with_arms(ladder_file(*SEARCHED[:-1], "ladder.carry=1"), mini, tiny, storage)
    run.folder.delete()  # what becomes of the smallest size changes no size that has begun
    assert config.resolved_tree(ladder.with_arms(file, mini, tiny, storage).file) == config.resolved_tree(chosen.file)
    with pytest.raises(UserError, match="has not ended"):
        ladder.with_arms(file, nano, tiny, storage)


def written(run: sweep.Run, number: int, arm: int, seed: int, ratio: float, score: float, phase: str) -> TrialResult:
    metrics = {"mean/bpb": score, "boxes/bpb": score, "boxes/items": 20.0}
    result = TrialResult(number, "complete", arm, seed, {"pretrain.code_ratio": ratio}, metrics, phase=phase)
    run.trial_folder(number).write_json("result.json", as_json(result))
    return result


def test_only_confirmed_arms_are_carried() -> None:
    with pytest.raises(UserError, match=r"ladder.carry: carries arms that .* give search.confirm: {best: 2}, or more"):
        ladder_file("ladder.carry=2")


def test_mup_transfers_the_rates_of_the_file_unchanged() -> None:
    sizes = ladder.sizes_of(ladder_file("model={parametrization: mup}", "ladder.learning_rate=null"))
    models = [size.file.example().model for size in sizes]
    assert [(one.preset, one.parametrization) for one in models] == [(size.preset, "mup") for size in sizes]
    assert {stage.learning_rate.peak for size in sizes for stage in size.file.example().stages} == {3e-3, 1e-3}


def test_searched_rates_need_no_table() -> None:
    searched = [f"{name}.learning_rate.peak={{search: {{choice: [1e-3, 2e-3]}}}}" for name in ("pretrain", "cooldown")]
    point = "{pretrain.code_ratio: 0, pretrain.learning_rate.peak: 1e-3, cooldown.learning_rate.peak: 1e-3}"
    sizes = ladder.sizes_of(ladder_file(*searched, f"search.reference={point}", "ladder.learning_rate=null"))
    assert search.num_arms(sizes[0].file) == 12


# ------------------------------------------------------------------------------------------------- the joint report


def write_sizes(storage: Folder, score: Score, *overrides: str) -> Folder:
    """Writes what the sizes' sweeps would have written, from a score by arm, seed and preset."""
    file = ladder_file(*overrides)
    sizes = ladder.sizes_of(file)
    for size in sizes:
        run = sweep.Run(size.file, storage)
        cells = [(arm, seed, score(arm, seed, size.preset)) for arm in range(3) for seed in (7, 8, 9)]
        done = [(number, *cell) for number, cell in enumerate(cells) if cell[2] is not None]
        if not done:
            continue
        run.folder.write_bytes("sweep.yaml", config.write_yaml(config.resolved_tree(size.file)).encode())
        for number, arm, seed, value in done:
            metrics = {"mean/bpb": value, "boxes/bpb": value - 0.1, "induction/bpb": value + 0.1}
            params = {"pretrain.code_ratio": RATIOS[arm]}
            result = TrialResult(number, "complete", arm, seed, params, metrics)
            run.trial_folder(number).write_json("result.json", as_json(result))
        sweep.write_table(run)
    return ladder.write_ladder(file, sizes, storage).folder


def moving(small: float, slope: float, noise: float = 0.002) -> Score:
    """The effect of arm 2 is `small` at tiny, and moves by `slope` per tenfold size; arm 1 is as the reference."""
    sizes = {size.preset: math.log10(size.parameters) for size in ladder.sizes_of(ladder_file())}

    def score(arm: int, seed: int, preset: str) -> float:
        effect = (small + slope * (sizes[preset] - sizes["tiny"])) * (arm == 2)
        return 2.0 + effect + random.Random(f"{arm} {seed} {preset}").gauss(0, noise)

    return score


def reported(storage: Folder, score: Score, *overrides: str) -> tuple[str, dict]:
    """The answer and the machines' form of the joint report."""
    folder = write_sizes(storage, score, *overrides)
    assert cli.main(["report", folder.uri]) == 0
    found = (folder / "report").read_json("ladder.json")
    page = (folder / "report").read_text("report.md")
    assert "DataDecide" in page and found["answer"] in page.replace("&#42;", "*").replace("&gt;", ">")
    return found["answer"], found


def test_an_effect_with_one_sign_at_all_sizes_is_said_to_have_it_and_its_trend_has_an_interval(tmp_path) -> None:
    answer, found = reported(Folder(str(tmp_path)), moving(-0.3, -0.1))
    assert "Arm 2 (pretrain.code_ratio 0.5) is better than the reference in mean/bpb at all 3 sizes." in answer
    assert "Its effect moves by -0.1" in answer and "per tenfold size, in favour of the arm." in answer
    assert (
        "Arm 1 (pretrain.code_ratio 0.25) cannot be told from the reference in mean/bpb at any of the 3 sizes" in answer
    )
    one = next(one for one in found["effects"] if one["arm"] == 2 and one["metric"] == "mean/bpb")
    assert one["per_tenfold_size_low"] < -0.1 < one["per_tenfold_size_high"] < 0 and one["is_straight"]
    assert [size["preset"] for size in one["sizes"]] == ["tiny", "mini", "nano"]
    assert all(size["difference_low"] < size["difference"] < size["difference_high"] < 0 for size in one["sizes"])
    assert [size["verdict"]["verdicts"] != [] for size in found["sizes"]] == [True] * 3


def test_an_effect_that_changes_sign_is_said_to_and_the_report_predicts_nothing(tmp_path) -> None:
    answer, found = reported(Folder(str(tmp_path)), moving(-0.2, 0.35))
    assert "changes sign in mean/bpb: better at tiny" in answer and "worse at nano" in answer
    assert "predicts nothing beyond them" in answer
    order = next(one for one in found["order"] if (one["smaller"], one["larger"]) == ("tiny", "nano"))
    assert order["pairs"] == 3 and order["known_different"] == 2
    assert order["share_high"] == pytest.approx(1 / 3) and order["share_low"] == 0


def test_without_a_second_seed_no_sign_and_no_trend_is_claimed(tmp_path) -> None:
    score = moving(-0.3, 0.0)
    answer, found = reported(
        Folder(str(tmp_path)), lambda arm, seed, preset: score(arm, seed, preset) if seed == 7 else None
    )
    assert "nothing is known of the noise between seeds" in answer and "needs the noise between seeds" in answer
    assert "better" not in answer
    assert all(one["per_tenfold_size"] is None for one in found["effects"])
    assert all(size["difference_low"] is None for one in found["effects"] for size in one["sizes"])
    assert all((one["share_low"], one["share_high"]) == (0, 1) for one in found["order"])


def test_an_arm_whose_fresh_seeds_or_whose_references_failed_at_a_size_has_no_effect_there() -> None:
    nothing = statistics.Interval(math.nan, math.nan, math.nan)
    failed = verdict.Verdict(1, {}, "mean/bpb", nothing, (), None, nothing, "not known")
    size = SimpleNamespace(arms={(): 1}, records=Mock(), facts=Mock(), verdicts={(1, "mean/bpb"): failed})
    assert _effect(size, (), "mean/bpb") is None
    size.verdicts[1, "mean/bpb"] = replace(failed, difference=statistics.Interval(-0.1, -0.2, 0.1))
    assert _effect(size, (), "mean/bpb").word == "not known"


def test_a_ladder_with_a_size_to_come_says_which_and_gives_no_trend(tmp_path, capsys) -> None:
    score, storage = moving(-0.3, 0.0), Folder(str(tmp_path))
    answer, found = reported(storage, lambda arm, seed, preset: None if preset == "nano" else score(arm, seed, preset))
    assert "at all 2 sizes" in answer and "Arm 1, 2 has no trend: it needs scores at 3 sizes" in answer
    assert found["sizes"][2]["verdict"] is None
    capsys.readouterr()
    folder = str(tmp_path / "sizes")
    assert cli.main(["status", folder]) == 0
    assert "not begun" in capsys.readouterr().out
    assert cli.main(["status", folder, "--json"]) == 0
    stands = json.loads(capsys.readouterr().out)
    assert [size["status"] and size["status"]["states"] for size in stands["sizes"]] == [{"complete": 9}] * 2 + [None]
    effects = OpenedLadder(folder).effects
    assert set(effects["preset"]) == {"tiny", "mini"} and len(effects) == 2 * 2 * 3
    for command in ("suggest", "report --watch"):
        name, *options = command.split()
        assert cli.main([name, folder, *options]) == 2 and "is a ladder" in capsys.readouterr().err


def test_the_page_shows_each_effect_with_its_interval_on_an_axis_of_sizes(tmp_path) -> None:
    from raycodellm.ladder import figure

    folder = write_sizes(Folder(str(tmp_path)), moving(-0.3, -0.1))
    drawn = figure.effects_by_size(ladder.read_result(ladder.open_ladder(folder.uri)))
    assert len(drawn) == 1 and drawn[0].layout["xaxis"]["type"] == "log" and len(drawn[0].data) == 2
    for trace in drawn[0].data:
        assert len(trace["x"]) == len(trace["error_y"]["array"]) == 3 and all(trace["error_y"]["array"])
        assert all(near == pytest.approx(at, rel=0.05) for near, at in zip(trace["x"], sizes(drawn[0]), strict=True))
    shown = picture(drawn[0]).decode()
    assert all(name in shown for name in drawn[0].layout["xaxis"]["ticktext"])


def test_an_arm_has_the_same_colour_in_the_plots_of_effects_and_of_scores(tmp_path) -> None:
    from raycodellm.ladder import figure

    folder = write_sizes(Folder(str(tmp_path)), moving(-0.3, -0.1))
    result = ladder.read_result(ladder.open_ladder(folder.uri))
    effects, scores = figure.effects_by_size(result)[0].data, figure.scores_by_size(result)[0].data
    assert scores[0]["name"].endswith("pretrain.code_ratio 0, the reference") and len(scores) == 3
    assert [trace["marker"] for trace in scores[1:]] == [trace["marker"] for trace in effects]
    assert [trace["name"] for trace in scores[1:]] == [trace["name"] for trace in effects]


def sizes(drawn) -> list[int]:
    return drawn.layout["xaxis"]["tickvals"]


def test_an_arm_is_the_same_whatever_a_table_made_of_its_values() -> None:
    assert arm_key({"a": 0, "b": "0.5", "c": None}) == arm_key({"a": 0.0, "b": 0.5})
    assert arm_key({"a": True}) != arm_key({"a": 1})


# ------------------------------------------------------------------------------------------------- running


@pytest.mark.slow
def test_a_ladder_killed_between_two_sizes_goes_on_with_the_second_and_trains_nothing_again(
    tmp_path, monkeypatch, capsys, no_rivals
) -> None:
    file, storage, cluster = ladder_file("search.replicates=1"), Folder(str(tmp_path)), Cluster()
    sizes = ladder.sizes_of(file)
    drive(sizes[0].file, storage, cluster)
    trained = dict(cluster.num_trained)
    reached = []

    def stopped(task, *_):
        reached.append((task.run.sweep.name, task.num_left))
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_run_on_cluster", stopped)
    request = SweepRequest("sizes", storage_uri=str(tmp_path), tree=file.tree)
    assert start.run(request, print) == 130
    assert reached == [("sizes-mini", 3)]
    assert "all 3 trials are done; nothing to run" in capsys.readouterr().out
    for size in sizes[1:]:
        drive(size.file, storage, cluster)
    assert start.run(request, print) == 0 and len(reached) == 1  # all is done: without Ray
    said = capsys.readouterr().out
    assert "report: " in said and "predicts nothing beyond them" in said
    assert {key: cluster.num_trained[key] for key in trained} == trained
    assert (storage / "sizes" / "report").exists("index.html")
    assert [one["preset"] for one in (storage / "sizes").read_json(storage_files.LADDER)["sizes"]] == [
        "tiny", "mini", "nano",
    ]  # fmt: skip


def test_one_size_runs_alone_and_no_sweep_takes_a_ladders_folder(tmp_path, monkeypatch, no_rivals) -> None:
    reached = []
    monkeypatch.setattr(run, "_run_on_cluster", lambda task, *_: reached.append(task.run.sweep.name) or _stop())
    file = ladder_file()

    def request(size: str | None, tree: dict = file.tree) -> SweepRequest:
        return SweepRequest("sizes", storage_uri=str(tmp_path), tree=tree, size=size)

    assert start.run(request("nano"), print) == 130 and reached == ["sizes-nano"]
    assert "--size nano" in SweepRequest("sizes.yaml", size="nano").command_line("run")
    with pytest.raises(UserError, match="--size small: is no size of this ladder"):
        start.run(request("small"), print)
    without = {key: value for key, value in file.tree.items() if key != "ladder"} | {"model": {"preset": "tiny"}}
    with pytest.raises(UserError, match="sizes has no ladder"):
        start.run(request("tiny", without), print)
    with pytest.raises(UserError, match="is a ladder in this storage"):
        start.run(request(None, without), print)


def test_a_size_that_the_sources_are_too_small_for_is_refused_when_the_first_one_has_ended(
    tmp_path, monkeypatch, no_rivals
) -> None:
    file = ladder_file("search.replicates=1", "sources.python.max_epochs=3")
    drive(ladder.sizes_of(file)[0].file, Folder(str(tmp_path)), Cluster())
    monkeypatch.setattr(run, "_run_on_cluster", lambda *_: pytest.fail("a size has begun"))
    with pytest.raises(UserError, match=r"size mini: sources.python: a trial draws .* max_epochs is 3"):
        start.run(SweepRequest("sizes", storage_uri=str(tmp_path), tree=file.tree), print)


def test_a_submitted_ladder_tells_of_all_its_trials_and_a_size_of_its_own() -> None:
    file = ladder_file()
    whole, one = (submit._size(SweepRequest("sizes.yaml", size=size), file) for size in (None, "nano"))
    assert whole == {"arms": "tiny 3, mini 3, nano 3", "trials": "27"}
    assert one == {"arms": "nano 3", "trials": "9"}
    assert submit._sweep_name(SweepRequest("sizes.yaml", size="nano"), file) == "sizes-nano"
    sent = SentFiles("sizes.yaml", ())
    job = Submission("sizes-nano", sent, "/s", (), "", {}, {}, size="nano")
    assert job.entrypoint.endswith("run sizes.yaml --storage /s --size nano")


@pytest.mark.parametrize(("is_kept", "connections"), [(True, 1), (False, 3)])
def test_the_sizes_of_a_ladder_share_one_cluster_and_a_sweep_leaves_its_own(
    is_kept, connections, tmp_path, monkeypatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr("raycodellm.commands.connection.threads_left", lambda: False)  # another test may have left some
    monkeypatch.setattr("raycodellm.cluster.disconnect", lambda: done.append("left"))
    monkeypatch.setattr("raycodellm.cluster.looked_at_again", lambda cluster, log: (cluster, log.name))
    connection = ClusterConnection(is_kept=is_kept)
    for size in ("tiny", "mini", "nano"):
        found = connection.get(lambda: done.append("joined") or "cluster", tmp_path / size)
        assert "cluster" in str(found)
        connection.end_sweep()
    assert connection.is_open == is_kept and done.count("joined") == connections
    connection.close()
    assert done[-1] == "left" and not connection.is_open


def _stop() -> None:
    raise KeyboardInterrupt


def test_a_ladder_is_checked_size_by_size(tmp_path, capsys) -> None:
    path = tmp_path / "sizes.yaml"
    path.write_text(LADDER)
    assert (
        cli.main(["check", str(path), "--storage", str(tmp_path / "s"), "--set", "ladder.tokens_per_parameter=1"]) == 0
    )
    said = capsys.readouterr().out
    assert said.startswith("sizes: a ladder of 3 sizes, 3 arms each, at most 27 trials, 1 tokens per parameter")
    for size in ladder.sizes_of(ladder_file("ladder.tokens_per_parameter=1")):
        assert f"---- {size.preset}: {size.parameters:,} parameters ----" in said


# ------------------------------------------------------------------------------------------------- statistics


def effect(values: np.ndarray) -> Difference:
    """The mean of one effect's values by seed."""
    variance = Variance(float(values.var(ddof=1)) / len(values), len(values) - 1.0)
    return Difference(float(values.mean()), variance, statistics.UNKNOWN, num_seeds=len(values))


@pytest.mark.parametrize("num_seeds", [(2, 2, 2), (4, 2, 8), (3, 3, 3, 3)])
def test_a_trends_interval_holds_the_true_slope_in_95_of_100_ladders(num_seeds) -> None:
    chance, hits, tries = np.random.default_rng(0), 0, 1_000
    at = [10.0 ** (6 + place) for place in range(len(num_seeds))]
    for _ in range(tries):
        effects = [
            effect(0.1 * place + chance.normal(0, 0.05 * (1 + place), number)) for place, number in enumerate(num_seeds)
        ]
        low, high = statistics.size_trend(at, effects).slope[1:]
        hits += low <= 0.1 <= high
    assert hits / tries >= 0.94


def test_a_trend_needs_three_sizes_whose_noise_is_known_and_says_where_no_line_fits() -> None:
    known, unknown = effect(np.array([0.1, 0.11, 0.12])), Difference(0.1, statistics.UNKNOWN, statistics.UNKNOWN)
    assert statistics.size_trend([1e6, 1e7], [known, known]) is None
    assert statistics.size_trend([1e6, 1e7, 1e8], [known, known, unknown]) is None
    assert statistics.size_trend([1e6, 1e7, 1e8], [known] * 3).is_straight
    bent = effect(np.array([0.9, 0.91, 0.92]))
    assert not statistics.size_trend([1e6, 1e7, 1e8], [known, bent, known]).is_straight


def test_the_share_of_pairs_in_the_same_order_lies_in_its_interval_in_95_of_100_ladders() -> None:
    chance, hits, tries = np.random.default_rng(1), 0, 150
    true = {"small": chance.normal(0, 0.05, 4), "large": chance.normal(0, 0.05, 4)}
    pairs = list(itertools.combinations(range(4), 2))
    alike = [(true["small"][a] < true["small"][b]) == (true["large"][a] < true["large"][b]) for a, b in pairs]
    for _ in range(tries):
        one, other = (
            {
                arm: ArmMeasurements({seed: float(mean + chance.normal(0, 0.03)) for seed in range(3)}, NO_ITEMS, None)
                for arm, mean in enumerate(means)
            }
            for means in true.values()
        )
        share = statistics.order_agreement(one, other).share
        hits += share.low <= np.mean(alike) <= share.high
    assert hits / tries >= 0.94
    assert statistics.order_agreement({0: one[0]}, {0: other[0]}) is None


NO_ITEMS: dict[int, list] = {seed: [] for seed in range(3)}


def test_the_shipped_file_is_a_ladder() -> None:
    shipped = config.load(Path(__file__).parents[1] / "sweeps" / "ladder.yaml")
    assert len(ladder.sizes_of(shipped)) >= statistics.FEWEST_SIZES and shipped.example().search.replicates > 1


def test_a_ladder_that_an_older_version_began_is_opened_and_its_option_is_still_understood(tmp_path) -> None:
    folder = write_sizes(Folder(str(tmp_path)), moving(-0.3, -0.1))
    written = folder.read_json("ladder.json")
    before = ladder.open_ladder(folder.uri).facts.sizes
    written["rungs"] = written.pop("sizes")
    folder.write_json("ladder.json", {**written, "format": 1})
    assert ladder.open_ladder(folder.uri).facts.sizes == before != ()
    for option in ("--size", "--rung"):
        assert cli._parser().parse_args(["run", "sweep.yaml", option, "nano"]).size == "nano"
    assert cli._parser().parse_args(["run", "sweep.yaml"]).size is None
