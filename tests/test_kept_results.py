"""A model is scored on a task once: the task's result is kept, shared, and continued where an attempt was ended."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
from pathlib import Path

import forkserver
import pyarrow as pa
import pytest
from ports import free_port
from test_evaluation import write_model
from worker_group import together

from raycodellm import engine, evaluation
from raycodellm.config import Evaluation, UserError
from raycodellm.engine import World
from raycodellm.evaluation import KeptResults, Stopped, evaluate, scoring
from raycodellm.evaluation.results import partial_rows
from raycodellm.evaluation.results.partial_rows import PartialRows
from raycodellm.evaluation.tasks.units import units
from raycodellm.files import Folder

NUM_ITEMS, IN_A_BLOCK = 22, 4
FOLDER, ONE, OTHER = "folder", "own_multiple_choice", "own_loglikelihood"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


pytestmark = pytest.mark.usefixtures("no_rivals")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(scoring, "_BLOCK_ITEMS", 1)


@pytest.fixture
def scored(monkeypatch) -> list[int]:
    """The numbers of the items that were scored, one after the other."""
    found: list[int] = []
    real = scoring._score_block

    def score(lm, name, task, items):
        found.extend(one[0].doc_id for one in items)
        return real(lm, name, task, items)

    monkeypatch.setattr(scoring, "_score_block", score)
    return found


class Killed(BaseException):
    """Ends an evaluation as SIGKILL does: nothing is written any more."""


TASK = """\
task: own_{kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/items.jsonl}}}}
output_type: {kind}
test_split: test
"""
ASKED = "doc_to_text: question\ndoc_to_target: answer\n"
METRIC = "metric_list: [{{metric: {}, aggregation: {}, higher_is_better: true}}]\n"
KINDS = {
    "multiple_choice": ASKED + "doc_to_choice: [red, blue, green]\n" + METRIC.format("acc", "mean"),
    "loglikelihood": ASKED + METRIC.format("acc", "mean"),
    "generate_until": ASKED
    + METRIC.format("exact_match", "mean")
    + 'generation_kwargs: {until: ["."], max_gen_toks: 4, do_sample: true, temperature: 1.0}\n',
    "loglikelihood_rolling": 'doc_to_text: ""\ndoc_to_target: question\n'
    + METRIC.format("word_perplexity", "weighted_perplexity"),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> dict[str, str]:
    """A task's file per kind of task."""
    folder = tmp_path_factory.mktemp("tasks")
    colours = ("red", "blue", "green")
    items = [
        {"question": f"{number} " * (1 + number % 7), "answer": colours[number % 3]} for number in range(NUM_ITEMS)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    for kind, text in KINDS.items():
        (folder / f"{kind}.yaml").write_text(
            TASK.format(kind=kind, folder=folder) + text.replace("{{", "{").replace("}}", "}")
        )
    (folder / "group.yaml").write_text(f"group: both\ntask: [{ONE}, {OTHER}]\n")
    return {FOLDER: str(folder), **{kind: str(folder / f"{kind}.yaml") for kind in KINDS}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, 2),
        pytest.param(3, 1, marks=pytest.mark.slow),
        *(pytest.param(*pair, marks=pytest.mark.exhaustive) for pair in ((1, 1), (2, 3))),
    ],
)
def test_a_task_continued_after_a_kill_gives_the_rows_of_an_uninterrupted_one(
    model, tasks, tmp_path, monkeypatch, scored, kind, before, after
) -> None:
    monkeypatch.setattr(partial_rows, "FLUSH_SECONDS", 0.0)
    task = tasks[kind]
    settings = Evaluation(tasks=(task,), limit=NUM_ITEMS, batch_size=IN_A_BLOCK)
    whole = evaluate(model, settings)
    scored.clear()
    kept = KeptResults(Folder(str(tmp_path / "kept")), {task: "key"})

    def killed(rank, gather):
        def on_items(done, in_all):
            if done >= 12:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(PartialRows, "flush", _flush_but_not_at_the_end)
            return _evaluate(model, settings, rank, before, gather, kept, on_items=on_items)

    assert all(isinstance(ended, Killed) for ended in together(before, killed))
    first = {*scored}
    scored.clear()
    said: list[str] = []
    ended = together(after, lambda rank, gather: _evaluate(model, settings, rank, after, gather, kept, say=said.append))
    for one in ended:
        assert one.items == whole.items and one.metrics == whole.metrics
    assert len(first) in (12, 16) and not first & {*scored} and len(first) + len(scored) == NUM_ITEMS
    assert said[0].endswith(f"continues after {len(first)} of {NUM_ITEMS} items") and len(said) == 1
    assert kept._folder.list() == ["key.parquet"], "the rows of the task in work are gone"


_flush = PartialRows.flush


def _flush_but_not_at_the_end(self: PartialRows) -> None:
    if self._waiting:
        _flush(self)


