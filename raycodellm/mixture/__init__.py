"""The mixture of a stage as a plan: which sequence of which source stands at position i of the stage's data.

The plan is a pure function of the schedule, the seed and the place where the parent stage stopped in each source. Every
prefix of it is within one sequence of the schedule, for each source. `plan` joins the order of sources (`order`, worked
out by `deadlines`) and the order of sequences inside a source (`shuffle`).
"""

from raycodellm.mixture.order import endless_positions, planned_sequences, rounded_sequences
from raycodellm.mixture.plan import Plan, PlanRows, make_plan, planned_by_phase
from raycodellm.mixture.shuffle import permute, shuffled

__all__ = [
    "Plan",
    "PlanRows",
    "endless_positions",
    "make_plan",
    "permute",
    "planned_by_phase",
    "planned_sequences",
    "rounded_sequences",
    "shuffled",
]
