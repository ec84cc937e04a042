"""The stories in which puzzles are told: the things' names, and a sentence for each kind of clue."""

from __future__ import annotations

from dataclasses import dataclass

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True)
class Story:
    """Sentences about one kind of row. {a}, {b} and {c} stand for things and {place} for an ordinal."""

    names: tuple[str, ...]
    opening: str
    clues: dict[str, tuple[str, ...]]
    """Maps a clue's kind to the sentences that state it."""
    question: str
    """Ends where the answer begins."""


STORIES = (
    Story(
        names=("kite", "drum", "lamp", "vase", "clock", "mug", "globe", "candle", "radio", "basket"),
        opening="On a shelf stand {things}.",
        clues={
            "before": ("The {a} is to the left of the {b}.", "The {b} is to the right of the {a}."),
            "next": ("The {a} is directly left of the {b}.", "The {b} is directly right of the {a}."),
            "beside": ("The {a} is right beside the {b}.",),
            "between": ("The {b} is somewhere between the {a} and the {c}.",),
            "end": ("The {a} is at one end of the shelf.",),
            "at": ("The {a} is the {place} from the left.",),
        },
        question="The {place} from the left is",
    ),
    Story(
        names=("fox", "goat", "hare", "pony", "otter", "goose", "badger", "camel", "lynx", "mole"),
        opening="In a race ran {things}.",
        clues={
            "before": ("The {a} came in before the {b}.", "The {b} came in after the {a}."),
            "next": ("The {a} came in just before the {b}.", "The {b} came in just after the {a}."),
            "beside": ("Nobody came in between the {a} and the {b}.",),
            "between": ("The {b} came in after one of the {a} and the {c} and before the other.",),
            "end": ("The {a} came in either first or last.",),
            "at": ("The {a} came in {place}.",),
        },
        question="The one that came in {place} is",
    ),
    Story(
        names=("brick", "crate", "trunk", "drawer", "carpet", "book", "tray", "cushion", "barrel", "plank"),
        opening="One on top of the other lie {things}.",
        clues={
            "before": ("The {a} is lower than the {b}.", "The {b} is higher than the {a}."),
            "next": ("The {b} lies directly on the {a}.", "The {a} lies directly under the {b}."),
            "beside": ("The {a} and the {b} touch.",),
            "between": ("The {b} is somewhere between the {a} and the {c}.",),
            "end": ("The {a} is either the lowest or the highest.",),
            "at": ("The {a} is the {place} from below.",),
        },
        question="The {place} from below is",
    ),
    Story(
        names=("nurse", "baker", "pilot", "miner", "tailor", "judge", "farmer", "painter", "singer", "guard"),
        opening="In a queue wait {things}.",
        clues={
            "before": ("The {a} waits ahead of the {b}.", "The {b} waits behind the {a}."),
            "next": ("The {a} waits directly ahead of the {b}.", "The {b} waits directly behind the {a}."),
            "beside": ("Nobody waits between the {a} and the {b}.",),
            "between": ("The {b} waits somewhere between the {a} and the {c}.",),
            "end": ("The {a} waits at one end of the queue.",),
            "at": ("The {a} is {place} in the queue.",),
        },
        question="The one who is {place} in the queue is",
    ),
)
