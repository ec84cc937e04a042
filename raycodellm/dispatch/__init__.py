"""The dispatcher's decisions as pure logic: which job is ready, which slot takes it, what a death or an end changes.

Nothing here knows of Ray or of files; `slots.dispatcher` wraps a `DispatchState` in an actor.
"""

from raycodellm.dispatch.early_stopping import Contender, Decision, EarlyStopping
from raycodellm.dispatch.jobs import Ending, JobNode, JobTree, TrialFailed, TrialOutcome
from raycodellm.dispatch.names import job_call, trial_actor, trial_call
from raycodellm.dispatch.placement import Action, Demand, PlacementWatch
from raycodellm.dispatch.remaining import RemainingWork, seconds_left
from raycodellm.dispatch.slot import Slot, SlotState
from raycodellm.dispatch.snapshot import Sight, SlotActivity, SlotView, Snapshot
from raycodellm.dispatch.state import DispatchState, JobEnd

__all__ = [
    "Action",
    "Contender",
    "Decision",
    "Demand",
    "DispatchState",
    "EarlyStopping",
    "Ending",
    "JobEnd",
    "JobNode",
    "JobTree",
    "PlacementWatch",
    "RemainingWork",
    "Sight",
    "Slot",
    "SlotActivity",
    "SlotState",
    "SlotView",
    "Snapshot",
    "TrialFailed",
    "TrialOutcome",
    "job_call",
    "seconds_left",
    "trial_actor",
    "trial_call",
]
