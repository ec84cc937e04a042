"""Ray clusters: starting or joining one, what fits on it, handing a sweep to a distant one, and checking cluster files.

What fits is arithmetic on `Node` records; only `connect`, `submit` and `validate_cluster_file` touch Ray.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raycodellm import config, setup_worker
from raycodellm.config import Scaling, UserError

# Of every process of the cluster; Ray reads most of these when it is imported.
ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # The second generation of Parquet reading starts 32 actors per read: 20 s for eight small files, against 1 s.
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    # 1 s by default: short tasks, as those that read a stage's data, would start new processes for every job.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s by default: time a finished or dead worker group goes unnoticed
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",  # 5 s by default, of the 30 s that a spot node may have left
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a run keeps its own records
}
SPARE_CPUS = 1
"""Left to Ray Data's tasks: training workers that hold every CPU wait for their own data for ever."""
CONNECT_SECONDS = 5.0
SUBMIT_SECONDS = 60.0
_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray.rllib", "ray.serve")

# ------------------------------------------------------------------------------------------------- what fits


@dataclass(frozen=True)
class Node:
    cpus: float
    """Logical: what Ray may hand out, busy or not."""
    gpus: float = 0.0
    memory_bytes: int = 0
    kind: str = ""
    """The autoscaler's name of the node type, where there is one."""


def bundles_that_fit(node: Node, scaling: Scaling) -> int:
    """Workers that `node` can hold at once. A part of a GPU lies on one GPU: two workers of 0.6 need two."""
    fit = math.floor(node.cpus / scaling.cpus_per_worker + 1e-9)
    share = scaling.gpus_per_worker
    if share > 1 and share != int(share):
        return 0  # Ray refuses such a request
    if share >= 1:
        fit = min(fit, math.floor(node.gpus / share + 1e-9))
    elif share > 0:
        fit = min(fit, math.floor(node.gpus + 1e-9) * math.floor(1 / share + 1e-9))
    return max(0, fit)


def slots_that_fit(nodes: Sequence[Node], scaling: Scaling) -> int:
    """Worker groups that `nodes` can hold at once, with a CPU of one node left to Ray Data.

    A worker lies on one node, a group may lie on several.
    """
    bundles = [bundles_that_fit(node, scaling) for node in nodes]
    lost = [
        fit - bundles_that_fit(Node(node.cpus - SPARE_CPUS, node.gpus), scaling)
        for node, fit in zip(nodes, bundles, strict=True)
        if node.cpus >= SPARE_CPUS
    ]
    return (sum(bundles) - min(lost)) // scaling.workers if lost else 0


def why_not(nodes: Sequence[Node], autoscaled: Sequence[Node], scaling: Scaling) -> str | None:
    """Why not one worker group can ever be placed on `nodes` and those that the autoscaler may add; None if it can."""
    everything = [*nodes, *autoscaled]
    if slots_that_fit(everything, scaling):
        return None
    share = scaling.gpus_per_worker
    if share > 1 and share != int(share):
        return f"scaling.gpus_per_worker is {share:g}, but a worker gets whole GPUs or a part of one; use {int(share)}"
    need = f"{scaling.cpus_per_worker:g} CPU" + (f" + {share:g} GPU" if share else "")
    group = f"a worker group needs {scaling.workers} × ({need})"
    has = f"the cluster has {_total(nodes)}"
    if autoscaled:
        has += f", and the autoscaler may add {_total(autoscaled)}"
    fit = sum(bundles_that_fit(node, scaling) for node in everything)
    if fit >= scaling.workers:
        return (
            f"{group}, which leaves no CPU free for reading data: {has}; "
            f"add a CPU, or lower scaling.workers or scaling.cpus_per_worker"
        )
    if share and not any(node.gpus for node in everything):
        return f"{group}, but {has}: no GPU; set scaling.gpus_per_worker to 0 or add GPU nodes"
    if fit == 0:
        largest = max(everything, key=lambda node: (node.gpus, node.cpus) if share else (node.cpus, 0), default=Node(0))
        what = f"{largest.cpus:g} CPU + {largest.gpus:g} GPU" if share else f"{largest.cpus:g} CPU"
        return (
            f"{group}, but {has}, and no node holds one worker (the largest: {what}); "
            "lower scaling.cpus_per_worker or scaling.gpus_per_worker, or add larger nodes"
        )
    return f"{group}, but only {fit} such workers fit: {has}; set scaling.workers to {fit} or less, or add nodes"


