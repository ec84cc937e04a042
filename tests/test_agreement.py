"""Whatever a user does to a sweep, all that tells of its trials agrees, and nothing is done twice."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import pytest
from agreement import disagreements, unlike_the_account
from hypothesis import strategies as st
from sweep_world import Session, World

from raycodellm import search, storage_files, sweep
from raycodellm.records import ENDED
from raycodellm.runs import RunStatus

SETTINGS = (
    "evaluation.tasks=[boxes]",
    "search.objective={metric: boxes/bpb, mode: min}",
    "search.reference={pretrain.code_ratio: 0.5, pretrain.schedule: constant}",
    "scaling.slots=2",
)
STOPPING = ("pretrain.held_out={tokens: 1_000}", "search.early_stopping={metric: bpb/prose, at: [0.25, 0.5]}")
KINDS = {
    "random": ("search.sampler=random", "search.trials=3"),
    "tpe": ("search.sampler=tpe", "search.trials=3", "search.replicates=2"),
    "grid": (
        "search.sampler=grid",
        "search.trials=null",
        "pretrain.code_ratio={search: {choice: [0.25, 0.5, 0.75]}}",
        "pretrain.schedule=constant",
        "search.reference={pretrain.code_ratio: 0.5}",
    ),
    "stopping": (*STOPPING, "search.sampler=random", "search.trials=6"),
    "stopping, confirmed": (
        *(*STOPPING, "search.sampler=random", "search.trials=5", "search.replicates=2"),
        "search.confirm={best: 1, seeds: [2]}",
    ),
    "grid, confirmed": (
        *("search.sampler=grid", "search.trials=null", "search.replicates=2"),
        *("pretrain.code_ratio={search: {choice: [0.25, 0.5]}}", "pretrain.schedule=constant"),
        *("search.reference={pretrain.code_ratio: 0.5}", "search.confirm={best: 1, seeds: [2]}"),
    ),
    "constrained": (
        *("search.sampler=tpe", "search.trials=4"),
        "search.constraints=[{metric: mean/bpb, mode: min, within: 0.01}]",
    ),
    "two objectives": (
        *("search.sampler=nsga2", "search.trials=4", "search.confirm={best: 2, seeds: [2]}"),
        "search.objective=[{metric: boxes/bpb, mode: min}, {metric: mean/bpb, mode: min}]",
    ),
    "confirmed": ("search.sampler=random", "search.trials=3", "search.confirm={best: 1, seeds: [2]}"),
}
TASKS = ("[boxes]", "[boxes, logical_deduction]", "[boxes, logical_deduction, sorting]")


def more_trials(world: World) -> bool:
    known = world.settings.get("search.trials", "3")
    return known != "null" and world.change(search__trials=str(2 + int(known)))


def replicates(world: World) -> bool:
    return world.change(search__replicates=str(1 + int(world.settings.get("search.replicates", "1"))))


def point(world: World) -> bool:
    num_points = world.settings.get("search.enqueue", "").count("{")
    points = world.settings.get("search.enqueue", "[]")[1:-1]
    added = f"{{pretrain.code_ratio: {0.25 if num_points else 0.75}}}"
    return world.change(search__enqueue=f"[{', '.join(filter(None, (points, added)))}]")


def confirmation(world: World) -> bool:
    if "search.confirm" not in world.settings:
        return world.change(search__confirm="{best: 1, seeds: [2]}")
    return world.change(search__confirm="{best: 1, seeds: [2, 4]}")


def task(world: World) -> bool:
    place = TASKS.index(world.settings["evaluation.tasks"])
    return world.change(evaluation__tasks=TASKS[min(place + 1, len(TASKS) - 1)])


def fewer_tasks(world: World) -> bool:
    return world.change(evaluation__tasks="[boxes]")


def slots(world: World) -> bool:
    return world.change(scaling__slots=str(1 + int(world.settings["scaling.slots"]) % 3))


def budget(world: World) -> bool:
    has_none = world.settings.get("budget.tokens", "null") == "null"
    return world.change(budget__tokens="20_000" if has_none else "null")


def most_failed(world: World) -> bool:
    return world.change(search__max_failed={"null": "0"}.get(world.settings.get("search.max_failed", "null"), "null"))


def another_seed(world: World) -> bool:
    return world.change(seed="7")


def early_stopping(world: World) -> bool:
    return world.change(**{one.partition("=")[0].replace(".", "__"): one.partition("=")[2] for one in STOPPING})


def new_machine(world: World) -> bool:
    """The next driver runs elsewhere: of an object store's run it has no copy."""
    shutil.rmtree(world.folder / "cache", ignore_errors=True)
    return True


def cut(pattern: str) -> Callable[[World], bool]:
    """The last of the files loses its second half."""

    def cut_it(world: World) -> bool:
        for path in sorted(world.run_folder.glob(pattern))[-1:]:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            world.is_whole = False
        world.forget()
        return True

    cut_it.__name__ = f"cut {pattern}"
    return cut_it


