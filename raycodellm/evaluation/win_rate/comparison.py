"""The suite `win-rate`: answers of models to open instructions, and a judge's verdicts on pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raycodellm.config import Evaluation
from raycodellm.evaluation.engine.decoding import Decoding
from raycodellm.evaluation.engine.language_model import AnswerLM, load_model, model_files
from raycodellm.evaluation.isolation import own_randomness, quiet
from raycodellm.evaluation.win_rate.endpoint import Judge, JudgeSettings
from raycodellm.evaluation.win_rate.instructions import read_instructions
from raycodellm.evaluation.win_rate.judge import JudgedPair, WinRate, question, verdict_of, win_rate
from raycodellm.files import Folder

if TYPE_CHECKING:
    import pyarrow as pa

ANSWER_TOKENS = 256
"""Greatest length of an answer."""
_NEXT_TURN = "\nUser:"
"""Begins the next question in the conversations that this package trains on; an answer ends there."""
_BLOCK = 64
"""Instructions whose answers are generated together."""


def answers(
    model: Folder | Path | str,
    requests: Sequence[str],
    batch_size: int,
    max_tokens: int = ANSWER_TOKENS,
    device: str | None = None,
    on_items: Callable[[int, int], None] = lambda answered, in_all: None,
) -> list[str | None]:
    """The model's answer to each request, decoded greedily; None where the model's context has no room for both.

    A request is put as the tokenizer's chat template says; without one as this package puts instructions. Raises
    UserError for a model that cannot be loaded.
    """
    with quiet(), own_randomness(), model_files(model) as files:
        lm = load_model(files, batch_size, device)
        prompts = [_prompt(lm, request) for request in requests]
        fitting = [place for place, prompt in enumerate(prompts) if len(prompt) + max_tokens <= lm.max_length]
        decoding = Decoding(max_tokens=max_tokens, until=(_NEXT_TURN,))
        found: dict[int, str] = {}
        on_items(0, len(requests))
        for start in range(0, len(fitting), _BLOCK):
            block = fitting[start : start + _BLOCK]
            texts = lm.generate([prompts[place] for place in block], [str(place) for place in block], decoding)
            found |= zip(block, (text.strip() for text in texts), strict=True)
            on_items(start + len(block), len(requests))
        return [found.get(place) for place in range(len(requests))]


def _prompt(lm: AnswerLM, request: str) -> list[int]:
    tokenizer = lm.encoder.tokenizer
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": request}], tokenize=False, add_generation_prompt=True
        )
        return lm.tok_encode(text, add_special_tokens=False)  # the template holds the special tokens
    return lm.tok_encode(f"User: {request}\nAssistant:")


@dataclass(frozen=True)
class Comparison:
    """A judge's verdicts on two models' answers."""

    pairs: list[JudgedPair]
    """The instructions that both models have answered."""
    rate: WinRate

    def table(self) -> pa.Table:
        """A row per instruction: the request, both answers, both verdicts, and the score."""
        import pyarrow as pa

        rows = [{**vars(pair), "score": pair.score} for pair in self.pairs]
        names = [*JudgedPair.__dataclass_fields__]
        return pa.Table.from_pylist(
            rows, pa.schema([*((name, pa.string()) for name in names), ("score", pa.float64())])
        )


@dataclass(frozen=True)
class Judging:
    """How models are compared by a judge."""

    judge: JudgeSettings
    instructions: str
    """Path of the file of instructions."""
    max_tokens: int = ANSWER_TOKENS
    """Greatest length of an answer."""


def judged(
    pairs: Sequence[tuple[str, str]],
    settings: Evaluation,
    judging: Judging,
    on_items: Callable[[str, int, int], None] = lambda what, done, in_all: None,
    device: str | None = None,
) -> dict[tuple[str, str], Comparison]:
    """Compares each (base, other) of models; each model answers once, on `device`.

    `on_items(what, done, in_all)` hears how many answers of a model, and how many instructions of a pair, there are.
    Raises as `answers` and `Judge.ask`.
    """
    requests = read_instructions(judging.instructions, settings.limit)
    judge = Judge(judging.judge)
    models = dict.fromkeys(model for pair in pairs for model in pair)
    said = {
        model: answers(
            model, requests, settings.batch_size, judging.max_tokens, device, on_items=partial(on_items, model)
        )
        for model in models
    }
    return {
        (base, other): compare_answers(
            requests, said[base], said[other], judge, partial(on_items, f"{other} against {base}")
        )
        for base, other in pairs
    }


def compare_answers(
    requests: Sequence[str],
    base: Sequence[str | None],
    other: Sequence[str | None],
    judge: Judge,
    on_items: Callable[[int, int], None] = lambda judged, in_all: None,
) -> Comparison:
    """Asks the judge about each pair of answers in both orders. Raises as `Judge.ask`."""
    both = [
        (request, one, two)
        for request, one, two in zip(requests, base, other, strict=True)
        if one is not None and two is not None
    ]
    asked = [text for request, one, two in both for text in (question(request, one, two), question(request, two, one))]
    said = judge.ask_all(asked, lambda number: on_items(number // 2, len(both)))
    verdicts = [verdict_of(text) for text in said]
    pairs = [
        JudgedPair(request, one, two, verdicts[2 * place], verdicts[2 * place + 1])
        for place, (request, one, two) in enumerate(both)
    ]
    return Comparison(pairs, win_rate(pairs, too_long=len(requests) - len(both)))


def win_rate_lines(rate: WinRate, base: str, other: str) -> list[str]:
    """The win rate of the model `other` over `base`, in words."""
    said = []
    if rate.rate is None:
        said.append("no instruction was judged")
    else:
        ends = f"{rate.rate.low:.3f} to {rate.rate.high:.3f}"
        said.append(f"win rate: {rate.rate.value:.3f} (95 % over instructions: {ends})")
        said.append(f"{rate.wins} won, {rate.ties} tied, {rate.losses} lost; a tie counts half")
        first = (
            "" if rate.first_share is None else f"; the answer that stood first won {rate.first_share:.0%} of verdicts"
        )
        said.append(f"the verdict turned round with the order of the answers in {rate.order_decided}{first}")
    left_out = {
        "the judge's answer has no verdict": rate.without_verdict,
        "longer than a model's context": rate.too_long,
    }
    said += [f"{count} instructions left out: {why}" for why, count in left_out.items() if count]
    longer = "" if rate.longer_share is None else f"; the longer answer won {rate.longer_share:.0%} of won and lost"
    lengths = f"{base} {rate.base_characters:.0f}, {other} {rate.other_characters:.0f}"
    said.append(f"characters per answer: {lengths}{longer}")
    return said
