"""Generates answers in batches with the attention's keys and values kept: greedy, sampled, or held to a pattern."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raycodellm.evaluation.decoding import Constraint, Decoding, StopWords
from raycodellm.evaluation.likelihoods import common_prefix, prefix_cache, repeated

if TYPE_CHECKING:
    import torch

_USUAL_TOP_K = 50
"""Of sampled answers where neither the task nor the model says otherwise, as in transformers."""


@dataclass
class _Answer:
    prompt: tuple[int, ...]
    randomness: random.Random
    """This answer's own, so that it depends on no other answer of the batch."""
    tokens: list[int] = field(default_factory=list)


def generated(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[str],
    decoding: Decoding,
    stop: StopWords,
    batch_size: int,
    *,
    share: bool,
    constraint: Constraint | None = None,
) -> list[str]:
    """The text that follows each prompt. Equal prompts are answered once; sampled answers also need equal seeds.

    Forward passes, and with them every bit of the results on one kind of machine, depend on these arguments alone.
    `batch_size`: answers generated at once. `share`: a beginning of all prompts is computed once, which needs a model
    that `shares_beginnings`.
    """
    import torch

    keys = [(tuple(prompt), seed if decoding.temperature else "") for prompt, seed in zip(prompts, seeds, strict=True)]
    order = sorted(dict.fromkeys(keys), key=lambda key: (-len(key[0]), key))
    texts: dict[tuple[tuple[int, ...], str], str] = {}
    with torch.inference_mode():
        prefix = common_prefix([prompt for prompt, _ in order]) if share and order else 0
        cache = prefix_cache(model, order[0][0][:prefix]) if prefix else None
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            answers = [_Answer(prompt, random.Random(seed)) for prompt, seed in batch]
            _generate(model, answers, decoding, stop, constraint, (prefix, cache))
            texts |= {key: stop.text(answer.tokens) for key, answer in zip(batch, answers, strict=True)}
    return [texts[key] for key in keys]


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text by the model's generation settings or the tokenizer."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = set(found if isinstance(found, (list, tuple)) else [found]) | {tokenizer.eos_token_id}
    return {end for end in ends if end is not None}


def _generate(
    model: Any,
    answers: list[_Answer],
    decoding: Decoding,
    stop: StopWords,
    constraint: Constraint | None,
    beginning: tuple[int, Any],
) -> None:
    """Fills in the answers' tokens. An answer that is over leaves the batch."""
    import torch

    prefix, cache = beginning
    choose = _chooser(model, decoding)
    width = max(len(answer.prompt) for answer in answers) - prefix
    pads = [width - (len(answer.prompt) - prefix) for answer in answers]
    device = model.device
    ids = torch.tensor(
        [[0] * pad + list(answer.prompt[prefix:]) for pad, answer in zip(pads, answers, strict=True)], device=device
    )
    mask = torch.ones(len(answers), prefix + width, dtype=torch.long, device=device)
    for row, pad in enumerate(pads):
        mask[row, prefix : prefix + pad] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, prefix:]
    inputs: dict[str, Any] = {"past_key_values": repeated(cache, len(answers))} if prefix else {}
    takes = inspect.signature(model.forward).parameters
    if "logits_to_keep" in takes:
        inputs["logits_to_keep"] = 1
    live = answers
    while True:
        if "position_ids" in takes:
            inputs["position_ids"] = positions
        found = model(input_ids=ids, attention_mask=mask, use_cache=True, **inputs)
        logits = found.logits[:, -1].float()
        if constraint is not None:
            logits = _constrained(logits, live, constraint)
        chosen = choose(logits, live)
        kept = [row for row, token in enumerate(chosen) if not _is_over(live[row], token, decoding, stop, constraint)]
        if not kept:
            return
        past = found.past_key_values
        tokens = [chosen[row] for row in kept]
        positions = positions[:, -1:] + 1
        if len(kept) < len(live):
            rows = torch.tensor(kept, device=device)
            past.reorder_cache(rows)
            mask, positions = mask[rows], positions[rows]
            live = [live[row] for row in kept]
        inputs["past_key_values"] = past
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], -1)
        ids = torch.tensor(tokens, device=device)[:, None]


def _is_over(answer: _Answer, token: int, decoding: Decoding, stop: StopWords, constraint: Constraint | None) -> bool:
    answer.tokens.append(token)
    if len(answer.tokens) >= decoding.max_tokens or stop.is_over(answer.tokens):
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


def _chooser(model: Any, decoding: Decoding) -> Chooser:
    import torch

    own = getattr(model, "generation_config", None)
    penalty = _setting(decoding.repetition_penalty, own, "repetition_penalty", 1.0)
    warpers = _warpers(decoding, own) if decoding.temperature else []

    def choose(logits: torch.Tensor, answers: Sequence[_Answer]) -> list[int]:
        if penalty != 1.0:
            logits = _penalised(logits, answers, penalty)
        if not decoding.temperature:
            return logits.argmax(-1).tolist()
        for warper in warpers:
            logits = warper(None, logits)
        # One number per answer, from the answer's own generator: the place in the distribution's running sum.
        sums = logits.softmax(-1).double().cumsum(-1)
        places = torch.tensor([answer.randomness.random() for answer in answers], dtype=sums.dtype)
        drawn = torch.searchsorted(sums, places.to(sums.device)[:, None] * sums[:, -1:], right=True)
        return drawn.clamp(max=logits.shape[-1] - 1)[:, 0].tolist()

    return choose


def _warpers(decoding: Decoding, own: Any) -> list[Any]:
    """What transformers applies to the logits of a sampled token, in its order."""
    import transformers

    found: list[Any] = []
    if decoding.temperature != 1.0:
        found.append(transformers.TemperatureLogitsWarper(decoding.temperature))
    if top_k := _setting(decoding.top_k, own, "top_k", _USUAL_TOP_K):
        found.append(transformers.TopKLogitsWarper(int(top_k)))
    if (top_p := _setting(decoding.top_p, own, "top_p", 1.0)) < 1.0:
        found.append(transformers.TopPLogitsWarper(float(top_p)))
    if min_p := _setting(decoding.min_p, own, "min_p", 0.0):
        found.append(transformers.MinPLogitsWarper(float(min_p)))
    return found


def _setting(asked: Any, own: Any, name: str, usual: Any) -> Any:
    if asked is not None:
        return asked
    found = getattr(own, name, None)
    return usual if found is None else found


def _penalised(logits: torch.Tensor, answers: Sequence[_Answer], penalty: float) -> torch.Tensor:
    """Makes the tokens of each answer and its prompt less likely."""
    import torch
    import transformers

    penalise = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    rows = []
    for answer, row in zip(answers, logits, strict=True):
        seen = torch.tensor([[*answer.prompt, *answer.tokens]], device=logits.device)
        rows.append(penalise(seen, row[None]))
    return torch.cat(rows)
