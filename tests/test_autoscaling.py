"""A cluster whose autoscaler starts nodes when slots wait, and takes them back: pretended nodes on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from autoscaled import Autoscaled, autoscaled

KINDS = {"small": {"resources": {"CPU": 2, "GPU": 1, "object_store_memory": 100_000_000}, "max_workers": 2}}
"""A slot of 2 CPUs needs a whole node, and the head has 1 CPU: a helper on any node would block the slot for ever."""
SLOTS = ("--set", "scaling.slots=auto", "--set", "scaling.cpus_per_worker=2", "--set", "search.trials=2")
STAGE = ("--set", "pretrain.tokens=40_000", "--set", "scaling.checkpoint_tokens=4_096")
NOTICE = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
"""Ray Train looks for nodes that will be taken away: every 5 s, a fast machine's stage would end before."""
RAYS_OWN = {"_AutoscalingCoordinatorActor", "_StatsActor", "_StatsSummaryActor", "_UsageCollectionActor"}
"""Actors that Ray Data starts once per cluster, for everybody, on the head node."""

if __name__ != "__main__":
    pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def no_sweep_left_running() -> Iterator[None]:
    """Also where a test fails in the middle."""
    yield
    while STARTED:
        STARTED.pop().kill()


class Sweep:
    """The command, joined to a cluster; what its display is told goes into a file."""

    def __init__(self, cluster: Autoscaled, folder: Path, text: str, *options: str) -> None:
        self.cluster, self.folder, self.storage = cluster, folder, folder / "storage"
        (folder / "small.yaml").write_text(text)
        words = ["run", str(folder / "small.yaml"), "--storage", str(self.storage), "--address", cluster.address]
        self.command = [sys.executable, __file__, str(folder / "snapshots"), *words, *options]
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        with open(self.folder / "output", "a") as log:
            self.process = subprocess.Popen(
                self.command, env=self.cluster.environment | NOTICE, stdout=log, stderr=subprocess.STDOUT
            )
        STARTED.append(self.process)

    def output(self) -> str:
        return (self.folder / "output").read_text()

    def snapshots(self) -> list[dict[str, Any]]:
        lines = (self.folder / "snapshots").read_text().splitlines() if (self.folder / "snapshots").exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def states(self) -> list[str]:
        """The slots' states as the display heard last."""
        return [view["state"] for view in self.snapshots()[-1]["slot_views"]] if self.snapshots() else []

    def wait_for(self, what: Callable[[], bool], seconds: float = 120) -> float:
        def is_so() -> bool:
            assert self.process.poll() is None, self.output()
            return what()

        return self.cluster.wait_for(is_so, seconds, self.output)

    def end(self, seconds: float = 600) -> int:
        self.process.wait(seconds)
        return self.process.returncode

    def newest_checkpoint(self) -> int:
        """Step of the farthest stage in training that has a complete checkpoint; 0 without one."""
        found = self.storage.glob("stages/*/*/*/COMPLETE")
        return max((int(path.parent.name.removeprefix("step-")) for path in found), default=0)

    def check_promises(self) -> None:
        """Every stage drew the sequences of its plan, each once and in order: as one that nothing disturbed."""
        stages = list(self.storage.glob("stages/*/DONE"))
        assert stages
        for done in stages:
            ledger = pd.read_parquet(done.parent / "ledger.parquet")
            assert ledger["tokens"].tolist() == ledger["planned_tokens"].tolist()
            told = json.loads((done.parent / "stage.json").read_text())
            assert told["record"]["order_checksum"] == planned_order(told["job"])


def planned_order(job: dict[str, Any]) -> str:
    """The checksum of the sequences in the order of the stage's plan."""
    from raycodellm import config, mixture, records, schedule
    from raycodellm.stage import order_checksum

    progress, weights = zip(*job["breakpoints"], strict=True)
    sources = tuple(records.SourceSlice(**source) for source in job["sources"])
    made = schedule.Schedule(tuple(progress), tuple(map(tuple, weights)), job["interpolation"])
    num_sequences = config.Stage.model_validate(job["stage"]).num_sequences
    rows = mixture.Plan(made, sources, num_sequences, job["seed"]).rows(0, num_sequences)
    names = tuple(source.name for source in sources)
    return f"{order_checksum(rows.position, rows.source, rows.sequence, names):016x}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Autoscaled]:
    with autoscaled(KINDS, 0.2, "--num-cpus=1", "--num-gpus=1") as made:
        yield made


def test_an_autoscalers_limits_are_read_from_the_cluster(cluster: Autoscaled, tmp_path: Path) -> None:
    command = [sys.executable, __file__, "limits", cluster.address, str(tmp_path / "run.log")]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr


def check_limits(address: str, log: str) -> None:
    """In a process of its own, which joins the cluster."""
    from raycodellm import cluster
    from raycodellm.config import Scaling

    asked = Scaling(cpus_per_worker=2, gpus_per_worker=1)
    connected = cluster.connect(address, asked, log_to=Path(log))
    try:
        assert not connected.started_here and connected.limits_known
        assert len(connected.autoscaled) == 2
        assert connected.placement_problem(asked) is None
        assert connected.slots_that_fit(asked) == 2
        three = asked.model_copy(update={"workers": 3})
        assert "may add 4 CPU + 2 GPU on 2 nodes" in connected.placement_problem(three)
    finally:
        cluster.disconnect()


def nodes_with_workers(cluster: Autoscaled) -> list[str]:
    found = {one["Address"]["NodeID"] for one in cluster.actors() if one["ActorClassName"] == "RayTrainWorker"}
    return [node for node in cluster.nodes() if node in found]


