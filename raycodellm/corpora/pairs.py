"""One record of instruction data becomes a prompt and a response, as plain text.

Rows of `prompt` and `completion` (or `response`) are taken as they stand, with one space between them where neither
side has white space. `instruction`/`input`/`output`, `question`/`answer`, the other names of `_TURNS` and `messages` or
`conversations` are written as turns, which the tokenizer's chat template writes alike:

    System: …
    User: …
    Assistant: …

Whatever else a record holds of its prompt goes into it, and a row of `prompt` and `completion` then becomes turns too:
`system` and `history` before the request; `input`, `context`, `choices` and `starter_code` below it, unless the request
quotes them already. A column that holds text and is in neither prompt nor response is counted by its name.

Of a conversation the last answer is the response and all before it, earlier answers included, the prompt: a turn is
learnt from once, and no conversation weighs more for being long. Turns after the last answer are left out; answers at
the end with a weight of 0 are left out and counted. A text keeps the indentation of its first line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class NoPairError(ValueError):
    """The record has no prompt and response; the message is the reason that is counted."""


class Pair(NamedTuple):
    prompt: str
    response: str
    notes: tuple[str, ...] = ()
    """Parts of the record that are in neither; each is counted."""


Text = Callable[[Mapping[str, Any], str], str]
"""The text of a record's column; raises where that is none."""
Turns = list[tuple[str, str]]
"""(speaker, what is said); an empty speaker is text that stands for itself."""

_PAIRS = (("prompt", "completion"), ("prompt", "response"))
_TURNS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("instruction", "completion"),
    ("instruction", "answer"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("problem", "solution"),
    ("inputs", "targets"),
    ("input", "output"),
)
_SYSTEM = ("system", "system_prompt", "system_message")
_HISTORY = ("history",)
_MATERIAL = ("input", "context", "passage")
_CHOICES = ("choices", "options")
_CODE = ("starter_code",)
_CONVERSATIONS = ("messages", "conversations")
_SPEAKERS = {
    "system": "System",
    "developer": "System",
    "user": "User",
    "human": "User",
    "assistant": "Assistant",
    "gpt": "Assistant",
    "model": "Assistant",
}
_WEIGHTS = ("weight", "loss", "train", "training")
"""Keys of a turn that are 0 or false where it is not to be learnt."""
_LABELLED = re.compile(r"\s*\(?\w{1,2}\s*[.):]")
_LONGEST_LABEL = 64
"""Characters of a value without white space that is a name or an id, not text."""

_PARTS = (_SYSTEM, _HISTORY, _MATERIAL, _CHOICES, _CODE)
COLUMNS = frozenset(name for names in (*_PAIRS, *_TURNS, _CONVERSATIONS, *_PARTS) for name in names)
"""Names that are looked for."""


def pair_of(record: Mapping[str, Any], text: Text, known: Collection[str] = ()) -> Pair:
    """`known`: further columns that the source's settings use. Raises NoPairError, and what `text` raises."""
    forms = [names for names in _PAIRS + _TURNS if names[0] in record and names[1] in record]
    # In a table of several forms the columns of the other forms are null.
    full = [names for names in forms if record[names[0]] is not None and record[names[1]] is not None]
    name = next((name for name in _CONVERSATIONS if record.get(name)), "")
    notes: list[str] = []
    if isinstance(record.get(name), (list, tuple)) and not full:
        turns, answer, notes = _conversation(record[name])
        used = {name}
    elif forms:
        asked, answered = (full or forms)[0]
        used = {asked, answered}
        turns, answer = [("User", text(record, asked))], text(record, answered)
        if (asked, answered) in _PAIRS and not _belongs_to_prompt(record):
            return Pair(turns[0][1], answer, _unused(record, used.union(known), turns[0][1] + answer))
    else:
        raise NoPairError("no prompt and response")
    used |= _completed(turns, record, used)
    prompt = "".join(_written(speaker, said) for speaker, said in turns) + "Assistant:"
    notes += _unused(record, used.union(known), prompt + answer)
    return Pair(prompt, spoken(answer.lstrip("\r\n")), tuple(notes))


def _belongs_to_prompt(record: Mapping[str, Any]) -> bool:
    return any(record.get(name) is not None for names in _PARTS for name in names)


def _completed(turns: Turns, record: Mapping[str, Any], used: set[str]) -> set[str]:
    """Writes what else belongs to the prompt into its turns; the names of the columns that it took."""
    taken: set[str] = set()
    asked = next((place for place in reversed(range(len(turns))) if turns[place][0] == "User"), None)
    for name, read in _BELOW_REQUEST if asked is not None else ():
        more = read(record.get(name)) if name not in used else None
        if more is not None:
            taken.add(name)
            said = turns[asked][1]
            if more.strip() and (name == "input" or not _quotes(said, more)):
                turns[asked] = ("User", f"{said}\n{more}")
    for name in _HISTORY:
        earlier = _history(record.get(name))
        if earlier is not None:
            taken.add(name)
            turns[:0] = earlier
    for name in _SYSTEM:
        more = _material(record.get(name))
        if more is not None:
            taken.add(name)
            if more.strip() and not any(_quotes(said, more) for _, said in turns):
                turns.insert(0, ("System", _trimmed(more)))
    return taken


def _quotes(said: str, more: str) -> bool:
    """True if a text stands in another one already: whole lines of it, or more than a few words."""
    more = more.strip()
    return more in said and (len(more) > _LONGEST_LABEL or f"\n{more}\n" in f"\n{said}\n")


