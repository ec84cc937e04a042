"""A head node started by hand whose autoscaler starts pretended nodes: processes of this machine.

Ray's own `AutoscalingCluster` runs `ray stop`, which would end every other cluster of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from ports import free_port

HEAD = "ray.head.default"  # the pretended provider knows its own head by no other name
RAY = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
EMPTY = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)


class Autoscaled:
    """The running head, and what can be seen of its cluster without joining it."""

    def __init__(self, folder: Path, kinds: dict[str, dict[str, Any]], idle_minutes: float, *options: str) -> None:
        """`kinds`: the node types beside the head, as an autoscaler's file has them. `options`: of `ray start`."""
        import ray

        port = free_port()
        self.folder = folder
        self.address = f"{ray.util.get_node_ip_address()}:{port}"
        ignored_prefixes = ("RAY_", "TUNE_", "CUDA_VISIBLE_DEVICES")  # an empty list of devices allows no pretended GPU
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ignored_prefixes)}
        self.environment = {
            **inherited,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "RAY_AUTH_MODE": "disabled",
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_health_check_period_ms": "1000",  # else a node that was killed is missed after 15 s
            "RAY_idle_worker_killing_time_threshold_ms": "60000",  # else each stage starts its reading processes anew
        }
        (folder / "autoscaler.json").write_text(json.dumps(self._file(kinds, idle_minutes)))
        command = [RAY, "start", "--head", "--block", f"--autoscaling-config={folder / 'autoscaler.json'}"]
        command += [f"--port={port}", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats"]
        command += ["--include-dashboard=false", f"--temp-dir={folder}", *options]
        with open(folder / "head.log", "wb") as log:
            self.head = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self._state: Any = None

    def _file(self, kinds: dict[str, dict[str, Any]], idle_minutes: float) -> dict[str, Any]:
        common_fields = {"node_config": {}, "min_workers": 0}
        return {
            "cluster_name": "pretended",
            "max_workers": sum(kind["max_workers"] for kind in kinds.values()),
            "provider": {
                "type": "external",
                "module": "pretended_nodes.PretendedNodes",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "gcs_address": self.address,
            },
            "available_node_types": {
                HEAD: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
                **{name: {**common_fields, **kind} for name, kind in kinds.items()},
            },
            "head_node_type": HEAD,
            **{"auth": {}, "docker": {}, "file_mounts": {}, "upscaling_speed": 10.0},
            **{"idle_timeout_minutes": idle_minutes, "file_mounts_sync_continuously": False},
            **{key: [] for key in EMPTY},
        }

    def has_started(self) -> bool:
        while self.head.poll() is None and b"Ray runtime started" not in self.log():
            time.sleep(0.2)
        return self.head.poll() is None

    def log(self) -> bytes:
        return (self.folder / "head.log").read_bytes()

    def end(self) -> None:
        self.head.terminate()  # it ends its own children; what is left after that goes with the group
        nodes = [process for process in psutil.process_iter(["cmdline"]) if self._is_part(process)]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.head.wait(2)  # it would drain itself for up to 30 s
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.head.pid, signal.SIGKILL)
        for process in nodes:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _is_part(self, process: psutil.Process) -> bool:
        """True if the process is one of Ray's of this cluster: its command names the cluster's folder."""
        return any(str(self.folder) in word for word in process.info["cmdline"] or ())

    # ---------------------------------------------------------------------------------------------- what is seen

    @property
    def state(self) -> Any:
        """Ray's view of the cluster, without a driver in it."""
        if self._state is None:
            from ray._private.state import GlobalState
            from ray._raylet import GcsClientOptions

            self._state = GlobalState()
            self._state._initialize_global_state(
                GcsClientOptions.create(self.address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
            )
        return self._state

    def nodes(self) -> list[str]:
        """Ids of the living nodes, without the head."""
        table = self.state.node_table()
        return [node["NodeID"] for node in table if node["Alive"] and "node:__internal_head__" not in node["Resources"]]

    def actors(self) -> list[dict[str, Any]]:
        """The living actors."""
        return [actor for actor in self.state.actor_table(None).values() if actor["State"] != "DEAD"]

    def placement_groups(self) -> list[dict[str, Any]]:
        return [group for group in self.state.placement_group_table().values() if group["state"] != "REMOVED"]

    def requests(self) -> list[Any]:
        """The room that the autoscaler is asked for, beside what waits."""
        from ray._raylet import GcsClient

        text = GcsClient(address=self.address).internal_kv_get(b"__autoscaling_status", None)
        demands = json.loads(text)["load_metrics_report"]["request_demand"] if text else []
        return [bundle for bundle, _ in demands if any(bundle.values())]

    # ---------------------------------------------------------------------------------------------- what is done

    def raylet(self, node: str) -> psutil.Process:
        return next(
            process
            for process in psutil.process_iter(["cmdline"])
            if self._is_part(process) and any(f"--node_id={node}" in word for word in process.info["cmdline"])
        )

    def kill(self, node: str) -> None:
        """At once, with everything on it: workers outlive their node's own process by some seconds."""
        raylet = self.raylet(node)
        for process in [*raylet.children(recursive=True), raylet]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def announce_removal(self, node: str, seconds: int) -> subprocess.Popen[bytes]:
        """As a cloud does before it takes a spot node away. The command takes seconds, and is not waited for."""
        words = ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        command = [RAY, "drain-node", "--address", self.address, *words, "--deadline-remaining-seconds", str(seconds)]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait_for(self, condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> float:
        """Seconds until it is so."""
        began_at = time.monotonic()
        while not condition():
            assert time.monotonic() < began_at + seconds, explain()
            time.sleep(0.25)
        return time.monotonic() - began_at


@contextlib.contextmanager
def autoscaled(kinds: dict[str, dict[str, Any]], idle_minutes: float = 0.1, *options: str) -> Iterator[Autoscaled]:
    """A running cluster; on a busy machine a head may fail to start within Ray's 30 s, so three are tried."""
    for _ in range(3):
        folder = Path(tempfile.mkdtemp(prefix="rc"))  # short: Ray puts sockets there, whose paths may have 107 bytes
        cluster = Autoscaled(folder, kinds, idle_minutes, *options)
        try:
            if cluster.has_started():
                yield cluster
                return
        finally:
            cluster.end()
            log = cluster.log()
            shutil.rmtree(folder, ignore_errors=True)
    raise AssertionError(log.decode())
