"""Tables that several commands show: built once as plain rows, then rendered for a terminal, Markdown or HTML."""

from raycodellm.tables.scores import remarks, score_table, side_by_side
from raycodellm.tables.sharing import Sharing, SharingSoFar, StageUse, sharing, sharing_sentence, stage_use
from raycodellm.tables.stage_tree import StageNode, stage_tree
from raycodellm.tables.table import Cell, Table
from raycodellm.tables.terminal import fitted, table_lines, tree_lines
from raycodellm.tables.trials import trials_table

__all__ = [
    "Cell",
    "Sharing",
    "SharingSoFar",
    "StageNode",
    "StageUse",
    "Table",
    "fitted",
    "remarks",
    "score_table",
    "sharing",
    "sharing_sentence",
    "side_by_side",
    "stage_tree",
    "stage_use",
    "table_lines",
    "tree_lines",
    "trials_table",
]
