"""The sizes of a ladder: one ordinary sweep for each preset, with the same arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raycodellm import config, model, preflight, search
from raycodellm.config import SweepFile, UserError
from raycodellm.config.errors import suggest

SAME_ARMS = ("grid", "random", "qmc")
"""Samplers whose arms do not depend on scores: from the same file each draws the same arms at every size."""


@dataclass(frozen=True)
class Size:
    """One size of the ladder."""

    preset: str
    parameters: int
    """Trained parameters of the preset with the sweep's vocabulary; a tied embedding counts once."""
    file: SweepFile
    """The size's sweep file, an ordinary one."""
    is_open: bool = False
    """True while the smallest size has not chosen the size's arms: those of `file` are then examples."""

    @property
    def name(self) -> str:
        """Name of the size's sweep and of its run folder."""
        return self.file.example().name

    @property
    def tokens(self) -> int:
        """Tokens that an arm trains in all its stages, in whole steps; without stages that are skipped in all arms."""
        return sum(stage.num_tokens for stage in self.file.example().trained_stages)


def sizes_of(file: SweepFile) -> tuple[Size, ...]:
    """The sizes of a ladder's sweep file, from the smallest model to the largest.

    Raises `UserError` where the arms would not be the same at every size, and for whatever a size's file is refused.
    """
    sweep = file.example()
    if sweep.ladder is None:
        raise UserError(f"{file.origin}: ladder: is missing; give it, for example ladder: {{presets: [tiny, nano]}}")
    carry = sweep.ladder.carry
    if carry is None:
        _require_same_arms(file)
    vocab_size = preflight.vocab_size(sweep)
    parameters = {preset: model.PRESETS[preset].num_parameters(vocab_size) for preset in sweep.ladder.presets}
    sizes = []
    for index, preset in enumerate(sorted(parameters, key=lambda preset: parameters[preset])):
        carried = config.Carried(carry) if carry is not None and index else None
        size_file = config.size_file(file, preset, parameters[preset], carried)
        sizes.append(Size(preset, parameters[preset], size_file, is_open=carried is not None))
    return tuple(sizes)


def chosen(sizes: Sequence[Size], preset: str | None) -> tuple[Size, ...]:
    """The size of the preset that `--size` names; all of them for None. Raises `UserError` for another name."""
    if preset is None:
        return tuple(sizes)
    matches = tuple(size for size in sizes if size.preset == preset)
    if not matches:
        raise UserError(
            f"--size {preset}: is no size of this ladder; {suggest(preset, [size.preset for size in sizes])}"
        )
    return matches


def _require_same_arms(file: SweepFile) -> None:
    settings = file.example().search
    if settings.sampler in SAME_ARMS:
        return
    num_given = search.num_given_arms(file)
    if settings.trials is None or search.num_arms(file) > num_given:
        raise UserError(
            f"search.sampler: {settings.sampler} chooses other arms at every size, since it learns from scores; use "
            f"sampler: {SAME_ARMS[0]}, {SAME_ARMS[1]} or {SAME_ARMS[2]}, or give all arms by search.enqueue with "
            f"search.trials: {num_given}, or ladder.carry: 2"
        )
