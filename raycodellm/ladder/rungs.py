"""The rungs of a ladder: one ordinary sweep for each preset, with the same arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raycodellm import config, model, preflight, search
from raycodellm.config import SweepFile, UserError
from raycodellm.config.errors import suggest

SAME_ARMS = ("grid", "random", "qmc")
"""Samplers whose arms do not depend on scores: from the same file each draws the same arms at every size."""


@dataclass(frozen=True)
class Rung:
    """One size of the ladder."""

    preset: str
    parameters: int
    """Trained parameters of the preset with the sweep's vocabulary; a tied embedding counts once."""
    file: SweepFile
    """The rung's sweep file, an ordinary one."""
    is_open: bool = False
    """True while the smallest size has not chosen the rung's arms: those of `file` are then examples."""

    @property
    def name(self) -> str:
        """Name of the rung's sweep and of its run folder."""
        return self.file.example().name

    @property
    def tokens(self) -> int:
        """Tokens that an arm trains in all its stages, in whole steps; without stages that are skipped in all arms."""
        return sum(stage.num_tokens for stage in self.file.example().trained_stages)


def rungs_of(file: SweepFile) -> tuple[Rung, ...]:
    """The rungs of a ladder's sweep file, from the smallest model to the largest.

    Raises `UserError` where the arms would not be the same at every size, and for whatever a rung's file is refused.
    """
    sweep = file.example()
    if sweep.ladder is None:
        raise UserError(f"{file.origin}: ladder: is missing; give it, for example ladder: {{presets: [tiny, nano]}}")
    carry = sweep.ladder.carry
    if carry is None:
        _require_same_arms(file)
    vocab_size = preflight.vocab_size(sweep)
    sizes = {preset: model.PRESETS[preset].num_parameters(vocab_size) for preset in sweep.ladder.presets}
    found = []
    for place, preset in enumerate(sorted(sizes, key=lambda preset: sizes[preset])):
        carried = config.Carried(carry) if carry is not None and place else None
        rung_file = config.rung_file(file, preset, sizes[preset], carried)
        found.append(Rung(preset, sizes[preset], rung_file, is_open=carried is not None))
    return tuple(found)


def chosen(rungs: Sequence[Rung], preset: str | None) -> tuple[Rung, ...]:
    """The rung of the preset that `--rung` names; all of them for None. Raises `UserError` for another name."""
    if preset is None:
        return tuple(rungs)
    found = tuple(rung for rung in rungs if rung.preset == preset)
    if not found:
        raise UserError(f"--rung {preset}: is no rung of this ladder; {suggest(preset, [one.preset for one in rungs])}")
    return found


def _require_same_arms(file: SweepFile) -> None:
    settings = file.example().search
    if settings.sampler in SAME_ARMS:
        return
    given = search.num_given_arms(file)
    if settings.trials is None or search.num_arms(file) > given:
        raise UserError(
            f"search.sampler: {settings.sampler} chooses other arms at every size, since it learns from scores; use "
            f"sampler: {SAME_ARMS[0]}, {SAME_ARMS[1]} or {SAME_ARMS[2]}, or give all arms by search.enqueue with "
            f"search.trials: {given}, or ladder.carry: 2"
        )
