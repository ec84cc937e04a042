"""Scoring the items of a task: likelihoods of the answers, generated answers, and a row per item."""

from __future__ import annotations

import json
import math
import traceback
import weakref
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation.chat import as_chat
from raycodellm.evaluation.code.answers import answer_of
from raycodellm.evaluation.engine.encoding import Encoder
from raycodellm.evaluation.engine.language_model import AnswerLM, TokenPair
from raycodellm.evaluation.isolation import compiled_templates, seed_all
from raycodellm.evaluation.rationales import ItemRequests, asks_for_rationales, rationale_request, with_rationales
from raycodellm.evaluation.scores.compared import choice_names, compared
from raycodellm.evaluation.scores.item_scores import item_scores, with_filter
from raycodellm.evaluation.scores.metrics import accuracy_score, is_scored, scores_of
from raycodellm.evaluation.tasks.metric_check import described, gold_text
from raycodellm.evaluation.tasks.sampling import item_limit

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task
FEW_SHOT_SEED = 1234
"""lm-eval's own default, so that its command draws the same examples."""
_BLOCK_ITEMS = 16
"""Least number of items that are scored together. Workers get whole blocks, so that neither a batch's items nor the
last bit of a likelihood depend on the number of workers."""
_WRITER_BLOCK_ITEMS = 512
"""Least number of items in a block where vLLM writes the answers, which is fast with many at once."""
_MOST_ITEMS_PER_PROMPT = 16
"""A block holds so many times its number of prompts in items at most."""

ScoredItem = dict[str, Any]
"""The columns of `ITEMS_SCHEMA`, and two that the table does not keep: `needed` (tokens of context) and `not_finite` (a
log-likelihood that is infinite or no number, as text). All values are JSON values, since the rows of a task in work are
kept in files."""

OnBlock = Callable[[int | None, list[ScoredItem]], None]
"""Hears a scored block's number and its rows. Workers of a group score in rounds, and each of them calls it once in
every round, so that it may be a collective; a worker without a block in the last round passes None and no rows."""


class Reader(Protocol):
    """Cuts texts into tokens as the model does."""

    @property
    def encoder(self) -> Encoder: ...

    @property
    def max_length(self) -> int:
        """Tokens of the model's context."""

    def tok_encode(self, text: str) -> list[int]: ...


@dataclass
class _Question:
    """One item of a task while it is scored."""

    row: ScoredItem
    instances: list[Instance]
    pairs: list[TokenPair]
    """Prompts and answers whose likelihoods are asked for: one per choice, or the right answer alone."""
    right_indices: list[int]
    """Indices in `pairs` of the right answers; an item is right with any of them."""
    num_bytes: list[int]
    """UTF-8 bytes of each right answer's text."""


_requests: weakref.WeakKeyDictionary[Task, tuple[str, list[list[Instance]]]] = weakref.WeakKeyDictionary()
"""The requests built last for each loaded task, and the settings that they were built with."""


def instances_by_item(task: Task, limit: int | None) -> list[list[Instance]]:
    """The requests of each item, longest first, so that a batch has little padding, and equal prompts side by side.

    Every worker builds the requests of all items, since few-shot examples are drawn one item after the other. A process
    that evaluates model after model builds them once.
    """
    limit = item_limit(task, limit)
    settings = repr((limit, task.config.num_fewshot, task.config.repeats, task.config.generation_kwargs))
    built_with, items = _requests.get(task, ("", []))
    if built_with != settings:
        items = _build_requests(task, limit)
        _requests[task] = settings, items
    return items


def _build_requests(task: Task, limit: int | None) -> list[list[Instance]]:
    seed_all()
    task.set_fewshot_seed(FEW_SHOT_SEED)
    with compiled_templates():
        task.build_all_requests(limit=limit)
    by_item: dict[int, list[Instance]] = {}
    for instance in task.instances:
        by_item.setdefault(instance.doc_id, []).append(instance)
    items = [sorted(instances, key=lambda instance: instance.idx) for instances in by_item.values()]
    return sorted(items, key=lambda instances: (-len(_prompt(instances)), _prompt(instances)))


def _prompt(instances: list[Instance]) -> str:
    return str(instances[0].args[0])


