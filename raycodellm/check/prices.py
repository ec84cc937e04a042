"""Reads what devices cost per hour: the file of the package, and the user's own, whose entries come first."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from raycodellm import config
from raycodellm.config import UserError
from raycodellm.config.errors import nearest_place

SHIPPED = Path(__file__).with_name("prices.yaml")

Money = Annotated[float, Field(gt=0)]


class Machine(BaseModel, frozen=True, extra="forbid"):
    """A machine with its price per hour."""

    machine: str = "machine"
    where: str = ""
    """Cloud and region."""
    date: datetime.date | None = None
    """Day on which the price was read."""
    on_demand: Money


class Device(Machine, frozen=True, extra="forbid"):
    """A machine that is paid for its devices."""

    spot: Money | None = None
    """None where the price is not known."""
    devices: Annotated[int, Field(ge=1)] = 1
    """Devices in one machine."""
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory of one device."""
    tflops: Annotated[float, Field(gt=0)] | None = None
    """Peak of one device in 10^12 FLOP/s; None takes it from the package's table."""


class Prices(BaseModel, frozen=True, extra="forbid"):
    """Prices of devices, and of the head node."""

    currency: str = "USD"
    head: Machine | None = None
    devices: dict[str, Device] = {}

    def device(self, name: str) -> Device:
        """The device of this name; upper and lower case are the same, and a longer name counts if it holds one listed.

        Raises `UserError` that says what to add.
        """
        folded_name = name.casefold()
        listed = {key.casefold(): key for key in self.devices}
        if folded_name in listed:
            return self.devices[listed[folded_name]]
        contained = [key for key in listed if key in folded_name.replace("-", " ").split()]
        if contained:
            return self.devices[listed[max(contained, key=len)]]
        raise UserError(
            f"--device {name}: no price is known; known are {_names(self.devices)}. Write a file with "
            f"`devices: {{{name}: {{on_demand: PRICE, spot: PRICE}}}}` (per hour) and give it as --prices FILE"
        )


def load(own_path: str | None = None) -> Prices:
    """The package's prices, overridden by those of the user's file `own_path`.

    The package's prices count only in their own currency. Raises `UserError` for a file that cannot be read.
    """
    shipped = _read(SHIPPED)
    if not own_path:
        return shipped
    own_prices = _read(Path(own_path).expanduser())
    if own_prices.currency != shipped.currency:
        return own_prices
    return Prices(
        currency=own_prices.currency,
        head=own_prices.head or shipped.head,
        devices={**shipped.devices, **own_prices.devices},
    )


def _read(path: Path) -> Prices:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = f"; {nearest_place(str(path))}" if isinstance(error, FileNotFoundError) else ""
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--prices {path}: cannot be read ({reason}){hint}") from error
    tree = config.read_yaml(text, f"--prices {path}")
    try:
        return Prices.model_validate(tree)
    except ValidationError as error:
        first_error = error.errors()[0]
        key = ".".join(map(str, first_error["loc"])) or "file"
        message = first_error["msg"].replace("Input should", "must")
        raise UserError(
            f"--prices {path}: {key}: {message[0].lower()}{message[1:]}; {SHIPPED} shows the form of the file"
        ) from error


def _names(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
