"""Instruction data: a row of Parquet, Arrow or JSON becomes a prompt and a response, as plain text.

Rows of `prompt` and `completion` (or `response`) are taken as they are, with one space between both if neither side
has white space there. `instruction`/`input`/`output`, `question`/`answer`, the other names of `_TURNS`, and `messages`
or `conversations` are written as turns, as the tokenizer's chat template writes them:

    System: …
    User: …
    Assistant: …

Other columns that belong to the prompt go into it: `system` and `history` before the request; `input`, `context`,
`choices` and `starter_code` below it, unless the request quotes them already. With one of them a row of `prompt` and
`completion` is written as turns too. A column that holds text and is in neither prompt nor response is counted by name.

The last answer of a conversation is the response, and everything before it, earlier answers included, is the prompt: a
model learns from each conversation once, however long it is. Turns after the last answer are left out. Answers at the
end with a weight of 0 are left out and counted. A text keeps the indentation of its first line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from raycodellm.config import Source
from raycodellm.corpora.documents import Document, SkipError, check_text, column_text, decode, extra_columns
from raycodellm.corpora.registry import Format, RowReader


class PromptResponse(NamedTuple):
    prompt: str
    response: str
    notes: tuple[str, ...] = ()
    """Columns and answers that are in neither, as reasons; each is counted."""


Turns = list[tuple[str, str]]
"""(speaker, text); a text without a speaker is written as it is."""

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
"""Keys of a turn that are 0 or false if the turn is not to be learnt."""
_LABELLED = re.compile(r"\s*\(?\w{1,2}\s*[.):]")
_LONGEST_LABEL = 64
"""Characters of the longest value without white space that counts as a name or an id, not as text."""

_PROMPT_COLUMNS = (*_SYSTEM, *_HISTORY, *_MATERIAL, *_CHOICES, *_CODE)
COLUMNS = frozenset(name for names in (*_PAIRS, *_TURNS, _CONVERSATIONS, _PROMPT_COLUMNS) for name in names)
"""Columns that are read."""


def pair_of(record: Mapping[str, Any], settings_columns: Collection[str] = ()) -> PromptResponse:
    """Prompt and response of a row; `settings_columns` are those that the source's settings use. Raises SkipError."""
    forms = [names for names in _PAIRS + _TURNS if names[0] in record and names[1] in record]
    # In a table whose rows have several forms, the columns of the other forms are null.
    full = [names for names in forms if record[names[0]] is not None and record[names[1]] is not None]
    name = next((name for name in _CONVERSATIONS if record.get(name)), "")
    notes: list[str] = []
    if isinstance(record.get(name), (list, tuple)) and not full:
        turns, answer, notes = _split_conversation(record[name])
        used_columns = {name}
    elif forms:
        request_column, answer_column = (full or forms)[0]
        used_columns = {request_column, answer_column}
        turns, answer = [("User", column_text(record, request_column))], column_text(record, answer_column)
        if (request_column, answer_column) in _PAIRS and all(record.get(name) is None for name in _PROMPT_COLUMNS):
            return PromptResponse(
                turns[0][1],
                answer,
                _notes_of_unused(record, used_columns.union(settings_columns), turns[0][1] + answer),
            )
    else:
        raise SkipError("no prompt and response")
    used_columns |= _add_other_columns(turns, record, used_columns)
    lines = [f"{speaker}:{after_colon(text)}" if speaker else text for speaker, text in turns]
    prompt = "\n".join([*lines, "Assistant:"])
    notes += _notes_of_unused(record, used_columns.union(settings_columns), prompt + answer)
    return PromptResponse(prompt, after_colon(answer.lstrip("\r\n")), tuple(notes))