def _evaluate(model, settings, rank, num_workers, gather, kept, **how) -> evaluation.EvaluationResult:
    group = {} if num_workers == 1 else {"rank": rank, "world_size": num_workers, "gather": gather}
    return evaluate(model, settings, results=kept, **group, **how)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_evaluation_stops_after_a_block_when_any_worker_is_told_to_and_loses_nothing(
    model, tasks, tmp_path, scored, num_workers
) -> None:
    settings = Evaluation(tasks=(ONE,), limit=NUM_ITEMS, batch_size=IN_A_BLOCK, include=tasks[FOLDER])
    kept = KeptResults(Folder(str(tmp_path / "kept")), {ONE: "key"})
    told = threading.Event()

    def work(rank, gather):
        def should_stop() -> bool:
            return rank == num_workers - 1 and told.is_set()

        def on_items(done: int, in_all: int) -> None:
            if done:
                told.set()

        return _evaluate(model, settings, rank, num_workers, gather, kept, should_stop=should_stop, on_items=on_items)

    assert all(isinstance(ended, Stopped) for ended in together(num_workers, work))
    before = len(scored)
    assert before == 2 * IN_A_BLOCK * num_workers
    evaluate(model, settings, results=kept)
    assert len(scored) == NUM_ITEMS


def test_a_damaged_file_of_a_task_in_work_costs_its_items_and_is_said(
    model, tasks, tmp_path, scored, monkeypatch
) -> None:
    monkeypatch.setattr(partial_rows, "FLUSH_SECONDS", 0.0)
    settings = Evaluation(tasks=(ONE,), limit=NUM_ITEMS, batch_size=IN_A_BLOCK, include=tasks[FOLDER])
    kept = KeptResults(Folder(str(tmp_path / "kept")), {ONE: "key"})
    stops = iter([False, False, True])
    with pytest.raises(Stopped):
        evaluate(model, settings, results=kept, should_stop=lambda: next(stops))
    files = sorted((tmp_path / "kept" / "key").iterdir())
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:-20])
    files[1].write_bytes(b"")
    (tmp_path / "kept" / "key" / ".half.parquet.x").write_bytes(b"PAR1")
    said: list[str] = []
    again = evaluate(model, settings, results=kept, say=said.append)
    assert said == [
        f"{ONE}: continues after {IN_A_BLOCK} of {NUM_ITEMS} items; the items of 2 damaged files are scored again"
    ]
    assert len(scored) == NUM_ITEMS + 2 * IN_A_BLOCK
    assert again.items == evaluate(model, settings).items


def test_rows_of_other_items_than_the_task_asks_for_are_not_taken(model, tasks, tmp_path, scored) -> None:
    settings = Evaluation(tasks=(ONE,), limit=8, batch_size=IN_A_BLOCK, include=tasks[FOLDER])
    place = PartialRows(Folder(str(tmp_path / "key")))
    place.add((ONE, 0), [{"task": ONE, "item": 7_000}])
    place.flush()
    evaluate(model, settings, results=KeptResults(Folder(str(tmp_path)), {ONE: "key"}))
    assert len(scored) == 8


def test_a_task_that_has_a_result_is_not_scored_again_and_one_added_later_is_scored_alone(
    model, tasks, tmp_path, scored
) -> None:
    kept = KeptResults(Folder(str(tmp_path)), {ONE: "one-0", OTHER: "other-0"})
    first = evaluate(model, Evaluation(tasks=(ONE,), limit=6, include=tasks[FOLDER]), results=kept)
    assert len(scored) == 6
    told: list[tuple[int, int]] = []
    both = Evaluation(tasks=(ONE, OTHER), limit=6, include=tasks[FOLDER])
    added = evaluate(model, both, results=kept, on_items=lambda *told_: told.append(told_))
    assert len(scored) == 12 and told[0] == (0, 6)
    assert added.items.slice(0, 6).column("bits_per_byte") == first.items.column("bits_per_byte")
    assert evaluate(tmp_path / "no model is needed", both, results=kept).metrics == added.metrics
    fresh = evaluate(model, both)
    assert added.metrics == fresh.metrics and added.items.equals(fresh.items, check_metadata=True)
    assert added.seconds > first.seconds > 0


def test_a_task_of_a_group_is_scored_once_whether_asked_by_the_group_or_by_its_name(
    model, tasks, tmp_path, scored
) -> None:
    by_group = Evaluation(tasks=("both",), limit=6, include=tasks[FOLDER])
    kept = KeptResults(Folder(str(tmp_path / "kept")), {ONE: "one-0", OTHER: "other-0"})
    evaluate(model, Evaluation(tasks=(ONE,), limit=6, include=tasks[FOLDER]), results=kept)
    found = evaluate(model, by_group, results=kept)
    assert len(scored) == 12 and found.metrics["both/items"] == 12
    evaluate(model, Evaluation(tasks=(OTHER,), limit=6, include=tasks[FOLDER]), results=kept)
    assert len(scored) == 12


def test_a_group_that_changes_its_members_is_scored_apart_from_them(tmp_path) -> None:
    (tmp_path / "plain.yaml").write_text("group: plain\ntask: [boxes, logical_deduction]\nmetadata: {version: 1}\n")
    (tmp_path / "changed.yaml").write_text("group: changed\nnum_fewshot: 2\ntask: [boxes]\n")
    (tmp_path / "spelled.yaml").write_text("group: spelled\ntask: [{task: boxes, num_fewshot: 2}]\n")
    (tmp_path / "nested.yaml").write_text("group: nested\ntask: [plain, changed]\n")
    assert units(("plain", "changed", "spelled", "nested"), str(tmp_path)) == {
        "plain": ("boxes", "logical_deduction"),
        "changed": ("changed",),
        "spelled": ("spelled",),
        "nested": ("boxes", "logical_deduction", "changed"),
    }


