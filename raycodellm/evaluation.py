"""Scoring a model on reasoning tasks by lm-eval, with an account of every item. The only door to `lm_eval`.

Every task gives accuracy (Wilson interval), bits per byte of the right answer (Student interval), the chance level, and
how many items were scored and how many were too long for the model. The items come back as a table, one row each.

What differs from `lm_eval.simple_evaluate`, on purpose: an item that does not fit into the model's context is counted
and left out (lm-eval cuts its beginning off and scores the rest), several workers share a task without changing any
item's prompt, and log-likelihoods are summed in 32 bits also for a model in 16 (in lm-eval: `softmax_dtype=float32`).
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import json
import logging
import math
import random
import re
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raycodellm.config import Evaluation, UserError
from raycodellm.files import Folder
from raycodellm.tasks import BUILTIN, FOLDER

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

ITEMS_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("item", pa.int64(), nullable=False),  # index in the task's evaluated split
        pa.field("doc_hash", pa.string(), nullable=False),  # as lm-eval's: equal for equal items
        pa.field("prediction", pa.string()),
        pa.field("gold", pa.string()),
        pa.field("correct", pa.bool_()),  # null: too long, or a task without right and wrong
        pa.field("chance", pa.float64()),  # accuracy of guessing
        pa.field("bits_per_byte", pa.float64()),  # -log2 p(gold | prompt) / UTF-8 bytes of gold
        pa.field("num_prompt_tokens", pa.int64()),
        pa.field("too_long", pa.bool_(), nullable=False),
        pa.field("attributes", pa.string(), nullable=False),  # JSON object; `part` is the item's part of the task
    ]
)

Interval = tuple[float, float, float]
"""Value, and the low and high end of its 95 % interval."""

Z95 = statistics.NormalDist().inv_cdf(0.975)
FEW_SHOT_SEED = 1234
"""lm-eval's own default, so that its command draws the same examples."""
_BLOCK_ITEMS = 16
"""Least number of items that are scored together. Blocks, not items, are dealt to workers: what is in a batch then does
not depend on the number of workers, and neither does the last bit of a likelihood."""


@dataclass(frozen=True)
class EvaluationResult:
    metrics: dict[str, float]
    """`<task>/acc`, `/acc_low`, `/acc_high`, `/bpb`, `/bpb_low`, `/bpb_high`, `/chance`, `/items` (scored), `/too_long`
    (left out); for each part of a task `/acc_<part>` with its interval, `/bpb_<part>`, `/items_<part>`; and `mean/acc`,
    `mean/bpb`, `mean/chance` over the named tasks, unweighted. A task without right and wrong has no `acc`."""
    items: pa.Table
    """One row per item, in the order of the tasks and of their items; see ITEMS_SCHEMA."""


# ----------------------------------------------------------------------------------------------------------- statistics


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a share: `correct` of `n`. Never outside 0 to 1, and never of no width, also at 0 and at `n`."""
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} right of {n} is not a share")
    share, z2 = correct / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At the ends the formula gives the end itself up to rounding.
    return (0.0 if correct == 0 else middle - half), (1.0 if correct == n else middle + half)


def student_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t: exact for 1 and 2 degrees of freedom, otherwise within 0.2 %."""
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom; at least 1 is needed")
    if degrees == 1:
        return math.tan(math.pi * 0.475)
    if degrees == 2:
        return 0.95 / math.sqrt(2 * 0.975 * 0.025)
    z, v = Z95, degrees  # Abramowitz and Stegun 26.7.5
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and its 95 % interval by Student's t. One value says nothing of its spread: the interval is infinite."""
    if not values:
        raise ValueError("there is no mean of no values")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, -math.inf, math.inf
    half = student_quantile(len(values) - 1) * math.sqrt(statistics.variance(values, mean) / len(values))
    return mean, mean - half, mean + half


