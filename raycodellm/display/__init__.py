"""The display of a run: a region that is drawn anew on a terminal or in a notebook, lines elsewhere.

While a run goes on, everything that libraries write to standard output and error goes to the run's log file; only a
display writes to the terminal.
"""

from raycodellm.display.base import Display, Shown
from raycodellm.display.choose import display_on
from raycodellm.display.lines import LineDisplay
from raycodellm.display.live import LiveDisplay, region_html, run_region
from raycodellm.display.moment import Moment, overview, trial_line
from raycodellm.display.redirect import PIPE_COLUMNS, console, in_notebook, quiet
from raycodellm.display.trials import NEWEST, newest_trials, older_line, rich_table

__all__ = [
    "NEWEST",
    "PIPE_COLUMNS",
    "Display",
    "LineDisplay",
    "LiveDisplay",
    "Moment",
    "Shown",
    "console",
    "display_on",
    "in_notebook",
    "newest_trials",
    "older_line",
    "overview",
    "quiet",
    "region_html",
    "rich_table",
    "run_region",
    "trial_line",
]
