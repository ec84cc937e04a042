"""Joins a Ray cluster that runs already, and lists its nodes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from raycodellm.cluster.capacity import Node, device_of
from raycodellm.cluster.environment import WORKER_ENVIRONMENT
from raycodellm.cluster.waiting import LiveNode
from raycodellm.config import Scaling, UserError
from raycodellm.slots.head import HEAD_RESOURCE

CONNECT_SECONDS = 5.0
"""Longest wait for the first answer of a head node."""


def join(address: str, metadata: Mapping[str, str] | None = None) -> Any:
    """Ray's context in the cluster at `address`; `metadata` is the job's, which the dashboard tells.

    Raises `UserError` naming the address when no cluster answers.
    """
    _check_address(address)
    import ray
    from ray.job_config import JobConfig

    try:
        return ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            job_config=JobConfig(metadata=dict(metadata or {})),
            # Processes of a cluster that somebody else started do not inherit this process's environment.
            runtime_env={"env_vars": {name: os.environ[name] for name in WORKER_ENVIRONMENT}},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:  # another version of Ray or Python among them
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"cannot join a Ray cluster at {address}: {reason}; is it running?") from error


def _check_address(address: str) -> None:
    """Raises `UserError` for a wrong address within seconds; Ray would try for minutes where another server answers."""
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
    """The message for an address that answered with the gRPC status `code`, with what to do about it."""
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return (
            f"the Ray cluster at {address} wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or the file "
            "~/.ray/auth_token) to what `ray get-auth-token` prints on its head node"
        )
    if code == "UNIMPLEMENTED":
        return f"the server at {address} is no Ray head node; give the host:port that `ray start --head` printed"
    cause = details.rpartition("last error: ")[2][:150] or code
    return f"no Ray cluster answers at {address} ({cause}); start one, or leave --address out"


def nodes() -> tuple[Node, ...]:
    """The living nodes of the cluster that this process is connected to."""
    return tuple(node.total for node in live_nodes())


def live_nodes() -> tuple[LiveNode, ...]:
    """The living nodes with what each has free; without nodes that are about to be taken away."""
    import ray
    from ray._private.state import available_resources_per_node, state

    free, leaving = available_resources_per_node(), state.get_draining_nodes()
    return tuple(
        LiveNode(
            name="the head" if HEAD_RESOURCE in node["Resources"] else node["NodeManagerAddress"],
            total=_node(node["Resources"], node),
            free=_node(free.get(node["NodeID"], {}), node),
        )
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in leaving
    )


def _node(resources: Mapping[str, float], ray_node: Mapping[str, Any]) -> Node:
    kind = "head" if HEAD_RESOURCE in ray_node["Resources"] else ""
    return Node(
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_bytes=int(resources.get("memory", 0)),
        kind=ray_node["Labels"].get("ray.io/node-group", kind),
        device=device_of(resources),
    )


def waits_for_place(scaling: Scaling) -> bool:
    """True if a worker group of this size waits for a place in the cluster."""
    from ray.util import placement_group_table

    worker = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    bundle = {name: amount for name, amount in worker.items() if amount}
    return any(
        group["state"] in ("PENDING", "RESCHEDULING") and list(group["bundles"].values()) == [bundle] * scaling.workers
        for group in placement_group_table().values()
    )
