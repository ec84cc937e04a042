"""Another engine that writes answers in the place of this package's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raycodellm.evaluation.engine.decoding import Decoding


class Writer(Protocol):
    """Writes answers of the model that it was opened for."""

    name: str

    def write(self, prompts: Sequence[Sequence[int]], seeds: Sequence[str], decoding: Decoding) -> list[list[int]]:
        """The tokens that follow each prompt, with the one that ends the text. `decoding` is settled (see
        `Decoding.settled`) and has no pattern. An answer ends where the model's context is full."""
