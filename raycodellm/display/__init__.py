"""The display of a run: a region that is drawn anew on a terminal or in a notebook, lines elsewhere.

While a run goes on, everything that libraries write to standard output and error goes to the run's log file; only a
display writes to the terminal.
"""

from raycodellm.display.base import Display, Shown
from raycodellm.display.choose import display_on
from raycodellm.display.lines import LineDisplay
from raycodellm.display.live import LiveDisplay, region_html, run_region
from raycodellm.display.moment import (
    MOST_JOBS,
    Moment,
    expected_seconds,
    job_line,
    overview,
    slots_line,
    times,
    trial_line,
    whole_seconds,
)
from raycodellm.display.redirect import PIPE_COLUMNS, console, is_notebook, quiet
from raycodellm.display.trials import NEWEST, newest_trials, older_line, rich_table

__all__ = [
    "MOST_JOBS",
    "NEWEST",
    "PIPE_COLUMNS",
    "Display",
    "LineDisplay",
    "LiveDisplay",
    "Moment",
    "Shown",
    "console",
    "display_on",
    "expected_seconds",
    "is_notebook",
    "job_line",
    "newest_trials",
    "older_line",
    "overview",
    "quiet",
    "region_html",
    "rich_table",
    "run_region",
    "slots_line",
    "times",
    "trial_line",
    "whole_seconds",
]
