"""`raycodellm check`: what a sweep would do, without starting anything."""

from raycodellm.check.describe import Asked, describe, left_out
from raycodellm.check.plan import SizedCorpus, first_arms, items_of, planned

__all__ = ["Asked", "SizedCorpus", "describe", "first_arms", "items_of", "left_out", "planned"]
