"""Warm slots: long Ray Train worker groups that take job after job from one dispatcher. The only door to `ray.train`.

A new worker group costs tens of seconds, the next job in a warm one a fraction of one. The dispatcher is a thin named
actor around `dispatch.Dispatch`. Each slot is one `TorchTrainer.fit()` in a thread of the driver; Ray Train restarts
its workers when they die, and the restarted loop takes the job again from its newest checkpoint. Workers that are told
to leave (a node that will be taken away, SIGTERM) save their stage at once and give it back.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycodellm.slots.dispatcher import Dispatcher, Snapshot, start_dispatcher
    from raycodellm.slots.pool import THREAD_PREFIX, SlotPool, threads_left, trainer
    from raycodellm.slots.worker import DispatcherClient, run_evaluation, run_job, slot_loop

__all__ = [
    "THREAD_PREFIX",
    "Dispatcher",
    "DispatcherClient",
    "SlotPool",
    "Snapshot",
    "run_evaluation",
    "run_job",
    "slot_loop",
    "start_dispatcher",
    "threads_left",
    "trainer",
]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, and no more: the dispatcher's process needs no torch, which takes 1.3 s of a core."""
    for module in ("dispatcher", "pool", "worker"):
        if name in __all__ and name in vars(found := importlib.import_module(f"{__name__}.{module}")):
            return vars(found)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
