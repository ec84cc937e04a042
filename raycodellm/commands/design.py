"""`raycodellm design`: points to run before anything is known, as `search.enqueue` takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raycodellm.commands.into import write_into
from raycodellm.commands.request import DONE, SweepRequest
from raycodellm.config import UserError
from raycodellm.config.enqueued import enqueued_points


@dataclass(frozen=True)
class Designing:
    """The requests of the command line."""

    points: int
    kind: str
    concentration: float
    into: str | None
    """File for the points; None prints them."""


def design(request: SweepRequest, options: Designing, complain: Callable[[str], None]) -> int:
    """Prints the points of the sweep's space as YAML, or writes them into a file; returns the exit code."""
    with request.opened(complain) as file:
        from raycodellm import regression

        if not file.parameters:
            raise UserError("the sweep searches over nothing, so there is nothing to design")
        if options.points < 1:
            raise UserError(f"--points: found {options.points}; give 1 or more")
        if options.concentration <= 0:
            raise UserError(f"--concentration: found {options.concentration:g}; give a number above 0, such as 1")
        seed = file.example().seed
        points = regression.design(file, options.kind, options.points, options.concentration, seed)
        text = regression.as_enqueue(file, list(enqueued_points(file.tree, file.parameters, points, file.origin)))
    if options.into is None:
        print(text, end="")
        return DONE
    write_into(options.into, text)
    print(f"points: {options.into}")
    return DONE
