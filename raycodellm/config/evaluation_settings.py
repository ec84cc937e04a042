"""The evaluation tasks, and how they are asked."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from raycodellm.config.field_types import Frozen, Whole


class Evaluation(Frozen):
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    limit: Annotated[Whole, Field(ge=1)] | None = None
    """Items per task; all when left out."""
    few_shot: Annotated[Whole, Field(ge=0)] = 0
    batch_size: Annotated[Whole, Field(ge=1)] = 32

    @field_validator("tasks")
    @classmethod
    def _no_repeats(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({task for task in tasks if tasks.count(task) > 1})
        if repeated:
            raise ValueError(f"names {', '.join(repeated)} twice; name each task once")
        return tasks
