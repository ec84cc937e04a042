"""How answers are generated: lm-eval's `generation_kwargs` as typed settings, and where a generated text ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from raycodellm.config import UserError
from raycodellm.evaluation.engine.encoding import Encoder

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the greatest length in `generation_kwargs`; the first one given counts, as in lm-eval."""
_USUAL: dict[str, Any] = {"top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
"""How a token is drawn where neither task nor model says otherwise, as in transformers."""
_LOOK_BACK = 2
"""A stop word may come in up to so many tokens more than the tokenizer cuts it into, as in lm-eval."""


@dataclass(frozen=True)
class Decoding:
    """Settings of a generated answer. None: as the model's own generation settings say."""

    max_tokens: int
    until: tuple[str, ...] = ()
    """The text ends before the first of these words."""
    temperature: float = 0.0
    """0 for greedy decoding."""
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    pattern: str | None = None
    """A regular expression that the text matches."""

    @classmethod
    def of(cls, settings: Mapping[str, Any], max_tokens: int) -> Decoding:
        """Reads `generation_kwargs`; `max_tokens` where these give no length. Raises UserError for an unknown key."""
        unread = dict(settings)
        lengths = [unread.pop(name) for name in _LENGTHS if unread.get(name) is not None]
        until = unread.pop("until", None) or ()
        do_sample, temperature = unread.pop("do_sample", None), unread.pop("temperature", None)
        if do_sample is None:
            do_sample = bool(temperature)
        if unread.pop("num_beams", 1) != 1:
            raise UserError("generation_kwargs.num_beams: answers are decoded without beams; leave the key out")
        token_settings = {
            name: unread.pop(name, None) for name in ("top_k", "top_p", "min_p", "repetition_penalty", "pattern")
        }
        unknown_keys = sorted(set(unread) - set(_LENGTHS))
        if unknown_keys:
            names = ", ".join(["until", "do_sample", "temperature", *token_settings, _LENGTHS[0]])
            raise UserError(f"generation_kwargs.{unknown_keys[0]}: is not known here; known are {names}")
        return cls(
            max_tokens=int(lengths[0]) if lengths else max_tokens,
            until=(until,) if isinstance(until, str) else tuple(until),
            temperature=(1.0 if temperature is None else float(temperature)) if do_sample else 0.0,
            **token_settings,
        )

    def settled(self, model_settings: Any) -> Decoding:
        """These settings with a value for each that decides how a token is drawn: the task's, else that of the model's
        own generation settings `model_settings`, else the usual one of transformers."""
        values = {}
        for name, usual_value in _USUAL.items():
            task_value, model_value = getattr(self, name), getattr(model_settings, name, None)
            values[name] = task_value if task_value is not None else usual_value if model_value is None else model_value
        return replace(self, **values)


class Constraint(Protocol):
    """Says which tokens keep a text within its pattern."""

    def allowed(self, generated: Sequence[int]) -> Sequence[int] | np.ndarray:
        """Tokens that may follow those generated so far; empty where the text must end."""


class StopWords:
    """Tells when a generated text is over: it holds a stop word, or its last token ends texts."""

    def __init__(self, encoder: Encoder, until: Iterable[str], end_tokens: Iterable[int]) -> None:
        self._encoder = encoder
        self._words = tuple(word for word in until if word)
        self._ends = frozenset(end_tokens)
        lengths = [len(encoder.encode(word, False)) for word in self._words]
        self._window = max(lengths, default=0) + _LOOK_BACK
        self._last = frozenset(word[-1] for word in self._words)
        self._may_end: dict[int, bool] = {}
        """Maps tokens to whether their text may be the end of a stop word."""

    def is_over(self, tokens: Sequence[int]) -> bool:
        """True if the last token of `tokens` completes the text. Asked after each token, since it looks at the end."""
        last = tokens[-1]
        if last in self._ends:
            return True
        if last not in self._may_end:
            self._may_end[last] = self._may_end_a_stop_word(last)
        if not self._may_end[last]:
            return False
        text = self._encoder.decode(tokens[-self._window :], skip_special_tokens=False)
        return any(word in text for word in self._words)

    def text(self, tokens: Sequence[int]) -> str:
        """The text before the first stop word, without special tokens."""
        text = self._encoder.decode(tokens, skip_special_tokens=True)
        for word in self._words:
            text = text.split(word)[0]
        return text

    def _may_end_a_stop_word(self, token: int) -> bool:
        # A token alone may lose the space that it begins with, or hold a part of a character.
        text = self._encoder.decode([token], skip_special_tokens=False)
        return " " in self._last or "�" in text or any(letter in text for letter in self._last)
