"""The check that another engine writes the answers that this package's own writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from raycodellm.evaluation.engine.decoding import Decoding
from raycodellm.evaluation.engine.language_model import AnswerLM
from raycodellm.evaluation.engine.writer import Writer

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

NUM_CHECKED = 16
"""Prompts of a task that both engines answer."""
_NEAR_TIE = {4: 0.01, 2: 0.25}
"""Bytes of the model's numbers -> greatest difference, in nats, of two tokens that rounding may exchange. In bfloat16
logits between 16 and 32 are 0.125 apart, and each of two may be off by one step."""


class WritersDisagree(RuntimeError):
    """Another engine's answers are not those of this package's engine."""


@dataclass(frozen=True)
class Difference:
    """Two greedy answers to one prompt that are not the same text."""

    prompt: int
    """Index of the prompt among the prompts that both engines answer."""
    ours: str
    theirs: str
    gap: float | None
    """How much likelier, in nats, our first differing token is than theirs after the same tokens; None where one answer
    ends and the other goes on."""


def differences(lm: AnswerLM, writer: Writer, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Difference]:
    """The prompts that the two engines answer differently, decoded greedily, by more than a near tie."""
    greedy = dataclasses.replace(decoding, temperature=0.0, repetition_penalty=1.0).settled(None)
    seeds = [str(index) for index in range(len(prompts))]
    both = zip(lm.write(prompts, seeds, greedy), writer.write(prompts, seeds, greedy), strict=True)
    disagreements = []
    for index, (ours, theirs) in enumerate(both):
        our_text, their_text = lm.text(ours, greedy), lm.text(theirs, greedy)
        if our_text == their_text:
            continue
        num_equal = len([*takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))])
        gap = None
        if num_equal < min(len(ours), len(theirs)):
            answers = [(list(prompts[index]), tokens[: num_equal + 1]) for tokens in (ours, theirs)]
            (our_likelihood, _), (their_likelihood, _) = lm.likelihoods(answers)
            gap = our_likelihood - their_likelihood
        if gap is None or not gap <= _NEAR_TIE[4 if lm.model.dtype.itemsize >= 4 else 2]:  # NaN is no near tie
            disagreements.append(Difference(index, our_text, their_text, gap))
    return disagreements


def problem(lm: AnswerLM, writer: Writer, task: str, requests: Iterable[Instance]) -> str:
    """The fault of the writer's answers to the first of a task's requests, in words; empty where the engines
    agree. Requests whose answers are held to a pattern are left out: this engine answers them."""
    decoding = None
    prompts: dict[tuple[int, ...], None] = {}
    for request in requests:
        request_decoding = Decoding.of(request.args[1], lm.max_gen_toks)
        prompt = tuple(lm.tok_encode(request.args[0]))
        if request_decoding.pattern is None and len(prompt) < lm.max_length and decoding in (None, request_decoding):
            decoding, prompts[prompt] = request_decoding, None
        if len(prompts) == NUM_CHECKED:
            break
    disagreements = differences(lm, writer, [*prompts], decoding) if decoding is not None else []
    if not disagreements:
        return ""
    worst = max(disagreements, key=lambda disagreement: float("inf") if disagreement.gap is None else disagreement.gap)
    explanation = (
        "one of the two ends where the other goes on"
        if worst.gap is None
        else f"after equal beginnings the token of {writer.name} is {worst.gap:.3g} nats less likely"
    )
    return (
        f"evaluation.backend: {writer.name} does not write what transformers writes for {len(disagreements)} of "
        f"{len(prompts)} items of {task!r}; one answer of {writer.name} is {worst.theirs!r}, that of transformers "
        f"{worst.ours!r}: {explanation}, which rounding does not explain; leave evaluation.backend out"
    )
