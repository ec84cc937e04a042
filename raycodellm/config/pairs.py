"""The pairs of given models that a sweep without stages compares."""

from __future__ import annotations

from collections.abc import Sequence

from raycodellm.config.errors import UserError, shown, suggest

Pair = tuple[str, str]
"""(base, other): two values of `model.pretrained`. Their difference is the score of `other` less that of `base`."""


def compared_pairs(given: Sequence[Pair], names: Sequence[str], first: str, origin: str) -> tuple[Pair, ...]:
    """The pairs `given` by `search.pairs`; without any, each model against `first`. `names`: the search's models.

    Raises `UserError` for a pair of anything but two different models of the search, and for a pair named twice, in
    either order.
    """
    for place, pair in enumerate(given):
        where = f"{origin}: search.pairs.{place}"
        for name in pair:
            if name not in names:
                raise UserError(f"{where}: {shown(name)} is no model of the search; {suggest(name, names)}")
        if pair[0] == pair[1]:
            raise UserError(f"{where}: {shown(pair[0])} is compared with itself; name two models")
        if {*pair} in [{*before} for before in given[:place]]:
            raise UserError(f"{where}: {shown([*pair])} is named twice; remove one of the two")
    return tuple(given) or tuple((first, other) for other in names if other != first)
