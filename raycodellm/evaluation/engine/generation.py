"""Generates answers in batches with the attention's keys and values kept: greedy, sampled, or held to a pattern."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raycodellm.evaluation.engine.decoding import Constraint, Decoding, StopWords
from raycodellm.evaluation.engine.key_cache import empty_cache, repeated
from raycodellm.evaluation.engine.likelihoods import (
    Likelihood,
    chosen_of,
    common_prefix,
    logits_at,
    prefix_cache,
    summed,
)

if TYPE_CHECKING:
    import torch

_MASK_STEP = 8
"""Masks have a multiple of so many columns, which GPUs' attention kernels ask for."""


@dataclass
class _Answer:
    """An answer in generation."""

    prompt: tuple[int, ...]
    randomness: random.Random
    """The answer's own generator of random numbers, so that the answer depends on no other answer of the batch."""
    max_tokens: int
    """Tokens that the task allows, or fewer where the model's context is full before."""
    tokens: list[int] = field(default_factory=list)


def generated_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[str],
    decoding: Decoding,
    stop: StopWords,
    batch_size: int,
    max_length: int,
    *,
    share: bool,
    constraint: Constraint | None = None,
    golds: Golds | None = None,
) -> list[list[int]]:
    """The tokens that follow each prompt. Equal prompts are answered once; sampled answers also need equal seeds.

    Forward passes, and with them every bit of the results on one kind of machine, depend on these arguments alone.
    `batch_size`: answers generated at once. `max_length`: tokens of the model's context; an answer ends where it is
    full. `share`: a beginning of all prompts is computed once, which needs a model that `shares_beginnings`; so do
    `golds`, the right answers whose likelihoods are read on the way.
    """
    import torch

    keys = [(tuple(prompt), seed if decoding.temperature else "") for prompt, seed in zip(prompts, seeds, strict=True)]
    ordered_keys = sorted(dict.fromkeys(keys), key=lambda key: (-len(key[0]), key))
    tokens_by_key: dict[tuple[tuple[int, ...], str], list[int]] = {}
    if not _keeps_keys(model):
        batch_size = 1  # a recurrent state reads padding as text
    with torch.inference_mode():
        prefix = common_prefix([prompt for prompt, _ in ordered_keys]) if share and ordered_keys else 0
        cache = prefix_cache(model, ordered_keys[0][0][:prefix]) if prefix else None
        for begin in range(0, len(ordered_keys), batch_size):
            batch = ordered_keys[begin : begin + batch_size]
            answers = [
                _Answer(prompt, random.Random(seed), min(decoding.max_tokens, max_length - len(prompt)))
                for prompt, seed in batch
            ]
            room = 0 if golds is None else max(map(len, golds.answers.values()))
            _generate(_Batch(model, answers, share, prefix, cache, room), decoding, stop, constraint, golds)
            tokens_by_key |= {key: answer.tokens for key, answer in zip(batch, answers, strict=True)}
    return [tokens_by_key[key] for key in keys]


def _keeps_keys(model: Any) -> bool:
    """False for a recurrent model, which is given the whole text for each token."""
    return "past_key_values" in inspect.signature(model.forward).parameters


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text by the model's generation settings or the tokenizer."""
    model_ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = set(model_ends if isinstance(model_ends, (list, tuple)) else [model_ends]) | {tokenizer.eos_token_id}
    return {end for end in ends if end is not None}


def _generate(
    batch: _Batch, decoding: Decoding, stop: StopWords, constraint: Constraint | None, golds: Golds | None
) -> None:
    """Fills in the answers' tokens. An answer that is over leaves the batch."""
    choose = _chooser(decoding.settled(getattr(batch.model, "generation_config", None)))
    is_first = True
    while batch.answers:
        logits = batch.logits()
        if is_first and golds is not None:
            prompts = [answer.prompt for answer in batch.answers]
            likelihoods = batch.likelihoods(logits, [golds.answers[prompt] for prompt in prompts])
            golds.likelihoods |= zip(prompts, likelihoods, strict=True)
        is_first = False
        if constraint is not None:
            logits = _constrained(logits, batch.answers, constraint)
        tokens = choose(logits, batch.answers)
        open_rows = [
            row
            for row, (answer, token) in enumerate(zip(batch.answers, tokens, strict=True))
            if not _is_over(answer, token, stop, constraint)
        ]
        batch.advance(open_rows, [tokens[row] for row in open_rows])


@dataclass
class Golds:
    """Right answers, one for each prompt, whose likelihoods are read from the keys and values of the prompts."""

    answers: dict[tuple[int, ...], list[int]]
    """Maps each prompt to its right answer, of at least one token."""
    likelihoods: dict[tuple[int, ...], Likelihood] = field(default_factory=dict)
    """The likelihood of each prompt's right answer, filled in while answers are generated."""


