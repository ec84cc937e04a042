"""Looks at a cluster's nodes from inside: versions, this package, and whether all nodes see one storage.

`submit` sends this file alone to the cluster and runs it there as a short job, so it needs nothing but Ray.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

PREFIX = "RAYCODELLM_PROBE "
"""Begins the line of a job's output that holds the answer, as JSON."""
MOST_NODES = 8
"""Nodes that are asked, the head among them and of each kind of node at least one."""
ANSWER_SECONDS = 60.0
"""How long the nodes may take to answer together: a new process starts on each."""
SEEN_SECONDS = 5.0
"""How long a network's file system may take to show a new file on another node."""
_HEAD = "node:__internal_head__"


def package_digest(folder: str) -> str:
    """Hash of the names and contents of a package's files, without compiled ones and hidden ones."""
    digest = hashlib.blake2b(digest_size=16)
    for directory, subfolders, files in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if name != "__pycache__" and not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".pyc") or name.startswith("."):
                continue
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                digest.update(f"{os.path.relpath(path, folder)}\0".encode() + hashlib.blake2b(file.read()).digest())
    return digest.hexdigest()


def look(package: str, requirements: Sequence[str], marker: str | None) -> dict[str, Any]:
    """The view of the calling process on its node. `marker`: a file in the storage, written on the head node."""
    spec = importlib.util.find_spec(package)
    versions: dict[str, str | None] = {}
    for name in (package, *requirements):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "name": platform.node(),
        "python": platform.python_version(),
        "package": package_digest(os.path.dirname(spec.origin)) if spec is not None and spec.origin else None,
        "versions": versions,
        "sees_storage": None if marker is None else sees(marker),
    }


def sees(marker: str, seconds: float = SEEN_SECONDS) -> bool:
    """True if this process sees the file and may write beside it."""
    deadline = time.monotonic() + seconds
    while not os.path.exists(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return os.access(os.path.dirname(marker), os.W_OK)


@contextlib.contextmanager
def marker_file(storage: str) -> Any:
    """Yields a new file in the local folder `storage`, to be looked for on other nodes; leaves nothing behind."""
    folder = os.path.abspath(os.path.expanduser(storage))
    is_new = not os.path.exists(folder)
    os.makedirs(folder, exist_ok=True)
    marker = os.path.join(folder, f".raycodellm-{uuid.uuid4().hex}")
    with open(marker, "w") as file:
        file.write("raycodellm looks from other nodes whether this file is seen there, and deletes it\n")
    try:
        yield marker
    finally:
        os.unlink(marker)
        if is_new:
            with contextlib.suppress(OSError):  # something else has been written there meanwhile
                os.rmdir(folder)


def nodes_to_ask(nodes: Sequence[dict[str, Any]], max_nodes: int = MOST_NODES) -> list[dict[str, Any]]:
    """The living nodes to ask: the head first, then nodes of different kinds before others of the same kind."""
    living = sorted((node for node in nodes if node["Alive"]), key=lambda node: _HEAD not in node["Resources"])
    kinds: dict[Any, int] = {}
    ranked = []
    for node in living:
        shape = {name: value for name, value in node["Resources"].items() if ":" not in name and "memory" not in name}
        kind = (_HEAD in node["Resources"], *sorted(shape.items()))
        ranked.append((kinds.setdefault(kind, 0), node))
        kinds[kind] += 1
    return [node for _, node in sorted(ranked, key=lambda pair: pair[0])[:max_nodes]]


def ask_nodes(package: str, requirements: Sequence[str], marker: str | None) -> list[dict[str, Any]]:
    """The view of a process on each of the chosen nodes, the head first; `error` for a node without an answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = nodes_to_ask(ray.nodes())
    task = ray.remote(look)
    replies = []
    for node in nodes:
        affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        pinned_task = task.options(num_cpus=0, max_retries=0, scheduling_strategy=affinity)
        replies.append(pinned_task.remote(package, list(requirements), marker))
    ray.wait(replies, num_returns=len(replies), timeout=ANSWER_SECONDS)
    answers = []
    for node, reply in zip(nodes, replies, strict=True):
        node_facts = {"address": node["NodeManagerAddress"], "is_head": _HEAD in node["Resources"]}
        try:
            answers.append({**node_facts, **ray.get(reply, timeout=0)})
        except Exception as error:  # no answer in time, or a node that died meanwhile
            answers.append({**node_facts, "error": " ".join(str(error).split())[:200] or type(error).__name__})
    return answers


def main(package: str, requirements: Sequence[str], storage: str | None) -> dict[str, Any]:
    """The answer of the whole cluster. `storage`: a local folder that all nodes should see; None for an address."""
    import ray

    ray.init(address="auto", log_to_driver=False, configure_logging=False)
    cluster_facts = {"ray": ray.__version__, "num_nodes": sum(node["Alive"] for node in ray.nodes())}
    try:
        with marker_file(storage) if storage else contextlib.nullcontext() as marker:
            return {**cluster_facts, "nodes": ask_nodes(package, requirements, marker)}
    except OSError as error:
        return {**cluster_facts, "nodes": ask_nodes(package, requirements, None), "storage_error": str(error)}


if __name__ == "__main__":
    print(PREFIX + json.dumps(main(**json.loads(sys.argv[1]))), flush=True)
