"""The dispatcher as its callers see it: a handle of the Ray actor, whose methods answer through `ray.get`."""

from __future__ import annotations

from typing import Any, Protocol


class RemoteMethod(Protocol):
    """A method of an actor."""

    def remote(self, *arguments: Any) -> Any: ...

    def options(self, *, name: str) -> RemoteMethod:
        """This method, whose calls are listed under `name` in the dashboard."""


class DispatcherHandle(Protocol):
    """The methods of `dispatcher.Dispatcher`; see their docstrings for arguments and answers."""

    # asked by itself
    job: RemoteMethod
    # asked by trials
    trial: RemoteMethod
    cancel_trial: RemoteMethod
    # asked by slots
    rung: RemoteMethod
    is_given_up: RemoteMethod
    register: RemoteMethod
    next_job: RemoteMethod
    report: RemoteMethod
    ended: RemoteMethod
    told_to_leave: RemoteMethod
    workers_died: RemoteMethod
    slot_unusable: RemoteMethod
    slot_gone: RemoteMethod
    # asked by the driver
    begin_early_stopping: RemoteMethod
    times: RemoteMethod
    slot_asked_for: RemoteMethod
    demand: RemoteMethod
    see: RemoteMethod
    set_keep_idle: RemoteMethod
    stop: RemoteMethod
    drained: RemoteMethod
    close: RemoteMethod
    fail_all: RemoteMethod
    note: RemoteMethod
    abandon: RemoteMethod
    snapshot: RemoteMethod
