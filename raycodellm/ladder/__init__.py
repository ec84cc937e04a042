"""A ladder: its sizes, which are ordinary sweeps, and what they say together of each effect against size."""

from raycodellm.ladder.carry import with_arms
from raycodellm.ladder.effects import LadderResult, read_result
from raycodellm.ladder.folder import LadderFolder, is_ladder, open_ladder, write_ladder
from raycodellm.ladder.opened import OpenedLadder
from raycodellm.ladder.plan import describe
from raycodellm.ladder.sizes import Size, chosen, sizes_of
from raycodellm.ladder.status import LadderStatus
from raycodellm.ladder.write import summary_text, write_report

__all__ = [
    "LadderFolder",
    "LadderResult",
    "LadderStatus",
    "OpenedLadder",
    "Size",
    "chosen",
    "describe",
    "is_ladder",
    "open_ladder",
    "read_result",
    "sizes_of",
    "summary_text",
    "with_arms",
    "write_ladder",
    "write_report",
]
