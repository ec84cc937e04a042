"""Foresees tasks of which no item fits into a model's context, before a model is trained for them.

An item's tokens are counted as `scoring` counts them: with the tokenizer itself, or, before it is trained, as the words
and signs into which byte-level BPE cuts a text first. No tokenizer of that kind makes fewer tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raycodellm import config, model
from raycodellm.config import Evaluation, SweepFile, UserError
from raycodellm.evaluation.data.sources import find_data
from raycodellm.evaluation.engine.encoding import Encoder
from raycodellm.evaluation.isolation import own_randomness, quiet
from raycodellm.evaluation.scoring import instances_by_item, tokens_needed
from raycodellm.evaluation.tasks.loading import load_tasks
from raycodellm.evaluation.tasks.names import Places
from raycodellm.evaluation.tasks.sampling import Sampling
from raycodellm.evaluation.tasks.units import asked_units
from raycodellm.evaluation.texts.held_out import DOMAIN_OF_TASK
from raycodellm.tasks import BUILTIN

if TYPE_CHECKING:
    import tokenizers
    from lm_eval.api.task import Task

BUILTIN_TOKENS = 256
"""Tokens that some of the first items of each built-in task stay below, even at a token per byte. They are not
counted for a context of so many, which would import lm-eval: three seconds."""
_SAMPLE = 64
"""Items that are looked at first: building all requests of a large task takes seconds."""
_TOKENS_PER_WORD = 1.3
"""Usual tokens per word or sign, of a tokenizer of some thousand entries."""


@dataclass(frozen=True)
class Counter:
    """Counts tokens as a model that is evaluated would cut them."""

    encoder: Encoder
    max_length: int = 0
    is_exact: bool = True
    """False where the count is the least that any tokenizer gives."""

    @property
    def tokens_per_counted(self) -> float:
        """Most tokens that an item may have per token that this counter finds."""
        return 1.0 if self.is_exact else _TOKENS_PER_WORD

    def tok_encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        return self.encoder.encode(text, add_special_tokens)


def exact_counter(tokenizer: tokenizers.Tokenizer) -> Counter:
    """Counts with a sweep's own tokenizer."""

    def token_ids(texts: list[str], adds_special_tokens: bool) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=adds_special_tokens)]

    return Counter(Encoder(_CountingTokenizer(token_ids)))


def least_counter() -> Counter:
    """Counts words and signs, for a byte-level BPE tokenizer that is not trained yet."""
    from tokenizers import pre_tokenizers

    words = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def token_ids(texts: list[str], adds_special_tokens: bool) -> list[list[int]]:
        return [[1] * len(words.pre_tokenize_str(text)) for text in texts]

    return Counter(Encoder(_CountingTokenizer(token_ids)), is_exact=False)


@dataclass(frozen=True)
class _CountingTokenizer:
    """Counts tokens behind the interface of a tokenizer that `Encoder` uses."""

    token_ids: Callable[[list[str], bool], list[list[int]]]
    """(texts, whether special tokens are added) -> the tokens of each text."""
    bos_token_id: int = 0
    eos_token_id: int = 0
    backend_tokenizer: None = field(default=None, init=False)

    def __call__(self, texts: list[str], add_special_tokens: bool, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": self.token_ids(texts, add_special_tokens)}

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return "<|endoftext|>"


@dataclass(frozen=True)
class Unfit:
    """A task of which no item, or perhaps none, fits into the context of a model that the sweep trains."""

    task: str
    num_items: int
    least: int
    """Tokens of the shortest item, by the counter."""
    context: int
    is_certain: bool

    def __str__(self) -> str:
        verb = "needs at least" if self.is_certain else "has"
        unit = "tokens" if self.is_certain else "words and signs, each of one token or more"
        how_many = "none" if self.is_certain else "perhaps none"
        items = "its item" if self.num_items == 1 else f"its {self.num_items:,} items"
        return (
            f"{self.task}: {how_many} of {items} fits into the model's context of {self.context:,} tokens: the "
            f"shortest {verb} {self.least:,} {unit}"
        )


def require_fit(unfit: Sequence[Unfit]) -> list[str]:
    """A line for each task that perhaps does not fit. Raises UserError for those that certainly do not."""
    certain = [task for task in unfit if task.is_certain]
    if certain:
        further = f"; nor of {', '.join(task.task for task in certain[1:])}" if certain[1:] else ""
        raise UserError(
            f"evaluation: {certain[0]}{further}; leave such tasks out, or train a model with a longer context"
        )
    return [f"{task}; `run` counts before it trains" for task in unfit]


def unfit_tasks(file: SweepFile, vocab_size: int, counter: Counter) -> list[Unfit]:
    """The tasks that do not fit into the smallest context of the models that are evaluated on them. Leaves out tasks
    whose data only the hub has, and sweeps that train nothing: their evaluation, which is their first work, refuses
    such a task as soon."""
    contexts: dict[Evaluation, int] = {}
    for sweep in (config.resolve(file, point) for point in file.probe_points()):
        context = model.context_length(sweep.model, vocab_size) if sweep.stages else None
        if context is not None:
            contexts[sweep.evaluation] = min(context, contexts.get(sweep.evaluation, context))
    unfit: dict[str, Unfit] = {}
    for settings, context in contexts.items():
        unfit |= {task.task: task for task in _unfit_of(settings, context, counter)}
    return [*unfit.values()]


def _unfit_of(settings: Evaluation, context: int, counter: Counter) -> Iterator[Unfit]:
    places = Places.of(settings)
    tasks = dict.fromkeys(task for unit_tasks in asked_units(settings).values() for task in unit_tasks)
    names = tuple(name for name in tasks if _is_at_hand(name, places, context))
    if not names:
        return
    with quiet(), own_randomness():
        loaded = load_tasks(names, settings.few_shot, places, Sampling.of(settings))
        for task_name, task in loaded.single.items():
            num_sampled = _SAMPLE if settings.limit is None else min(_SAMPLE, settings.limit)
            num_items, fewest_tokens = _shortest(task_name, task, num_sampled, counter, context)
            if fewest_tokens * counter.tokens_per_counted > context and num_sampled != settings.limit:
                num_items, fewest_tokens = _shortest(task_name, task, settings.limit, counter, context)
            if fewest_tokens * counter.tokens_per_counted > context:
                yield Unfit(task_name, num_items, fewest_tokens, context, is_certain=fewest_tokens > context)


def _is_at_hand(name: str, places: Places, context: int) -> bool:
    """True for a task that can be looked at here, and has to be."""
    if name in DOMAIN_OF_TASK or (name in BUILTIN and context >= BUILTIN_TOKENS):
        return False  # whole texts are read in windows
    return all(source.at in ("folder", "cache", "address") for source in find_data([name], places, elsewhere=True))


def _shortest(name: str, task: Task, limit: int | None, counter: Counter, context: int) -> tuple[int, int]:
    """(number of items, tokens of the shortest one); tokens of one that fits as soon as one does."""
    items = instances_by_item(task, limit)
    fewest_tokens: int | None = None
    for instances in reversed(items):  # the last ones have the shortest prompts
        item_tokens = tokens_needed(counter, name, task, instances)
        fewest_tokens = item_tokens if fewest_tokens is None else min(fewest_tokens, item_tokens)
        if fewest_tokens * counter.tokens_per_counted <= context:
            break
    return len(items), fewest_tokens or 0