def mean_of_intervals(intervals: Sequence[Interval]) -> Interval:
    """Unweighted mean of independent estimates; each side's distances add up in squares: lopsided intervals stay so."""
    n = len(intervals)
    mean = math.fsum(value for value, _, _ in intervals) / n
    below = math.hypot(*(value - low for value, low, _ in intervals)) / n
    above = math.hypot(*(high - value for value, _, high in intervals)) / n
    return mean, mean - below, mean + above


def paired_difference(items_a: pa.Table, items_b: pa.Table, task: str, column: str) -> Interval:
    """Mean of `column` in b minus in a, over the items of `task` scored in both, with its 95 % interval (Student).

    `column` is `correct` or `bits_per_byte`. Pairing takes out how hard the items are, which two intervals keep.
    """
    rows_a, rows_b = (
        {
            row["item"]: (row["doc_hash"], float(row[column]))
            for row in table.select(["task", "item", "doc_hash", column]).to_pylist()
            if row["task"] == task and row[column] is not None
        }
        for table in (items_a, items_b)
    )
    both = sorted(rows_a.keys() & rows_b.keys())
    if not both:
        raise ValueError(f"no item of task {task!r} has {column} in both tables")
    for item in both:
        if rows_a[item][0] != rows_b[item][0]:
            raise ValueError(f"item {item} of task {task!r} is not the same in both tables; they cannot be compared")
    return mean_interval([rows_b[item][1] - rows_a[item][1] for item in both])


# ---------------------------------------------------------------------------------------------------------------- tasks


def preload() -> None:
    """Imports all that `evaluate` needs and generates the built-in tasks' items: some seconds, once per process."""
    import transformers.models.llama.modeling_llama  # noqa: F401  # what the presets are

    with _quiet(), _own_randomness():
        _load_tasks(BUILTIN, 0)


def check_tasks(names: Iterable[str]) -> None:
    """Raises UserError for a task that does not exist. Built-in tasks cost nothing; any other name imports lm-eval."""
    for name in names:
        if name in BUILTIN:
            continue
        if _is_path(name):
            if not Path(name).expanduser().is_file():
                raise UserError(f"evaluation.tasks: there is no file {name!r}; give the path of an lm-eval YAML file")
            continue
        with _quiet():
            known = _task_manager(True).all_tasks
        if name not in known:
            near = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or BUILTIN
            raise UserError(f"evaluation.tasks: there is no task {name!r}; near names: {', '.join(near)}")


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


