"""Asks the judge about all pairs of trials of a sweep, and keeps its replies.

No model but the judge is asked here: each trial's evaluation generated its answers. Each reply of the judge is kept as
it comes, so that another call asks only the questions without a reply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from raycodellm import evaluation, retrying
from raycodellm.config import Judge, SweepFile, UserError
from raycodellm.evaluation import AnswerPair, Answers, KeptVerdicts
from raycodellm.files import Folder
from raycodellm.tables.trials import Row
from raycodellm.win_rates.plan import Plan, SeedPair, plan
from raycodellm.win_rates.records import FOLDER, VERDICTS, Progress, WinRates, write_win_rates

if TYPE_CHECKING:
    import pyarrow as pa

_WINNER = {
    "reference_first": {"first": "reference", "second": "arm", "tie": "tie"},
    "arm_first": {"first": "arm", "second": "reference", "tie": "tie"},
}


def judge_trials(
    file: SweepFile,
    rows: Sequence[Row],
    run: Folder,
    items_of: Callable[[int], pa.Table],
    before: WinRates | None = None,
    on_questions: Callable[[int, int], None] = lambda answered, in_all: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> WinRates | None:
    """The win rates of the sweep in the folder `run`, after the judge was asked for those that are missing; None where
    no arm shares a seed with the reference.

    `rows`: of all trials that have begun; `items_of`: a trial's items by its number; `before`: what an earlier call has
    left, which is returned where nothing can be added to it. `on_questions(answered, in_all)` hears of the questions
    about the arm at hand. The win rates' `progress` says whether the judge was given up, which raises nothing.
    Raises `evaluation.Stopped` when told to stop, with everything kept that was said until then.
    """
    judge = file.example().evaluation.judge
    assert judge is not None, "only a sweep with evaluation.judge has win rates"
    comparisons = plan(file, rows)
    if comparisons.reference is None or not comparisons.pairs:
        return None
    if before is not None and _is_complete(before, comparisons, judge):
        return before
    work = _Work(judge, KeptVerdicts(run / FOLDER / VERDICTS), items_of)
    given_up = evaluation.GivenUp()
    for _, arm_pairs in groupby(comparisons.pairs, lambda pair: pair.arm):
        pairs = {pair: work.answers(pair) for pair in arm_pairs}
        if not given_up.for_all:
            outcome = work.ask(
                [answer_pair for answer_pairs in pairs.values() for answer_pair in answer_pairs],
                on_questions,
                should_stop,
            )
            given_up = outcome if outcome.why else given_up
        for pair, answer_pairs in pairs.items():
            work.count(pair, answer_pairs)
    progress = Progress(
        judge.model,
        judge.verdict_tokens,
        comparisons.reference,
        comparisons.phase,
        len(work.questions),
        sum(key in work.kept.said for key in work.questions),
        work.num_too_long,
        given_up.why,
        comparisons.left_out,
        tuple(sorted({work.kept.models[key] for key in work.questions if key in work.kept.models})),
    )
    rates = WinRates(progress, work.judgements)
    retrying.patiently(partial(write_win_rates, run, rates), f"{FOLDER}/")
    return rates


def _is_complete(win_rates: WinRates, comparisons: Plan, judge: Judge) -> bool:
    """True if the judge has answered every question about the trials that are compared now."""
    progress, wanted_pairs = win_rates.progress, {(pair.trial, pair.reference_trial) for pair in comparisons.pairs}
    judged_pairs = {(row["trial"], row["reference_trial"]) for row in win_rates.judgements}
    is_same = (progress.judge, progress.verdict_tokens, progress.left_out) == (
        judge.model,
        judge.verdict_tokens,
        comparisons.left_out,
    )
    return is_same and not progress.why and not progress.num_missing and judged_pairs == wanted_pairs


@dataclass
class _Work:
    """The questions and answers about the pairs of trials so far."""

    judge: Judge
    kept: KeptVerdicts
    items_of: Callable[[int], pa.Table]
    questions: set[str] = field(default_factory=set)
    """Keys of all questions, answered or not."""
    judgements: list[dict[str, Any]] = field(default_factory=list)
    num_too_long: int = 0
    _reference_answers: dict[int, Answers] = field(default_factory=dict)
    """Answers of the reference arm's trials, by number: each is compared with every arm."""

    def answers(self, pair: SeedPair) -> list[AnswerPair]:
        """The answers of both trials to the instructions that both have answered."""
        if pair.reference_trial not in self._reference_answers:
            self._reference_answers[pair.reference_trial] = evaluation.answers_in(self._items(pair.reference_trial))
        reference = self._reference_answers[pair.reference_trial]
        pairs = evaluation.paired(reference, evaluation.answers_in(self._items(pair.trial)))
        self.num_too_long += len(reference.requests) - len(pairs)
        return pairs

    def _items(self, number: int) -> pa.Table:
        return retrying.patiently(lambda: self.items_of(number), "items")

    def ask(
        self, pairs: Sequence[AnswerPair], on_questions: Callable[[int, int], None], should_stop: Callable[[], bool]
    ) -> evaluation.GivenUp:
        """Asks the questions about the pairs that have no answer; returns the reason if the judge was given up."""
        missing: Mapping[str, str] = evaluation.unasked(pairs, self.judge, self.kept)
        if not missing:
            return evaluation.GivenUp()
        num_answered = 0

        def on_answer(key: str, reply: evaluation.Said) -> None:
            nonlocal num_answered
            num_answered += 1
            self.kept.add(key, self.judge.model, reply)
            on_questions(num_answered, len(missing))

        try:
            return evaluation.ask_each(evaluation.Judge(self.judge), missing, on_answer, should_stop)
        except UserError as error:  # the key is missing
            return evaluation.GivenUp(str(error), for_all=True)
        finally:
            self.kept.flush()

    def count(self, pair: SeedPair, answers: Sequence[AnswerPair]) -> None:
        """Adds a row for each of the pair's answers."""
        for answer_pair in answers:
            judged_pair = evaluation.judged_pair(answer_pair, self.judge, self.kept)
            keys: tuple[str | None, ...] = (None, None)
            if not answer_pair.is_equal:
                keys = tuple(evaluation.question_key(self.judge, question) for question in answer_pair.questions)
                self.questions.update(key for key in keys if key is not None)
            self.judgements.append(
                {
                    "arm": pair.arm,
                    "seed": pair.seed,
                    "trial": pair.trial,
                    "reference_trial": pair.reference_trial,
                    "item": answer_pair.item,
                    "reference_first": _WINNER["reference_first"].get(judged_pair.base_first or ""),
                    "arm_first": _WINNER["arm_first"].get(judged_pair.other_first or ""),
                    "score": judged_pair.score,
                    "is_judged": judged_pair.is_judged,
                    "characters": len(judged_pair.other),
                    "reference_characters": len(judged_pair.base),
                    "reference_first_key": keys[0],
                    "arm_first_key": keys[1],
                }
            )