def blocks(items: list[list[Instance]], settings: Evaluation) -> list[list[list[Instance]]]:
    """The items of a task in the blocks that are scored together, whatever the workers. Equal prompts, which stand side
    by side, count as one: their answer is generated once. They are parted only where many items have the same prompt.
    """
    is_written = settings.backend == "vllm" and bool(items) and items[0][0].request_type == "generate_until"
    size = max(_WRITER_BLOCK_ITEMS if is_written else _BLOCK_ITEMS, settings.batch_size)
    item_blocks: list[list[list[Instance]]] = []
    num_prompts = 0
    for instances in items:
        is_new = not item_blocks or _prompt(instances) != _prompt(item_blocks[-1][-1])
        if not item_blocks or (is_new and num_prompts == size) or len(item_blocks[-1]) == _MOST_ITEMS_PER_PROMPT * size:
            item_blocks.append([])
            num_prompts, is_new = 0, True
        item_blocks[-1].append(instances)
        num_prompts += is_new
    return item_blocks


def writing_requests(task: Task, items: Sequence[list[Instance]]) -> list[Instance]:
    """The requests that the model answers by writing; empty for a task that asks for likelihoods alone."""
    if asks_for_rationales(task):
        return [rationale_request(task, instances) for instances in items]
    return [instances[0] for instances in items if instances[0].request_type == "generate_until"]


def score_task(
    lm: AnswerLM | None,
    name: str,
    task: Task,
    items: list[list[Instance]],
    settings: Evaluation,
    rank: int,
    num_models: int,
    *,
    on_block: OnBlock,
    done_blocks: Container[int] = frozenset(),
) -> None:
    """Scores this worker's share of the task's `items`, block by block, without the blocks in `done_blocks`.

    Gives each block's rows to `on_block`, which may end the scoring by an exception. The first `num_models` workers
    have a model; the others only take part in the rounds.
    """
    remaining = [
        (block, block_items) for block, block_items in enumerate(blocks(items, settings)) if block not in done_blocks
    ]
    for first_index in range(0, len(remaining), num_models):
        if lm is not None and first_index + rank < len(remaining):
            block, block_items = remaining[first_index + rank]
            on_block(block, _score_block(lm, name, task, block_items))
        else:
            on_block(None, [])


def _score_block(lm: AnswerLM, name: str, task: Task, items: list[list[Instance]]) -> list[ScoredItem]:
    seed_all()  # a sampled answer must not depend on the blocks that this worker scored before
    requests = with_rationales(lm, task, [as_chat(lm, task, instances) for instances in items])
    with compiled_templates():
        lm.encoder.remember(*_texts_to_encode(task, [instance for item in requests for instance in item.instances]))
        questions = [_question(lm, name, task, item) for item in requests]
        if fitting := [question for question in questions if not question.row["too_long"]]:
            _score_questions(lm, task, fitting)
    return [question.row for question in questions]


def _texts_to_encode(task: Task, instances: list[Instance]) -> tuple[list[str], list[tuple[str, str]]]:
    """The texts, and the prompts with their answers, that the requests need in tokens."""
    if task.OUTPUT_TYPE in ("multiple_choice", "loglikelihood"):
        return [], [instance.args for instance in instances]
    prompts = [instance.args[0] for instance in instances]
    if task.OUTPUT_TYPE != "generate_until":
        return prompts, []
    delimiter = task.config.target_delimiter
    return prompts, [(instance.args[0], delimiter + gold_text(task, instance.doc)) for instance in instances]


def _question(lm: Reader, name: str, task: Task, item: ItemRequests) -> _Question:
    instances = item.instances
    doc = instances[0].doc
    question = {
        "multiple_choice": _choice_question,
        "loglikelihood": _likelihood_question,
        "generate_until": _generation_question,
        "loglikelihood_rolling": _rolling_question,
    }[task.OUTPUT_TYPE](lm, name, task, instances)
    num_prompt_tokens = max((len(prompt) for prompt, _ in question.pairs), default=0)
    attributes = _attributes(doc)
    if isinstance(attributes.get("chance"), float):
        question.row["chance"] = attributes["chance"]  # a baseline of the task's own, such as guessing by a rule
    # The last token of an answer is predicted, never read.
    needed_tokens = max(
        [len(prompt) + len(answer) - 1 for prompt, answer in question.pairs]
        + [question.row.get("needed", 0), item.needed_tokens]
    )
    rationale = {} if item.rationale is None else {"rationale": item.rationale}
    question.row |= {
        "task": name,
        "item": instances[0].doc_id,
        "doc_hash": _doc_hash(doc),
        "num_prompt_tokens": num_prompt_tokens,
        "needed": needed_tokens,
        "too_long": needed_tokens > lm.max_length,
        "attributes": json.dumps(attributes | rationale),
    }
    return question