class _Batch:
    """Answers that are generated together: what the model reads next, and the keys and values of what it has read."""

    def __init__(
        self, model: Any, answers: Sequence[_Answer], is_plain: bool, prefix: int, cache: Any, room: int = 0
    ) -> None:
        """`is_plain`: the model `shares_beginnings`, and takes masks and keys as these are laid out here. `prefix`:
        tokens of the prompts whose keys and values `cache` holds. `room`: tokens that may be read after the prompts, if
        these are more than the answers may have."""
        import torch

        self.model, self.answers = model, list(answers)
        suffixes = [answer.prompt[prefix:] for answer in answers]
        width = max(map(len, suffixes))
        rows = [[0] * (width - len(tokens)) + list(tokens) for tokens in suffixes]
        self._ids = torch.tensor(rows, device=model.device)
        attended = torch.ones(len(rows), prefix + width, dtype=torch.long)
        for row, tokens in enumerate(suffixes):
            attended[row, prefix : prefix + width - len(tokens)] = 0
        self._positions = (attended.cumsum(-1) - 1).clamp(min=0)[:, prefix:].to(model.device)
        self._length = prefix + width
        self._is_plain = is_plain
        self._mask = attended.to(model.device)
        self._inputs: dict[str, Any] = {}
        room = max([room, *(answer.max_tokens for answer in answers)])
        if is_plain:
            self._inputs["past_key_values"] = repeated(cache, len(rows)) if prefix else empty_cache()
            self._mask = self._additive_mask(prefix, width, room)
        self._takes, self._keeps_keys = inspect.signature(model.forward).parameters, _keeps_keys(model)
        if "logits_to_keep" in self._takes:
            self._inputs["logits_to_keep"] = 1

    def _additive_mask(self, prefix: int, width: int, room: int) -> torch.Tensor | None:
        """A mask [answers, 1, 1, tokens] to add to the attention's scores, with room for all tokens to come; None where
        all prompts are of one length."""
        import torch

        if bool(self._mask.all()):
            return None
        tokens = -(-(prefix + width + room) // _MASK_STEP) * _MASK_STEP
        mask = torch.zeros(len(self._mask), 1, 1, tokens, dtype=self.model.dtype, device=self.model.device)
        mask[:, 0, 0, : prefix + width].masked_fill_(self._mask == 0, torch.finfo(mask.dtype).min)
        return mask

    def _attention_mask(self) -> torch.Tensor | None:
        import torch

        if not self._is_plain or self._mask is None:
            return self._mask
        mask = self._mask[..., : self._length]
        num_new = self._ids.shape[1]
        if num_new == 1:
            return mask
        later = torch.full((num_new, self._length), torch.finfo(mask.dtype).min, dtype=mask.dtype, device=mask.device)
        return torch.minimum(mask, later.triu(self._length - num_new + 1))

    def logits(self) -> torch.Tensor:
        """Float32 logits [answers, vocabulary] of each answer's next token."""
        if "position_ids" in self._takes:
            self._inputs["position_ids"] = self._positions
        mask = self._attention_mask()
        output = self.model(input_ids=self._ids, attention_mask=mask, use_cache=self._keeps_keys, **self._inputs)
        if self._keeps_keys:
            self._inputs["past_key_values"] = output.past_key_values
        return output.logits[:, -1].float()

    def likelihoods(self, first_logits: torch.Tensor, golds: Sequence[Sequence[int]]) -> list[Likelihood]:
        """The likelihood of a right answer after each prompt, which has just been read. `first_logits`: [answers,
        vocabulary], of the answers' first tokens. Leaves the batch as it was."""
        import torch

        width = max(map(len, golds)) - 1
        logits = [first_logits]
        if width:
            ids, length, positions = self._ids, self._length, self._positions
            rows = [[*gold[:-1], *[0] * (width + 1 - len(gold))] for gold in golds]
            self._ids = torch.tensor(rows, device=self.model.device)
            self._length += width
            self._positions = positions[:, -1:] + 1 + torch.arange(width, device=self.model.device)
            indices = [row * width + column for row, gold in enumerate(golds) for column in range(len(gold) - 1)]
            inputs = {name: value for name, value in self._inputs.items() if name != "logits_to_keep"}
            if "position_ids" in self._takes:
                inputs["position_ids"] = self._positions
            logits.append(
                logits_at(
                    self.model,
                    indices,
                    {**inputs, "input_ids": self._ids, "attention_mask": self._attention_mask(), "use_cache": True},
                )
            )
            self._inputs["past_key_values"].crop(-width)
            self._ids, self._length, self._positions = ids, length, positions
        tokens = [gold[0] for gold in golds] + [token for gold in golds for token in gold[1:]]
        token_likelihoods = iter(chosen_of(torch.cat(logits), range(len(tokens)), tokens))
        likelihoods_by_gold = [[next(token_likelihoods)] for _ in golds]
        for gold_likelihoods, gold in zip(likelihoods_by_gold, golds, strict=True):
            gold_likelihoods += [next(token_likelihoods) for _ in gold[1:]]
        return [summed(gold_likelihoods) for gold_likelihoods in likelihoods_by_gold]

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Keeps some answers of the batch, each of which goes on with its next token."""
        import torch

        if not self._keeps_keys:
            self.answers = [self.answers[row] for row in rows]
            self._ids = torch.cat([self._ids, self._ids.new_tensor([[*tokens]])], -1) if tokens else self._ids
            self._mask = torch.ones_like(self._ids)
            return
        self._positions = self._positions[:, -1:] + 1
        self._length += 1
        if len(rows) < len(self.answers):
            chosen = torch.tensor(rows, dtype=torch.long, device=self.model.device)
            self._inputs["past_key_values"].reorder_cache(chosen)
            self._positions = self._positions[chosen]
            self._mask = self._mask if self._mask is None else self._mask[chosen]
            self.answers = [self.answers[row] for row in rows]
        self._ids = torch.tensor(tokens, dtype=torch.long, device=self.model.device)[:, None]
        if not self._is_plain:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(rows), 1)], -1)


def _is_over(answer: _Answer, token: int, stop: StopWords, constraint: Constraint | None) -> bool:
    answer.tokens.append(token)
    if len(answer.tokens) >= answer.max_tokens or stop.is_over(answer.tokens):
        return True
    return constraint is not None and len(constraint.allowed(answer.tokens)) == 0


def _constrained(logits: torch.Tensor, answers: Sequence[_Answer], constraint: Constraint) -> torch.Tensor:
    """Logits [answers, vocabulary], −∞ for tokens that the constraint forbids."""
    import torch

    allowed = torch.full_like(logits, float("-inf"))
    for row, answer in enumerate(answers):
        tokens = torch.as_tensor(constraint.allowed(answer.tokens), dtype=torch.long, device=logits.device)
        allowed[row, tokens] = logits[row, tokens]
    return allowed


Chooser = Callable[["torch.Tensor", Sequence[_Answer]], list[int]]
"""Chooses the next token of each answer from logits [answers, vocabulary]."""


def _chooser(decoding: Decoding) -> Chooser:
    import torch

    penalty = decoding.repetition_penalty
    warpers = _warpers(decoding) if decoding.temperature else []

    def choose(logits: torch.Tensor, answers: Sequence[_Answer]) -> list[int]:
        if penalty is not None and penalty != 1.0:
            logits = _penalised(logits, answers, penalty)
        if not decoding.temperature:
            return logits.argmax(-1).tolist()
        for warper in warpers:
            logits = warper(None, logits)
        # One number per answer, from the answer's own generator: the place in the distribution's running sum.
        sums = logits.softmax(-1).double().cumsum(-1)
        random_numbers = torch.tensor([answer.randomness.random() for answer in answers], dtype=sums.dtype)
        token_ids = torch.searchsorted(sums, random_numbers.to(sums.device)[:, None] * sums[:, -1:], right=True)
        return token_ids.clamp(max=logits.shape[-1] - 1)[:, 0].tolist()

    return choose


def _warpers(decoding: Decoding) -> list[Any]:
    """The processors that transformers applies to the logits of a sampled token, in its order."""
    import transformers

    warpers: list[Any] = []
    if decoding.temperature != 1.0:
        warpers.append(transformers.TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k:
        warpers.append(transformers.TopKLogitsWarper(int(decoding.top_k)))
    if decoding.top_p is not None and decoding.top_p < 1.0:
        warpers.append(transformers.TopPLogitsWarper(float(decoding.top_p)))
    if decoding.min_p:
        warpers.append(transformers.MinPLogitsWarper(float(decoding.min_p)))
    return warpers


def _penalised(logits: torch.Tensor, answers: Sequence[_Answer], penalty: float) -> torch.Tensor:
    """Makes the tokens of each answer and its prompt less likely."""
    import torch
    import transformers

    penalise = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    rows = []
    for answer, row in zip(answers, logits, strict=True):
        context = torch.tensor([[*answer.prompt, *answer.tokens]], device=logits.device)
        rows.append(penalise(context, row[None]))
    return torch.cat(rows)
