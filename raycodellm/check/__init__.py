"""`raycodellm check`: what a sweep would do, without starting anything."""

from raycodellm.check.describe import NOTHING_ASKED, Asked, describe, left_out
from raycodellm.check.plan import SizedCorpus, first_arms, items_of, planned, require_enough_tokens

__all__ = [
    "NOTHING_ASKED",
    "Asked",
    "SizedCorpus",
    "describe",
    "first_arms",
    "items_of",
    "left_out",
    "planned",
    "require_enough_tokens",
]