@pytest.mark.parametrize(("name", "suites"), [("mean", ()), ("reasoning", ("aryabumi2024",))])
def test_a_task_with_the_name_of_an_average_is_refused_since_that_would_take_its_scores_place(tmp_path, name, suites):
    (tmp_path / "own.yaml").write_text(f"task: {name}\ndataset_path: json\n")
    settings = Evaluation(tasks=(str(tmp_path / "own.yaml"),), suites=suites)
    with pytest.raises(UserError, match=rf"called '{name}', and {name}/acc is the name of an average"):
        evaluation.asked_units(settings)


@pytest.mark.parametrize("other", ["changed", "own.yaml"])
def test_two_tasks_of_one_name_are_refused_since_one_would_have_the_scores_of_the_other(tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("task: boxes\ndataset_path: json\n")
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups" / "changed.yaml").write_text("group: changed\ntask: [{task: boxes, doc_to_text: question}]\n")
    settings = Evaluation(tasks=("boxes", other), include="groups")
    with pytest.raises(UserError, match=rf"^evaluation.tasks: boxes and {other} both give the task 'boxes'.*rename it"):
        evaluation.asked_units(settings)
    assert evaluation.asked_units(settings.model_copy(update={"tasks": (other,)})) == {other: (other,)}


def test_the_keys_that_change_no_task_of_a_group_are_lm_evals_own() -> None:
    from dataclasses import fields

    from lm_eval.config.group import GroupConfig

    from raycodellm.evaluation.tasks.units import GROUP_KEYS

    assert {one.name for one in fields(GroupConfig)} == GROUP_KEYS - {"include"}


def test_rows_of_a_task_in_work_are_written_after_a_while_and_a_full_disk_ends_nothing(tmp_path, monkeypatch) -> None:
    now = [0.0]
    place = PartialRows(Folder(str(tmp_path)), num_workers=2, clock=lambda: now[0])
    for block in range(5):
        now[0] += 6.0
        place.add((ONE, block), [{"item": block, "bits": float("inf")}])
    assert len(Folder(str(tmp_path)).list()) == 1, "after 24 seconds of work"
    found = PartialRows(Folder(str(tmp_path))).read()
    assert [*found.blocks] == [(ONE, block) for block in range(4)] and found.seconds == 12.0
    assert found.blocks[ONE, 0] == [{"item": 0, "bits": float("inf")}]

    def full(self: Folder, name: str, table: pa.Table) -> None:
        raise OSError(28, "no space left", name)

    monkeypatch.setattr(Folder, "write_table", full)
    place.flush()
    place.delete()
    assert not tmp_path.exists()


# ------------------------------------------------------------------------------------- real processes and real kills


def _evaluate_in_group(
    rank: int, port: int, num_workers: int, model: str, settings: Evaluation, kept, dies: bool
) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank))
    scoring._BLOCK_ITEMS, partial_rows.FLUSH_SECONDS = 1, 0.0
    world = World(rank, num_workers)
    engine.init_process(world, num_threads=1)

    def on_items(done: int, in_all: int) -> None:
        if dies and rank == num_workers - 1 and done >= 8:
            os.kill(os.getpid(), signal.SIGKILL)

    gather = functools.partial(engine.gather, world)
    evaluate(model, settings, rank=rank, world_size=num_workers, gather=gather, results=kept, on_items=on_items)


def _in_processes(num_workers: int, *arguments) -> list[int]:
    """The exit codes of the group's processes. When one has died, the others are killed, as Ray Train does."""
    context = forkserver.context()
    port = free_port()
    workers = [
        context.Process(target=_evaluate_in_group, args=(rank, port, num_workers, *arguments))
        for rank in range(num_workers)
    ]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        if any(worker.exitcode not in (None, 0) for worker in workers):
            for worker in workers:
                worker.kill()
        workers[0].join(0.05)
    return [worker.exitcode for worker in workers]


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_of_which_one_is_killed_and_then_one_alone_give_the_rows_of_an_uninterrupted_evaluation(
    model, tasks, tmp_path, kind
) -> None:
    settings = Evaluation(tasks=(tasks[kind],), limit=NUM_ITEMS, batch_size=IN_A_BLOCK)
    kept = KeptResults(Folder(str(tmp_path)), {tasks[kind]: "key"})
    assert _in_processes(2, str(model), settings, kept, True)[1] == -signal.SIGKILL
    assert PartialRows(Folder(str(tmp_path)) / "key").read().blocks and kept.read([tasks[kind]]) == {}
    assert _in_processes(1, str(model), settings, kept, False) == [0]
    assert kept.read([tasks[kind]])[tasks[kind]].items.to_pylist() == evaluate(model, settings).items.to_pylist()
