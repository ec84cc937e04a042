"""The pairs of given models that a sweep without stages compares."""

from __future__ import annotations

from collections.abc import Sequence

from raycodellm.config.errors import UserError, shown, suggest

Pair = tuple[str, str]
"""(base, other): two values of `model.pretrained`. Their difference is the score of `other` less that of `base`."""


def compared_pairs(requested: Sequence[Pair], names: Sequence[str], base: str, origin: str) -> tuple[Pair, ...]:
    """The pairs `requested` by `search.pairs`; without any, each model against `base`. `names`: the search's models.

    Raises `UserError` for a pair of anything but two different models of the search, and for a pair named twice, in
    either order.
    """
    for place, pair in enumerate(requested):
        location = f"{origin}: search.pairs.{place}"
        for name in pair:
            if name not in names:
                raise UserError(f"{location}: {shown(name)} is no model of the search; {suggest(name, names)}")
        if pair[0] == pair[1]:
            raise UserError(f"{location}: {shown(pair[0])} is compared with itself; name two models")
        if {*pair} in [{*earlier} for earlier in requested[:place]]:
            raise UserError(f"{location}: {shown([*pair])} is named twice; remove one of the two")
    return tuple(requested) or tuple((base, other) for other in names if other != base)
