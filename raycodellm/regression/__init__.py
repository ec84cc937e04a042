"""Mixture regression: the score of an arm as a function of its mixture and its other searched parameters.

Pure: decides from plain values which form fits, what is predicted with which interval, and where the best lies.
"""

from raycodellm.regression.conformal import conformal_interval
from raycodellm.regression.crossval import CrossValidated, choose_form
from raycodellm.regression.design import KINDS, design, information
from raycodellm.regression.document import Optimum, Suggested, SuggestedPoint, read_suggested, write_suggested
from raycodellm.regression.encoding import Encoding
from raycodellm.regression.forms import CONSTANT
from raycodellm.regression.measured import MeasuredArm, measured_means, predicted_beside_measured, seed_spread
from raycodellm.regression.posterior import Band, Posterior, SeedSpread
from raycodellm.regression.suggestion import ALL_FORMS, HELD, LEVEL, Suggestion, arms_needed, suggestion
from raycodellm.regression.what_if import Curve, Interaction, WhatIf
from raycodellm.regression.yaml_points import as_enqueue

__all__ = [
    "ALL_FORMS",
    "CONSTANT",
    "HELD",
    "KINDS",
    "LEVEL",
    "Band",
    "CrossValidated",
    "Curve",
    "Encoding",
    "Interaction",
    "MeasuredArm",
    "Optimum",
    "Posterior",
    "SeedSpread",
    "Suggested",
    "SuggestedPoint",
    "Suggestion",
    "WhatIf",
    "arms_needed",
    "as_enqueue",
    "choose_form",
    "conformal_interval",
    "design",
    "information",
    "measured_means",
    "predicted_beside_measured",
    "read_suggested",
    "seed_spread",
    "suggestion",
    "write_suggested",
]