def tokens_needed(lm: Reader, name: str, task: Task, instances: list[Instance]) -> int:
    """Tokens of context that an item needs; 0 for a whole text, which is read in windows."""
    rationale_tokens = 0
    if asks_for_rationales(task):
        prompt, settings = rationale_request(task, instances).args
        rationale_tokens = len(lm.tok_encode(prompt)) + settings["max_gen_toks"]
    return _question(lm, name, task, ItemRequests(instances, None, rationale_tokens)).row["needed"]


def _choice_question(lm: Reader, name: str, task: Task, instances: list[Instance]) -> _Question:
    doc = instances[0].doc
    choices = choice_names(task, doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    golds = gold if isinstance(gold, list) else [gold]
    right_indices = [choices.index(answer) if isinstance(answer, str) else answer for answer in golds]
    if not right_indices or not all(0 <= index < len(choices) for index in right_indices):
        raise ValueError(f"task {name!r}, item {instances[0].doc_id}: right answer {gold!r} of {len(choices)} choices")
    # Where the choices are prompts, the answer is the text that follows them.
    texts = [instances[index].args[1].removeprefix(task.config.target_delimiter) for index in right_indices]
    row = {"gold": choices[right_indices[0]], "chance": len(set(right_indices)) / len(choices)}
    pairs = [_encoded_together(lm, *instance.args) for instance in instances]
    return _Question(row, instances, pairs, right_indices, [len(text.encode()) for text in texts])


def _likelihood_question(lm: Reader, name: str, task: Task, instances: list[Instance]) -> _Question:
    if len(instances) != 1:
        raise UserError(f"evaluation.tasks: {name!r} asks {len(instances)} likelihoods per item; one is supported")
    prompt, answer = instances[0].args
    text = answer.removeprefix(task.config.target_delimiter) or answer
    row = {"gold": text, "chance": 0.0}
    return _Question(row, instances, [_encoded_together(lm, prompt, answer)], [0], [len(text.encode())])


def _generation_question(lm: Reader, name: str, task: Task, instances: list[Instance]) -> _Question:
    """An answer to write. The item needs room for its prompt and its right answer; the model writes until it is done,
    the task's greatest length is reached, or the context is full."""
    prompt, text = instances[0].args[0], gold_text(task, instances[0].doc)
    row = {"gold": text, "chance": 0.0, "needed": len(lm.tok_encode(prompt)) + 1}
    pair = lm.encoder.encode_pair(prompt, task.config.target_delimiter + text)
    pairs = [pair] if text and pair[1] else []
    return _Question(row, instances, pairs, [0] * len(pairs), [len(text.encode())])


def _rolling_question(lm: Reader, name: str, task: Task, instances: list[Instance]) -> _Question:
    """A whole text. lm-eval reads a text in windows that cover all of it, so it cannot be too long."""
    return _Question({}, instances, [], [], [task.count_bytes(task.doc_to_target(instances[0].doc))])


def _encoded_together(lm: Reader, prompt: str, answer: str) -> TokenPair:
    """Encodes both together, as lm-eval does, so that the answer's first token may hold the space before it."""
    pair = lm.encoder.encode_pair(prompt, answer)
    if not pair[1]:
        raise UserError(f"evaluation.tasks: an answer {answer!r} has no token of its own after its prompt")
    return pair


def _doc_hash(doc: Any) -> str:
    from lm_eval.utils import handle_non_serializable, hash_string

    return hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False))


def _attributes(doc: Any) -> dict[str, Any]:
    """The JSON object in the item's field `attributes`, which the built-in tasks have; else nothing."""
    text = doc.get("attributes") if isinstance(doc, dict) else None
    if not isinstance(text, str):
        return {}
    try:
        attributes = json.loads(text)
    except ValueError:  # a field of this name in another task
        return {}
    return attributes if isinstance(attributes, dict) else {}