@functools.cache
def _task_manager(with_defaults: bool) -> TaskManager:
    """lm-eval's index of tasks. Its own thousands of YAML files take 8 s to read, so only when they are wanted."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(FOLDER), include_defaults=with_defaults)


@dataclass(frozen=True)
class _Tasks:
    named: dict[str, tuple[str, ...]]
    """Task as the settings name it -> the tasks it stands for: itself, or the members of an lm-eval group or tag."""
    single: dict[str, Task]


@functools.lru_cache(maxsize=8)
def _load_tasks(names: tuple[str, ...], few_shot: int) -> _Tasks:
    """The tasks with their data, kept for the next evaluation in this process."""
    check_tasks(names)
    manager = _task_manager(any(name not in BUILTIN and not _is_path(name) for name in names))
    named: dict[str, tuple[str, ...]] = {}
    single: dict[str, Task] = {}
    for name in names:
        try:
            found = manager.load([name])["tasks"]
        except Exception as error:
            error.add_note(f"raised while loading the evaluation task {name!r}")
            raise
        for task_name, task in found.items():
            _check_supported(task_name, task)
            # As lm-eval: a task that asks for no examples in its own file keeps to that.
            if task.get_config("num_fewshot") != 0:
                task.set_config("num_fewshot", few_shot)
        named[next(iter(found)) if _is_path(name) and len(found) == 1 else name] = tuple(found)
        single.update(found)
    return _Tasks(named, single)


def _check_supported(name: str, task: Task) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"evaluation.tasks: {name!r} runs code that the model wrote, which only the sandbox may do")
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"evaluation.tasks: {name!r} shows pictures or sound; only tasks of text can be evaluated")
    if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"):
        raise UserError(f"evaluation.tasks: {name!r} has the output type {task.OUTPUT_TYPE!r}, which is not supported")


# -------------------------------------------------------------------------------------------------- silence, randomness


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar, log line or warning of lm-eval and transformers; as it was before, afterwards."""
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.models.huggingface
    import transformers

    modules = (lm_eval.api.model, lm_eval.api.task, lm_eval.models.huggingface)
    bars = [module.tqdm for module in modules]
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers", "datasets")]
    levels = [logger.level for logger in loggers]
    loading_bars = transformers.utils.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    for module, bar in zip(modules, bars, strict=True):
        module.tqdm = functools.partial(bar, disable=True)
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for module, bar in zip(modules, bars, strict=True):
            module.tqdm = bar
        if loading_bars:
            transformers.utils.logging.enable_progress_bar()


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Random numbers drawn inside (by tasks that shuffle or sample) leave the caller's generators as they were."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            _seed()
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _seed() -> None:
    """lm-eval's own default seeds."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(1234)
    torch.manual_seed(1234)


# ---------------------------------------------------------------------------------------------------------------- model


@contextlib.contextmanager
def _model_files(model: Folder | Path | str) -> Iterator[str]:
    """A local folder, or the hub's name, of a model; one on an object store is copied for as long as it is needed."""
    folder = model if isinstance(model, Folder) else Folder(str(model))
    if folder.local is None:
        with tempfile.TemporaryDirectory(prefix="raycodellm-model-") as copy:
            folder.download(Path(copy))
            yield copy
    elif folder.local.is_dir():
        yield str(folder.local)
    elif isinstance(model, str) and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", model):
        yield model
    else:
        raise UserError(f"there is no model folder {str(folder)!r}; give one that holds config.json and safetensors")


