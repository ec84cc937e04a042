"""How much a sweep may spend before no further trial begins."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from raycodellm.config.field_types import Frozen, Number, Whole


class Budget(Frozen):
    """How much the sweep may spend, over all runs of its folder. Once a limit is reached no further trial begins, those
    that have begun end, and the report says which limit that was. All limits may be changed on continuing."""

    tokens: Annotated[Whole, Field(gt=0)] | None = None
    """Tokens to train on, equal stages counted once and stages that another sweep trained not at all. A trial counts
    from its beginning with all that it trains. No limit when left out."""
    device_hours: Annotated[Number, Field(gt=0)] | None = None
    """Hours that worker groups hold, times their devices: GPUs, or CPU cores where `scaling.gpus_per_worker` is 0. No
    limit when left out."""
    wall_hours: Annotated[Number, Field(gt=0)] | None = None
    """Hours that the sweep runs, without the time between two runs. No limit when left out."""
    money: Annotated[Number, Field(gt=0)] | None = None
    """Money for device hours at `price_per_device_hour`. No limit when left out."""
    price_per_device_hour: Annotated[Number, Field(gt=0)] | None = None
    """Price of one device for an hour, in any currency."""
    currency: Annotated[str, Field(max_length=10)] = ""
    """Written behind amounts of money, for example `EUR`."""

    @model_validator(mode="after")
    def _has_price(self) -> Budget:
        if self.money is not None and self.price_per_device_hour is None:
            raise ValueError(
                f"money: {self.money:g} needs price_per_device_hour, what one device costs per hour; add it, for "
                "example price_per_device_hour: 2.5"
            )
        return self