def _score_questions(lm: AnswerLM, task: Task, questions: list[_Question]) -> None:
    """Fills in the rows of questions that fit into the model's context."""
    pairs = [pair for question in questions for pair in question.pairs]
    instances = [instance for question in questions for instance in question.instances]
    answered_instances = instances
    responses: list[Any] = []
    if task.OUTPUT_TYPE == "generate_until":
        answered_instances = [instance for instance in instances for _ in range(instance.repeats)]
        responses, pair_likelihoods = lm.answered(answered_instances, pairs)
    else:
        pair_likelihoods = lm.likelihoods(pairs)
    remaining = iter(pair_likelihoods)
    question_likelihoods = [[next(remaining) for _ in question.pairs] for question in questions]
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        responses = lm.loglikelihood_rolling(instances)
    elif task.OUTPUT_TYPE != "generate_until":
        for question, likelihoods in zip(questions, question_likelihoods, strict=True):
            responses += compared(task, question.pairs, likelihoods)
    for instance in instances:
        instance.resps, instance.filtered_resps = [], {}  # drops the responses of a model evaluated before
    for instance, response in zip(answered_instances, responses, strict=True):
        instance.resps.append(response)
    task._instances = instances  # apply_filters reads this list; the task's other instances have no responses
    task.apply_filters()
    first_filter, *other_filters = instances[0].filtered_resps  # of a task with several filters the first one counts
    for question, likelihoods in zip(questions, question_likelihoods, strict=True):
        answers = [instance.filtered_resps[first_filter] for instance in question.instances]
        _fill_row(task, question, [likelihood for likelihood, _ in likelihoods], answers)
        for filter_name in other_filters:
            answers = [instance.filtered_resps[filter_name] for instance in question.instances]
            scores = _scores_of_item(task, question.row, question.instances[0].doc, answers)
            question.row |= with_filter(question.row, filter_name, item_scores(scores, task.aggregation()))


def _fill_row(task: Task, question: _Question, likelihoods: list[float], answers: list[Any]) -> None:
    """Fills in the scores, the prediction and the bits per byte of an item. `answers`: the model's, filtered."""
    row, doc = question.row, question.instances[0].doc
    scores = _scores_of_item(task, row, doc, answers)  # first, since a task may add to its aggregations here
    row |= item_scores(scores, task.aggregation())
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = choice_names(task, doc)
        row["prediction"] = choices[max(range(len(choices)), key=lambda index: answers[index][0])]
    elif task.OUTPUT_TYPE == "generate_until":
        row["prediction"], verdict = answer_of(answers[0])
        row["attributes"] = json.dumps(json.loads(row["attributes"]) | verdict)
    elif task.OUTPUT_TYPE == "loglikelihood_rolling":
        likelihoods, question.right_indices = [answers[0]], [0]
    row["not_finite"] = next((str(value) for value in likelihoods if not math.isfinite(value)), None)
    bits = [
        (-likelihoods[index] / math.log(2) / num_bytes, num_bytes)
        for index, num_bytes in zip(question.right_indices, question.num_bytes, strict=False)
        if num_bytes
    ]
    row["bits_per_byte"], row["num_bytes"] = min(bits, default=(None, None))


def _scores_of_item(task: Task, row: ScoredItem, doc: Any, answers: list[Any]) -> dict[str, Any]:
    """The scores that the task gives an item for the model's answers. Raises UserError, with the line of the task's own
    function, where that fails."""
    try:
        return task.process_results(doc, answers)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"evaluation.tasks: {row['task']!r}, item {row['item']}: its scores cannot be made ({described(error)}, in "
            f"{frame.filename}:{frame.lineno})"
        ) from error


def judge(rows: list[ScoredItem]) -> None:
    """Sets `correct` from the score that is the task's accuracy (`accuracy_score`), where it is 0 or 1 for every item.

    A task without an accuracy has no right and wrong answers, and its items have no `chance`.
    """
    scored = [scores_of(row) for row in rows if is_scored(row)]

    def is_right_or_wrong(name: str) -> bool:
        return all(scores.get(name) in (0.0, 1.0) for scores in scored)

    accuracy = accuracy_score(dict.fromkeys(name for scores in scored for name in scores), is_right_or_wrong)
    for row in rows:
        if accuracy is None:
            row["chance"] = None
        elif is_scored(row) and is_right_or_wrong(accuracy):
            row["correct"] = bool(scores_of(row)[accuracy])
