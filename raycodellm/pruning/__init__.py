"""Finds the parts of a storage that no kept sweep needs, and deletes them without harm to any other sweep."""

from raycodellm.pruning.deletion import Deleted, carry_out
from raycodellm.pruning.holding import held
from raycodellm.pruning.listing import DELETER, Listing, list_storage
from raycodellm.pruning.look import Look, look
from raycodellm.pruning.needs import Needs, read_needs
from raycodellm.pruning.plan import GRACE_HOURS, Asked, Item, Plan, decide
from raycodellm.pruning.words import document, lines, printable, size

__all__ = [
    "DELETER",
    "GRACE_HOURS",
    "Asked",
    "Deleted",
    "Item",
    "Listing",
    "Look",
    "Needs",
    "Plan",
    "carry_out",
    "decide",
    "document",
    "held",
    "lines",
    "list_storage",
    "look",
    "printable",
    "read_needs",
    "size",
]