def _load_model(files: str, batch_size: int, device: str | None) -> HFLM:
    import torch
    import transformers

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(files)
        model = transformers.AutoModelForCausalLM.from_pretrained(files, dtype="auto").to(device)
    except (OSError, ValueError) as error:
        raise UserError(f"{files!r} could not be loaded as a Hugging Face language model: {error}") from error
    # Given the model itself, HFLM sets up no process group; given a name it would take part in the trainer's.
    return _language_model()(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")


@functools.cache
def _language_model() -> type[HFLM]:
    """HFLM that has the model work out the logits of the answers only, not of the whole prompts.

    With a vocabulary of 4096 and 0.5M parameters they are most of the work: 10 s instead of 3 for 400 built-in items.
    """
    import torch
    from lm_eval.models.huggingface import HFLM

    class AnswerLM(HFLM):
        num_logits = 0
        """Positions at the end of a padded batch that hold its answers; 0 for all."""

        def _model_call(self, inps: torch.Tensor, attn_mask: Any = None, labels: Any = None) -> torch.Tensor:
            if not self.num_logits or "logits_to_keep" not in inspect.signature(self.model.forward).parameters:
                return super()._model_call(inps, attn_mask, labels)
            with torch.no_grad():
                return self.model(inps, logits_to_keep=self.num_logits).logits

        def likelihoods(self, pairs: list[_Tokens]) -> list[tuple[float, bool]]:
            """(log-likelihood, whether greedy decoding would give it) of each answer after its prompt, in order."""
            # What differs in its last token only is one row of a batch: lm-eval reads both from the same logits.
            rows: dict[tuple[int, ...], list[int]] = {}
            for index, (prompt, answer) in enumerate(pairs):
                rows.setdefault((*prompt, *answer[:-1]), []).append(index)
            longest_first = sorted(rows, key=lambda row: (-len(row), row))
            found: dict[int, tuple[float, bool]] = {}
            for start in range(0, len(rows), self.batch_size):
                batch = [index for row in longest_first[start : start + self.batch_size] for index in rows[row]]
                longest = max(len(pairs[index][0]) + len(pairs[index][1]) - 1 for index in batch)
                self.num_logits = longest + 1 - min(len(pairs[index][0]) for index in batch)
                requests = [(("", ""), *pairs[index]) for index in batch]
                found.update(zip(batch, self._loglikelihood_tokens(requests, disable_tqdm=True), strict=True))
            self.num_logits = 0
            return [found[index] for index in range(len(pairs))]

    return AnswerLM


# -------------------------------------------------------------------------------------------------------------- scoring

_Tokens = tuple[list[int], list[int]]
"""Tokens of a prompt, and of the answer whose likelihood after it is asked for."""


@dataclass
class _Question:
    """One item of a task while it is scored."""

    row: dict[str, Any]
    """The columns of ITEMS_SCHEMA, and three that do not outlive the evaluation: `needed` (tokens of context), `scores`
    (lm-eval's metrics of the item) and `not_finite` (a log-likelihood that is infinite or no number)."""
    instances: list[Instance]
    pairs: list[_Tokens]
    """Likelihoods to ask for: one per choice, or that of the right answer alone."""
    right: list[int]
    """Indices in `pairs` of the right answers; any of them counts."""
    num_bytes: list[int]
    """UTF-8 bytes of the text of each right answer."""


def _instances_by_item(task: Task, limit: int | None) -> list[list[Instance]]:
    """All items' requests, on every worker: few-shot examples are drawn one item after the other.

    The longest come first, so that items scored together are alike in length and little of a batch is padding.
    """
    _seed()
    task.set_fewshot_seed(FEW_SHOT_SEED)
    task.build_all_requests(limit=limit)
    by_item: dict[int, list[Instance]] = {}
    for instance in task.instances:
        by_item.setdefault(instance.doc_id, []).append(instance)
    items = [sorted(instances, key=lambda instance: instance.idx) for instances in by_item.values()]
    return sorted(items, key=lambda instances: -len(str(instances[0].args[0])))


def _score_task(
    lm: HFLM, name: str, task: Task, settings: Evaluation, rank: int, world_size: int
) -> list[dict[str, Any]]:
    """Rows of this worker's share of the items."""
    items = _instances_by_item(task, settings.limit)
    size = max(_BLOCK_ITEMS, settings.batch_size)
    rows = []
    for block in range(rank * size, len(items), world_size * size):
        _seed()  # a sampled answer must not depend on which blocks this worker had before
        questions = [_question(lm, name, task, instances) for instances in items[block : block + size]]
        rows += [question.row for question in questions]
        if fitting := [question for question in questions if not question.row["too_long"]]:
            _score_questions(lm, task, fitting)
    return rows


def _question(lm: HFLM, name: str, task: Task, instances: list[Instance]) -> _Question:
    doc = instances[0].doc
    asked = {
        "multiple_choice": _choice_question,
        "loglikelihood": _likelihood_question,
        "generate_until": _generation_question,
        "loglikelihood_rolling": _rolling_question,
    }[task.OUTPUT_TYPE](lm, name, task, instances)
    prompt = max((len(prompt) for prompt, _ in asked.pairs), default=0)
    # The last token of an answer is predicted, never read.
    needed = max([len(prompt) + len(answer) - 1 for prompt, answer in asked.pairs] + [asked.row.get("needed", 0)])
    asked.row |= {
        "task": name,
        "item": instances[0].doc_id,
        "doc_hash": _doc_hash(doc),
        "num_prompt_tokens": prompt,
        "needed": needed,
        "too_long": needed > lm.max_length,
        "attributes": json.dumps(_attributes(doc)),
    }
    return asked


def _choice_question(lm: HFLM, name: str, task: Task, instances: list[Instance]) -> _Question:
    doc = instances[0].doc
    choices = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    golds = gold if isinstance(gold, list) else [gold]
    right = [choices.index(one) if isinstance(one, str) else one for one in golds]
    if not right or not all(0 <= one < len(choices) for one in right):
        raise ValueError(f"task {name!r}, item {instances[0].doc_id}: right answer {gold!r} of {len(choices)} choices")
    # Not the choices' own texts: where the choices are prompts, the answer is what follows them.
    texts = [instances[one].args[1].removeprefix(task.config.target_delimiter) for one in right]
    row = {"gold": choices[right[0]], "chance": len(set(right)) / len(choices)}
    pairs = [_tokens(lm, *instance.args) for instance in instances]
    return _Question(row, instances, pairs, right, [len(text.encode()) for text in texts])


def _likelihood_question(lm: HFLM, name: str, task: Task, instances: list[Instance]) -> _Question:
    if len(instances) != 1:
        raise UserError(f"evaluation.tasks: {name!r} asks {len(instances)} likelihoods per item; one is supported")
    prompt, answer = instances[0].args
    text = answer.lstrip() or answer
    row = {"gold": text, "chance": 0.0}
    return _Question(row, instances, [_tokens(lm, prompt, answer)], [0], [len(text.encode())])


def _generation_question(lm: HFLM, name: str, task: Task, instances: list[Instance]) -> _Question:
    from lm_eval.models.utils import normalize_gen_kwargs

    doc, (prompt, settings) = instances[0].doc, instances[0].args
    gold = task.doc_to_target(doc)
    if getattr(task.config, "doc_to_choice", None) is not None and isinstance(gold, int):
        gold = task.doc_to_choice(doc)[gold]
    text = str(gold[0] if isinstance(gold, list) and gold else gold)
    room = normalize_gen_kwargs(settings, lm.max_gen_toks)["max_gen_toks"]
    row = {"gold": text, "chance": 0.0, "needed": len(lm.tok_encode(prompt)) + room}
    pairs = [_tokens(lm, prompt, task.config.target_delimiter + text)] if text else []
    return _Question(row, instances, pairs, [0] * len(pairs), [len(text.encode())])


def _rolling_question(lm: HFLM, name: str, task: Task, instances: list[Instance]) -> _Question:
    """A whole text, read in windows that leave nothing out: it cannot be too long."""
    return _Question({}, instances, [], [], [task.count_bytes(task.doc_to_target(instances[0].doc))])


def _tokens(lm: HFLM, prompt: str, answer: str) -> _Tokens:
    """As lm-eval cuts them: together, so that the answer's first token may hold the space before it."""
    if prompt:
        return lm._encode_pair(prompt, answer)
    answer_tokens = lm.tok_encode(answer, add_special_tokens=False)
    if answer_tokens[0] == lm.prefix_token_id:
        return answer_tokens[:1], answer_tokens[1:]
    return [lm.prefix_token_id], answer_tokens


def _doc_hash(doc: Any) -> str:
    from lm_eval.utils import handle_non_serializable, hash_string

    return hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False))


