"""The comparison of two models' answers to open instructions by a judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from raycodellm.config import Judge as JudgeSettings
from raycodellm.evaluation.win_rate.asking import ask_each
from raycodellm.evaluation.win_rate.endpoint import Judge, JudgeFailed, Said
from raycodellm.evaluation.win_rate.judge import JudgedPair, WinRate, question, verdict_of, win_rate
from raycodellm.evaluation.win_rate.kept_verdicts import KeptVerdicts, question_key
from raycodellm.evaluation.win_rate.open_instructions import OPEN_INSTRUCTIONS, REQUEST

if TYPE_CHECKING:
    import pyarrow as pa


class Answers(NamedTuple):
    """A model's answers to open instructions."""

    requests: Mapping[int, str]
    """Maps the number of each instruction to its request."""
    answers: Mapping[int, str]
    """Maps the number of each instruction that fits into the model's context to the answer, without spaces around
    it."""


def answers_in(items: pa.Table) -> Answers:
    """The answers in a table of a model's items; none where the model was asked no open instruction."""
    import pyarrow.compute as pc

    open_items = items.filter(pc.field("task") == OPEN_INSTRUCTIONS).select(
        ["item", "prediction", "too_long", "attributes"]
    )
    rows = open_items.to_pylist()
    return Answers(
        {row["item"]: json.loads(row["attributes"]).get(REQUEST, "") for row in rows},
        {row["item"]: (row["prediction"] or "").strip() for row in rows if not row["too_long"]},
    )


class AnswerPair(NamedTuple):
    """Two models' answers to one instruction."""

    item: int
    """Number of the instruction."""
    request: str
    base: str
    other: str

    @property
    def questions(self) -> tuple[str, str]:
        """The question with the base model's answer first, and the question with the other model's first. Where the
        answers are equal, neither needs to be asked."""
        return question(self.request, self.base, self.other), question(self.request, self.other, self.base)

    @property
    def is_equal(self) -> bool:
        return self.base == self.other


def paired(base: Answers, other: Answers) -> list[AnswerPair]:
    """The answers of both models to the instructions that both have answered."""
    both = sorted(base.answers.keys() & other.answers.keys())
    return [AnswerPair(item, base.requests[item], base.answers[item], other.answers[item]) for item in both]


def unasked(pairs: Sequence[AnswerPair], settings: JudgeSettings, kept_verdicts: KeptVerdicts) -> dict[str, str]:
    """The questions about the pairs that the judge has not answered yet, by their keys."""
    texts = (text for pair in pairs if not pair.is_equal for text in pair.questions)
    questions = {question_key(settings, text): text for text in texts}
    return {key: text for key, text in questions.items() if key not in kept_verdicts.said}


def judged_pair(pair: AnswerPair, settings: JudgeSettings, kept_verdicts: KeptVerdicts) -> JudgedPair:
    """The pair with the judge's verdicts, as far as they are known; equal answers tie, and are not asked about."""
    if pair.is_equal:
        return JudgedPair(pair.request, pair.base, pair.other, "tie", "tie")
    replies = [kept_verdicts.said.get(question_key(settings, text)) for text in pair.questions]
    base_first, other_first = (None if reply is None else verdict_of(reply) for reply in replies)
    return JudgedPair(pair.request, pair.base, pair.other, base_first, other_first, is_judged=None not in replies)


@dataclass(frozen=True)
class Comparison:
    """A judge's verdicts on two models' answers."""

    pairs: list[JudgedPair]
    """The instructions that both models have answered."""
    rate: WinRate

    def table(self) -> pa.Table:
        """A row per instruction: the request, both answers, both verdicts, and the score."""
        import pyarrow as pa

        names = ("request", "base", "other", "base_first", "other_first")
        rows = [{**{name: getattr(pair, name) for name in names}, "score": pair.score} for pair in self.pairs]
        return pa.Table.from_pylist(
            rows, pa.schema([*((name, pa.string()) for name in names), ("score", pa.float64())])
        )


def judged(
    pairs: Sequence[tuple[str, str]],
    items: Mapping[str, pa.Table],
    settings: JudgeSettings,
    kept_verdicts: KeptVerdicts | None = None,
    on_items: Callable[[str, int, int], None] = lambda what, done, in_all: None,
) -> dict[tuple[str, str], Comparison]:
    """Compares each (base, other) of models by their `items`. `kept_verdicts`: the judge's earlier ones.

    `on_items(what, done, in_all)` hears how many questions about a pair are answered. Raises JudgeFailed where the
    judge was given up, with what it has said kept, and UserError where its key is missing.
    """
    kept_verdicts = KeptVerdicts(None) if kept_verdicts is None else kept_verdicts
    answers = {model: answers_in(table) for model, table in items.items()}
    return {
        (base, other): compare_answers(
            answers[base],
            answers[other],
            Judge(settings),
            kept_verdicts,
            partial(on_items, f"{other} against {base}"),
        )
        for base, other in pairs
    }


def compare_answers(
    base: Answers,
    other: Answers,
    judge: Judge,
    kept_verdicts: KeptVerdicts,
    on_items: Callable[[int, int], None] = lambda answered, in_all: None,
) -> Comparison:
    """Asks the judge about each pair of answers in both orders. Raises JudgeFailed as `judged`."""
    pairs, settings = paired(base, other), judge.settings
    questions = unasked(pairs, settings, kept_verdicts)
    num_answered = 0

    def on_answer(key: str, reply: Said) -> None:
        nonlocal num_answered
        num_answered += 1
        kept_verdicts.add(key, settings.model, reply)
        on_items(num_answered, len(questions))

    try:
        if reason := ask_each(judge, questions, on_answer).why:
            raise JudgeFailed(reason)
    finally:
        kept_verdicts.flush()
    judged_pairs = [judged_pair(pair, settings, kept_verdicts) for pair in pairs]
    return Comparison(judged_pairs, win_rate(judged_pairs, too_long=len(base.requests) - len(pairs)))


def win_rate_lines(rate: WinRate, base: str, other: str) -> list[str]:
    """The win rate of the model `other` over `base`, in words."""
    lines = []
    if rate.rate is None:
        lines.append("no instruction was judged")
    else:
        ends = f"{rate.rate.low:.3f} to {rate.rate.high:.3f}"
        lines.append(f"win rate: {rate.rate.value:.3f} (95 % over instructions: {ends})")
        lines.append(f"{rate.wins} won, {rate.ties} tied, {rate.losses} lost; a tie counts half")
        first_note = (
            "" if rate.first_share is None else f"; the answer that stood first won {rate.first_share:.0%} of verdicts"
        )
        lines.append(f"the verdict turned round with the order of the answers in {rate.order_decided}{first_note}")
    left_out = {
        "the judge's answer has no verdict": rate.without_verdict,
        "the judge did not answer": rate.not_judged,
        "longer than a model's context": rate.too_long,
    }
    lines += [f"{count} instructions left out: {reason}" for reason, count in left_out.items() if count]
    length_note = (
        "" if rate.longer_share is None else f"; the longer answer won {rate.longer_share:.0%} of won and lost"
    )
    lengths = f"{base} {rate.base_characters:.0f}, {other} {rate.other_characters:.0f}"
    lines.append(f"characters per answer: {lengths}{length_note}")
    return lines