def _add_other_columns(turns: Turns, record: Mapping[str, Any], used_columns: set[str]) -> set[str]:
    """Writes the other columns of the prompt into `turns`, and returns their names."""
    added: set[str] = set()
    material = {
        name: record[name] for name in _PROMPT_COLUMNS if name not in used_columns and record.get(name) is not None
    }
    request_place = next((place for place in reversed(range(len(turns))) if turns[place][0] == "User"), -1)
    for name, content in _readable_columns(material, _BELOW_REQUEST) if request_place >= 0 else ():
        added.add(name)
        request = turns[request_place][1]
        if content.strip() and (name == "input" or not _quotes(request, content)):
            turns[request_place] = ("User", f"{request}\n{content}")
    for name, earlier in _readable_columns(material, dict.fromkeys(_HISTORY, _history_turns)):
        added.add(name)
        turns[:0] = earlier
    for name, content in _readable_columns(material, dict.fromkeys(_SYSTEM, _material)):
        added.add(name)
        if content.strip() and not any(_quotes(text, content) for _, text in turns):
            turns.insert(0, ("System", _trimmed(content)))
    return added


def _readable_columns(
    record: Mapping[str, Any], readers: Mapping[str, Callable[[Any], Any]]
) -> Iterator[tuple[str, Any]]:
    """(name, content) of the columns whose content is of a form that their reader knows."""
    for name, reader in readers.items():
        if name in record:
            try:
                content = reader(record[name])
            except SkipError:
                continue
            yield name, content


def _quotes(text: str, content: str) -> bool:
    """True if `text` holds `content` already: as whole lines, or more than a few words of it."""
    content = content.strip()
    return content in text and (len(content) > _LONGEST_LABEL or f"\n{content}\n" in f"\n{text}\n")


# ------------------------------------------------------------------------------------------------- parts of a prompt


def after_colon(text: str) -> str:
    """The text as it follows a colon: after a space, or after its own white space, which may be indentation."""
    return text if text[:1].isspace() else f" {text}"


def _material(value: Any) -> str:
    """A text, a number or a list of both as text. Raises SkipError for any other value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return decode(value)
    if isinstance(value, (list, tuple)):
        return "\n".join(map(_material, value))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise SkipError("no text")


def _choices(value: Any) -> str:
    """A line per choice, with a letter before it if the choices have no labels. Raises SkipError for an unknown form.

    Known are a list of texts, a mapping of label to text, an object of the lists `label` and `text`, and a list of
    objects with both.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        label, text = value.get("label"), value.get("text")
        if isinstance(label, (list, tuple)) and isinstance(text, (list, tuple)) and len(label) == len(text):
            value = list(zip(label, text, strict=True))
        else:
            value = list(value.items())
    if not isinstance(value, (list, tuple)) or len(value) > 26:
        raise SkipError("no choices")
    value = [(choice.get("label"), choice.get("text")) if isinstance(choice, Mapping) else choice for choice in value]
    if not all(isinstance(choice, (list, tuple)) and len(choice) == 2 for choice in value):
        value = [(chr(ord("A") + place), choice) for place, choice in enumerate(value)]
    choices = [(_material(label), _material(text)) for label, text in value]
    have_labels = all(_LABELLED.match(text) for _, text in choices)
    return "\n".join(text if have_labels else f"{label}. {text}" for label, text in choices)


_BELOW_REQUEST = {
    **dict.fromkeys(_MATERIAL, _material),
    **dict.fromkeys(_CHOICES, _choices),
    **dict.fromkeys(_CODE, _material),  # last, since the answer goes on from the code
}


def _history_turns(value: Any) -> Turns:
    """Earlier turns, from a text, pairs of request and answer, texts that take turns, or a conversation.

    Raises SkipError for an unknown form.
    """
    if isinstance(value, str):
        return [("", value.strip("\r\n"))] if value.strip() else []
    if not isinstance(value, (list, tuple)):
        raise SkipError("no history")
    if all(isinstance(part, str) for part in value) and len(value) % 2 == 0:
        value = list(zip(value[::2], value[1::2], strict=True))
    return [turn for part in value for turn in _turns_of_exchange(part)]