def _attributes(doc: Any) -> dict[str, Any]:
    """What the item says of itself: a JSON object in a field `attributes`, as the built-in tasks have it."""
    text = doc.get("attributes") if isinstance(doc, dict) else None
    if not isinstance(text, str):
        return {}
    try:
        found = json.loads(text)
    except ValueError:  # another task's field that happens to have this name
        return {}
    return found if isinstance(found, dict) else {}


def _score_questions(lm: HFLM, task: Task, questions: list[_Question]) -> None:
    """Fills the rows of questions that fit into the model's context."""
    answers = iter(lm.likelihoods([pair for question in questions for pair in question.pairs]))
    likelihoods = [[next(answers) for _ in question.pairs] for question in questions]
    instances = [instance for question in questions for instance in question.instances]
    if task.OUTPUT_TYPE in ("generate_until", "loglikelihood_rolling"):
        repeated = [instance for instance in instances for _ in range(instance.repeats)]
        responses = getattr(lm, task.OUTPUT_TYPE)(repeated, disable_tqdm=True)
        for instance, response in zip(repeated, responses, strict=True):
            instance.resps.append(response)
    else:
        for instance, response in zip(instances, (one for several in likelihoods for one in several), strict=True):
            instance.resps.append(response)
    task._instances = instances  # what apply_filters goes over; the others have no responses
    task.apply_filters()
    name = next(iter(instances[0].filtered_resps))  # of several ways of reading an answer, the first
    for question, found in zip(questions, likelihoods, strict=True):
        results = [instance.filtered_resps[name] for instance in question.instances]
        _fill_row(task, question, [likelihood for likelihood, _ in found], results)


