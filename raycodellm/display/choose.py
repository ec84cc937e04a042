"""Chooses the display that suits an output."""

from __future__ import annotations

from typing import TextIO

from raycodellm.display.base import Display, Shown
from raycodellm.display.lines import LineDisplay
from raycodellm.display.live import LiveDisplay, NotebookDisplay
from raycodellm.display.redirect import is_notebook


def display_on(output: TextIO, shown: Shown) -> Display:
    """A display that is drawn anew on a terminal and in a notebook, and lines for a file, a pipe or a dumb terminal."""
    if is_notebook(output):
        return NotebookDisplay(output, shown)
    display = LiveDisplay(output, shown) if output.isatty() else None
    return display if display is not None and not display.console.is_dumb_terminal else LineDisplay(output, shown)
