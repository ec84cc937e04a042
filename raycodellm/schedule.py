"""A stage's mixture as a function of its progress, compiled from named shapes, fixed weights or phases.

A `Schedule` holds knots (progress, weight per source). Between two knots the weights stay those of the left knot
(`step`), or move to those of the right knot on a straight line (`linear`) or half a cosine (`cosine`). All results are
exact arithmetic on the knots: `weights_at` gives the mixture at a point, `integral` the tokens per source up to it.
The named shapes are in `config.mixture_shapes`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raycodellm.config import Stage, UserError, code_ratio_curve
from raycodellm.config.stage_settings import check_num_sequences


@dataclass(frozen=True)
class Schedule:
    """Weights over sources along a stage, by knots."""

    progress: tuple[float, ...]
    """Progress of each knot, from 0 to 1, never falling; two knots at one progress make a jump."""
    weights: tuple[tuple[float, ...], ...]
    """One row per knot, one weight per source; each row sums to 1."""
    interpolation: str
    """How the weights move between two knots: step, linear or cosine."""

    def weights_at(self, progress: float | np.ndarray) -> np.ndarray:
        """Weights at `progress` (0..1): shape [sources], or [n, sources] for an array."""
        at = np.atleast_1d(np.asarray(progress, dtype=np.float64))
        segment, fraction = self._segment(at)
        table = np.asarray(self.weights)
        if self.interpolation == "step":
            weights = table[segment]
        else:
            rise = fraction if self.interpolation == "linear" else (1.0 - np.cos(np.pi * fraction)) / 2.0
            weights = table[segment] + (table[segment + 1] - table[segment]) * rise[:, None]
        return weights if np.ndim(progress) else weights[0]

    def integral(self, progress: float | np.ndarray) -> np.ndarray:
        """Share of the stage's tokens that each source has given by `progress`: shape [sources] or [n, sources]."""
        at = np.atleast_1d(np.asarray(progress, dtype=np.float64))
        segment, fraction = self._segment(at)
        whole, slope, bend = self._areas
        shares = whole[segment] + slope[segment] * fraction[:, None]
        if self.interpolation != "step":
            shares += bend[segment] * self._rise(fraction)[:, None]
        return shares if np.ndim(progress) else shares[0]

    def integral_between(self, start: int, stop: int, num_sequences: int) -> np.ndarray:
        """`integral` at the progress n / num_sequences of every n in start..stop: shape [sources, stop - start + 1]."""
        at = np.arange(start, stop + 1) / num_sequences
        whole, slope, bend = (table.T for table in self._areas)
        # The points rise, so each segment holds one slice of them, from the first point at its left knot on.
        edges = [0, *np.searchsorted(at, self.progress[1:-1]), len(at)]
        shares = np.empty((len(whole), len(at)))
        for segment, part in enumerate(itertools.starmap(slice, itertools.pairwise(edges))):
            left, right = self.progress[segment : segment + 2]
            if part.start == part.stop:
                continue
            fraction = np.clip((at[part] - left) / (right - left), 0.0, 1.0)
            np.multiply(slope[:, segment, None], fraction, out=shares[:, part])
            shares[:, part] += whole[:, segment, None]
            if self.interpolation != "step":
                shares[:, part] += bend[:, segment, None] * self._rise(fraction)
        return shares

    @cached_property
    def _areas(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each segment and source: the area before the segment, and the factors of fraction and rise in it."""
        widths, table = np.diff(np.asarray(self.progress))[:, None], np.asarray(self.weights)
        before, after = table[:-1], table[:-1] if self.interpolation == "step" else table[1:]
        # A straight line and half a cosine both have the mean of their ends over a whole segment.
        areas = np.cumsum(widths * (before + after) / 2, axis=0)
        whole = np.concatenate([np.zeros((1, table.shape[1])), areas])
        return whole, widths * before, widths * (after - before)

    def _rise(self, fraction: np.ndarray) -> np.ndarray:
        """Area under the rise from 0 to 1 over a segment, up to `fraction` of it."""
        if self.interpolation == "linear":
            return fraction**2 / 2.0
        return fraction / 2.0 - np.sin(np.pi * fraction) / (2.0 * math.pi)

    def _segment(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Segment number and fraction inside it (0..1) for each progress."""
        knots = np.asarray(self.progress)
        segment = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
        width = knots[segment + 1] - knots[segment]
        return segment, np.clip((at - knots[segment]) / np.where(width > 0, width, 1.0), 0.0, 1.0)


def compile_stage(stage: Stage, kinds_are_code: Mapping[str, bool], num_tokens: Mapping[str, int]) -> Schedule:
    """The schedule of `stage` over its drawn sources, in the order of `kinds_are_code`.

    `num_tokens` (tokens per source) gives the default shares inside each side of the code ratio. Equal mixtures
    compile to equal schedules, however they were written.
    """
    names = list(kinds_are_code)
    if stage.weights is not None:
        row = tuple(stage.weights.get(name, 0.0) for name in names)
        return _simplified([0.0, 1.0], [row, row], "step")
    if stage.phases is not None:
        rows = [tuple(phase.weights.get(name, 0.0) for name in names) for phase in stage.phases]
        return _from_phases([phase.share for phase in stage.phases], rows, stage.interpolation or "step")
    assert stage.code_ratio is not None  # config refuses a stage without any of the three
    inside = within_sides(stage, kinds_are_code, num_tokens)
    progress, ratios, interpolation = code_ratio_curve(stage.schedule or "constant", stage.code_ratio)
    rows = [tuple(inside[n] * (r if kinds_are_code[n] else 1.0 - r) for n in names) for r in ratios]
    return _simplified(progress, rows, interpolation)


def within_sides(stage: Stage, is_code: Mapping[str, bool], num_tokens: Mapping[str, int]) -> dict[str, float]:
    """Share of each source inside its own side (code or not). Each side that has sources sums to 1."""
    shares: dict[str, float] = {}
    for side in (True, False):
        names = [name for name in is_code if is_code[name] == side]
        given_shares = {name: (stage.within or {}).get(name) for name in names}
        if all(share is None for share in given_shares.values()):
            weights = {name: float(num_tokens[name]) for name in names}
        else:
            weights = {name: float(share or 0.0) for name, share in given_shares.items()}
        total = math.fsum(weights.values())
        if names and total <= 0:
            raise UserError(f"stages.{stage.name}.within: the shares of {', '.join(names)} are all 0; give one a share")
        shares.update({name: weights[name] / total for name in names})
    return shares


def _from_phases(shares: Sequence[float], rows: list[tuple[float, ...]], interpolation: str) -> Schedule:
    """The schedule of phases. With `step` each phase keeps its weights; otherwise the weights move from the middle of
    each phase to the middle of the next."""
    edges = [0.0, *(math.fsum(shares[: n + 1]) for n in range(len(shares)))]
    edges[-1] = 1.0
    if interpolation == "step" or len(rows) == 1:
        return _simplified(edges, [*rows, rows[-1]], "step")
    middles = [(left + right) / 2 for left, right in itertools.pairwise(edges)]
    return _simplified([0.0, *middles, 1.0], [rows[0], *rows, rows[-1]], interpolation)


def _simplified(progress: Sequence[float], rows: Sequence[tuple[float, ...]], interpolation: str) -> Schedule:
    """The schedule of these knots, rows normalised and redundant knots left out, so that equal mixtures give equal
    schedules."""
    scaled = [tuple(round(w / math.fsum(row), 12) for w in row) for row in rows]
    if all(row == scaled[0] for row in scaled):
        return Schedule((0.0, 1.0), (scaled[0], scaled[0]), "step")
    keep = [0]
    for index in range(1, len(scaled) - 1):
        redundant = interpolation == "step" and scaled[index] == scaled[keep[-1]]
        if not redundant and progress[index] < 1.0:
            keep.append(index)
    keep.append(len(scaled) - 1)
    if interpolation == "step":  # a step schedule's last row only repeats the one before
        scaled[-1] = scaled[keep[-2]]
    return Schedule(tuple(float(progress[k]) for k in keep), tuple(scaled[k] for k in keep), interpolation)


def phase_edges(stage: Stage, schedule: Schedule) -> tuple[float, ...]:
    """Progress at which each phase of the stage ends, the last 1.0: each of its `phases`, or each step of a stepwise
    shape."""
    if stage.phases is not None:
        return (*itertools.accumulate(phase.share for phase in stage.phases[:-1]), 1.0)
    return (*schedule.progress[1:-1], 1.0) if schedule.interpolation == "step" else (1.0,)


def budgeted(stage: Stage, schedule: Schedule, is_code: Sequence[bool]) -> Stage:
    """The stage with `tokens` as the count of all tokens: an additive budget grows by the code that the schedule adds.

    Raises UserError where an additive budget has no end or makes the stage too long.
    """
    if stage.budget == "competitive":
        return stage
    code_ratio = float(schedule.integral(1.0)[np.asarray(is_code, dtype=bool)].sum())
    if code_ratio > 1.0 - 1e-9:
        raise UserError(
            f"stages.{stage.name}.budget: additive counts the tokens that are not code, and a code ratio of 1 "
            "has none; use a code ratio below 1 or budget: competitive"
        )
    tokens = math.ceil(stage.tokens / (1.0 - code_ratio))
    competitive = stage.model_copy(update={"tokens": tokens, "budget": "competitive"})
    try:
        check_num_sequences(competitive)
    except ValueError as error:
        raise UserError(f"stages.{stage.name}.budget: additive makes {error}") from error
    return competitive


def code_ratio_of(schedule: Schedule, is_code: Sequence[bool]) -> Callable[[float | np.ndarray], np.ndarray]:
    """The planned code ratio as a function of progress (0 to 1, a number or an array)."""
    code = np.asarray(is_code, dtype=bool)
    return lambda progress: schedule.weights_at(progress)[..., code].sum(axis=-1)
