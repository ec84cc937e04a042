"""Budgets: no further trial begins once a limit is reached, and every reader of the run is told so."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from driver_without_ray import Cluster, Driver

from raycodellm import budget, config, report, runs, search, sweep
from raycodellm.check import budgets
from raycodellm.commands import SweepRequest
from raycodellm.commands import start as running
from raycodellm.config import Budget, UserError
from raycodellm.dispatch import Snapshot
from raycodellm.dispatch.snapshot import SlotView
from raycodellm.files import Folder
from raycodellm.records import TrialResult, Trunk
from raycodellm.report import write as report_write
from raycodellm.storage_files import Spent
from raycodellm.sweep.token_count import PlannedStage, TokenCount, unfinished_tokens
from raycodellm.tables import StageUse

pytestmark = pytest.mark.usefixtures("no_rivals")

GRID = (
    "search.sampler=grid",
    "search.trials=null",
    "pretrain.code_ratio={search: {choice: [0.1, 0.2, 0.3, 0.4, 0.5]}}",
    "pretrain.schedule=constant",
    "scaling.slots=1",
)
STAGES = 2 * 1_024
"""Tokens of a trial on the cluster of these tests, whose stages end with 1,024 tokens each."""


def drive(
    file: config.SweepFile, storage: Folder, dies_in: int | None = None, cluster: Cluster | None = None
) -> list[str]:
    """Runs the trials that are left, one after the other, 10 s by the clock for each look; returns what is said.
    `dies_in`: the trial that the driver is killed in, before the trial's first stage."""
    said: list[str] = []
    with (
        sweep.lock(sweep.open_run(file, storage, said.append), said.append) as run,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("os.fsync", lambda descriptor: None)
        left = search.most_trials(file) + search.most_confirm_trials(file)
        left -= sweep.tell_written_results(run, said.append)
        now = itertools.count(0.0, 10.0)
        driver = Driver(run, cluster or Cluster(), patch, lambda: next(now))
        view = SlotView("slot 1", "working", None, 0.0)
        patch.setattr(driver.watchdog, "_ask", lambda method: Snapshot(slot_views=(view,)))
        for name in map(str, range(left)):
            settings = driver.suggest(name)
            if not isinstance(settings, dict):
                break
            if settings["number"] == dies_in:
                run.trial_folder(dies_in).write_json(
                    "trial.json", {"number": dies_in, "state": "running", "arm": settings["arm"], "seed": 0,
                                   "params": settings["params"]}
                )  # fmt: skip
                return said
            driver.end(name, driver.carry_out(settings))
            driver.look()
        driver.account.write()
        driver.results.write_table()
        return [*said, *driver.said]


def states(file: config.SweepFile, storage: Folder) -> list[str]:
    return [result.state for result in sweep.read_results(sweep.Run(file, storage))]


def test_no_trial_begins_once_the_tokens_are_spent_and_a_larger_budget_goes_on(sweep_text, tmp_path) -> None:
    def parsed(tokens: int) -> config.SweepFile:
        return config.parse(sweep_text, overrides=(*GRID, f"budget.tokens={tokens}"))

    file, storage = parsed(2 * STAGES), Folder(str(tmp_path))
    said = drive(file, storage)
    assert said == [
        "budget.tokens: 4,096 of 4,096 tokens are spent, so no further trial begins, and those that have begun end; "
        "raise budget.tokens in the sweep file and run it again to go on"
    ]
    assert states(file, storage) == ["complete"] * 2
    printed: list[str] = []
    request = SweepRequest("small", storage_uri=str(tmp_path), tree=file.tree)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **options: printed.append(" ".join(map(str, words))))
        assert running.run(request, printed.append) == 0  # at once, without Ray
    assert said[0] in printed and not any("nothing to run" in line for line in printed)
    assert drive(parsed(5 * STAGES), storage) == []
    assert states(file, storage) == ["complete"] * 5


def test_a_killed_driver_changes_neither_what_is_spent_nor_which_trials_run(sweep_text, tmp_path) -> None:
    file = config.parse(sweep_text, overrides=(*GRID, f"budget.tokens={3 * STAGES}"))
    whole = Folder(str(tmp_path / "whole"))
    undisturbed = drive(file, whole)
    for name in ("killed", "damaged"):
        killed = Folder(str(tmp_path / name))
        assert drive(file, killed, dies_in=2) == []
        if name == "damaged":
            (killed / "small" / "trials" / "0002").write_bytes("trial.json", b'{"number": 2, "sta')
        assert drive(file, killed)[-1:] == undisturbed != []
        assert states(file, killed) == states(file, whole) == ["complete"] * 3
        assert (killed / "small").read_json("spent.json")["tokens"] == 3 * STAGES


