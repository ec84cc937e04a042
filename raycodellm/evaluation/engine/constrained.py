"""Holds a generated text to a regular expression, token by token, with any tokenizer of the tokenizers library."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from raycodellm.config import UserError

_MOST_KEPT = 4096
"""Most beginnings of texts whose place in the pattern is remembered: enough for the texts that are generated at
once."""


class TextPattern:
    """The tokens that keep a text within a pattern, after any beginning of a text.

    A pattern is a regular expression of the Rust crate `regex`, which the whole text matches. Where the pattern leaves
    one text only, its tokens are those that the tokenizer cuts it into.
    """

    def __init__(self, pattern: str, tokenizer: Any, vocabulary: int) -> None:
        """`vocabulary`: number of logits that the model gives per token. Raises UserError for a pattern that is no
        regular expression, and for a tokenizer without a file `tokenizer.json`."""
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        try:
            tokens = from_tokenizer(tokenizer, n_vocab=max(vocabulary, len(tokenizer)))
        except ValueError as error:
            raise UserError(
                f"generation_kwargs.pattern: {type(tokenizer).__name__} is no tokenizer that a text can be held to a "
                f"pattern with ({error}); leave the pattern out, or use a model folder that has a tokenizer.json"
            ) from error
        grammar = LLMatcher.grammar_from_regex(pattern)
        if fault := LLMatcher.validate_grammar(grammar, tokens):
            raise UserError(f"generation_kwargs.pattern: {pattern!r}: {' '.join(fault.split())}")
        self._vocabulary = vocabulary
        self._matchers: OrderedDict[tuple[int, ...], Any] = OrderedDict({(): LLMatcher(tokens, grammar)})
        """Maps the tokens of a beginning to the matcher that has read it, the last used at the end."""
        self._allowed: dict[bytes, np.ndarray] = {}
        """Maps a bit mask over the vocabulary to the tokens of its bits; a pattern has few."""

    def allowed(self, generated: Sequence[int]) -> np.ndarray:
        """Tokens that may follow those generated so far, sorted; none where the text must end.

        Raises ValueError where no text of the pattern begins with `generated`.
        """
        matcher = self._matcher_after(tuple(generated))
        if matcher.is_stopped():
            return np.empty(0, dtype=np.int64)
        mask = matcher.compute_bitmask()
        if mask not in self._allowed:
            bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
            self._allowed[mask] = np.flatnonzero(bits[: self._vocabulary])
        return self._allowed[mask]

    def _matcher_after(self, generated: tuple[int, ...]) -> Any:
        if generated in self._matchers:
            self._matchers.move_to_end(generated)
            return self._matchers[generated]
        matcher = self._matcher_after(generated[:-1]).deep_copy()
        if not matcher.consume_token(generated[-1]):
            raise ValueError(f"token {generated[-1]} after {len(generated) - 1} others leaves the pattern")
        self._matchers[generated] = matcher
        if len(self._matchers) > _MOST_KEPT:
            oldest = next(key for key in self._matchers if key)  # the empty beginning stays
            del self._matchers[oldest]
        return matcher
