"""Tables that several commands show: built once as plain rows, then rendered for a terminal, Markdown or HTML."""

from raycodellm.tables.sharing import Sharing, sharing
from raycodellm.tables.stage_tree import StageNode, stage_tree
from raycodellm.tables.table import Table
from raycodellm.tables.terminal import table_lines, tree_lines
from raycodellm.tables.trials import trials_table

__all__ = ["Sharing", "StageNode", "Table", "sharing", "stage_tree", "table_lines", "tree_lines", "trials_table"]
