"""What an evaluation needs before it can score: lm-eval's tasks, the model, silence, and randomness of its own."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import logging
import random
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.tasks import BUILTIN, FOLDER

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager


TokenPair = tuple[list[int], list[int]]
"""Tokens of a prompt, and of the answer whose likelihood after it is asked for."""

FEW_SHOT_SEED = 1234
"""lm-eval's own default, so that its command draws the same examples."""


# ---------------------------------------------------------------------------------------------------------------- tasks


def preload() -> None:
    """Imports all that `evaluate` needs and generates the built-in tasks' items: some seconds, once per process."""
    import transformers.models.llama.modeling_llama  # noqa: F401  # what the presets are

    with quiet(), own_randomness():
        load_tasks(BUILTIN, 0)


def check_tasks(names: Iterable[str]) -> None:
    """Raises UserError for a task that does not exist. Built-in tasks cost nothing; any other name imports lm-eval."""
    for name in names:
        if name in BUILTIN:
            continue
        if is_path(name):
            if not Path(name).expanduser().is_file():
                raise UserError(f"evaluation.tasks: there is no file {name!r}; give the path of an lm-eval YAML file")
            continue
        with quiet():
            known = _task_manager(True).all_tasks
        if name not in known:
            near = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or BUILTIN
            raise UserError(f"evaluation.tasks: there is no task {name!r}; near names: {', '.join(near)}")


def is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def known_task(name: str) -> tuple[Path | None, tuple[str, ...]]:
    """(YAML file of one of lm-eval's tasks or groups, None where it has none; the tasks that a tag stands for)."""
    with quiet():
        entry = _task_manager(True).task_index.get(name)
    if entry is None:  # a task that its group's file spells out
        return None, ()
    return entry.yaml_path, tuple(sorted(entry.tags)) if entry.yaml_path is None else ()


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
def load_tasks(names: tuple[str, ...], few_shot: int) -> _Tasks:
    """The tasks with their data, kept for the next evaluation in this process."""
    check_tasks(names)
    manager = _task_manager(any(name not in BUILTIN and not is_path(name) for name in names))
    named: dict[str, tuple[str, ...]] = {}
    single: dict[str, Task] = {}
    for name in names:
        try:
            found = manager.load([name])["tasks"]
        except Exception as error:
            if is_path(name):
                said = next(iter(str(error).splitlines()), "")
                raise UserError(
                    f"evaluation.tasks: {name!r} cannot be loaded as an lm-eval task ({type(error).__name__}: {said}); "
                    "a file holds one task, a group goes by its name"
                ) from error
            error.add_note(f"raised while loading the evaluation task {name!r}")
            raise
        for task_name, task in found.items():
            _check_supported(task_name, task)
            # As lm-eval: a task that asks for no examples in its own file keeps to that.
            if task.get_config("num_fewshot") != 0:
                task.set_config("num_fewshot", few_shot)
        named[next(iter(found)) if is_path(name) and len(found) == 1 else name] = tuple(found)
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
def quiet() -> Iterator[None]:
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
def own_randomness() -> Iterator[None]:
    """Random numbers drawn inside (by tasks that shuffle or sample) leave the caller's generators as they were."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            seed_all()
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def seed_all() -> None:
    """lm-eval's own default seeds."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(1234)
    torch.manual_seed(1234)


# ---------------------------------------------------------------------------------------------------------------- model


@contextlib.contextmanager
def model_files(model: Folder | Path | str) -> Iterator[str]:
    """A local folder, or the hub's name, of a model; one on an object store is copied for as long as it is needed."""
    folder = model if isinstance(model, Folder) else Folder(str(model))
    if folder.local is None or folder.local.is_dir():
        with folder.as_local() as path:
            yield str(path)
    elif isinstance(model, str) and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", model):
        yield model
    else:
        raise UserError(f"there is no model folder {str(folder)!r}; give one that holds config.json and safetensors")


def load_model(files: str, batch_size: int, device: str | None) -> HFLM:
    import torch
    import transformers

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(files, dtype="auto", trust_remote_code=False)
        model = model.to(device)
        tokenizer = transformers.AutoTokenizer.from_pretrained(files, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(f"{files!r} brings Python code of its own, which raycodellm never runs") from error
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

        def likelihoods(self, pairs: list[TokenPair]) -> list[tuple[float, bool]]:
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