# ------------------------------------------------------------------------------------------------- parts of a prompt


def spoken(said: str) -> str:
    """As it follows a colon: after a space, or after its own white space, which may be indentation."""
    return said if said[:1].isspace() else f" {said}"


def _written(speaker: str, said: str) -> str:
    return f"{speaker}:{spoken(said)}\n" if speaker else f"{said}\n"


def _material(value: Any) -> str | None:
    """Text, a number or a list of them as text; None where the value is something else."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError:
            return None
    if isinstance(value, (list, tuple)):
        parts = [_material(part) for part in value]
        return "\n".join(parts) if None not in parts else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def _choices(value: Any) -> str | None:
    """A line per choice, with a letter where the choices bring no label: lists of texts, label -> text, an object of
    the lists `label` and `text`, or a list of objects with both."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        label, text = value.get("label"), value.get("text")
        listed = isinstance(label, (list, tuple)) and isinstance(text, (list, tuple)) and len(label) == len(text)
        value = list(zip(label, text, strict=True)) if listed else list(value.items())
    if not isinstance(value, (list, tuple)):
        return None
    value = [(one.get("label"), one.get("text")) if isinstance(one, Mapping) else one for one in value]
    if all(isinstance(one, (list, tuple)) and len(one) == 2 for one in value):
        labels, texts = [_material(label) for label, _ in value], [_material(text) for _, text in value]
    else:
        labels, texts = [chr(ord("A") + place) for place in range(len(value))], [_material(one) for one in value]
    if None in labels or None in texts or len(value) > 26:
        return None
    if all(map(_LABELLED.match, texts)):
        return "\n".join(texts)
    return "\n".join(f"{label}. {text}" for label, text in zip(labels, texts, strict=True))


_BELOW_REQUEST = (
    *((name, _material) for name in _MATERIAL),
    *((name, _choices) for name in _CHOICES),
    *((name, _material) for name in _CODE),  # last: the answer goes on from it
)


def _history(value: Any) -> Turns | None:
    """Earlier turns: a text, pairs of request and answer, texts that take turns, or a conversation."""
    if isinstance(value, str):
        return [("", value.strip("\r\n"))] if value.strip() else []
    if not isinstance(value, (list, tuple)):
        return None
    if value and all(isinstance(part, str) for part in value):
        value = list(zip(value[::2], value[1::2], strict=True)) if len(value) % 2 == 0 else [None]
    turns: Turns = []
    for part in value:
        if isinstance(part, Mapping) and (turn := _turn(part)):
            turns.append(turn)
            continue
        if isinstance(part, Mapping):
            names = next((names for names in _PAIRS + _TURNS if names[0] in part and names[1] in part), ())
            part = [part[name] for name in names]
        if not isinstance(part, (list, tuple)) or len(part) != 2 or not all(isinstance(said, str) for said in part):
            return None
        turns += zip(("User", "Assistant"), map(_trimmed, part), strict=True)
    return turns


def _trimmed(said: str) -> str:
    """Without the line ends before it and the white space behind it; its first line keeps its indentation."""
    return said.lstrip("\r\n").rstrip()


# ------------------------------------------------------------------------------------------------------ conversations


def _conversation(messages: Sequence[Any]) -> tuple[Turns, str, list[str]]:
    """(the turns before the answer that is learnt, that answer, notes)"""
    said = [_turn(message if isinstance(message, Mapping) else {}) for message in messages]
    if None in said:
        raise NoPairError("messages without role and content")
    answers = [place for place, turn in enumerate(said) if turn and turn[0] == "Assistant"]
    if not answers or answers[-1] == 0:
        raise NoPairError("messages without an answer")
    learnt = [place for place in answers if place and not _has_no_weight(messages[place])]
    if not learnt:
        raise NoPairError("every answer has a weight of 0")
    last = learnt[-1]
    answer = _content(messages[last]) or ""
    return [turn for turn in said[:last] if turn], answer, ["answer of weight 0"] * sum(p > last for p in answers)


def _turn(message: Mapping[str, Any]) -> tuple[str, str] | None:
    speaker = _SPEAKERS.get(str(message.get("role") or message.get("from")).lower())
    content = _content(message)
    return (speaker, _trimmed(content)) if speaker and content is not None else None


def _content(message: Mapping[str, Any]) -> str | None:
    """Text of a turn, also where it comes as a list of typed parts; None where it is not all text."""
    content = message.get("content")
    content = message.get("value") if content is None else content
    if isinstance(content, (list, tuple)) and content:
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        return "\n".join(parts) if all(isinstance(part, str) for part in parts) else None
    return content if isinstance(content, str) else None


def _has_no_weight(message: Mapping[str, Any]) -> bool:
    return any(message.get(name) in (0, "0", "0.0", "false", "False") for name in _WEIGHTS)


# ------------------------------------------------------------------------------------------------- what is left out


def _unused(record: Mapping[str, Any], used: Collection[str], said: str) -> tuple[str, ...]:
    """A note for each column with text that is neither in prompt nor response."""
    others = ((name, value) for name, value in record.items() if name not in used)
    return tuple(f"column {str(name)[:40]!r} not used" for name, value in others if _has_more(value, said))


def _has_more(value: Any, said: str) -> bool:
    return any(text.strip() not in said for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, however deep; not names, ids and numbers."""
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    if isinstance(value, str):
        if value.strip() and (len(value) > _LONGEST_LABEL or not value.isascii() or len(value.split()) > 1):
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
