"""GPUs that cannot be used are told with the cause and what would help, before anything is started on them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raycodellm.dispatch import DispatchState
from raycodellm.slots.gpus import GpuFacts, gather_facts, gpu_problem

GOOD = GpuFacts(
    torch="2.13.0+cu126",
    cuda="12.6",
    driver="NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03",
    num_gpus=1,
    visible="0",
    name="NVIDIA L4",
    capability="sm_89",
    built_for=("sm_80", "sm_86", "sm_90"),
    has_nccl=True,
)
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"torch": "2.13.0+cpu", "cuda": None}, ["2.13.0+cpu was built for CPUs alone", "install", "gpus_per_worker"]),
        ({"error": TOO_OLD, "num_gpus": 0}, ["560.35.03", "too old", "CUDA 12.6", "newer NVIDIA driver"]),
        ({"error": "no NVIDIA driver", "driver": None, "num_gpus": 0}, ["no NVIDIA driver runs on this node"]),
        ({"error": "CUDA unknown error"}, ["cannot start CUDA", "560.35.03", "CUDA unknown error"]),
        ({"num_gpus": 0, "visible": "7"}, ["sees no GPU", "'7'", "nvidia-smi -L"]),
        ({"capability": "sm_37", "name": "Tesla K80"}, ["Tesla K80 (sm_37)", "sm_80, sm_86, sm_90"]),
        ({"has_nccl": False}, ["no NCCL"]),
    ],
)
def test_gpus_that_cannot_be_used_are_told_with_cause_and_help_in_one_line(changes, said):
    problem = gpu_problem(replace(GOOD, **changes))
    assert "\n" not in problem
    for part in said:
        assert part in problem


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"capability": "sm_120", "built_for": ("sm_80", "compute_90")},  # compiled when it starts
        {"cuda": "6.3", "capability": "", "built_for": ()},  # ROCm
        {"driver": None},  # in a container without /proc/driver
    ],
)
def test_gpus_that_work_are_used(changes):
    assert gpu_problem(replace(GOOD, **changes)) is None


def test_a_process_finds_out_what_it_can_use():
    facts = gather_facts()
    assert facts.torch and (facts.cuda is not None or "CPUs alone" in gpu_problem(facts))


def test_a_first_slot_that_cannot_use_its_gpus_ends_the_run_and_a_later_one_is_only_told():
    made = DispatchState(max_deaths=1)
    made.slot_unusable("slot 1", "no driver")
    assert made.snapshot().abandoned == "no driver"
    made = DispatchState(max_deaths=1)
    made.register("slot 1")
    made.slot_unusable("slot 2", "no driver")
    found = made.snapshot()
    assert found.abandoned is None and found.notes == ("slot 2 cannot work: no driver",)