def test_stages_that_another_sweep_of_the_storage_trained_cost_nothing(sweep_text, tmp_path) -> None:
    file, storage, cluster = config.parse(sweep_text, overrides=GRID), Folder(str(tmp_path)), Cluster()
    drive(file, storage, cluster=cluster)
    for key in cluster.num_trained:
        kept = (storage / "stages" / key).read_json("DONE")
        (storage / "stages" / key).write_json("DONE", {"record": {**kept["record"], "trained_by": "small"}})
    other = config.parse(sweep_text, overrides=(*GRID, "name=other", "budget.tokens=1"))
    assert len(drive(other, storage)) == 0
    assert (storage / "other").read_json("spent.json")["tokens"] == 0
    assert states(other, storage) == ["complete"] * 5


def test_device_hours_money_and_wall_hours_of_all_runs_count(sweep_text, tmp_path) -> None:
    priced = ("budget.price_per_device_hour=2", "budget.currency=EUR", "scaling.workers=2")
    file = config.parse(sweep_text, overrides=(*GRID, *priced, "budget.money=0.1"))
    storage = Folder(str(tmp_path))
    said = drive(file, storage)
    assert said and "budget.money" in said[0] and said[0].split(" are spent")[0].endswith("EUR (the limit is 0.10)")
    spent = (storage / "small").read_json("spent.json")
    assert spent["device_seconds"] >= 180 and spent["wall_seconds"] >= spent["device_seconds"] / 2
    begun = len(states(file, storage))
    assert 0 < begun < 5
    longer = config.parse(sweep_text, overrides=(*GRID, f"budget.wall_hours={spent['wall_seconds'] / 3600}"))
    assert "budget.wall_hours" in drive(longer, storage)[0] and len(states(file, storage)) == begun
    drive(config.parse(sweep_text, overrides=(*GRID, "budget.wall_hours=100")), storage)
    after = (storage / "small").read_json("spent.json")
    assert after["wall_seconds"] > spent["wall_seconds"] and states(file, storage) == ["complete"] * 5


def test_status_and_report_say_which_limit_stopped_the_sweep_and_at_which_look(sweep_text, tmp_path) -> None:
    confirmed = (
        "search.reference={pretrain.code_ratio: 0.1}",
        "search.confirm={best: 1, seeds: [2, 4]}",
        f"budget.tokens={10 * STAGES}",
    )
    file, storage = config.parse(sweep_text, overrides=(*GRID, *confirmed)), Folder(str(tmp_path))
    drive(file, storage)
    opened = runs.open_run(f"{storage}/small")
    told = opened.status.as_json()
    assert told["budget"]["limits"]["tokens"] == {"spent": 10 * STAGES, "limit": 10 * STAGES, "unit": "tokens"}
    assert told["budget"]["stopped_by"] == "budget.tokens"
    lines = opened.status.lines()
    assert "budget: 20,480 of 20,480 tokens" in lines
    assert any(line.startswith("budget.tokens: ") and "no further trial begins" in line for line in lines)
    records = report.read_records(storage / "small", storage)
    answer = report_write.verdict_document(records)["answer"]
    where = "at look 2 of 2 of the confirmation by budget.tokens (20,480 of 20,480 tokens)"
    assert answer.endswith(f"Stopped {where}: 3 trials have not begun.")
    assert "not known so far" in answer
    page = (report.write_report(storage / "small", storage)).read_text("report.md")
    assert "## Budget" in page and "| budget.tokens | 20,480 of 20,480 tokens | 100 % | reached |" in page
    without = config.parse(sweep_text, overrides=GRID)
    assert budget.document(budget.limits(without.example().budget, Spent(5)), 3) is None


