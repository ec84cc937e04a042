"""The names of the hundred things in each variant of the task."""

from __future__ import annotations

import itertools

from raycodellm.tasks.words import NOUNS

_OTHER = """
    almond apron armor atlas avocado balloon bandage barrel beet berry bicycle biscuit blanket blouse bonnet boot
    bracelet briefcase brooch burger cabbage cactus calculator camera cap carpet cellphone cereal cherry chisel cigar
    clarinet clip cloak cucumber curtain cushion diary dumpling duster envelope eraser fig fossil funnel garlic goblet
    goggles gong grape guitar hairpin hinge ink iron jug keyboard lantern lime lipstick lobster mango marker
    microphone mitten mug mushroom napkin notebook oar olive onesie padlock paintbrush parcel peanut pendant perfume
    photo piano pin plum poster pumpkin quilt radio razor sandal sculpture shawl sponge stamp stapler sweater teapot
    telescope toaster towel trophy violin
"""
OTHER_NOUNS = tuple(_OTHER.split())
"""A hundred nouns, none of them among `NOUNS`."""

_KINDS = """
    bag ball blanket bolt bookend cap chair cube drum hat jug lamp mug plate rope stamp vase
"""
_ADJECTIVES = ("tall", "tiny", "purple", "orange", "silver", "brown")
AMBIGUOUS_NAMES = tuple(f"{one} {kind}" for kind, one in itertools.product(_KINDS.split(), _ADJECTIVES))[:100]
"""A hundred things of seventeen kinds, told apart by one of six adjectives."""

RENAMED = {
    "other_nouns": dict(zip(NOUNS, OTHER_NOUNS, strict=True)),
    "ambiref": dict(zip(NOUNS, AMBIGUOUS_NAMES, strict=True)),
}
"""Maps a variant to the names of the things there."""
