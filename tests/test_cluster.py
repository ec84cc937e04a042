"""Clusters: what fits, why something does not, and which addresses work."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from raycodellm import cluster
from raycodellm.cluster import Node, autoscaler, join, placement_problem, slots_that_fit
from raycodellm.cluster.waiting import Launches, LiveNode, waiting_reason
from raycodellm.config import Scaling, UserError


def scaling(workers: int = 1, cpus: float = 1, gpus: float = 0, slots="auto") -> Scaling:
    return Scaling(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus, slots=slots)


# ------------------------------------------------------------------------------------------------- what fits


@pytest.mark.parametrize(
    ("nodes", "asked", "slots"),
    [
        ([Node(4)], scaling(), 3),  # one CPU stays free for reading data
        ([Node(2)], scaling(workers=2), 0),  # both workers would fit, and then wait for their data for ever
        ([Node(3)], scaling(workers=2), 1),
        ([Node(1), Node(8, 4)], scaling(gpus=1), 4),  # the free CPU is the head's
        ([Node(8, 4)], scaling(cpus=2, gpus=1), 3),
        ([Node(8, 1)] * 3, scaling(workers=2, gpus=1), 1),  # a group may lie on several nodes
        ([Node(8, 1)] * 4, scaling(workers=2, gpus=1), 2),
        ([Node(8, 2)], scaling(gpus=0.5), 4),
        ([Node(8, 2)], scaling(gpus=0.6), 2),  # a share lies on one GPU
        ([Node(8, 1)] * 2, scaling(gpus=2), 0),  # a worker lies on one node
        ([Node(8)], scaling(gpus=1), 0),
        ([Node(1.5)], scaling(cpus=0.5), 1),
        ([Node(0.5)], scaling(cpus=0.5), 0),
        ([], scaling(), 0),
    ],
)
def test_worker_groups_are_packed_and_one_cpu_stays_free(nodes, asked, slots):
    assert slots_that_fit(nodes, asked) == slots
    assert (placement_problem(nodes, [], asked) is None) == (slots > 0)


@pytest.mark.parametrize(
    ("nodes", "autoscaled", "asked", "said"),
    [
        ([Node(8)], [], scaling(gpus=1), ["1 × (1 CPU + 1 GPU)", "8 CPU + 0 GPU on 1 node", "no GPU"]),
        ([Node(2)], [], scaling(workers=2), ["2 × (1 CPU)", "leaves no CPU free"]),
        ([Node(8, 1)] * 3, [], scaling(workers=4, gpus=1), ["only 3 such workers fit", "scaling.workers to 3"]),
        ([Node(4, 1)], [], scaling(cpus=8), ["no node holds one worker", "4 CPU"]),
        ([Node(2)], [Node(8, 1)] * 2, scaling(gpus=2), ["may add 16 CPU + 2 GPU on 2 nodes", "8 CPU + 1 GPU"]),
        ([Node(8, 4)], [], scaling(gpus=1.5), ["whole GPUs", "use 1"]),
        ([], [], scaling(), ["0 CPU"]),
    ],
)
def test_what_can_never_be_placed_is_explained_with_numbers(nodes, autoscaled, asked, said):
    reason = placement_problem(nodes, autoscaled, asked)
    for part in said:
        assert part in reason


def test_nodes_that_the_autoscaler_may_add_count():
    assert placement_problem([Node(2)], [Node(8, 1)], scaling(gpus=1)) is None


def test_a_local_cluster_has_cpus_for_its_slots_and_for_its_data():
    assert cluster.local_cpus(2, 0, scaling(workers=2, slots=3)) == 8
    assert cluster.local_cpus(16, 0, scaling(slots=2)) == 16
    assert cluster.local_cpus(2, 0, scaling()) == 4
    assert cluster.local_cpus(1, 0, scaling(cpus=4)) == 6
    for workers in (64, 10**9):  # the machine does not grow with what is asked of it
        node = Node(cluster.local_cpus(2, 0, scaling(workers=workers)))
        assert node.cpus == 10 and "only 10 such workers fit" in placement_problem([node], [], scaling(workers=workers))
    assert slots_that_fit([Node(cluster.local_cpus(2, 0, scaling(workers=2, slots=3)))], scaling(workers=2)) >= 3


HEAD = LiveNode("the head", Node(1), Node(1))


@pytest.mark.parametrize(
    ("live", "addable", "asked", "launches", "said"),
    [
        # 2 CPU are free in all, but on no node together
        (
            [HEAD, LiveNode("10.0.0.7", Node(2), Node(1))],
            [],
            scaling(cpus=2),
            Launches(),
            ["1 × (2 CPU)", "1 of 1 CPU on the head, 1 of 2 CPU on 10.0.0.7", "Starts when other work on these nodes"],
        ),
        (
            [HEAD],
            [Node(2, kind="small")] * 3 + [Node(1, kind="tiny")],
            scaling(cpus=2),
            Launches(),
            ["Waits for the autoscaler, which may add 3 × small (2 CPU)"],
        ),
        ([HEAD], [Node(2, kind="small")], scaling(cpus=2), Launches((("small", 2),)), ["is starting 2 × small"]),
        (
            [HEAD],
            [Node(8, 1, kind="spot")],
            scaling(gpus=1),
            Launches(failures=("spot (InsufficientInstanceCapacity: none left)",)),
            ["1 of 1 CPU + 0 of 0 GPU on the head", "may add 1 × spot (8 CPU + 1 GPU)", "InsufficientInstanceCapacity"],
        ),
        ([HEAD], [], scaling(cpus=2), Launches(), ["no node holds one worker", "1 CPU + 0 GPU on 1 node"]),
        ([], [], scaling(), Launches(), ["0 CPU"]),
        (
            [LiveNode(f"10.0.0.{n}", Node(4), Node(n / 4)) for n in range(7)],
            [],
            scaling(cpus=3),
            Launches(),
            ["1.5 of 4 CPU on 10.0.0.6", "less on 3 other nodes"],
        ),
    ],
)
def test_why_a_slot_waits_is_said_from_what_each_node_has_free_with_what_ends_it(live, addable, asked, launches, said):
    reason = waiting_reason(live, addable, asked, launches)
    for part in said:
        assert part in reason


def test_a_slot_that_fits_on_what_is_free_does_not_wait():
    assert waiting_reason([HEAD, LiveNode("10.0.0.7", Node(4), Node(2))], [], scaling(cpus=2)) is None


def test_a_slot_waits_for_an_autoscaler_that_does_not_tell_its_limits():
    assert "does not tell" in waiting_reason([HEAD], [], scaling(cpus=2), limits_known=False)


def test_a_look_at_a_cluster_says_why_a_slot_waits_only_while_one_waits_for_a_place(monkeypatch):
    connected = cluster.Cluster("head:6379", None, True, (Node(1),))
    monkeypatch.setattr(cluster.join, "live_nodes", lambda: (HEAD, LiveNode("10.0.0.7", Node(2), Node(0))))
    for waits, said in ((True, "Starts when other work"), (False, None)):
        monkeypatch.setattr(cluster.join, "waits_for_place", lambda scaling, waits=waits: waits)
        sight = connected.look(scaling(cpus=2))
        assert (sight.num_nodes, sight.placement_problem) == (2, None)
        assert sight.waiting_reason is None if said is None else said in sight.waiting_reason
    monkeypatch.setattr(cluster.join, "live_nodes", lambda: (HEAD,))  # the other node died
    assert "no node holds one worker" in connected.look(scaling(cpus=2)).placement_problem


def test_where_an_autoscaler_does_not_tell_its_limits_as_many_slots_start_as_the_sweep_file_says():
    kuberay = cluster.Cluster("head:6379", None, False, (Node(0), Node(4, 1)), limits_known=False)
    assert kuberay.slots_that_fit(scaling(gpus=1, slots=5)) == 5
    assert kuberay.slots_that_fit(scaling(gpus=1)) == 1
    assert "set scaling.slots" in kuberay.notes[0]


def test_what_an_autoscaler_starts_and_could_not_start_is_read_from_its_report():
    why = {"category": "InsufficientInstanceCapacity", "description": "none left"}
    report = {
        "autoscaler_report": {
            "pending_launches": {"gpu": 1, "none": 0},
            "pending_nodes": [["10.0.0.9", "gpu", "setting-up"], ["10.0.0.8", "cpu", "waiting-for-ssh"]],
            "node_availability_summary": {
                "node_availabilities": {
                    "gpu": {"is_available": True, "unavailable_node_information": None},
                    "spot": {"is_available": False, "unavailable_node_information": why},
                }
            },
        }
    }
    found = autoscaler.read_report(report)
    assert dict(found.starting) == {"gpu": 2, "cpu": 1}
    assert found.failures == ("spot (InsufficientInstanceCapacity: none left)",)
    assert autoscaler.read_report({}) == Launches()


def test_the_autoscalers_limits_count_what_already_runs():
    tree = {
        "max_workers": 3,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 4}},
            "small": {"resources": {"CPU": 2, "GPU": 1}, "max_workers": 2},
            "large": {"resources": {"CPU": 8, "GPU": 4}, "max_workers": 2},
        },
    }
    limits = cluster.read_autoscaler(tree)
    head, small = Node(4, kind="head"), Node(2, 1, kind="small")
    assert [node.kind for node in limits.addable_nodes([head])] == ["large", "large", "small"]
    assert [node.kind for node in limits.addable_nodes([head, small, small])] == ["large"]
    assert limits.addable_nodes([head, *[small] * 3]) == ()
    unlabelled, same_as_head = Node(2, 1), Node(2, 1, kind="head")
    assert [node.kind for node in limits.addable_nodes([same_as_head, unlabelled])] == ["large", "large"]


# ------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://head:8265", "raycodellm submit"),
        ("ray://head:10001", "host:port"),
        ("head", "not host:port"),
        ("head:port", "not host:port"),
    ],
)
def test_an_address_of_the_wrong_kind_is_refused_with_the_right_one(address, said, tmp_path):
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        cluster.connect(address, scaling(), log_to=tmp_path / "run.log")
    assert address in str(caught.value)


def test_an_address_where_nothing_answers_is_an_error_that_names_it_within_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray would try for minutes"))
    with socket.socket() as deaf:  # its port is taken, and nothing listens
        deaf.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(UserError, match=address):
            cluster.connect(address, scaling(), log_to=tmp_path / "run.log")
    assert join.CONNECT_SECONDS < 15.0


def test_ray_address_is_used_when_no_address_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1"):
        cluster.connect(None, scaling(), log_to=tmp_path / "run.log")


# ------------------------------------------------------------------------------------------------- real clusters


def in_a_new_process(function: str, folder: Path, **environment: str) -> None:
    """Runs a function of this file: a process is in one cluster at a time, and other tests share one for long."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    done = subprocess.run(
        [sys.executable, __file__, function, str(folder)],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_local_cluster_starts_keeps_strangers_out_and_ends(tmp_path):
    in_a_new_process("use_a_local_cluster", tmp_path)


def use_a_local_cluster(folder: Path) -> None:
    import ray

    asked = scaling(slots=2)
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    connected = cluster.connect(None, asked, log_to=folder / "run.log")
    try:
        os.kill(os.getpid(), signal.SIGTERM)  # Ray's own handler would abort the process 3 s later
        assert heard == [signal.SIGTERM]
        assert connected.started_here and connected.dashboard_url.startswith("http://127.0.0.1:")
        assert connected.placement_problem(asked) is None and connected.slots_that_fit(asked) >= 1
        assert connected.nodes[0].gpus or "no GPU" in connected.placement_problem(scaling(gpus=1))
        assert "ray get-auth-token" in connected.notes[0]
        assert ray.get(ray.remote(lambda: os.environ["RAY_DATA_USE_DATASOURCE_V2"]).remote()) == "0"
        in_a_new_process("be_refused_without_a_token", Path(connected.address))
    finally:
        cluster.disconnect()
    assert not ray.is_initialized()


def be_refused_without_a_token(address: Path) -> None:
    with pytest.raises(UserError, match="wants a token"):
        cluster.connect(str(address), scaling(), log_to=Path(os.devnull))


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
