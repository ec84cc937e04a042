"""Checks that a worker can use the GPUs that Ray gave it, before Ray Train starts NCCL on them, and says why not.

Ray hands out GPUs by number, and never looks at torch or at the driver.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycodellm.slots.handle import DispatcherHandle

CPU_INSTEAD = "or set scaling.gpus_per_worker to 0 to train on CPUs"
_DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class GpuFacts:
    """The facts about GPUs that a worker's process finds on its node."""

    torch: str
    """Version of torch, such as "2.13.0+cpu"."""
    cuda: str | None = None
    """Version of CUDA, or of ROCm, that torch was built for; None if it was built for CPUs alone."""
    driver: str | None = None
    """First line of the NVIDIA driver's account of its version; None without a driver."""
    error: str | None = None
    """Why torch could not start CUDA."""
    num_gpus: int = 0
    """GPUs that torch sees."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES, which Ray sets for the worker."""
    name: str = ""
    """Name of the first GPU."""
    capability: str = ""
    """Architecture of the first GPU, such as sm_89."""
    built_for: tuple[str, ...] = ()
    """Architectures that torch was built for."""
    has_nccl: bool = False


def gpu_problem(facts: GpuFacts) -> str | None:
    """Why a worker with these facts cannot use its GPUs, and what would help; None if it can."""
    if facts.cuda is None:
        return (
            f"torch {facts.torch} was built for CPUs alone; install a torch built for CUDA on every node "
            f"(https://pytorch.org/get-started/locally has the command), {CPU_INSTEAD}"
        )
    torch_build = f"torch {facts.torch}, built for CUDA {facts.cuda}"
    if facts.error is not None and "too old" in facts.error:
        return (
            f"the driver ({facts.driver or 'its version is not known'}) is too old for {torch_build}; install a newer "
            f"NVIDIA driver, or a torch built for an older CUDA; torch says: {facts.error}"
        )
    if facts.driver is None and not facts.num_gpus:
        return f"no NVIDIA driver runs on this node, which {torch_build}, needs; install one, {CPU_INSTEAD}"
    if facts.error is not None:
        return f"{torch_build}, cannot start CUDA with the driver {facts.driver}: {facts.error}"
    if not facts.num_gpus:
        return (
            f"torch sees no GPU where CUDA_VISIBLE_DEVICES is {facts.visible!r}; start Ray with as many GPUs as the "
            f"node has (`nvidia-smi -L` lists them), {CPU_INSTEAD}"
        )
    if facts.capability and facts.built_for and not _is_built_for(facts.capability, facts.built_for):
        return (
            f"{facts.name} ({facts.capability}) is none of the GPUs of {torch_build} for {', '.join(facts.built_for)}; "
            "use another kind of node, or another build of torch"
        )
    if not facts.has_nccl:
        return f"{torch_build}, has no NCCL, with which its workers speak to each other; install a torch that has it"
    return None


def _is_built_for(capability: str, built_for: tuple[str, ...]) -> bool:
    """True if the GPU runs machine code of its own major version, no newer than itself, or any compiled at run time."""
    digits = "".join(filter(str.isdigit, capability))
    major, minor = int(digits[:-1] or 0), int(digits[-1:] or 0)
    for architecture in built_for:
        kind, _, version = architecture.partition("_")
        number = "".join(filter(str.isdigit, version))
        if not number:
            return True  # ROCm's names (gfx90a) are compared by torch itself
        runs_same_major = int(number[:-1] or 0) == major and int(number[-1]) <= minor
        if runs_same_major or (kind == "compute" and int(number) <= int(digits)):
            return True
    return False


def gather_facts() -> GpuFacts:
    """The facts of this process. Starts CUDA, where there is one."""
    import torch

    driver = _DRIVER_FILE.read_text().splitlines()[0] if _DRIVER_FILE.exists() else None
    cuda = torch.version.cuda or getattr(torch.version, "hip", None)
    facts: dict[str, Any] = {"torch": torch.__version__, "cuda": cuda, "driver": driver}
    facts["visible"] = os.environ.get("CUDA_VISIBLE_DEVICES")
    if cuda is None:
        return GpuFacts(**facts)
    try:
        torch.cuda.init()
        facts["num_gpus"] = torch.cuda.device_count()
        facts["name"] = torch.cuda.get_device_name(0)
        if torch.version.cuda:
            facts["capability"] = "sm_{}{}".format(*torch.cuda.get_device_capability(0))
            facts["built_for"] = tuple(torch.cuda.get_arch_list())
    except (RuntimeError, AssertionError) as error:
        facts["error"] = " ".join(str(error).split())
    facts["has_nccl"] = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    return GpuFacts(**facts)


def gpu_callback(slot: str, dispatcher: DispatcherHandle) -> Any:
    """A Ray Train callback: each worker looks at its GPUs before NCCL is started, and a problem ends the run."""
    # Private, and the only hook of Ray Train that runs on the workers before NCCL is started.
    from ray.train.v2._internal.execution.callback import WorkerCallback

    class LookAtGpus(WorkerCallback):
        def after_init_train_context(self) -> None:
            problem = gpu_problem(gather_facts())
            if problem is not None:
                problem = f"node {platform.node()}: its GPUs cannot be used: {problem}"
                dispatcher.slot_unusable.remote(slot, problem)
                raise RuntimeError(problem)

    return LookAtGpus()
