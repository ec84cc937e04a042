"""Joining a cluster that runs already: its address, its nodes, and what its autoscaler may add."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from raycodellm.cluster.capacity import Autoscaler, Node, read_autoscaler
from raycodellm.cluster.environment import ENVIRONMENT
from raycodellm.config import UserError

CONNECT_SECONDS = 5.0


def join(address: str) -> Any:
    """Ray's context. Raises `UserError` naming the address when there is no such cluster."""
    _check_address(address)
    import ray

    try:
        return ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            # Processes of a cluster that somebody else started do not inherit this process's environment.
            runtime_env={"env_vars": {name: os.environ[name] for name in ENVIRONMENT}},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:  # among them another version of Ray or Python
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"cannot join a Ray cluster at {address}: {reason}; is it running?") from error


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


def nodes() -> tuple[Node, ...]:
    """Those that are alive."""
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


def autoscaler() -> tuple[Autoscaler | None, bool]:
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
