"""The offer of `import raycodellm`: quick to import, the same as the command line, and as docs/notebook.md shows it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from test_report import write_run

import raycodellm
from raycodellm import cli, display, offered, storage_files, sweep
from raycodellm.commands.stop import stop_folder
from raycodellm.dispatch import RemainingWork, SlotActivity, SlotView, Snapshot
from raycodellm.files import Folder
from raycodellm.records import Progress, TrialResult, as_json

PAGE = Path(__file__).parents[1] / "docs" / "notebook.md"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Folder:
    """A run of ten trials without models: eight complete, one failed, one running, and two to come."""
    run = write_run(Folder(str(tmp_path_factory.mktemp("storage"))))
    run.write_bytes("sweep.yaml", run.read_bytes("sweep.yaml").replace(b"trials: 9", b"trials: 12"))
    for row in storage_files.read_trials_table(run):
        result = TrialResult(
            **{name: row[name] for name in ("number", "state", "arm", "seed", "error", "wall_seconds")},
            **{group: values_of(row, group) for group in ("params", "metrics", "tokens")},
            stages=tuple(row["stages"]),
        )
        name = "trial.json" if result.state == "running" else "result.json"
        (run / "trials" / f"{result.number:04d}").write_json(name, as_json(result))
    return run


def values_of(row: dict, group: str) -> dict:
    found = {key.removeprefix(f"{group}."): value for key, value in row.items() if key.startswith(f"{group}.")}
    return {name: value for name, value in found.items() if value is not None and value == value}


@pytest.fixture
def run(made_up: Folder) -> raycodellm.OpenedRun:
    return raycodellm.open_run(made_up.uri)


def test_type_checkers_are_told_the_names_that_the_package_offers_and_where_they_come_from() -> None:
    stub = Path(raycodellm.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    told = {name: home for home, name in re.findall(r"^from (\S+) import (\w+) as \2$", stub, flags=re.MULTILINE)}
    assert told.pop("__version__") == "raycodellm.version" and told == offered.HOMES
    assert {*told, "__version__"} == {*raycodellm.__all__} <= {*dir(raycodellm)}
    assert all(getattr(raycodellm, name).__name__ == name for name in told)


def test_the_import_takes_no_library_with_it() -> None:
    code = (
        "import sys; before = set(sys.modules); import raycodellm; dir(raycodellm); "
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before} - {'raycodellm'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"ray", "torch", "pandas", "pyarrow", "pydantic", "rich", "optuna"} & set(eval(out))


def test_a_run_is_told_by_its_trials_its_ranking_and_its_curves(run) -> None:
    trials = run.trials
    assert trials.index.name == "number" and list(trials["state"]).count("failed") == 1
    assert trials["metrics.mean/bpb"].notna().sum() == (trials["state"] == "complete").sum()
    ranking = run.ranking()
    assert ranking["score"].dropna().is_monotonic_increasing
    best = ranking.iloc[0]
    assert best["difference"] == 0 and best["low"] < best["score"] < best["high"] and not best["covers_seeds"]
    assert ranking.index[0] == run.status.best.arm
    items = run.items(0)
    assert set(items["task"]) == {"boxes", "logical_deduction"}
    ledger = run.ledger(0)
    assert list(ledger["stage"].unique()) == ["pretrain", "instruct"] and ledger["tokens"].sum() > 400_000
    assert run.metrics("pretrain", trial=0)["tokens"].is_monotonic_increasing
    key = next(iter(run.stages(0)))
    assert run.metrics(key[:-1]).equals(run.metrics("pretrain", trial=0))
    assert "arm" in run.summary()


def test_a_storage_in_the_place_of_a_run_folder_is_answered_with_a_run_of_it(tmp_path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "sweep.yaml").write_text("name: lab\n")
    for ask in (raycodellm.open_run, lambda folder: stop_folder(folder, print)):
        with pytest.raises(raycodellm.UserError, match=r"is not a run folder .*, such as .*/lab$"):
            ask(str(tmp_path))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda run: run.items(99), ("no trial 99", "trials 0000 to 0009")),
        (lambda run: run.items(4), ("trial 4 has no items", "failed", "complete: trial")),
        (lambda run: run.metrics("pretrain"), ("stages begin with 'pretrain'", "give a key or a name and a trial")),
        (lambda run: run.metrics("pretrian", 0), ("no stage 'pretrian'", "known: pretrain-")),
        (lambda run: run.model(8), ("trial 8 is running", "finished stages: none")),
        (lambda run: run.ledger(8), ("trial 8 has finished no stage", "running")),
        (lambda run: raycodellm.open_run("/nowhere/at/all"), ("is not a run folder", "<storage>/<sweep name>")),
        (lambda run: raycodellm.open_run("s3://KEY:WORD@bucket/x"), ("AWS_ACCESS_KEY_ID",)),
        (lambda run: raycodellm.run({"name": "x"}, storage="/tmp/x"), ("sweep: model: is missing",)),
        (lambda run: raycodellm.run({"name": object()}), ("holds a value that a sweep file cannot hold",)),
        (lambda run: raycodellm.run("no/such.yaml"), ("no/such.yaml", "cannot be read")),
        (lambda run: raycodellm.run("x.yaml", overrides="a=1"), ("overrides", "list")),
    ],
)
def test_a_wrong_question_is_answered_with_what_there_is(run, ask, words) -> None:
    with pytest.raises(raycodellm.UserError) as caught:
        ask(run)
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert len(said.splitlines()) == 1


def test_a_run_shows_itself_as_text_and_as_html(run) -> None:
    lines = repr(run).splitlines()
    assert lines[0] == "demo: 9 of 12 trials ended (1 failed, 1 running)"
    assert lines[1].startswith("best so far: arm ") and "over items alone; one seed" in lines[1]
    assert lines[2] == run.folder.uri
    html = run._repr_html_()
    assert html.count("<tr>") == 11 and "mean/bpb" in html


def test_a_models_files_on_an_object_store_are_fetched_once_and_whole(tmp_path, monkeypatch) -> None:
    from raycodellm.runs import opened_run

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Folder(str(tmp_path / "model"))
    made.write_bytes("config.json", b"{}")
    fetched = opened_run._local_copy(made)
    assert (fetched / "config.json").read_text() == "{}"
    made.write_bytes("config.json", b"another")
    assert opened_run._local_copy(made) == fetched and (fetched / "config.json").read_text() == "{}"
    assert len(list(fetched.parent.iterdir())) == 1


# ------------------------------------------------------------------------------------------------- in a kernel


def test_a_kernel_gets_its_signals_back_and_a_thread_takes_none() -> None:
    ours = signal.getsignal(signal.SIGINT)
    stopper = sweep.Stopper()
    with stopper.installed():
        assert signal.getsignal(signal.SIGINT) == stopper._handle
    assert signal.getsignal(signal.SIGINT) == ours

    def in_thread() -> None:
        with stopper.installed():
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert seen == [ours]


def test_a_cell_shows_lines_and_a_region_that_is_drawn_anew(monkeypatch, capsys) -> None:
    drawn: list[str] = []
    handle = SimpleNamespace(update=drawn.append)
    kernel = SimpleNamespace(display=lambda html, display_id: handle, HTML=str)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=kernel))
    monkeypatch.setitem(sys.modules, "IPython.display", kernel)
    monkeypatch.setattr("raycodellm.display.choose.is_notebook", lambda output: True)
    with display.display_on(sys.stdout, display.Shown("small", ("mean/bpb",), 2)) as shown:
        shown.say("log: run.log")
        shown.waits_for("Ray to start")
        shown.training(Snapshot(slots=1), [TrialResult(0, "running", 0, 0, {"name": "<b>"})])
    assert capsys.readouterr().out == "log: run.log\n"
    assert any("small: 0 of 2 trials done" in html and "&lt;b&gt;" in html and "<b>" not in html for html in drawn)


def test_a_process_that_has_joined_a_cluster_is_told_what_to_do(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    with pytest.raises(raycodellm.UserError, match=r"call ray.shutdown\(\) first"):
        raycodellm.run(Path(__file__).parents[1] / "sweeps/quickstart.yaml")
    with pytest.raises(raycodellm.UserError, match=r"small.yaml: cannot be read"):
        raycodellm.run("small.yaml")


# ------------------------------------------------------------------------------------------------- status


def test_status_tells_the_newest_trials_or_all_and_how_the_run_stands(made_up, capsys, monkeypatch) -> None:
    monkeypatch.setattr("raycodellm.display.NEWEST", 4)
    for options, numbers in (((), range(6, 10)), (("--all",), range(10))):
        assert cli.main(["status", made_up.uri, *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [int(line.split()[0]) for line in lines if line.split()[0].isdecimal()] == list(numbers)
        assert ("… 6 more; --all shows them" in lines) == (not options)
        assert lines[-3].startswith("demo: 9 of 12 trials ended") and lines[-1] == made_up.uri


def test_status_of_a_run_without_a_trial_shows_no_empty_table(made_up, tmp_path, capsys) -> None:
    folder = tmp_path / "begun" / "demo"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_bytes((Path(made_up.uri) / "sweep.yaml").read_bytes())
    assert cli.main(["status", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == ["demo: 0 of 12 trials ended", str(folder)]


def test_status_as_json_has_the_keys_of_the_page_and_numbers_as_numbers(made_up, capsys, monkeypatch) -> None:
    assert cli.main(["status", made_up.uri, "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    page = PAGE.read_text(encoding="utf-8").partition("## From a script")[2]
    rows = dict(re.findall(r"^\| (`.*?) \| (.*) \|$", page, flags=re.MULTILINE))
    named = [key for cell in rows for key in re.findall(r"`(\w+)`", cell)]
    assert found["driver"] is None and found["now"] is None
    assert list(found) == [key for key in found if key in named] and set(found) == set(named)
    assert list(found["best"]) == re.findall(r"`(\w+)`", rows["`best`"])
    assert [key for key in found["trials"][0]] == re.findall(r"`(\w+)`", rows["`trials`"])
    assert isinstance(found["best"]["score"], float) and found["trials"][0]["metrics"]["mean/bpb"] > 0
    assert found["states"] == {"complete": 8, "failed": 1, "running": 1} and found["num_ended"] == 9


def test_status_shows_what_the_driver_of_a_running_sweep_sees(made_up, capsys) -> None:
    running = {"pretrain-0123456789abcdef": Progress("pretrain-0123456789abcdef", 5, 10, 5_000, 1_234.5, 3.21)}
    view = SlotView("slot 1", SlotActivity.WORKING, "pretrain-0123456789abcdef", 12.0)
    work = RemainingWork(job_seconds=100.0, longest_seconds=100.0, trial_seconds=50.0, num_trials=1)
    seen = Snapshot(running, slots=1, slot_views=(view,), num_nodes=2, remaining=work, notes=("said before",))
    opened = raycodellm.open_run(made_up.uri).run
    with sweep.lock(opened) as owned:
        assert "run by process" in repr(raycodellm.open_run(made_up.uri))
        owned.hold.tell(sweep.sighting(seen, at=time.time(), elapsed=192.0))
        owned.hold.owner.beat()
        assert cli.main(["status", made_up.uri, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)["now"]
        lines = repr(raycodellm.open_run(made_up.uri)).splitlines()
    assert "9 of 12 trials ended (1 failed, 1 running), 3 min 12 s elapsed, about 4 min left" in lines[0]
    assert lines[2] == "slots: 1 working, on 2 nodes"
    assert lines[3] == "pretrain 012345   50 %  5.00 k tokens  1.23 k/s  loss 3.210"
    assert lines[4].startswith("run by process ") and lines[4].endswith("s ago")
    page = PAGE.read_text(encoding="utf-8")
    assert list(told) == re.findall(r"`(\w+)`", re.search(r"^\| `now` \| (.*)$", page, flags=re.MULTILINE)[1])
    assert told["seconds_left"] == 200.0 and told["jobs"][0]["loss"] == 3.21 and told["slots"][0]["job"] in running
    assert "run by" not in repr(raycodellm.open_run(made_up.uri)), "the driver has given the run folder back"


# ------------------------------------------------------------------------------------------------- the page


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.ray
@pytest.mark.slow
def test_the_notebook_page_runs_as_it_is_written(whole, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "storage").symlink_to(whole.storage)
    (tmp_path / "small.yaml").write_text(yaml_of(whole))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks():
        exec(compile(block, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "small: there is no trial 99; trials 0000, 0001" in printed
    assert "nothing to run" in printed
    assert names["run"].status.num_ended == 2
    assert names["path"].resolve() == whole.storage / "stages" / whole.trials["stages"][1][-1] / "model"
    assert isinstance(names["text"], str) and names["text"]
    assert isinstance(names["trials"], pd.DataFrame) and len(names["trials"]) == 2


def yaml_of(whole) -> str:
    """The sweep as it was run, `--set` included."""
    return (whole.run_folder / "sweep.yaml").read_text()
