"""The sentences in which each variant of the task tells a scenario."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from raycodellm.tasks.boxes.world import Operation, Scenario, State
from raycodellm.tasks.kim2024.names import RENAMED


@dataclass(frozen=True)
class Wording:
    """The wording of the base task, by the rules of Kim and Schuster (2023), in their format for prompts."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Maps a thing to the name that it has in this variant; a thing that is missing keeps its own."""
    place_word = "Box"

    def place(self, box: int) -> str:
        return f"{self.place_word} {box}"

    def name(self, thing: str) -> str:
        return self.names.get(thing, thing)

    def contents(self, things: Iterable[str]) -> str:
        """`the cup and the rope`, in alphabetical order; `nothing` for an empty box."""
        return _listed(map(self.name, things)) or "nothing"

    def content_clause(self, things: Iterable[str]) -> str:
        """The words that follow a box's name where its content is told."""
        return f"contains {self.contents(things)}"

    def statement(self, state: State) -> str:
        """The contents of all boxes, as a model has to write them."""
        return _sentence(f"{self.place(box)} {self.content_clause(things)}" for box, things in enumerate(state))

    def initial(self, state: State) -> str:
        """The contents of all boxes at first."""
        return self.statement(state)

    def operation(self, done: Operation, before: State) -> str:
        """The operation as a sentence; `before`: the state that it was done in."""
        things = self.moved(done, before)
        if done.source is None:
            return f"Put {things} into {self.place(done.target or 0)}."
        if done.target is None:
            return f"Remove {things} from {self.place(done.source)}."
        return f"Move {things} from {self.place(done.source)} to {self.place(done.target)}."

    def moved(self, done: Operation, before: State) -> str:
        """The operation's things, in words."""
        return _listed(map(self.name, done.objects))

    def description(self, scenario: Scenario, num_told: int) -> str:
        """The initial state, and the first `num_told` operations."""
        told = zip(scenario.operations[:num_told], scenario.states, strict=False)
        return " ".join([self.initial(scenario.initial), *(self.operation(done, before) for done, before in told)])


class Query(Wording):
    """The format for models tuned on the task: an empty box `is empty`, and one box is asked for at a time."""

    def content_clause(self, things: Iterable[str]) -> str:
        things = list(things)
        return super().content_clause(things) if things else "is empty"


class AltForms(Wording):
    """Other words for everything but the things: containers with letters in the place of boxes with numbers."""

    place_word = "Container"

    def place(self, box: int) -> str:
        return f"{self.place_word} {'ABCDEFG'[box]}"

    def initial(self, state: State) -> str:
        told = []
        for box, things in enumerate(state):
            verb = "are" if len(things) > 1 else "is"
            what = f"{self.contents(things)} {verb}" if things else "there is nothing"
            told.append(f"{what} in {self.place(box)}")
        sentence = _sentence(told)
        return sentence[0].upper() + sentence[1:]

    def operation(self, done: Operation, before: State) -> str:
        things, them = self.moved(done, before), "them" if len(done.objects) > 1 else "it"
        if done.source is None:
            return f"Add {things} to {self.place(done.target or 0)}."
        if done.target is None:
            return f"Clear {things} out of {self.place(done.source)}."
        return f"Lift {things} from {self.place(done.source)} and set {them} down in {self.place(done.target)}."


class MoveContents(Wording):
    """A move of all things of a box names none of them."""

    def operation(self, done: Operation, before: State) -> str:
        if done.source is None or done.target is None or done.objects != before[done.source]:
            return super().operation(done, before)
        return f"Move the contents of {self.place(done.source)} to {self.place(done.target)}."


class AmbiRef(Wording):
    """Things are told apart by an adjective, which moves and removals leave out where one box makes it clear."""

    def moved(self, done: Operation, before: State) -> str:
        if done.source is None:
            return super().moved(done, before)
        kinds = Counter(self.name(thing).split()[-1] for thing in before[done.source])
        full = (self.name(thing) for thing in done.objects)
        return _listed(name if kinds[name.split()[-1]] > 1 else name.split()[-1] for name in full)


def _listed(names: Iterable[str]) -> str:
    return " and ".join(f"the {name}" for name in sorted(names))


def _sentence(clauses: Iterable[str]) -> str:
    return ", ".join(clauses) + "."


WORDINGS: Mapping[str, Wording] = {
    "base": Wording(),
    "altforms": AltForms(),
    "movecontents": MoveContents(),
    "ambiref": AmbiRef(RENAMED["ambiref"]),
    "other_nouns": Wording(RENAMED["other_nouns"]),
    "numops": Wording(),
    "query": Query(),
}
"""Maps each variant to its wording. The scenarios are the same in all."""
