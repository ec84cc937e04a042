"""The verdict: which arms are confirmed with fresh seeds, and what is known of them against the reference."""

from raycodellm.verdict.arms import reference_arm
from raycodellm.verdict.comparison import Verdict, Word
from raycodellm.verdict.looks import Looks, PendingTrial, looks
from raycodellm.verdict.measurements import ItemTable

__all__ = ["ItemTable", "Looks", "PendingTrial", "Verdict", "Word", "looks", "reference_arm"]
