"""The dispatcher's decisions as pure logic: which job is ready, which slot takes it, what a death or an end changes.

Nothing here knows of Ray or of files; `slots.dispatcher` wraps a `DispatchState` in an actor.
"""

from raycodellm.dispatch.jobs import JobNode, JobTree, TrialOutcome
from raycodellm.dispatch.slot import Slot, SlotState
from raycodellm.dispatch.state import DispatchState, JobEnd, Snapshot

__all__ = ["DispatchState", "JobEnd", "JobNode", "JobTree", "Slot", "SlotState", "Snapshot", "TrialOutcome"]
