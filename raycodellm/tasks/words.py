"""Words that the generated tasks share, so that a small tokenizer and a small model meet each of them often."""

from __future__ import annotations

# Common short words, none of which is a part of another.
_WORDS = """
    acorn anchor apple arrow badge bagel banner basin basket bead bean bell belt bottle bowl branch bread brick broom
    brush bucket bugle button cable candle canvas card carrot chain chalk clock coat coin comb compass cookie cork
    cotton crayon crown cup dagger dice dish doll drum fan feather flag flute fork gem ginger glass glove hammer harp
    hat helmet honey hook jacket jar jewel kettle kite ladder lamp leaf lemon letter magnet marble mask medal melon
    mirror nail needle onion paper pearl pebble pencil pepper pillow plate puzzle ribbon ring robe rope ruler saddle
    saucer scarf shell spoon ticket tray
"""
NOUNS = tuple(_WORDS.split())
"""A hundred nouns for things."""
