"""A sweep handed to a distant cluster: what travels, what is refused, what is printed, and how the job is followed."""

from __future__ import annotations

import functools
import json
import os
import platform
import shlex
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from raycodellm import cli, config, sweep
from raycodellm.cluster import inspection, job_client, own_package, probe, sent_files, shared_storage
from raycodellm.cluster.inspection import Inspection, NodeAnswer
from raycodellm.cluster.job_client import Job
from raycodellm.commands import SweepRequest
from raycodellm.commands import submit as submitting
from raycodellm.commands.request import SUBMITTED_AS
from raycodellm.commands.sweep_paths import NamedPath, relative_paths, starting_folder
from raycodellm.config import UserError
from raycodellm.files import Folder

SWEEP = """
name: tiny-sweep
model: {preset: tiny}
tokenizer: {train: {vocab_size: 300}}
sources: {prose: {kind: text, path: "builtin:python-prose"}}
stages:
  - {name: pretrain, tokens: 999, sequence_length: 8, batch_tokens: 8, learning_rate: {peak: 0.1}, weights: {prose: 1}}
evaluation: {tasks: [boxes]}
search: {trials: 2, replicates: 3}
"""
ADDRESS = "http://head:8265"


def write(path: Path, text: str = "some text\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def sweep_file(tmp_path) -> Path:
    return write(tmp_path / "sweeps" / "tiny sweep.yaml", SWEEP)


# ------------------------------------------------------------------------------------------------- relative paths


@pytest.mark.parametrize(
    ("beside", "here", "start", "said"),
    [
        (["data.txt"], [], "sweeps", ""),
        ([], ["data.txt"], "work", "start from the working directory"),
        (["data.txt"], ["data.txt"], "sweeps", "not from the working directory"),
        (["data.txt", "more/a.jsonl"], ["more/a.jsonl"], "sweeps", "sources.more.path"),
        ([], [], "sweeps", ""),
    ],
)
def test_relative_paths_start_from_the_sweep_files_folder_or_from_here_with_a_warning(
    tmp_path, beside, here, start, said
):
    for folder, names in (("sweeps", beside), ("work", here)):
        (tmp_path / folder).mkdir()
        for name in names:
            write(tmp_path / folder / name)
    named = [NamedPath("sources.prose.path", "data.txt"), NamedPath("sources.more.path", "more/*.jsonl")]
    folder, warning = starting_folder(named, tmp_path / "sweeps", tmp_path / "work")
    assert folder == tmp_path / start
    assert said in (warning or "") and bool(said) == bool(warning)


def test_relative_paths_that_no_single_folder_has_are_refused(tmp_path):
    write(tmp_path / "sweeps" / "a.txt")
    write(tmp_path / "work" / "b.txt")
    named = [NamedPath("sources.a.path", "a.txt"), NamedPath("sources.b.path", "b.txt")]
    with pytest.raises(UserError, match=r"sources.a.path: a.txt lies in .*sources.b.path: b.txt only in the working"):
        starting_folder(named, tmp_path / "sweeps", tmp_path / "work")


def test_every_relative_path_of_a_sweep_file_is_known_in_any_option_of_its_searches():
    file = config.parse(
        SWEEP,
        overrides=(
            "model={search: {choice: [{preset: tiny}, {pretrained: models/one}, {pretrained: ~/two}]}}",
            "tokenizer={pretrained: tokenizer}",
            "sources.prose.path=[data/*.txt, /whole/path, s3://bucket/x, builtin:python-prose]",
            "evaluation.tasks=[boxes, tasks/mine.yaml]",
            "evaluation.include=tasks",
            "evaluation.data=copies",
        ),
    )
    assert set(relative_paths(file)) == {
        ("model.pretrained", "models/one"),
        ("tokenizer.pretrained", "tokenizer"),
        ("sources.prose.path", "data/*.txt"),
        ("evaluation.tasks", "tasks/mine.yaml"),
        ("evaluation.include", "tasks"),
        ("evaluation.data", "copies"),
    }


def test_a_command_reads_beside_the_sweep_file_and_stays_where_it_was_given(sweep_file, tmp_path, monkeypatch):
    write(sweep_file.parent / "data.txt")
    monkeypatch.chdir(tmp_path)
    request = SweepRequest("sweeps/tiny sweep.yaml", ("sources.prose.path=data.txt",), "storage")
    with request.opened(pytest.fail):
        assert Path("data.txt").is_file()
        assert request.storage.local == tmp_path / "storage"
    assert Path.cwd() == tmp_path


# ------------------------------------------------------------------------------------------------- what travels


def names_in(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as zipped:
        return set(zipped.namelist())


def test_the_sweep_file_and_what_it_names_travel_and_nothing_else(tmp_path, monkeypatch):
    base = tmp_path / "project"
    for name in ("data/a.txt", "data/sub/b.txt", "data/__pycache__/x", "data.txt", "checkpoints/huge.bin", ".git/x"):
        write(base / "sweeps" / name)
    write(tmp_path / "project" / "corpus" / "c.txt")
    write(base / "sweeps" / "data" / ".env", "KEY=secret\n")
    (base / "sweeps" / "data" / "link.txt").symlink_to(write(tmp_path / "private.txt"))
    write(base / "sweeps" / "tasks" / "mine.yaml", "task: mine\ninclude: _base.yaml\nprocess: !function own.act\n")
    write(base / "sweeps" / "tasks" / "_base.yaml", "dataset_path: json\ndataset_kwargs: {data_files: {t: data.txt}}\n")
    write(base / "sweeps" / "tasks" / "own.py", "import other\n")
    write(base / "sweeps" / "tasks" / "other.py", "import json\n")
    path = write(base / "sweeps" / "tiny.yaml", SWEEP)
    overrides = ("sources.prose.path=[data, ../corpus/*.txt]", "evaluation.tasks=[tasks/mine.yaml]")
    request = SweepRequest(str(path), overrides, "/mnt/all", ADDRESS)
    with request.opened(pytest.fail) as file:
        sent = submitting._submission(request, file, Path.cwd()).sent
    assert sent.sweep == "sweeps/tiny.yaml"
    archive, other = tmp_path / "sweep.zip", tmp_path / "again.zip"
    sent_files.write_archive(sent, archive)
    sent_files.write_archive(sent, other)
    assert archive.read_bytes() == other.read_bytes()  # Ray uploads equal archives once
    inside = ("tiny.yaml", "data/a.txt", "data/sub/b.txt", "data.txt")
    inside += tuple(f"tasks/{name}" for name in ("mine.yaml", "_base.yaml", "own.py", "other.py"))
    assert names_in(archive) == {"corpus/c.txt", *(f"sweeps/{name}" for name in inside)}
    with zipfile.ZipFile(archive) as zipped:  # as Ray unpacks it on a node, and runs the job in it
        zipped.extractall(tmp_path / "node")
    monkeypatch.chdir(tmp_path / "node")
    with SweepRequest(sent.sweep, overrides).opened(pytest.fail) as file:
        assert all(list(Path().glob(one.path)) or Path(one.path).exists() for one in relative_paths(file))


def test_of_the_folders_of_tasks_and_of_data_only_what_the_tasks_need_travels(tmp_path):
    base = tmp_path / "sweeps"
    write(base / "tasks/mine.yaml", "task: mine\ndataset_path: owner/mine\ndoc_to_text: !function own.act\n")
    write(base / "tasks/own.py", "import json\n")
    write(base / "tasks/deep/other.yaml", "task: other\ndataset_path: owner/other\n")
    for name in ("owner/mine/README.md", "owner/mine/test.jsonl", "owner/other/test.jsonl", "huge.bin"):
        write(base / "copies" / name, '{"text": "a"}\n')
    path = write(base / "tiny.yaml", SWEEP)
    overrides = ("evaluation={tasks: [mine], include: tasks, data: copies}",)
    with SweepRequest(str(path), overrides, "/mnt/all", ADDRESS).opened(pytest.fail) as file:
        sent = submitting._submission(SweepRequest(str(path), overrides, "/mnt/all", ADDRESS), file, Path.cwd()).sent
    needed = {"copies/owner/mine/README.md", "copies/owner/mine/test.jsonl", "tasks/mine.yaml", "tasks/own.py"}
    assert {place for _, place in sent.files} >= needed
    assert not {place for _, place in sent.files} & {"copies/owner/other/test.jsonl", "copies/huge.bin"}
    assert "tasks/deep/other.yaml" not in {place for _, place in sent.files}


def test_the_text_that_is_measured_travels(tmp_path):
    for name in ("texts/a.txt", "texts/.hidden", "zh.txt"):
        write(tmp_path / name, "text\n")
    path = write(tmp_path / "tiny.yaml", SWEEP)
    overrides = ("evaluation={suites: [bpb], texts: {prose: texts, chinese: zh.txt}}",)
    request = SweepRequest(str(path), overrides, "/mnt/all", ADDRESS)
    with request.opened(pytest.fail) as file:
        sent = submitting._submission(request, file, Path.cwd()).sent
    assert {place for _, place in sent.files} >= {"texts/a.txt", "zh.txt"}
    assert "texts/.hidden" not in {place for _, place in sent.files}


def test_too_much_to_send_is_refused_with_the_sizes_of_the_largest(tmp_path):
    for name, num_bytes in (("small.txt", 10), ("data/large.bin", 300_000), ("other/x/deep.bin", 200_000)):
        write(tmp_path / name).write_bytes(os.urandom(num_bytes))
    path = write(tmp_path / "tiny.yaml", SWEEP)
    sent = sent_files.collect(path, tmp_path, ["small.txt", "data", "other"])
    with pytest.raises(UserError) as refused:
        sent_files.write_archive(sent, tmp_path / "sweep.zip", most_bytes=100_000)
    said = str(refused.value)
    assert "are 500 kB, and a job takes 100 kB compressed; the largest: data/large.bin 300 kB, other/x 200 kB" in said
    assert "s3://" in said and "\n" not in said


@pytest.mark.parametrize("path", [".", "..", "./", "../.."])
def test_a_whole_folder_of_projects_is_never_sent(path):
    with pytest.raises(UserError, match="name the files, or a folder in it"):
        sent_files.require_sendable(["data", path])


# ------------------------------------------------------------------------------------------------- the cluster's nodes


own_digest = functools.cache(own_package.digest)
"""The hash of the package's 300 files, which no test changes."""


def node(address: str = "10.0.0.5", **changes) -> NodeAnswer:
    versions = {one.name: str(next(iter(one.specifier)).version) for one in own_package.requirements()}
    values = {
        "is_head": address == "10.0.0.5",
        "python": platform.python_version(),
        "package": own_digest(),
        "versions": {"raycodellm": "0.1.0", **versions},
        "sees_storage": True,
    }
    return NodeAnswer(address, **{**values, **changes})


def found(*nodes: NodeAnswer, **changes) -> Inspection:
    values = {"ray": ray.__version__, "num_nodes": len(nodes), "nodes": nodes}
    return Inspection(**{**values, **changes})


def test_another_ray_or_python_is_refused_with_both_versions():
    inspection.require_same_versions(found(node()), ray.__version__)
    with pytest.raises(UserError, match=rf"runs Ray 2\.59\.1, and Ray {ray.__version__} is installed here"):
        inspection.require_same_versions(found(node(), ray="2.59.1"), ray.__version__)
    with pytest.raises(UserError, match=r"node 10\.0\.0\.9 runs Python 3\.9\.2, and this is Python 3\.11\.7"):
        old = node("10.0.0.9", python="3.9.2")
        inspection.require_same_versions(found(node(python="3.11.1"), old), ray.__version__, "3.11.7")


def test_a_storage_that_a_node_does_not_see_is_refused_with_what_would_work():
    inspection.require_shared_storage(found(node(), node("10.0.0.6")), "/mnt/all")
    inspection.require_shared_storage(found(node(sees_storage=None), node("10.0.0.6", sees_storage=None)), "s3://b/x")
    blind = found(node(), node("10.0.0.6", sees_storage=False), node("10.0.0.7"))
    with pytest.raises(UserError, match=r"10\.0\.0\.6 does not see what the head node 10\.0\.0\.5 .*NFS.* s3://bucket"):
        inspection.require_shared_storage(blind, "~/raycodellm")
    with pytest.raises(UserError, match=r"head node 10\.0\.0\.5 cannot write there \(read-only"):
        inspection.require_shared_storage(found(node(), storage_error="read-only file system"), "/mnt/all")
    assert "head node" in inspection.storage_warning(found(node()), "~/raycodellm")
    assert inspection.storage_warning(found(node()), "s3://bucket/x") is None
    assert inspection.storage_warning(found(node(), node("10.0.0.6")), "/mnt/all") is None


LACKING = {"raycodellm": None, "torch": None, "optuna": "4.1.0"}


@pytest.mark.parametrize(
    ("nodes", "mode", "is_sent", "installs", "said"),
    [
        ([node(), node("10.0.0.6")], "auto", False, False, "the nodes have this raycodellm"),
        ([node(), node("10.0.0.6", package="other")], "auto", True, False, "since the nodes have another"),
        ([node(package=None)], "auto", True, False, "goes along"),
        ([node()], "send", True, False, "goes along"),
        ([node(package=None, versions=LACKING)], "auto", True, True, "10.0.0.5 lacks torch (missing, needed"),
        ([node(package="other")], "installed", False, False, "the nodes have raycodellm 0.1.0"),
        ([node(), node("10.0.0.6", error="no answer")], "auto", False, False, "the nodes have this raycodellm"),
    ],
)
def test_the_package_goes_along_where_the_nodes_lack_it(nodes, mode, is_sent, installs, said):
    plan = inspection.package_plan(found(*nodes), mode)
    assert (plan.is_sent, bool(plan.pip)) == (is_sent, installs) and said in plan.sentence
    assert not any(pin.startswith("ray==") or "+" in pin for pin in plan.pip)  # the cluster's own, any torch build
    assert not installs or {pin.partition("==")[0] for pin in plan.pip} >= {"torch", "optuna", "lm-eval", "datasets"}


@pytest.mark.parametrize(
    ("lacking", "said"), [({"package": None}, "has no raycodellm"), ({"versions": LACKING}, "lacks torch")]
)
def test_nodes_that_must_have_the_package_and_do_not_are_refused(lacking, said):
    with pytest.raises(UserError, match=said):
        inspection.package_plan(found(node(), node("10.0.0.6", **lacking)), "installed")


def test_a_probe_that_could_not_run_is_an_error_that_says_what_to_do():
    with pytest.raises(UserError, match=r"python: not found; .*start Ray with that environment"):
        inspection.read_answer("/bin/sh: 1: python: not found\n", Job("raysubmit_1", "FAILED"))


def test_a_cluster_of_which_no_node_answers_is_refused():
    told = {"ray": "2.60.0", "num_nodes": 1, "nodes": [{"address": "a", "is_head": True, "error": "no space left"}]}
    with pytest.raises(UserError, match="no node of the cluster can run a task: no space left"):
        inspection.read_answer(probe.PREFIX + json.dumps(told), Job("raysubmit_1", "SUCCEEDED"))


def test_the_package_is_known_by_its_files(tmp_path):
    write(tmp_path / "a" / "x.py")
    write(tmp_path / "a" / "inner" / "y.yaml")
    before = probe.package_digest(str(tmp_path / "a"))
    write(tmp_path / "a" / "__pycache__" / "x.pyc")
    write(tmp_path / "a" / ".x.py.swp")
    assert probe.package_digest(str(tmp_path / "a")) == before
    write(tmp_path / "a" / "inner" / "y.yaml", "changed")
    assert probe.package_digest(str(tmp_path / "a")) != before
    assert probe.package_digest(str(own_package.copy_to(tmp_path))) == own_package.digest()


def test_a_storage_is_tried_with_a_file_and_left_as_it_was(tmp_path):
    with probe.marker_file(str(tmp_path / "new" / "storage")) as marker:
        assert probe.sees(marker)
    assert not probe.sees(marker, seconds=0.0)
    assert not (tmp_path / "new" / "storage").exists()
    storage = Folder(str(tmp_path / "kept"))
    storage.write_bytes("x", b"")
    assert shared_storage.why_unseen(storage, "x") is None
    assert "another" in shared_storage.why_unseen(storage, "y", seconds=0.0)
    assert "no such folder" in shared_storage.why_unseen(Folder(str(tmp_path / "gone")), "y", seconds=0.0)


def test_the_head_and_a_node_of_each_kind_are_asked():
    kinds = [{"CPU": 4.0}] * 20 + [{"CPU": 8.0, "GPU": 1.0, "memory": 7e9 + n, f"node:{n}": 1.0} for n in range(5)]
    nodes = [{"Alive": True, "Resources": {**kind}, "NodeID": str(n)} for n, kind in enumerate(kinds)]
    nodes.append({"Alive": True, "Resources": {"CPU": 4.0, "node:__internal_head__": 1.0}, "NodeID": "head"})
    nodes.append({"Alive": False, "Resources": {}, "NodeID": "dead"})
    asked = [one["NodeID"] for one in probe.nodes_to_ask(nodes, max_nodes=4)]
    assert asked[0] == "head" and {"0", "20"} < set(asked) and len(asked) == 4 and "dead" not in asked


# ------------------------------------------------------------------------------------------------- jobs


class FakeClient:
    """Stands for Ray's client of jobs: runs the probe at once, and keeps what else is submitted."""

    answer = found(node())
    jobs: list[SimpleNamespace]
    probes: list[SimpleNamespace]
    output = "first line\nsecond line\n"
    num_lost_answers = 0

    def __init__(self, address: str, headers: dict | None = None) -> None:
        self.address = address
        assert "RAY_ADDRESS" not in os.environ

    def submit_job(self, entrypoint: str, metadata: dict, runtime_env: dict) -> str:
        is_probe = "probe.py" in entrypoint
        job = SimpleNamespace(
            submission_id=f"raysubmit_{len(self.jobs) + len(self.probes)}",
            status="SUCCEEDED" if is_probe else "RUNNING",
            start_time=len(self.jobs),
            **{"message": "", "driver_exit_code": 0, "entrypoint": entrypoint, "metadata": metadata},
            runtime_env=runtime_env,
            names=names_in(Path(runtime_env["working_dir"])),
        )
        (self.probes if is_probe else self.jobs).append(job)
        return job.submission_id

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        if self.num_lost_answers:
            type(self).num_lost_answers -= 1
            raise RuntimeError("Connection reset by peer")
        return self._found(job_id)

    def _found(self, job_id: str) -> SimpleNamespace:
        return next(job for job in self.list_jobs() if job.submission_id == job_id)

    def list_jobs(self) -> list[SimpleNamespace]:
        return [*self.probes, *self.jobs]

    def get_job_logs(self, job_id: str) -> str:
        if "probe.py" not in self.get_job_info(job_id).entrypoint:
            return self.output
        nodes = [dict(one.__dict__) for one in self.answer.nodes]
        return probe.PREFIX + json.dumps({**self.answer.__dict__, "nodes": nodes})

    async def tail_job_logs(self, job_id: str):
        yield self.output[:4]
        if not hasattr(self, "is_lost"):
            self.is_lost = True
            raise RuntimeError("the connection was lost")
        yield self.output[4:]
        self.get_job_info(job_id).status = "SUCCEEDED"

    def stop_job(self, job_id: str) -> None:
        self._found(job_id).status = "STOPPED"


@pytest.fixture
def fake(monkeypatch) -> type[FakeClient]:
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", FakeClient)
    monkeypatch.setattr(job_client, "LOOK_SECONDS", 0.0)
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")  # Ray would prefer it to the address that was given
    monkeypatch.setattr(FakeClient, "jobs", [], raising=False)
    monkeypatch.setattr(FakeClient, "probes", [], raising=False)
    return FakeClient


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str]:
    code = cli.main(arguments)
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def parsed(line: str) -> SimpleNamespace:
    words = shlex.split(line)
    assert words[0] == "raycodellm"
    return cli._parser().parse_args(words[1:])


def test_submit_sends_the_same_run_and_says_how_to_follow_and_to_stop_it(sweep_file, fake, capsys):
    options = (
        "--set",
        "search.replicates=4",
        "--storage",
        "s3://bucket/run s",
        "--address",
        "http://me:word@head:8265",
    )
    code, printed = run(capsys, "submit", str(sweep_file), *options, "--detach")
    assert code == 0
    (job,) = fake.jobs
    assert shlex.split(job.entrypoint)[:5] == ["python", "-m", "raycodellm.cli", "run", "tiny sweep.yaml"]
    assert shlex.split(job.entrypoint)[5:] == ["--storage", "s3://bucket/run s", "--set", "search.replicates=4"]
    assert job.names == {"tiny sweep.yaml"} and "py_modules" not in job.runtime_env
    told = {
        "job_name": "tiny-sweep",
        "sweep": "tiny-sweep",
        "storage": "s3://bucket/run s",
        "arms": "1",
        "trials": "4",
    }
    assert told.items() <= job.metadata.items() and all(isinstance(value, str) for value in job.metadata.values())
    # Ray would kill a stopped job after 3 s, long before its stages are saved.
    variables = job.runtime_env["env_vars"]
    assert float(variables["RAY_JOB_STOP_WAIT_TIME_S"]) > sweep.watchdog.DRAIN_SECONDS
    assert os.environ["RAY_ADDRESS"] == "elsewhere:6379"
    follow = next(line for line in printed.splitlines() if line.startswith("follow: "))
    stop = next(line for line in printed.splitlines() if line.startswith("stop: "))
    assert variables[SUBMITTED_AS] == follow.removeprefix("follow: ")
    again = parsed(follow.removeprefix("follow: "))
    assert (again.sweep, again.set, again.storage) == (str(sweep_file), ["search.replicates=4"], "s3://bucket/run s")
    stopping = parsed(stop.removeprefix("stop: ").strip())
    assert (stopping.run, stopping.storage) == ("tiny-sweep", "s3://bucket/run s")
    assert again.address == stopping.address == "http://***@head:8265"
    assert "word" not in printed and "word" not in str(vars(job))


def test_a_submitted_runs_log_says_to_continue_with_submit(monkeypatch):
    request = SweepRequest("a.yaml", storage_uri="/mnt/all")
    assert request.again() == "raycodellm run a.yaml --storage /mnt/all"
    monkeypatch.setenv(SUBMITTED_AS, "raycodellm submit a.yaml --address http://head:8265")
    assert request.again() == "raycodellm submit a.yaml --address http://head:8265"


def test_submit_follows_the_output_once_through_a_lost_connection_and_ends_with_the_jobs_code(sweep_file, fake, capsys):
    code, printed = run(capsys, "submit", str(sweep_file), "--address", ADDRESS)
    assert code == 0 and printed.count("first line\nsecond line\n") == 1 and printed.count("first") == 1


def test_a_job_that_is_followed_again_shows_the_last_of_its_earlier_output(sweep_file, fake, capsys, monkeypatch):
    run(capsys, "submit", str(sweep_file), "--address", ADDRESS, "--detach")
    monkeypatch.setattr(fake, "output", "".join(f"line {n}\n" for n in range(100)))
    code, printed = run(capsys, "submit", str(sweep_file), "--address", ADDRESS)
    lines = [line for line in printed.splitlines() if line.startswith(("line", "…"))]
    assert code == 0 and lines == ["… 60 lines before", *(f"line {n}" for n in range(60, 100))]


def test_a_sweep_that_runs_on_the_cluster_is_followed_and_not_started_twice(sweep_file, fake, capsys):
    run(capsys, "submit", str(sweep_file), "--address", ADDRESS, "--detach")
    code, printed = run(capsys, "submit", str(sweep_file), "--address", ADDRESS)
    assert code == 0 and len(fake.jobs) == 1 and "runs already as raysubmit_" in printed and "second line" in printed
    fake.jobs[0].status = "RUNNING"
    elsewhere, _ = run(capsys, "submit", str(sweep_file), "--address", ADDRESS, "--storage", "/mnt/b", "--detach")
    assert elsewhere == 0 and len(fake.jobs) == 2
    code, printed = run(capsys, "submit", str(sweep_file), "--address", ADDRESS, "--set", "seed=5")
    assert code == 2 and "with other settings" in printed and len(fake.jobs) == 2


def test_ctrl_c_leaves_a_followed_job_running_and_says_how_to_go_on(sweep_file, fake, capsys, monkeypatch):
    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(job_client.Jobs, "follow", interrupt)
    code, printed = run(capsys, "submit", str(sweep_file), "--address", ADDRESS)
    assert code == 130 and fake.jobs[0].status == "RUNNING"
    after = printed.partition("goes on as raysubmit_")[2]
    assert "follow: raycodellm submit" in after and "stop:   raycodellm stop tiny-sweep --address" in after


def test_stop_asks_the_sweeps_job_and_waits_for_its_end(sweep_file, fake, capsys):
    run(capsys, "submit", str(sweep_file), "--address", ADDRESS, "--detach", "--storage", "/mnt/a")
    run(capsys, "submit", str(sweep_file), "--address", ADDRESS, "--detach", "--storage", "/mnt/b")
    code, printed = run(capsys, "stop", "tiny-sweep", "--address", ADDRESS)
    assert code == 2 and "give --storage, one of /mnt/a, /mnt/b" in printed
    fake.num_lost_answers = 2  # as in a network's hiccup
    code, printed = run(capsys, "stop", str(sweep_file), "--address", ADDRESS, "--storage", "/mnt/a")
    assert fake.num_lost_answers == 0
    assert code == 0 and [job.status for job in fake.jobs] == ["STOPPED", "RUNNING"] and "has ended: stopped" in printed
    code, printed = run(capsys, "stop", "tiny-sweep", "--address", ADDRESS, "--storage", "/mnt/a")
    assert code == 0 and "no job runs tiny-sweep" in printed


@pytest.mark.parametrize(
    ("status", "job_code", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 1),
        ("FAILED", 2, 2),
        ("FAILED", 130, 130),
        ("FAILED", -9, 1),
        ("FAILED", 137, 1),
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
    ],
)
def test_submit_ends_with_the_exit_code_of_the_run(status, job_code, code):
    assert submitting.exit_code(Job("raysubmit_1", status, exit_code=job_code)) == code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--address", "head:6379"), "http://<head node>:8265"),
        (("--address", ADDRESS, "--set", "pretrain.tokens=-1"), "tokens"),
        (("--address", ADDRESS, "--storage", "here"), "full path"),
        (("--address", "http://127.0.0.1:1"), "http://127.0.0.1:1"),
        (("--address", "http://me:word@127.0.0.1:1"), "http://***@127.0.0.1:1"),
    ],
)
def test_what_cannot_be_submitted_is_a_users_error(sweep_file, capsys, arguments, said):
    code, printed = run(capsys, "submit", str(sweep_file), *arguments)
    assert code == 2 and said in printed and len(printed.splitlines()) == 1 and "word" not in printed
