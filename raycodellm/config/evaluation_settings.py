"""The evaluation tasks, and how they are asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from raycodellm.config.field_types import Frozen, Whole


class Evaluation(Frozen):
    """The tasks that score every trial's model. A task gives `<task>/acc` (share of right answers), `<task>/bpb` (bits
    per byte of the right answer) and `<task>/chance`; `mean/acc` and `mean/bpb` are means over tasks."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Generated tasks of the package (such as `boxes`), tasks of lm-eval by name, or paths of lm-eval YAML files."""
    limit: Annotated[Whole, Field(ge=1)] | None = None
    """Items per task; all items when left out."""
    few_shot: Annotated[Whole, Field(ge=0)] = 0
    """Solved examples before each item."""
    scoring: Literal["likelihood", "channel"] = "likelihood"
    """How a suite that has both compares the choices: by the likelihood of the answer after the question, or by that of
    the question after the answer (`channel`, as Ma et al. 2024 score)."""
    rationale: Literal["none", "oracle", "generated"] = "none"
    """The rationale in the prompts of a suite's tasks that have one: none, the data set's own (`oracle`), or one that
    the model writes before its choices are scored (`generated`)."""
    batch_size: Annotated[Whole, Field(ge=1)] = 32
    """Sequences (a question with one of its answers) per forward pass."""

    @field_validator("tasks")
    @classmethod
    def _no_repeats(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({task for task in tasks if tasks.count(task) > 1})
        if repeated:
            raise ValueError(f"names {', '.join(repeated)} twice; name each task once")
        return tasks
