"""Looks at a cluster's nodes by a short job on them, and decides what follows for a submitted sweep."""

from __future__ import annotations

import json
import platform
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raycodellm.cluster import own_package, probe
from raycodellm.cluster.job_client import Job, Jobs
from raycodellm.cluster.sent_files import SentFiles, write_archive
from raycodellm.config import UserError
from raycodellm.version import __version__

PACKAGE_MODES = ("auto", "send", "installed")
"""Values of `submit --package`."""
WHAT_WORKS = (
    "give --storage a folder of a file system that every node mounts (NFS, EFS, Filestore), or an address such as "
    "s3://bucket/folder"
)


@dataclass(frozen=True)
class NodeAnswer:
    """The answer of one node."""

    address: str
    is_head: bool
    error: str | None = None
    """Why the node gave no answer."""
    python: str = ""
    package: str | None = None
    """Hash of the package's files on the node; None without the package."""
    versions: Mapping[str, str | None] | None = None
    """Package -> its version on the node; None if it is missing."""
    sees_storage: bool | None = None
    """True if the node sees the storage; None where that was not asked."""


@dataclass(frozen=True)
class Inspection:
    """The answers of a cluster's nodes, the head's first."""

    ray: str
    num_nodes: int
    nodes: tuple[NodeAnswer, ...]
    storage_error: str | None = None
    """Why the head node cannot write into the storage."""

    @property
    def answering(self) -> tuple[NodeAnswer, ...]:
        return tuple(node for node in self.nodes if node.error is None)


@dataclass(frozen=True)
class PackagePlan:
    """How a job comes by the package."""

    is_sent: bool
    pip: tuple[str, ...]
    """Packages that each node installs for the job, once."""
    sentence: str
    """The plan in words, for the user."""


def inspect(jobs: Jobs, storage: str, say: Callable[[str], None]) -> Inspection:
    """Runs the probe on the cluster as a job. `storage`: as on the command line; local folders are looked for.

    Raises `UserError` where the head node cannot run the probe.
    """
    names = [requirement.name for requirement in own_package.requirements()]
    probe_arguments = {
        "package": own_package.NAME,
        "requirements": names,
        "storage": None if "://" in storage.removeprefix("file://") else storage.removeprefix("file://"),
    }
    script = Path(probe.__file__)
    with tempfile.TemporaryDirectory(prefix="raycodellm-") as scratch:
        archive = Path(scratch) / "probe.zip"
        write_archive(SentFiles(script.name, ((script, script.name),)), archive)
        job_id = jobs.submit(
            shlex.join(["python", script.name, json.dumps(probe_arguments)]),
            {"job_name": "raycodellm looks at the nodes"},
            {"working_dir": str(archive)},
        )

    def say_wait(job: Job, seconds: float) -> None:
        say(f"waiting for the cluster's nodes to tell what they have, {seconds:.0f} s so far: {job.message}")

    try:
        job = jobs.wait(job_id, lambda job: job.has_ended, say_wait)
    except BaseException:
        jobs.stop(job_id)
        raise
    return read_answer(jobs.output(job_id), job)


def read_answer(output: str, job: Job) -> Inspection:
    """The answer in a probe's output. Raises `UserError` with the end of the output where it holds none."""
    line = next((line for line in output.splitlines() if line.startswith(probe.PREFIX)), None)
    if line is None:
        last_line = (output.strip().splitlines() or [job.message.strip() or job.status])[-1][:200]
        hint = ""
        if "not found" in last_line or "No module named" in last_line:
            hint = (
                "; `python` there must be the one that Ray was installed into: start Ray with that environment active"
            )
        raise UserError(
            f"the cluster could not be looked at, which a short job on its head node does: {last_line}{hint}"
        )
    answer: dict[str, Any] = json.loads(line.removeprefix(probe.PREFIX))
    node_fields = NodeAnswer.__dataclass_fields__
    nodes = tuple(NodeAnswer(**{key: node[key] for key in node if key in node_fields}) for node in answer.pop("nodes"))
    if all(node.error is not None for node in nodes):
        raise UserError(f"no node of the cluster can run a task: {nodes[0].error if nodes else 'there is none'}")
    return Inspection(nodes=nodes, **answer)