def test_unfinished_stages_count_whole_until_their_trial_ends_and_equal_stages_once() -> None:
    stages = [PlannedStage("a", "", 10), PlannedStage("b", "", 20), PlannedStage("c", "", 40)]

    assert unfinished_tokens(stages, {}, None) == {"a": 10, "b": 20, "c": 40}
    records = {"a": StageUse(9)}
    failed = TrialResult(0, "failed", 0, 0, tokens={"total": 9})
    assert unfinished_tokens(stages, records, failed) == {"b": 20}
    stopped_early = TrialResult(0, "failed", 0, 0, tokens={"total": 14})
    assert unfinished_tokens(stages, records, stopped_early) == {"b": 5}
    from_a_trunk = TrialResult(0, "pruned", 0, 0, tokens={"total": 24}, trunk_tokens=12)
    assert unfinished_tokens(stages, records, from_a_trunk) == {"b": 3}
    at_its_branch = TrialResult(0, "pruned", 0, 0, tokens={"total": 21}, trunk_tokens=12)
    assert unfinished_tokens(stages, records, at_its_branch) == {"b": 0}
    count = TokenCount()
    count.finish("a", StageUse(9))
    count.put("first", {"b": 20})
    count.put("second", {"b": 5, "c": 40})
    assert count.total == 9 + 20 + 40
    count.put("first", {})  # it goes on elsewhere
    assert count.total == 9 + 5 + 40
    count.finish("b", StageUse(19, is_elsewhere=True))
    count.put("second", {"c": 7})
    assert count.total == 9 + 7


def test_check_says_whether_the_planned_trials_fit() -> None:
    def lines(settings: Budget, confirming: float = 0.0, trunk: Trunk | None = None) -> list[str]:
        stage = SimpleNamespace(num_tokens=100, batch_tokens=10)
        jobs = [SimpleNamespace(key=f"k{number}", stage=stage, trunk=trunk) for number in range(4)]
        chains = [SimpleNamespace(stages=[job]) for job in jobs]
        scaling = config.Scaling(workers=2)
        of_search: Any = SimpleNamespace(confirm=None, replicates=1, sampler="grid", trials=None)
        example = SimpleNamespace(budget=settings, scaling=scaling, search=of_search)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, "num_trials", lambda file: 4)
            file: Any = SimpleNamespace(example=lambda: example)
            return budgets.lines(file, chains, [], 8.0, confirming, 2)  # type: ignore[arg-type]

    assert lines(Budget()) == []
    assert lines(Budget(tokens=400)) == [
        "budget:", "  tokens: the search's training takes 400 of 400 tokens; it fits"
    ]  # fmt: skip
    half = Trunk("trunk", num_steps=5, num_taken=5, kept_steps=(5,))
    assert "takes 250 of 250 tokens; it fits" in lines(Budget(tokens=250), trunk=half)[1]
    assert "it does not fit: 3 of 4 trials begin" in lines(Budget(tokens=201))[1]
    assert lines(Budget(tokens=390))[1] == (
        "  tokens: the search's training takes 400 tokens (the limit is 390); all 4 trials run: the last begins within "
        "the limit, and what has begun ends"
    )
    assert "takes about 8 device hours (the limit is 7); all 4 trials run" in lines(Budget(device_hours=7))[1]
    assert "about 3 of 4 trials begin" in lines(Budget(device_hours=5))[1]
    assert "the search's 4 trials run, but no confirmation begins" in lines(Budget(device_hours=8), 2.0)[1]
    assert "about 2 of 2 hours; it fits" in lines(Budget(wall_hours=2))[1]
    assert "about 2 of 4 trials begin, so that there is no confirmation" in lines(Budget(device_hours=4), 2.0)[1]
    assert "may be stopped before its last look" in lines(Budget(device_hours=9), 2.0)[1]


def test_what_is_spent_beyond_a_limit_is_not_said_to_be_part_of_it() -> None:
    (tokens, hours) = budget.limits(Budget(tokens=200_000, device_hours=1), Spent(202_752, 3_600.1))
    assert str(tokens) == "202,752 tokens (the limit is 200,000)" and tokens.share == "101 % of budget.tokens"
    assert str(hours) == "1 of 1 device hours"
    assert budget.why_stopped([tokens], 1).startswith("budget.tokens: 202,752 tokens (the limit is 200,000) are spent,")


def test_money_needs_a_price_and_no_budget_can_be_searched(sweep_text) -> None:
    with pytest.raises(UserError, match="budget: money: 5 needs price_per_device_hour"):
        config.parse(sweep_text, overrides=("budget.money=5",))
    with pytest.raises(UserError, match=r"budget\.tokens cannot be searched over"):
        config.parse(sweep_text, overrides=("budget.tokens={search: {int: [1, 2]}}",))
