"""Checks that the nodes of a joined cluster see the storage that the driver writes into."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator

from raycodellm.cluster import probe
from raycodellm.cluster.inspection import not_shared
from raycodellm.config import UserError
from raycodellm.files import Folder, cause


def require_seen(storage: Folder) -> None:
    """Writes a small file here and looks for it from the other nodes. Does nothing on a cluster of one node.

    Raises `UserError` naming a node that does not see the file.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own_node_id = ray.get_runtime_context().get_node_id()
    others = [node for node in probe.nodes_to_ask(ray.nodes()) if node["NodeID"] != own_node_id]
    if not others:
        return
    task = ray.remote(why_unseen)
    with _marker_file(storage) as marker:
        replies = []
        for node in others:
            affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            pinned_task = task.options(num_cpus=0, max_retries=0, scheduling_strategy=affinity)
            replies.append(pinned_task.remote(storage, marker))
        ready_replies, _ = ray.wait(replies, num_returns=len(replies), timeout=probe.ANSWER_SECONDS)
        for node, reply in zip(others, replies, strict=True):
            if reply not in ready_replies:  # a node that is busy or died: its slots will tell
                continue
            try:
                reason = ray.get(reply)
            except ray.exceptions.RayError:
                continue
            if reason is not None:
                raise UserError(not_shared(str(storage), "this node", [node["NodeManagerAddress"]]) + f" ({reason})")


def why_unseen(storage: Folder, marker: str, seconds: float = probe.SEEN_SECONDS) -> str | None:
    """Why this process cannot use the storage, in which another node has written the file `marker`; None if it can."""
    deadline = time.monotonic() + seconds
    try:
        while not storage.exists(marker):
            if time.monotonic() > deadline:
                return "the folder there is another" if storage.exists() else "there is no such folder there"
            time.sleep(0.2)
    except OSError as error:  # no credentials on that node, or no way to the object store
        return cause(error)
    if storage.local is not None and not os.access(storage.local, os.W_OK):
        return "it may not write there"
    return None


@contextlib.contextmanager
def _marker_file(storage: Folder) -> Iterator[str]:
    name = f".raycodellm-{uuid.uuid4().hex}"
    storage.write_bytes(name, b"raycodellm looks from other nodes whether this file is seen there, and deletes it\n")
    try:
        yield name
    finally:
        with contextlib.suppress(OSError):
            storage.delete(name)


def warning(storage: Folder, may_grow: bool) -> str | None:
    """A warning about a local storage on a cluster to which an autoscaler may add nodes."""
    if storage.local is None or not may_grow:
        return None
    return (
        f"storage {storage} is a folder of this node: nodes that the autoscaler adds must see it too, or the run "
        "ends when a slot starts on one that does not"
    )
