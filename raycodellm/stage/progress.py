"""Reports of a stage's progress, on rank 0, about once a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from raycodellm.engine import StepResult, World
from raycodellm.mixture import Plan
from raycodellm.records import Progress, StageJob
from raycodellm.stage import metrics
from raycodellm.stage.metrics import Tally, ratio

_REPORT_SECONDS = 1.0


class ProgressReporter:
    """Tells `on_progress` how far the stage is; does nothing on other ranks than 0."""

    def __init__(self, job: StageJob, world: World, plan: Plan, on_progress: Callable[[Progress], None]) -> None:
        self._job, self._world, self._plan, self._on_progress = job, world, plan, on_progress
        self._reported = time.monotonic() - _REPORT_SECONDS  # so that the first step is reported at once
        self._tokens_reported = 0
        self._kept_step = 0

    def say(self, note: str, tally: Tally | None = None) -> None:
        """Reports a note for the user; `tally` is empty when left out."""
        if self._world.rank == 0:
            self._on_progress(self._progress(tally or Tally.empty(len(self._job.sources)), note))

    def report_kept(self, tally: Tally) -> None:
        """Reports that the state after this step is kept for other stages."""
        self._kept_step = tally.step
        self.say("", tally)

    def restart(self, tally: Tally) -> None:
        """Counts tokens per second from this tally on, which a checkpoint held."""
        self._tokens_reported = self._tokens(tally)
        kept_steps = self._job.trunk.kept_steps if self._job.trunk is not None else ()
        self._kept_step = max((step for step in kept_steps if step <= tally.step), default=0)

    def report_step(self, tally: Tally, result: StepResult, flops_per_token: float, peak_flops: float) -> None:
        """Reports the step, when the last report is a second old or the step is the stage's last."""
        now, is_last = time.monotonic(), tally.step == self._job.stage.num_steps
        if self._world.rank != 0 or (now - self._reported < _REPORT_SECONDS and not is_last):
            return
        tokens = self._tokens(tally)
        tokens_per_second = (tokens - self._tokens_reported) / max(1e-9, now - self._reported)
        self._reported, self._tokens_reported = now, tokens
        self._on_progress(
            replace(
                self._progress(tally),
                tokens_per_second=tokens_per_second,
                loss=ratio(float(result.loss_sums.sum()), float(result.loss_tokens.sum())),
                mfu=tokens_per_second * flops_per_token / peak_flops,
                data_wait_share=metrics.data_wait_share(tally),
                held_out_bpb=metrics.newest_held_out(tally.rows),
            )
        )

    def _tokens(self, tally: Tally) -> int:
        return sum(tally.sequences) * self._job.stage.sequence_length

    def _progress(self, tally: Tally, note: str = "") -> Progress:
        return Progress(
            job=self._job.key,
            step=tally.step,
            num_steps=self._job.stage.num_steps,
            tokens=self._tokens(tally),
            code_ratio_planned=self._plan.code_ratio_until(tally.step * self._job.stage.batch_sequences),
            code_ratio_real=metrics.code_ratio(tally.sequences, [source.is_code for source in self._job.sources]),
            note=note,
            kept_step=self._kept_step,
        )
