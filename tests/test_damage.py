"""One damaged file costs what it held and nothing else: every command names it in a line, and `run` makes it again."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycodellm import cli, config, finished, search, storage_files, sweep
from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation import TaskResult, read_trial_items
from raycodellm.evaluation.results.task_results import write_result
from raycodellm.files import Damaged, DamagedFile, Folder
from raycodellm.records import EvaluationJob, LedgerRow, StageRecord, TrialResult, as_json, from_json
from raycodellm.report import read_records
from raycodellm.search.journal_file import open_journal
from raycodellm.search.study import create_study
from raycodellm.stage_store import finished_outcome

ITEMS = pa.table(
    {
        "task": ["boxes"] * 4,
        "item": [0, 1, 2, 3],
        "correct": [True, False, True, False],
        "bits_per_byte": [1.0, 2.0, 1.5, 2.5],
        "chance": [0.2] * 4,
    }
)
MANIFEST = {
    "kind": "text",
    "num_documents": 9,
    "num_tokens": 999,
    "source_fingerprint": "0123",
    "skipped": {"empty": 2},
}
METRICS = {"boxes/bpb": 1.75, "mean/bpb": 1.75, "boxes/bpb_low": 0.5, "boxes/bpb_high": 3.0}


def write_stage(folder: Folder) -> None:
    name, _, identity = folder.name.rpartition("-")
    ledger = (LedgerRow("prose", "text", 900, 1_024, 1_000, 8, 0.5),)
    record = StageRecord(identity, name, 8, 1_024, 5.5, 2.0, 2.0, "c0ffee", ledger=ledger)
    source = {"name": "prose", "kind": "text", "store": f"{folder.parent.parent}/tokens/prose-0", "num_sequences": 9}
    folder.write_json(
        "stage.json", {"job": {"sources": [{**source, "num_sequences_consumed": 0}]}, "record": as_json(record)}
    )
    folder.write_table("metrics.parquet", pa.table({"step": [1, 2], "tokens": [512, 1_024], "loss": [6.0, 5.5]}))
    folder.write_json("DONE", {"record": as_json(record)})


def write_trials(opened: sweep.Run) -> None:
    """Three finished trials, told to the study; one that runs; one that waits."""
    study = search.SweepStudy(opened.journal, opened.file)
    for number in range(4):
        found = study.suggest()
        stages = (f"pretrain-{number:016x}", f"instruct-{number:016x}")
        tasks = {"boxes": {"boxes": "boxes-0"}} if number else {}  # the first is of an older version
        names = {"stages": stages, "evaluation": "evaluation-0", "tasks": tasks}
        result = TrialResult(number, "running", found.arm, found.replicate, found.params, **names)
        folder = opened.trial_folder(number)
        folder.write_json("trial.json", as_json(result))
        if number == 3:
            break
        ended = {**as_json(result), "state": "complete", "metrics": METRICS, "tokens": {"prose": 1_024, "total": 1_024}}
        if number == 2:
            ended |= {"state": "failed", "metrics": {}, "error": "TrainingError: the loss is not finite"}
        folder.write_json("result.json", ended)
        folder.write_table("items.parquet", ITEMS)
        for key in stages:
            write_stage(opened.storage / "stages" / key)
        last = opened.storage / "stages" / stages[-1]
        (last / "evaluation-0").write_table("items.parquet", ITEMS)
        write_result(last / "evaluation", "boxes-0", TaskResult(ITEMS, METRICS, ("boxes",), 1.0))
        study.tell(number, [1.75] if number < 2 else None)
    optuna_study = create_study(open_journal(opened.journal), opened.file)
    optuna_study.enqueue_trial({"pretrain.code_ratio": 0.5, "pretrain.schedule": "increase"})


pytestmark = pytest.mark.usefixtures("no_rivals")


@pytest.fixture(scope="module")
def whole(sweep_text: str, tmp_path_factory) -> Path:
    """A storage with one run, nothing of it damaged."""
    folder = tmp_path_factory.mktemp("whole")
    opened = sweep.open_run(config.parse(sweep_text, overrides=("search.trials=5",)), Folder(str(folder)))
    write_trials(opened)
    opened.folder.write_json("timing.json", {"ray start": 5.0})
    (opened.folder / "runs").write_json("0000.json", {"began": 1.0, "heard": 2.0})
    (opened.storage / "tokens" / "prose-0").write_json("manifest.json", MANIFEST)
    sweep.write_table(opened)
    return folder


@pytest.fixture
def storage(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "s")
    return tmp_path / "s"


def damages(path: Path) -> Iterator[bytes | None]:
    data = path.read_bytes()
    yield from (data[: len(data) // 2], b"{}", b"[1]", None, b"\x00\x01 garbage \xff\n", b"\xff\xfe" + data)
    if path.suffix == ".json":
        yield json.dumps({name: {"x": []} for name in json.loads(data)}).encode()
    if path.suffix == ".parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"task": [1], "number": ["x"], "correct": ["maybe"]}), sink)
        yield sink.getvalue().to_pybytes()
    yield b""


def read_as_run_does(storage: Path, text: str, said: list[str]) -> sweep.Run:
    opened = sweep.open_run(config.parse(text, overrides=("search.trials=5",)), Folder(str(storage)), said.append)
    with sweep.lock(opened):
        sweep.tell_written_results(opened, said.append)
    return opened


def told(opened: sweep.Run) -> list[tuple]:
    """All that the study knows of its trials."""
    study = search.SweepStudy(opened.journal, opened.file)
    return [
        (t.state.name, t.values, t.params or t.system_attrs.get("fixed_params"), t.user_attrs) for t in study.trials()
    ]


FILES = {
    "small/sweep.yaml": "refused",
    "small/trials/0001/result.json": "said",
    "small/trials/0002/result.json": "said",
    "small/trials/0001/trial.json": "not needed",
    "small/trials/0003/trial.json": "said",
    "small/trials/0001/items.parquet": "there twice",
    "small/timing.json": "said",
    "small/runs/0000.json": "said",
    "small/trials.parquet": "there twice",
    "small/.lock": "not needed",
    "stages/pretrain-0000000000000001/stage.json": "partly there twice",
    "stages/pretrain-0000000000000001/DONE": "not needed",
    "stages/pretrain-0000000000000001/metrics.parquet": "said",
    "stages/instruct-0000000000000000/evaluation-0/items.parquet": "not needed",
    "stages/instruct-0000000000000001/evaluation/boxes-0.parquet": "not needed",
    "tokens/prose-0/manifest.json": "said",
}


SLICES = [slice(None, None, 3), pytest.param(slice(None), marks=pytest.mark.exhaustive)]
"""Half a file, none and one with values of other types; and all."""


FAST = (
    "sweep.yaml",
    "0002/result.json",
    "0003/trial.json",
    "stage.json",
    "DONE",
    "metrics.parquet",
    "manifest.json",
    "0001/items.parquet",
)
"""Ends of files, of each answer in `FILES` at least one."""


@pytest.mark.parametrize("some", SLICES, ids=["some", "all"])
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one.endswith(FAST) else pytest.mark.slow) for one in FILES]
)
def test_a_damaged_file_is_named_and_blocks_no_command(sweep_text, storage, capsys, monkeypatch, name, some) -> None:
    monkeypatch.setattr(
        "raycodellm.report.html_page.packed_plotly", lambda: ""
    )  # 4 MB that say nothing about the files
    if name.endswith(".lock"):
        (storage / name).write_text("process 1")
    good = (storage / name).read_bytes()
    for damage in list(damages(storage / name))[some]:
        (storage / name).unlink() if damage is None else (storage / name).write_bytes(damage)
        printed = []
        for command in ("status", "report"):
            code = cli.main([command, str(storage / "small")])
            shown = capsys.readouterr()
            printed += [line for line in shown.err.splitlines() if line]
            assert code == (2 if FILES[name] == "refused" else 0), (damage, shown)
        try:
            read_as_run_does(storage, sweep_text, printed)
        except UserError as error:
            assert FILES[name] == "refused"
            printed.append(str(error))
        if damage is not None and FILES[name] in ("said", "refused") and (damage, name[-11:]) != (b"{}", "timing.json"):
            assert any(name in line for line in printed), (damage, printed)
        assert all(len(line.replace(str(storage), "")) < 300 for line in printed)
        if FILES[name] in ("there twice", "not needed"):
            assert not [line for line in printed if name in line], (damage, printed)
        (storage / name).write_bytes(good)
        for rest in ("result.json.damaged", "optuna.log.damaged"):
            for file in storage.rglob(rest):
                file.unlink()


@pytest.mark.parametrize("journal_too", [False, True])
def test_a_trial_whose_result_is_lost_is_open_again_under_its_number(sweep_text, storage, journal_too) -> None:
    before = told(read_as_run_does(storage, sweep_text, []))
    (storage / "small/trials/0001/result.json").write_bytes(b'{"number": 1, "sta')
    if journal_too:  # then only what the trial wrote when it began knows its arm
        (storage / "small/optuna.log").unlink()
    said: list[str] = []
    after = told(read_as_run_does(storage, sweep_text, said))
    assert after[1] == ("RUNNING", None, *before[1][2:])
    assert after[:1] + after[2:3] == before[:1] + before[2:3]
    if not journal_too:
        assert after[3:] == before[3:]
        assert len(said) == 1
    assert "result.json: is not JSON" in said[0] and "trial 0001 is run again under its number" in said[0]
    assert (storage / "small/trials/0001/result.json.damaged").exists()


def test_fields_of_a_newer_version_are_read_over_and_kept(sweep_text, storage, capsys) -> None:
    for name in ("small/trials/0001/result.json", "small/timing.json", "stages/pretrain-0000000000000001/stage.json"):
        known = json.loads((storage / name).read_text())
        (storage / name).write_text(json.dumps({**known, "verdict": {"is": "better"}}))
    yaml_file = storage / "small/sweep.yaml"
    yaml_file.write_text(yaml_file.read_text().replace("\nsearch:\n", "\nsearch:\n  judge: {best: 2}\n"))
    assert cli.main(["status", str(storage / "small")]) == cli.main(["report", str(storage / "small")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert all("sweep.yaml: search.judge: unknown key" in line for line in said)
    result = storage_files.read_result(Folder(str(storage / "small/trials/0001")))
    assert as_json(result)["verdict"] == {"is": "better"}
    assert "verdict" not in result.row()
    with pytest.raises(UserError, match=r"search\.judge"):  # what it computes is not known: `run` must not go on
        read_as_run_does(storage, sweep_text, [])


def test_an_end_that_only_a_newer_version_knows_is_left_as_it_is(sweep_text, storage) -> None:
    before = told(read_as_run_does(storage, sweep_text, []))
    path = storage / "small/trials/0001/result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "paused"}))
    lines = lines_of(storage)
    for journal in (lines, [*lines[:5], b"garbage\n", *lines[5:]]):
        (storage / "small/optuna.log").write_bytes(b"".join(journal))
        assert told(read_as_run_does(storage, sweep_text, [])) == before


def test_a_row_of_trials_takes_options_of_several_types(sweep_text, storage) -> None:
    opened = read_as_run_does(storage, sweep_text, [])
    for number, option in enumerate(("half", 0.5, True)):
        folder = opened.trial_folder(number)
        folder.write_json("result.json", {**folder.read_json("result.json"), "params": {"x": option}})
    sweep.write_table(opened)
    rows = opened.folder.read_table("trials.parquet").to_pylist()
    assert [row["params.x"] for row in rows[:3]] == ["half", "0.5", "True"]


# ------------------------------------------------------------------------------------------------- the journal


def lines_of(storage: Path) -> list[bytes]:
    return (storage / "small/optuna.log").read_bytes().splitlines(keepends=True)


JOURNALS: dict[str, Callable[[list[bytes], int], list[bytes]]] = {
    "a line of garbage": lambda lines, place: [*lines[:place], b"gar\xffbage\n", *lines[place + 1 :]],
    "half a line": lambda lines, place: [*lines[:place], lines[place][:30] + b"\n", *lines[place + 1 :]],
    "a line of another kind": lambda lines, place: [*lines[:place], b'{"op_code": 5}\n', *lines[place:]],
    "everything from a line on": lambda lines, place: lines[:place],
}


@pytest.mark.parametrize("some", [slice(None, None, 4), pytest.param(slice(None), marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kind", JOURNALS)
def test_a_study_is_whole_again_whichever_line_of_its_journal_is_damaged(sweep_text, storage, kind, some) -> None:
    lines = lines_of(storage)
    opened = read_as_run_does(storage, sweep_text, [])
    before = told(opened)
    assert [state for state, *_ in before] == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING", "WAITING"]
    for place in range(len(lines))[some] if kind == "a line of garbage" else (0, 3, 6, 8, len(lines) - 3)[some]:
        opened.journal.write_bytes(b"".join(JOURNALS[kind](lines, place)))
        said: list[str] = []
        after = told(read_as_run_does(storage, sweep_text, said))
        assert after[:4] == before[:4], place
        # Whether a trial waited stands in the journal alone.
        assert after[4:] == before[4:] or place >= len(lines) - 1 or kind == "everything from a line on", place
        assert len(said) <= 1
        if kind != "everything from a line on":
            assert f"line {place + 1};" in said[0] and "optuna.log.damaged" in said[0]
            assert opened.journal.with_name("optuna.log.damaged").exists()


def test_a_grid_keeps_the_points_that_no_trial_has_tried_when_its_journal_is_lost(sweep_text, tmp_path) -> None:
    grid = ("search.sampler=grid", "search.trials=null", "pretrain.code_ratio={search: {choice: [0.25, 0.5]}}")
    opened = sweep.open_run(config.parse(sweep_text, overrides=grid), Folder(str(tmp_path)))
    write_trials(opened)
    before = told(opened)[:6]
    opened.journal.unlink()
    sweep.tell_written_results(opened, print)
    assert told(opened) == before
    assert [state for state, *_ in before] == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING", "WAITING", "WAITING"]


# ------------------------------------------------------------------------------------------------- the stages


def test_a_stage_whose_record_is_damaged_has_it_a_second_time(storage) -> None:
    folder = Folder(str(storage / "stages/pretrain-0000000000000001"))
    record = storage_files.read_stage(folder)
    folder.write_bytes("stage.json", b'{"job": {')
    assert storage_files.read_stage(folder) == finished.finished_stage(folder) == record
    folder.write_bytes("DONE", b"")
    assert finished.finished_stage(folder) is None, "it is trained again"
    with pytest.raises(DamagedFile, match=r"stage\.json: is not JSON .*trained again"):
        storage_files.read_stage(folder)
    lost = read_records(Folder(str(storage / "small")), Folder(str(storage))).lost
    assert [line for line in lost if "pretrain-0000000000000001/stage.json" in line]


def test_an_evaluation_that_lost_a_task_s_result_is_not_done(storage) -> None:
    folder = storage / "stages/instruct-0000000000000001/evaluation"
    asked, keys = {"boxes": ("boxes",)}, {"boxes": "boxes-0"}
    settings = Evaluation(tasks=("boxes",))
    job = EvaluationJob("0", str(folder), str(storage), settings, "instruct-0000000000000001", asked=asked, keys=keys)
    assert finished_outcome(job)["boxes/bpb"] == 1.75
    whole = (folder / "boxes-0.parquet").read_bytes()
    for damaged in (whole[:-9], b"", b"\x00"):
        (folder / "boxes-0.parquet").write_bytes(damaged)
        assert finished_outcome(job) is None
    (folder / "boxes-0.parquet").unlink()
    assert finished_outcome(job) is None


@pytest.mark.parametrize("trial", [0, 1])
def test_a_trial_whose_items_are_damaged_has_them_from_its_evaluation_also_from_an_older_version_s(
    storage, trial
) -> None:
    folder = Folder(str(storage / f"small/trials/{trial:04d}"))
    whole = read_trial_items(folder, Folder(str(storage)))
    folder.write_bytes("items.parquet", b"half")
    again = read_trial_items(folder, Folder(str(storage)))
    columns = ["task", "item", "correct", "bits_per_byte"]
    assert again.select(columns).to_pylist() == whole.select(columns).to_pylist()


def test_a_damaged_file_says_which_field_is_wrong() -> None:
    with pytest.raises(Damaged, match=r"/x/result\.json: arm: .*integer"):
        from_json(TrialResult, {"number": 0, "state": "complete", "arm": "first", "seed": 0}, "/x/result.json")


# ------------------------------------------------------------------------------------------------- disks that fill


def test_a_disk_that_fills_while_the_report_is_written_is_one_line(storage, capsys, monkeypatch) -> None:
    run = storage / "small"
    assert cli.main(["report", str(run)]) == 0
    written = (run / "report/index.html").read_bytes()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the beginning of it would be kept
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    capsys.readouterr()
    try:
        assert cli.main(["report", str(run)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr()
    assert said.err == f"raycodellm: {run}/report/index.html: File too large\n" and not said.out
    assert (run / "report/index.html").read_bytes() == written
    assert sorted(path.name for path in (run / "report").iterdir()) == ["index.html", "report.md", "verdict.json"]


@pytest.mark.slow
def test_a_terminal_that_takes_no_more_is_one_line(storage) -> None:
    command = [sys.executable, "-m", "raycodellm", "status", str(storage / "small")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "raycodellm: No space left on device\n"


def test_a_file_that_may_not_be_read_is_left_out_and_said(storage, capsys, monkeypatch) -> None:
    read = Folder.read_bytes

    def refused(folder: Folder, name: str) -> bytes:
        if name == "items.parquet":
            raise PermissionError(13, "Permission denied", f"{folder}/{name}")
        return read(folder, name)

    monkeypatch.setattr(Folder, "read_bytes", refused)
    assert cli.main(["report", str(storage / "small")]) == 0
    assert "trials/0001/items.parquet: Permission denied; what it holds is left out" in capsys.readouterr().err
