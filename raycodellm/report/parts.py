"""The parts that a page is made of, whichever way it is rendered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar, TypeAlias

from raycodellm.report.figures import Curves, Figure
from raycodellm.tables import StageNode, Table


@dataclass(frozen=True)
class Bars:
    """A bar chart of named values."""

    rows: list[tuple[str, float, str]]
    """Name, length, and the value in words."""
    kind: ClassVar[str] = "bars"


@dataclass(frozen=True)
class Tree:
    """The stage tree."""

    nodes: tuple[StageNode, ...]
    kind: ClassVar[str] = "tree"


@dataclass(frozen=True)
class Code:
    """A text that is shown as it is."""

    text: str
    kind: ClassVar[str] = "code"


Part: TypeAlias = str | Table | Figure | Curves | Tree | Bars | Code
"""A part of a section; a string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading with its parts."""

    title: str
    parts: Sequence[Part]
    note: str = ""
    is_folded: bool = False
    """True if the page hides the section until the reader opens it."""
    is_first: bool = False
    """True for the section beside the answer, on the first screen."""

    @property
    def before_plots(self) -> Sequence[Part]:
        """The sentences before the first plot; the page shows all plots of a section together."""
        return list(takewhile(lambda part: isinstance(part, str), self.parts))

    @property
    def after_plots(self) -> Sequence[Part]:
        """The other parts that are no plots, in their order."""
        rest = self.parts[len(self.before_plots) :]
        return [part for part in rest if not isinstance(part, (Figure, Curves))]

    @property
    def anchor(self) -> str:
        """The section's address inside the page."""
        return "-".join(part for part in re.split(r"[^a-z0-9]+", self.title.lower()) if part)
