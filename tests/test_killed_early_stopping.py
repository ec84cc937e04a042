"""A sweep with early stopping and confirmation whose driver is killed twenty times: nothing is lost or done twice."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from test_runs import Sweep, workers_of

from raycodellm import config, search, storage_files
from raycodellm.files import Folder
from raycodellm.records import TrialResult
from raycodellm.rungs import Halving
from raycodellm.sweep import Run

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.exhaustive, pytest.mark.timeout(7200)]

OPTIONS = (
    *("--set", "pretrain.tokens=32_768", "--set", "pretrain.schedule=constant"),
    *(
        "--set",
        "pretrain.held_out={tokens: 2_048}",
        "--set",
        "pretrain.learning_rate.peak={search: {loguniform: [1e-5, 1e-2]}}",
    ),
    *("--set", "search.trials=24", "--set", "search.sampler=tpe"),
    *("--set", "search.reference={pretrain.code_ratio: 0.0, pretrain.learning_rate.peak: 1e-4}"),
    *("--set", "search.confirm={best: 1, seeds: [2]}"),
    *("--set", "search.early_stopping={metric: bpb/prose}", "--set", "scaling.checkpoint_tokens=4_096"),
)
NUM_KILLS, NUM_TRIALS = 20, 28
EARLY_SHARE, EARLY_SECONDS, LATEST_SECONDS, MOST_SECONDS = 0.2, 60.0, 20.0, 1800.0
"""One kill in five comes while the driver starts, counted from its start. The others are counted from the first
stage that it begins or ends, however long a busy machine takes until then."""


def kept(sweep: Sweep) -> dict[str, bytes]:
    """The files that no later driver may change: how trials ended, what was compared, which stages are finished."""
    patterns = ("small/trials/*/result.json", "small/trials/*/rungs.json", "stages/*/DONE", "stages/*/so_far.json")
    return {
        str(path.relative_to(sweep.storage)): path.read_bytes() for one in patterns for path in sweep.storage.glob(one)
    }


def newest_stage(sweep: Sweep) -> float:
    """When a stage's folder changed last, Unix seconds."""
    return max((path.stat().st_mtime for path in sweep.storage.glob("stages/*")), default=0.0)


def kill_driver(sweep: Sweep, moments: random.Random) -> dict[str, bytes]:
    """Runs the sweep and kills its driver at a random moment; returns what the driver has left."""
    before = newest_stage(sweep)
    process = sweep.start()
    is_early = moments.random() < EARLY_SHARE
    moment = moments.uniform(0.0, EARLY_SECONDS if is_early else LATEST_SECONDS)
    patience = time.monotonic() + MOST_SECONDS
    while not is_early and process.poll() is None and newest_stage(sweep) == before and time.monotonic() < patience:
        time.sleep(0.05)
    until = time.monotonic() + moment
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    print(f"killed {moment:.1f} s after {'its start' if is_early else 'its first stage'}: {process.poll()}", flush=True)
    orphans = workers_of(process) if process.poll() is None else []
    process.kill()
    process.wait()
    psutil.wait_procs(orphans, timeout=120)  # until then they train and save
    return kept(sweep)


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """The files of `before` that are gone, or say something else now. Comparisons and rungs may have been added."""
    found = []
    for name, old in before.items():
        new = after.get(name)
        if new is not None and name.endswith("rungs.json"):
            was, now = (json.loads(content)["rungs"] for content in (old, new))
            is_same = now[: len(was)] == was
        elif new is not None and name.endswith("so_far.json"):
            was, now = json.loads(old), json.loads(new)
            is_same = {step: now.get(step) for step in was} == was
        else:
            is_same = new == old
        if not is_same:
            found.append(name)
    return found


def require_sound(sweep: Sweep, file: config.SweepFile) -> list[TrialResult]:
    """Each arm and seed once, told to the study as it ended, and stopped as the comparisons before it say."""
    run = Run(file, Folder(str(sweep.storage)))
    trials = search.read_journal(sweep.run_folder / "optuna.log", file, {}).trials
    results = [storage_files.read_result(run.trial_folder(trial.number)) for trial in trials]
    assert set(Counter((one.arm, one.seed) for one in results).values()) == {1} and len(results) == NUM_TRIALS
    for trial, result in zip(trials, results, strict=True):
        assert search.agrees(trial, result, file, run.sweep.seed)
        assert trial.state.name == {"complete": "COMPLETE", "pruned": "PRUNED"}[result.state]
        assert trial.intermediate_values == {rung.step: rung.value for rung in result.rungs}
        goes_on = result.arm == 0 or all(rung.goes_on for rung in result.rungs)
        assert result.state == ("complete" if goes_on else "pruned")
        if result.state == "pruned":
            assert result.tokens["total"] == result.rungs[-1].step * 1_024
    made = sorted({rung for result in results for rung in result.rungs}, key=lambda rung: rung.place)
    assert [rung.place for rung in made] == list(range(len(made)))
    halving = Halving(0.5)
    for rung in made:
        assert halving.compare(rung.stage, rung.share, rung.step, rung.value) == rung
        halving.note(rung)
    return results


def test_twenty_kills_of_the_driver_lose_nothing_and_do_nothing_twice(sweep_text: str, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1_000)
    print(f"seed of the moments: {seed}")
    moments, sweep = random.Random(seed), Sweep(tmp_path, sweep_text, *OPTIONS)
    before: dict[str, bytes] = {}
    for number in range(NUM_KILLS):
        after = kill_driver(sweep, moments)
        print(f"kill {number + 1}: {Counter(name.rpartition('/')[2] for name in after)}", flush=True)
        assert not (lost := changed(before, after)), f"kill {number + 1}: {lost}"
        before = after
    code, printed = sweep.run(MOST_SECONDS)
    assert code == 0, printed
    assert not changed(before, kept(sweep))
    file = config.load(tmp_path / "small.yaml", OPTIONS[1::2])
    results = require_sound(sweep, file)
    print(Counter(one.state for one in results))
    ended = kept(sweep)
    code, printed = sweep.run()
    assert code == 0 and kept(sweep) == ended, printed