def _fill_row(task: Task, question: _Question, likelihoods: list[float], results: list[Any]) -> None:
    row, doc = question.row, question.instances[0].doc
    scores = task.process_results(doc, results)
    row["scores"] = {key: float(value) for key, value in scores.items() if _is_number(value)}
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(doc)
        row["prediction"] = choices[max(range(len(choices)), key=likelihoods.__getitem__)]
    elif task.OUTPUT_TYPE == "generate_until":
        row["prediction"] = str(results[0])
    elif task.OUTPUT_TYPE == "loglikelihood_rolling":
        likelihoods, question.right = [results[0]], [0]
    row["not_finite"] = next((str(value) for value in likelihoods if not math.isfinite(value)), None)
    bits = [
        -likelihoods[index] / math.log(2) / num_bytes
        for index, num_bytes in zip(question.right, question.num_bytes, strict=False)
        if num_bytes
    ]
    row["bits_per_byte"] = min(bits, default=None)


def _is_number(value: Any) -> bool:
    import numpy as np

    return isinstance(value, (bool, int, float, np.number, np.bool_))


# -------------------------------------------------------------------------------------------------------------- results


def evaluate(
    model_folder: Folder | Path | str,
    settings: Evaluation,
    *,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[Any], list[Any]] | None = None,
    device: str | None = "cpu",
) -> EvaluationResult:
    """Scores a Hugging Face folder (or hub name) on `settings.tasks`: built-in, lm-eval's, or paths of YAML files.

    Of several workers each scores some of the items; `gather(object)` must return every rank's object, on every rank.
    All ranks return the same result, and it is the one that a single worker would have returned. `device=None` takes
    CUDA where there is one. Built-in tasks need no network.

    Raises UserError for an unknown task or model, RuntimeError when no item of a task fits into the model's context,
    and FloatingPointError, with the task and item, when a log-likelihood is infinite or no number.
    """
    if not 0 <= rank < world_size or (world_size > 1 and gather is None):
        raise ValueError(f"rank {rank} of {world_size} workers, gather={gather}; several workers need a gather")
    check_tasks(settings.tasks)
    with _quiet(), _own_randomness(), _model_files(model_folder) as files:
        tasks = _load_tasks(settings.tasks, settings.few_shot)
        lm = _load_model(files, settings.batch_size, device)
        max_length = lm.max_length
        rows = [
            row
            for name, task in tasks.single.items()
            for row in _score_task(lm, name, task, settings, rank, world_size)
        ]
    if gather is not None:
        parts = gather(rows)
        if len(parts) != world_size:
            raise ValueError(f"gather returned {len(parts)} objects from {world_size} workers")
        rows = [row for part in parts for row in part]
    order = {name: index for index, name in enumerate(tasks.single)}
    rows.sort(key=lambda row: (order[row["task"]], row["item"]))
    # Only here, where every rank has all rows: they raise together, and none waits for another that has raised.
    _check_rows(rows, max_length)
    by_task = {name: [row for row in rows if row["task"] == name] for name in tasks.single}
    for task_rows in by_task.values():
        _judge(task_rows)
    pooled = {name: [row for one in members for row in by_task[one]] for name, members in tasks.named.items()}
    columns = [{name: row.get(name) for name in ITEMS_SCHEMA.names} for row in rows]
    return EvaluationResult(_all_metrics(by_task, pooled), pa.Table.from_pylist(columns, schema=ITEMS_SCHEMA))