def require_same_versions(
    inspection: Inspection, ray_version: str, python_version: str = platform.python_version()
) -> None:
    """Raises `UserError` where the cluster's Ray or Python is another than here."""
    if inspection.ray != ray_version:
        raise UserError(
            f"the cluster runs Ray {inspection.ray}, and Ray {ray_version} is installed here; install the cluster's "
            "version here, or start the cluster with this one"
        )
    for node in inspection.answering:
        if _minor(node.python) != _minor(python_version):
            raise UserError(
                f"node {node.address} runs Python {node.python}, and this is Python {python_version}; use Python "
                f"{_minor(node.python)} here, or an image with {_minor(python_version)} on the nodes"
            )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def require_shared_storage(inspection: Inspection, storage: str) -> None:
    """Raises `UserError` where a node does not see what the head node writes into the local folder `storage`."""
    head = next((node.address for node in inspection.nodes if node.is_head), "the head node")
    if inspection.storage_error is not None:
        raise UserError(
            f"--storage {storage}: the head node {head} cannot write there ({inspection.storage_error[:160]})"
        )
    blind_addresses = [node.address for node in inspection.answering if node.sees_storage is False]
    if blind_addresses:
        raise UserError(not_shared(storage, f"the head node {head}", blind_addresses))


def not_shared(storage: str, writer: str, blind: Sequence[str]) -> str:
    """The refusal of a storage in which the node `writer` writes, and that the nodes `blind` do not see."""
    subject = f"node {blind[0]} does" if len(blind) == 1 else f"nodes {', '.join(blind[:3])} do"
    return f"--storage {storage}: {subject} not see what {writer} writes there; {WHAT_WORKS}"


def storage_warning(inspection: Inspection, storage: str) -> str | None:
    """A warning about a local storage on a cluster whose only node is the head: nodes may join."""
    if "://" in storage or inspection.num_nodes > 1:
        return None
    return f"storage {storage} is a folder of the head node: nodes that join the cluster must see it too"


def package_plan(inspection: Inspection, mode: Literal["auto", "send", "installed"] | str) -> PackagePlan:
    """How the job comes by the package. Raises `UserError` where the nodes must have it and do not."""
    requirements = [requirement for requirement in own_package.requirements() if requirement.name != "ray"]
    unmet_by_address = {
        node.address: own_package.unmet(requirements, node.versions or {}) for node in inspection.answering
    }
    unmet_by_address = {address: names for address, names in unmet_by_address.items() if names}
    with_package = [node for node in inspection.answering if node.package is not None]
    addresses_without = [node.address for node in inspection.answering if node.package is None]
    if mode == "installed":
        if addresses_without:
            raise UserError(f"--package installed: node {addresses_without[0]} has no raycodellm; use --package auto")
        if unmet_by_address:
            address, names = next(iter(unmet_by_address.items()))
            raise UserError(f"--package installed: node {address} lacks {', '.join(names[:4])}; use --package auto")
        versions = sorted({str((node.versions or {}).get(own_package.NAME)) for node in with_package})
        return PackagePlan(False, (), f"the nodes have raycodellm {', '.join(versions)}")
    pip = tuple(own_package.pins(requirements)) if unmet_by_address else ()
    is_same_package = not addresses_without and all(node.package == own_package.digest() for node in with_package)
    if mode == "auto" and is_same_package and not pip:
        return PackagePlan(False, (), f"the nodes have this raycodellm {__version__}")
    sentence = f"raycodellm {__version__} goes along"
    if mode == "auto" and with_package and not addresses_without:
        sentence += ", since the nodes have another"
    if unmet_by_address:
        address, names = next(iter(unmet_by_address.items()))
        sentence += (
            f"; each node installs {len(pip)} packages for it once, which takes minutes: {address} lacks "
            f"{', '.join(names[:3])}{' …' if names[3:] else ''}"
        )
    return PackagePlan(True, pip, sentence)