def _turns_of_exchange(part: Any) -> Turns:
    """The turns in a part of the history: a message, or a request and its answer."""
    if isinstance(part, Mapping):
        names = next((names for names in _PAIRS + _TURNS if names[0] in part and names[1] in part), None)
        if names is None:
            speaker, text = _turn(part)
            return [(speaker, _trimmed(text))]
        part = [part[name] for name in names]
    if not isinstance(part, (list, tuple)) or len(part) != 2 or not all(isinstance(text, str) for text in part):
        raise SkipError("no request and answer")
    return list(zip(("User", "Assistant"), map(_trimmed, part), strict=True))


def _trimmed(text: str) -> str:
    """The text without line ends before it and white space behind it; its first line keeps its indentation."""
    return text.lstrip("\r\n").rstrip()


# ------------------------------------------------------------------------------------------------------ conversations


def _split_conversation(messages: Sequence[Any]) -> tuple[Turns, str, list[str]]:
    """(turns before the answer that is learnt, that answer, notes). Raises SkipError."""
    turns = list(map(_turn, messages))
    answers = [place for place, (speaker, _) in enumerate(turns) if speaker == "Assistant"]
    if not answers or answers[-1] == 0:
        raise SkipError("messages without an answer")
    learnt = [place for place in answers if place and not _has_no_weight(messages[place])]
    if not learnt:
        raise SkipError("every answer has a weight of 0")
    last_answer = learnt[-1]
    prompt_turns = [(speaker, _trimmed(text)) for speaker, text in turns[:last_answer]]
    return prompt_turns, turns[last_answer][1], ["answer of weight 0"] * sum(place > last_answer for place in answers)


def _turn(message: Any) -> tuple[str, str]:
    """(speaker, text) of a message, whose content is a text or a list of typed parts. Raises SkipError."""
    if isinstance(message, Mapping):
        speaker = _SPEAKERS.get(str(message.get("role") or message.get("from")).lower())
        content = message.get("content")
        content = message.get("value") if content is None else content
        parts = content if isinstance(content, (list, tuple)) else [{"text": content}]
        texts: list[Any] = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
        if speaker and texts and all(isinstance(text, str) for text in texts):
            return speaker, "\n".join(texts)
    raise SkipError("messages without role and content")


def _has_no_weight(message: Mapping[str, Any]) -> bool:
    return any(message.get(name) in (0, "0", "0.0", "false", "False") for name in _WEIGHTS)


# ------------------------------------------------------------------------------------------------- what is left out


def _notes_of_unused(record: Mapping[str, Any], used_columns: Collection[str], pair_text: str) -> tuple[str, ...]:
    """A note for each column whose text is neither in the prompt nor in the response."""
    return tuple(
        f"column {str(name)[:40]!r} not used"
        for name, value in record.items()
        if name not in used_columns and any(text.strip() not in pair_text for text in _texts(value))
    )


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, at any depth; names, ids and numbers are no texts."""
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


# ---------------------------------------------------------------------------------------------------------- documents


def finish_pair(name: str, prompt: str, response: str, source: Source, notes: tuple[str, ...] = ()) -> Document:
    """The document of a prompt and a response; for kinds that are no instruction data both as one text."""
    check_text(response)
    if prompt and not prompt[-1].isspace() and not response[0].isspace():
        response = " " + response
    document = Document(name, check_text(prompt), response, notes=notes)
    return document if source.is_instruct else Document(name, document.content, notes=notes)


def _to_document(source: Source, name: str, record: Mapping[str, Any]) -> Document:
    prompt, response, notes = pair_of(record, extra_columns(source))
    return finish_pair(name, prompt, response, source, notes)


FORMAT = Format(
    name="instruct",
    rows=RowReader(
        _to_document,
        columns=lambda source: COLUMNS.union(extra_columns(source)),
        reads_other_text=True,
        not_an_object="no prompt and response",
        needs="prompts and responses",
        identity=lambda source: {"pairs": 2},
    ),
)