def _total(nodes: Sequence[Node]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return f"{cpus:g} CPU + {gpus:g} GPU on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"


# ------------------------------------------------------------------------------------------------- connecting


@dataclass(frozen=True)
class Autoscaler:
    """What a cluster's autoscaler may start."""

    max_workers: int
    """Nodes beside the head, of all kinds together."""
    kinds: tuple[tuple[Node, int], ...]
    """Each kind of node, and how many of it there may be."""

    def still_to_add(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """Nodes that may be started beside `nodes`, the largest first."""
        names = {node.kind for node, _ in self.kinds}
        left = self.max_workers - sum(node.kind in names for node in nodes)
        found = [
            node for node, most in self.kinds for _ in range(most - sum(other.kind == node.kind for other in nodes))
        ]
        found.sort(key=lambda node: (node.gpus, node.cpus), reverse=True)
        return tuple(found[: max(0, left)])


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to."""

    address: str
    dashboard_url: str | None
    started_here: bool
    nodes: tuple[Node, ...]
    """Alive when `connect` looked."""
    autoscaler: Autoscaler | None = None
    limits_known: bool = True
    """False where an autoscaler runs that does not tell its limits (KubeRay's)."""

    @property
    def autoscaled(self) -> tuple[Node, ...]:
        """Nodes that could be added when `connect` looked."""
        return self.autoscaler.still_to_add(self.nodes) if self.autoscaler else ()

    def why_not(self, scaling: Scaling) -> str | None:
        """Why no worker group can ever be placed on the cluster as it is now; None if one can, or nobody can tell."""
        if not self.limits_known:
            return None
        nodes = _nodes()
        return why_not(nodes, self.autoscaler.still_to_add(nodes) if self.autoscaler else (), scaling)

    def slots_that_fit(self, scaling: Scaling) -> int:
        """Worker groups that can run at once: what `scaling.slots: auto` means here."""
        fit = slots_that_fit([*self.nodes, *self.autoscaled], scaling)
        if self.started_here:  # its logical CPUs may be more than its cores
            gpus = sum(node.gpus for node in self.nodes)
            return min(fit, max(1, bundles_that_fit(Node(_local_cpus(), gpus), scaling) // scaling.workers))
        return fit if self.limits_known else max(1, fit)

    @property
    def slots_at_once(self) -> int | None:
        """Worker groups that should come up together; None for any number. Each takes two cores of this machine."""
        return max(1, _local_cpus() // 2) if self.started_here else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it, in sentences."""
        said = []
        if self.started_here and self.dashboard_url and os.environ.get("RAY_AUTH_MODE") == "token":
            said.append("the dashboard asks once for a token: `ray get-auth-token` prints it")
        if not self.limits_known:
            said.append("the autoscaler does not tell its limits: workers that no node type can hold wait for ever")
        return tuple(said)


def prepare_environment() -> None:
    """Ray's settings, for this process and all that it starts; to be called before Ray is first imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def connect(address: str | None, scaling: Scaling, *, log_to: Path) -> Cluster:
    """Joins the cluster at `address` (or RAY_ADDRESS), or starts one on this machine; Ray's messages go to `log_to`.

    Raises `UserError` naming the address when there is no such cluster. Whether the sweep fits is for `why_not` to say.
    """
    prepare_environment()
    _log_to(log_to)
    address = address or os.environ.get("RAY_ADDRESS") or None
    return _start_local(scaling) if address in (None, "local") else _join(address, scaling)


def disconnect(cluster: Cluster) -> None:
    """Leaves the cluster; one that `connect` started ends."""
    import ray

    ray.shutdown()


def _start_local(scaling: Scaling) -> Cluster:
    # Nobody takes this machine away with a notice; the watcher for one is a process more per slot.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    gpus = _local_gpus()
    with _without("RAY_ADDRESS"), setup_worker.in_place_of_rays():
        # Unless RAY_AUTH_MODE says otherwise, Ray asks for a token here. That stays: it listens on every network
        # interface, and without the token anyone near by could run code as this user.
        context = _patient_init(
            address="local",
            num_cpus=local_cpus(_local_cpus(), gpus, scaling),
            num_gpus=gpus,
            # It costs 1 s of 5, but Ray's clean-up after a killed training run asks the dashboard and hangs without.
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            configure_logging=False,
        )
    return Cluster(context.address_info["gcs_address"], _url(context.dashboard_url), True, _nodes())


def _patient_init(**settings: Any) -> Any:
    """`ray.init` for a new cluster, tried again where a busy machine needs more than the 30 s that Ray always waits."""
    import psutil
    import ray

    for tries_left in (2, 1, 0):
        before = set(psutil.Process().children(recursive=True))
        try:
            return ray.init(**settings)
        except Exception as error:  # Ray raises no narrower class here
            if not tries_left or "timed out during startup" not in str(error):
                raise
            logging.getLogger("ray").warning("starting Ray took too long; trying again", exc_info=True)
            for late in set(psutil.Process().children(recursive=True)) - before:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if any("/ray/" in word for word in late.cmdline()):
                        late.kill()


def local_placement(scaling: Scaling) -> tuple[str | None, int]:
    """(why no worker group fits on a local cluster of this machine, or None; how many fit). Starts nothing."""
    gpus = _local_gpus()
    node = Node(local_cpus(_local_cpus(), gpus, scaling), gpus)
    return why_not([node], (), scaling), slots_that_fit([node], scaling)


def local_cpus(cores: int, gpus: int, scaling: Scaling) -> int:
    """Logical CPUs of a local cluster: its cores, or more where the sweep's worker groups and data tasks need them."""
    slots = scaling.slots
    if slots == "auto":
        slots = max(1, bundles_that_fit(Node(cores, gpus), scaling) // scaling.workers)
    return max(cores, math.ceil(slots * scaling.workers * scaling.cpus_per_worker) + 2)


def _local_cpus() -> int:
    from ray._private.utils import get_num_cpus

    return max(1, min(int(get_num_cpus(override_docker_cpu_warning=True)), len(os.sched_getaffinity(0))))


def _local_gpus() -> int:
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    there = manager.get_current_node_num_accelerators()
    visible = manager.get_current_process_visible_accelerator_ids()
    return there if visible is None else min(there, len(visible))


def _join(address: str, scaling: Scaling) -> Cluster:
    _check_address(address)
    import ray

    try:
        context = ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            # Processes of a cluster that somebody else started do not inherit this process's environment.
            runtime_env={"env_vars": {name: os.environ[name] for name in ENVIRONMENT}},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:  # among them another version of Ray or Python
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"cannot join a Ray cluster at {address}: {reason}; is it running?") from error
    autoscaler, limits_known = _autoscaler()
    return Cluster(
        context.address_info["gcs_address"], _url(context.dashboard_url), False, _nodes(), autoscaler, limits_known
    )


def _check_address(address: str) -> None:
    """Raises `UserError` for a wrong address within seconds: Ray itself tries for minutes where a stranger answers."""
    if address == "auto":
        return
    scheme = address.partition("://")[0] if "://" in address else ""
    if scheme in ("http", "https"):
        raise UserError(
            f"{address} is the address of a dashboard, which `raycodellm submit` takes; `run` takes host:port of the "
            "head node, as `ray start --head` prints it (the port is mostly 6379)"
        )
    if scheme:
        raise UserError(f"the address {address} is one for Ray clients, which cannot train; give host:port, or submit")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"the address {address!r} is not host:port; for example 10.0.0.5:6379")
    import grpc
    from ray._private.grpc_utils import init_grpc_channel

    with init_grpc_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=CONNECT_SECONDS)
        except grpc.RpcError as error:
            raise UserError(_refusal(address, error.code().name, error.details() or "")) from error


def _refusal(address: str, code: str, details: str) -> str:
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return (
            f"the Ray cluster at {address} wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or the file "
            "~/.ray/auth_token) to what `ray get-auth-token` prints on its head node"
        )
    if code == "UNIMPLEMENTED":
        return f"what answers at {address} is no Ray head node; give the host:port that `ray start --head` printed"
    cause = details.rpartition("last error: ")[2][:150] or code
    return f"no Ray cluster answers at {address} ({cause}); start one, or leave --address out"


def _nodes() -> tuple[Node, ...]:
    import ray

    return tuple(
        Node(
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            memory_bytes=int(node["Resources"].get("memory", 0)),
            kind=node["Labels"].get("ray.io/node-group", ""),
        )
        for node in ray.nodes()
        if node["Alive"]
    )


def _autoscaler() -> tuple[Autoscaler | None, bool]:
    """The cluster's autoscaler, and whether its limits are known. Ray's API does not tell: the head's monitor does."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_get
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    address = ray.get_runtime_context().gcs_address
    head = next((n["NodeID"] for n in ray.nodes() if n["Alive"] and "node:__internal_head__" in n["Resources"]), None)
    if head is None:
        return None, False
    there = NodeAffinitySchedulingStrategy(head, soft=False)
    text = ray.get(ray.remote(_autoscaler_file).options(num_cpus=0, scheduling_strategy=there).remote(address))
    if text is None:
        # No monitor on the head, yet reports of one: the autoscaler runs elsewhere, as KubeRay's does.
        return None, not _internal_kv_get("__autoscaling_status")
    return (read_autoscaler(yaml.safe_load(text)) if text else None), True


def _autoscaler_file(address: str) -> str | None:
    """Runs on the head: the autoscaler's file; "" where Ray was started without one; None where no monitor runs.

    `address`: of the cluster's GCS, since a machine may be the head of several clusters.
    """
    import psutil

    found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    monitors = [words for words in found if any(w.endswith(("_private/monitor.py", "v2/monitor.py")) for w in words)]
    ours = [words for words in monitors if f"--gcs-address={address}" in words] or monitors[:1]
    for words in ours:
        given = [word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")]
        return Path(given[0]).expanduser().read_text() if given and given[0] else ""
    return None


def read_autoscaler(tree: dict[str, Any]) -> Autoscaler:
    """The limits that a Ray cluster file sets."""
    total = int(tree.get("max_workers", 0))
    kinds = []
    for name, spec in tree.get("available_node_types", {}).items():
        if name != tree.get("head_node_type"):
            has = spec.get("resources", {})
            node = Node(has.get("CPU", 0), has.get("GPU", 0), int(has.get("memory", 0)), name)
            kinds.append((node, int(spec.get("max_workers", total))))
    return Autoscaler(total, tuple(kinds))


def _url(dashboard: str | None) -> str | None:
    return f"http://{dashboard}" if dashboard else None


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for old in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
            logger.removeHandler(old)
            old.close()
        logger.setLevel(logging.INFO)
    # One handler at the root of Ray's loggers: the others pass their messages up to it.
    logging.getLogger("ray").addHandler(handler)
    logging.getLogger("ray").propagate = False


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Runs its body without these environment variables."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


# ------------------------------------------------------------------------------------------------- a distant cluster


def submit(sweep_path: Path | str, address: str, overrides: Sequence[str] = (), storage: str | None = None) -> str:
    """Hands `raycodellm run` to the cluster whose dashboard is at `address` (http://head:8265); returns the job's id.

    The sweep file's folder travels with it (its files are found by relative paths); raycodellm itself must be
    installed on the cluster. `storage` should be a place that every node sees, such as s3://.
    """
    path = Path(sweep_path).resolve()
    name = config.load(path, tuple(overrides)).example().name
    folder = path.parent
    if folder in (Path.home(), Path(folder.anchor), Path(tempfile.gettempdir())):
        raise UserError(f"{path}: all of {folder} would be sent to the cluster; move the file to a folder of its own")
    if not address.startswith(("http://", "https://")):
        raise UserError(f"--address {address}: submit talks to the dashboard; give http://<head node>:8265")
    if storage and "://" not in storage and not storage.startswith(("/", "~")):
        raise UserError(f"--storage {storage}: the job runs elsewhere; give a full path or an s3:// address")
    words = ["raycodellm", "run", path.name]
    words += ["--storage", storage] if storage else []
    words += [word for override in overrides for word in ("--set", override)]
    # Ray lets these two overrule the address that was given.
    with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        client = _client(address, "submit the sweep")
        return _patiently(
            lambda: client.submit_job(
                entrypoint=shlex.join(words),
                metadata={"job_name": name},
                runtime_env={"working_dir": str(folder), "excludes": [".git", ".venv", "**/__pycache__"]},
            )
        )


def _patiently(submit_job: Callable[[], str]) -> str:
    """A cluster that has just started takes jobs some seconds later, when its agents are up."""
    until = time.monotonic() + SUBMIT_SECONDS
    while True:
        try:
            return submit_job()
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(2.0)


def how_to_follow(address: str, job_id: str) -> str:
    """For a terminal: how to watch the job, and how to stop it."""
    where = f"--address {shlex.quote(address)}"
    return f"follow: ray job logs --follow {where} {job_id}\nstop:   ray job stop {where} {job_id}"


def _client(address: str, purpose: str) -> Any:
    token_file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    # Ray's client sends a token only when told to before Ray is imported; told later, half of it would follow.
    if "ray" not in sys.modules and ("RAY_AUTH_TOKEN" in os.environ or token_file.exists()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (AuthenticationError, ConnectionError, RuntimeError, OSError) as error:
        token = "401" in str(error) or "token" in str(error).lower()
        hint = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if token else "is its dashboard there, and reachable?"
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot {purpose} to the Ray cluster at {address}: {reason}; {hint}") from error


def validate_cluster_file(path: Path | str) -> list[str]:
    """What is wrong with a Ray cluster file, by Ray's own rules; empty when `ray up` would take it. Needs no cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        validate_config(prepare_config(tree))
    except Exception as error:  # Ray raises KeyError, ValueError, jsonschema's and click's errors here
        return [f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}"]
    head = tree["available_node_types"][tree["head_node_type"]]
    problems = []
    if head.get("resources", {}).get("GPU"):
        problems.append(f"{tree['head_node_type']}: the head node has a GPU, which is paid for while nothing trains")
    return problems
