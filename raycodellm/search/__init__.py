"""The search: its space, samplers and arms, and the Optuna study that remembers. The only door to `optuna`."""

from raycodellm.search.arms import (
    format_params,
    grid,
    lacking_points,
    named_points,
    num_arms,
    num_given_arms,
    num_trials,
)
from raycodellm.search.confirmation import (
    Phase,
    known_trials,
    most_confirm_trials,
    most_trials,
    num_confirmed,
    phase_of_replicate,
)
from raycodellm.search.constraints import REFERENCE_TRIAL, breach, breaches, limit, require_metrics
from raycodellm.search.enqueued import is_tried
from raycodellm.search.grid_order import trials_at_once
from raycodellm.search.importance import FEWEST_POINTS, importances
from raycodellm.search.journal_repair import Journal, agrees, read_journal, rebuild_journal
from raycodellm.search.objectives import objective_values, rung_values
from raycodellm.search.preview import preview
from raycodellm.search.prior import LEARNING, PriorTrial, whole_point
from raycodellm.search.reference import reference_point
from raycodellm.search.space import distributions, is_relevant
from raycodellm.search.study import Suggestion, SweepStudy

__all__ = [
    "FEWEST_POINTS",
    "LEARNING",
    "REFERENCE_TRIAL",
    "Journal",
    "Phase",
    "PriorTrial",
    "Suggestion",
    "SweepStudy",
    "agrees",
    "breach",
    "breaches",
    "distributions",
    "format_params",
    "grid",
    "importances",
    "is_relevant",
    "is_tried",
    "known_trials",
    "lacking_points",
    "limit",
    "most_confirm_trials",
    "most_trials",
    "named_points",
    "num_arms",
    "num_confirmed",
    "num_given_arms",
    "num_trials",
    "objective_values",
    "phase_of_replicate",
    "preview",
    "read_journal",
    "rebuild_journal",
    "reference_point",
    "require_metrics",
    "rung_values",
    "trials_at_once",
    "whole_point",
]