def lost(name: str) -> Callable[[World], bool]:
    def lose(world: World) -> bool:
        (world.run_folder / name).unlink(missing_ok=True)
        world.is_whole = False
        world.forget()
        return True

    lose.__name__ = f"lost {name}"
    return lose


CHANGES: tuple[Callable[[World], bool], ...] = (
    *(more_trials, replicates, point, confirmation, task, fewer_tasks, slots, budget, most_failed, another_seed),
    *(early_stopping, new_machine, cut("trials/*/result.json"), cut("trials/*/trial.json"), cut("optuna.log")),
    *(lost("trials.parquet"), lost("optuna.log"), lost("report/verdict.json")),
)
SESSIONS = st.builds(
    Session,
    ends=st.sampled_from(["whole", "whole", "stopped", "killed", "silent"]),
    after=st.integers(0, 40),
    order=st.integers(0, 99),
    failing=st.sampled_from([0.0, 0.0, 0.3]),
    retry_failed=st.booleans(),
)
STORIES = st.lists(st.one_of(SESSIONS, st.sampled_from(CHANGES)), min_size=2, max_size=10)


def live(
    text: str,
    kind: str,
    story: Sequence[Session | Callable[[World], bool]],
    is_remote: bool = False,
    heard: Callable[[str], object] = lambda line: None,
) -> None:
    """Does the deeds of the story, and comes to an end. `heard`: is told which changes were made and which refused."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        world = World(text, Path(folder), patch, *SETTINGS, *KINDS[kind], is_remote=is_remote)
        try:
            for deed in story:
                if isinstance(deed, Session):
                    code = world.run(deed)
                    require_sound(world)
                    if code in (0, 1):
                        require_same_tokens(world)
                else:
                    heard(f"{deed.__name__}: {deed(world)}")
            come_to_an_end(world)
        finally:
            world.close()


def require_sound(world: World) -> None:
    assert not (found := list(world.note())), found
    if world.is_whole and world.run_folder.exists():
        assert not (found := disagreements(world.storage / "small", world.storage)), found


def require_same_tokens(world: World) -> None:
    """After a run that ended by itself."""
    if world.account is not None:
        assert not (found := unlike_the_account(world.account, world.storage / "small", world.storage)), found


def come_to_an_end(world: World) -> None:
    """Runs what is left without any trouble: every arm has every seed once, and a further run changes nothing."""
    world.change(budget__tokens="null", search__max_failed="null")
    code = world.run(Session(retry_failed=True))
    require_sound(world)
    require_same_tokens(world)
    run = sweep.Run(storage_files.read_sweep_file(world.storage / "small"), world.storage)
    results = sweep.read_results(run)
    states = [one.state for one in results]
    assert code == int("failed" in states), (code, states)
    assert set(states) <= {*ENDED}, states
    status = RunStatus.of(run, results)
    counted = status.num_trials, len(results), status.num_ended
    assert len(set(counted)) == 1 and counted[0] >= search.num_trials(world.file), counted
    assert set(Counter((one.arm, one.seed) for one in results).values()) == {1}
    assert set(Counter((one.seed, str(sorted(one.params.items()))) for one in results).values()) == {1}
    twice = {key: number for key, number in world.slots.num_trained.items() if number > 1}
    assert sum(twice.values()) - len(twice) <= world.num_kills, twice
    before = world.content()
    again = world.run(Session())
    assert again == code, (again, code)
    after = world.content()
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed <= {"trials.parquet"}, changed
    assert not (found := disagreements(world.storage / "small", world.storage)), found


TOLD: dict[str, tuple[str, bool, tuple[Session | Callable[[World], bool], ...]]] = {
    "more of everything after fresh seeds, with failures": (
        "confirmed",
        False,
        (
            Session(failing=0.3, order=1),
            more_trials,
            task,
            replicates,
            Session("stopped", 2, failing=0.3, order=5),
            slots,
        ),
    ),
    "a confirmation and a task added to a pruned sweep whose driver is killed": (
        "stopping",
        True,
        (Session("killed", 31), confirmation, task, more_trials, Session("killed", 12, order=7), new_machine),
    ),
    "points and tasks added to a grid on an object store that falls silent, and a result lost": (
        "grid",
        True,
        (Session("stopped", 1), point, Session("silent", 14), task, Session("silent", 11), cut("trials/*/result.json")),
    ),
    "a budget, failures and a lost journal": (
        "stopping, confirmed",
        False,
        (budget, Session(failing=0.5, order=3), lost("optuna.log"), most_failed, Session(order=2), budget),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("story", TOLD)
def test_all_that_tells_of_trials_agrees_after(one_stage_text: str, story: str) -> None:
    kind, is_remote, deeds = TOLD[story]
    live(one_stage_text, kind, deeds, is_remote)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_all_that_tells_of_trials_agrees_whatever_a_user_does(one_stage_text: str, kind: str) -> None:
    @hypothesis.given(STORIES, st.booleans())
    @hypothesis.settings(
        max_examples=60, phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck)
    )
    def lived(story: list[Session | Callable[[World], bool]], is_remote: bool) -> None:
        live(one_stage_text, kind, story, is_remote, hypothesis.event)

    lived()