def test_nodes_come_as_slots_wait_and_a_run_that_is_killed_leaves_nothing(
    cluster: Autoscaled, one_stage_text: str, tmp_path: Path
) -> None:
    sweep = Sweep(cluster, tmp_path, one_stage_text, *SLOTS, *STAGE)
    assert cluster.nodes() == []
    sweep.start()
    seconds = sweep.wait_for(lambda: cluster.nodes() != [])
    sweep.wait_for(lambda: nodes_with_workers(cluster) != [])
    sweep.process.kill()
    sweep.end()
    cluster.wait_for(lambda: left(cluster) == [], 30)
    print(f"{seconds:.1f} s until a node has come")


def test_nodes_that_are_lost_come_again_and_go_when_idle_and_nothing_is_left(
    cluster: Autoscaled, one_stage_text: str, tmp_path: Path
) -> None:
    sweep = Sweep(cluster, tmp_path, one_stage_text, *SLOTS, *STAGE)
    sweep.start()
    sweep.wait_for(lambda: sweep.states() == ["working"] * 2, 240)
    killed, drained = nodes_with_workers(cluster)
    announcement = cluster.announce_removal(drained, seconds=8)  # now: a stage may take less time than the notice
    assert not {one["Address"]["NodeID"] for one in cluster.actors() if is_helper(one)} & set(cluster.nodes())
    sweep.wait_for(lambda: sweep.newest_checkpoint() > 0)
    cluster.kill(killed)
    assert announcement.wait(60) == 0, announcement.communicate()
    assert sweep.end() == 0, sweep.output()
    trials = pd.read_parquet(sweep.storage / "small" / "trials.parquet")
    assert trials["state"].tolist() == ["complete"] * 2
    assert trials["deaths"].sum() >= 1 and trials["preemptions"].sum() >= 1, sweep.output()
    reasons = [one["waiting_reason"] for one in sweep.snapshots() if one["waiting_reason"]]
    assert any("1 × (2 CPU)" in reason and "autoscaler" in reason for reason in reasons)
    assert max(len(one["slot_views"]) for one in sweep.snapshots()) == 2  # as many as the autoscaler may add nodes
    sweep.check_promises()
    cluster.wait_for(lambda: left(cluster) == [], 15)
    assert not (sweep.storage / "small" / "slots").exists() and not (sweep.storage / "small" / "tune").exists()
    seconds = cluster.wait_for(lambda: cluster.nodes() == [], 60)
    print(f"{seconds:.1f} s until idle nodes are gone")


def is_helper(actor: dict[str, Any]) -> bool:
    """True if the actor is no worker."""
    return bool(actor["Address"]["NodeID"]) and actor["ActorClassName"] != "RayTrainWorker"


def left(cluster: Autoscaled) -> list[Any]:
    """The things that a run has left in the cluster."""
    actors = [actor["ActorClassName"] for actor in cluster.actors() if actor["ActorClassName"] not in RAYS_OWN]
    return [*actors, *cluster.placement_groups(), *cluster.requests()]


@pytest.mark.exhaustive  # `test_gpus.py` holds what is said of them, and `test_sweep.py` that the run ends
def test_a_gpu_that_cannot_be_used_ends_the_run_at_the_first_slot_with_the_cause(
    cluster: Autoscaled, one_stage_text: str, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU that works")
    sweep = Sweep(cluster, tmp_path, one_stage_text, "--set", "scaling.gpus_per_worker=1")
    began = time.monotonic()
    sweep.start()
    assert sweep.end() == 1, sweep.output()
    said = sweep.output()
    assert "its GPUs cannot be used" in said and "gpus_per_worker" in said and "Traceback" not in said
    assert time.monotonic() - began < 90
    cluster.wait_for(lambda: left(cluster) == [], 30)


@pytest.mark.exhaustive  # Ctrl-C and the job's SIGTERM have the same handler, and `test_runs.py` holds what they save
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing_also_while_slots_wait_for_nodes(
    cluster: Autoscaled, one_stage_text: str, tmp_path: Path, number: int
) -> None:
    sweep = Sweep(cluster, tmp_path, one_stage_text, *SLOTS, *STAGE)
    sweep.start()
    sweep.wait_for(lambda: any(one["waiting_reason"] for one in sweep.snapshots()))
    sweep.process.send_signal(number)
    assert sweep.end() == 130, sweep.output()
    cluster.wait_for(lambda: left(cluster) == [], 30)
    cluster.wait_for(lambda: cluster.nodes() == [], 60)
    sweep.start()
    sweep.wait_for(lambda: sweep.newest_checkpoint() > 0)
    sweep.process.send_signal(number)
    assert sweep.end() == 130, sweep.output()
    cluster.wait_for(lambda: left(cluster) == [], 30)
    cluster.wait_for(lambda: cluster.nodes() == [], 60)


def run_and_note(snapshots: str, *words: str) -> int:
    """The command, whose display also writes each new snapshot into a file."""
    from dataclasses import asdict

    from raycodellm import cli
    from raycodellm.display import Display

    training, before = Display.training, [{}]

    def noting(self: Display, snapshot: Any, results: Any) -> None:
        told = {
            "waiting_reason": snapshot.waiting_reason,
            "num_nodes": snapshot.num_nodes,
            "slot_views": [{k: v for k, v in asdict(one).items() if k != "seconds"} for one in snapshot.slot_views],
        }
        if told != before[0]:
            before[0] = told
            with open(snapshots, "a") as file:
                file.write(json.dumps({"at": time.time(), **told}) + "\n")
        training(self, snapshot, results)

    Display.training = noting  # type: ignore[method-assign]
    return cli.main(list(words))


if __name__ == "__main__":
    sys.exit(check_limits(*sys.argv[2:]) if sys.argv[1] == "limits" else run_and_note(*sys.argv[1:]))