def _check_rows(rows: list[dict[str, Any]], max_length: int) -> None:
    needed: dict[str, list[int]] = {}
    for row in rows:
        if row.get("not_finite"):
            raise FloatingPointError(
                f"task {row['task']!r}, item {row['item']}: the model's log-likelihood is {row['not_finite']}; "
                "its weights are probably not finite either"
            )
        needed.setdefault(row["task"], []).append(row["needed"])
    for task, tokens in needed.items():
        if min(tokens) > max_length:
            raise RuntimeError(
                f"task {task!r}: all {len(tokens)} items are longer than the model's context of {max_length} tokens; "
                f"the shortest needs {min(tokens)}, the longest {max(tokens)}"
            )


def _judge(rows: list[dict[str, Any]]) -> None:
    """Sets `correct` from the task's `acc`, else `exact_match`, else its first metric that is 0 or 1 for every item."""
    scored = [row["scores"] for row in rows if not row["too_long"]]
    names = sorted(scored[0], key=lambda name: {"acc": 0, "exact_match": 1}.get(name, 2))
    judge = next((name for name in names if all(scores.get(name) in (0.0, 1.0) for scores in scored)), None)
    for row in rows:
        if judge is None:
            row["chance"] = None
        elif not row["too_long"]:
            row["correct"] = bool(row["scores"][judge])


def _all_metrics(by_task: dict[str, list[dict]], pooled: dict[str, list[dict]]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, rows in {**by_task, **pooled}.items():
        metrics |= _task_metrics(name, rows)
    for metric in ("acc", "bpb"):
        intervals = [
            (metrics[f"{name}/{metric}"], metrics[f"{name}/{metric}_low"], metrics[f"{name}/{metric}_high"])
            for name in pooled
            if f"{name}/{metric}" in metrics
        ]
        if intervals:
            metrics |= _with_interval(f"mean/{metric}", mean_of_intervals(intervals))
    chances = [metrics[f"{name}/chance"] for name in pooled if f"{name}/chance" in metrics]
    if chances:
        metrics["mean/chance"] = statistics.fmean(chances)
    return metrics


def _task_metrics(name: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    scored = [row for row in rows if not row["too_long"]]
    metrics = {f"{name}/items": float(len(scored)), f"{name}/too_long": float(len(rows) - len(scored))}
    metrics |= _accuracy(f"{name}/acc", scored)
    chances = [row["chance"] for row in scored if row["chance"] is not None]
    if chances:
        metrics[f"{name}/chance"] = statistics.fmean(chances)
    bits = [row["bits_per_byte"] for row in scored if row["bits_per_byte"] is not None]
    if bits:
        metrics |= _with_interval(f"{name}/bpb", mean_interval(bits))
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in scored:
        if part := json.loads(row["attributes"]).get("part"):
            parts.setdefault(part, []).append(row)
    for part, some in sorted(parts.items()):
        metrics |= _accuracy(f"{name}/acc_{part}", some)
        metrics[f"{name}/items_{part}"] = float(len(some))
        metrics[f"{name}/bpb_{part}"] = statistics.fmean(row["bits_per_byte"] for row in some)
    return metrics


def _accuracy(name: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    judged = [row["correct"] for row in rows if row.get("correct") is not None]
    if not judged:
        return {}
    return _with_interval(name, (statistics.fmean(judged), *wilson_interval(sum(judged), len(judged))))


def _with_interval(name: str, interval: Interval) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
