"""The evaluation tasks, and how they are asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from raycodellm.config.field_types import Frozen, Whole
from raycodellm.config.judge_settings import Judge

Text = str | tuple[str, ...] | None


class Texts(Frozen):
    """Text whose bits per byte are measured, by domain: files, folders or globs as in `sources.*.path`, or `held_out`
    for documents of the sweep's sources of that kind, which no stage then trains on. Where a key is left out, the suite
    `bpb` measures held-out documents, if a source has that kind."""

    prose: Text = None
    """Plain text; sources of kind `text`."""
    code: Text = None
    """Programs; sources of kind `code`."""
    markup: Text = None
    """Markup; sources of kind `markup`."""
    math: Text = None
    """Mathematics; sources of kind `math`."""
    chinese: Text = None
    """Chinese text; no kind of source says so, so files alone."""
    code_adjacent: Text = None
    """Commits, notebooks and the like; sources of kind `code_adjacent`."""
    synthetic_code: Text = None
    """Generated programs; sources of kind `synthetic_code`."""

    def given(self) -> dict[str, str | tuple[str, ...]]:
        """The text of each domain that has one."""
        return {domain: text for domain in DOMAINS if (text := getattr(self, domain)) is not None}


DOMAINS = tuple(Texts.model_fields)


class Evaluation(Frozen):
    """The tasks that score every trial's model. A task gives `<task>/acc` (share of right answers), `<task>/bpb` (bits
    per byte of the right answer) and `<task>/chance`; `mean/acc` and `mean/bpb` are means over tasks."""

    suites: tuple[str, ...] = ()
    """Named sets of tasks, such as `offline`; [evaluation.md](evaluation.md) lists them with their tasks."""
    tasks: tuple[str, ...] = ()
    """Tasks beside those of the suites: the package's own (such as `boxes`), tasks and groups of lm-eval by name, or
    paths of lm-eval YAML files."""
    leave_out: tuple[str, ...] = ()
    """Tasks of the suites that are not evaluated, such as those whose data cannot be had. An average that needs one of
    them is not given."""
    include: str | None = None
    """A folder with lm-eval YAML files, whose tasks and groups then go by name, and come before lm-eval's own."""
    data: str | None = None
    """A folder with copies of the data sets, for machines that do not reach the Hugging Face hub; in the hub's layout,
    or a parquet, jsonl, json or arrow file per data set. What it lacks is taken from the hub's cache or the hub."""
    limit: Annotated[Whole, Field(ge=1)] | None = None
    """Items per task; all items when left out."""
    few_shot: Annotated[Whole, Field(ge=0)] | None = 0
    """Solved examples before each item, whatever number a task's own file names; a file's 0 stands. `null`: as many as
    each task's own file names."""
    scoring: Literal["likelihood", "channel"] = "likelihood"
    """How a suite that has both compares the choices: by the likelihood of the answer after the question, or by that of
    the question after the answer (`channel`, as Ma et al. 2024 score)."""
    rationale: Literal["none", "oracle", "generated"] = "none"
    """The rationale in the prompts of a suite's tasks that have one: none, the data set's own (`oracle`), or one that
    the model writes before its choices are scored (`generated`)."""
    texts: Texts = Texts()
    """Text whose bits per byte are measured."""
    judge: Judge | None = None
    """Win rates against the reference arm by a judge, another model ([evaluation.md](evaluation.md#win-rates))."""
    samples: Annotated[Whole, Field(ge=1)] = 1
    """Programs that the model writes for each item of a task that runs code: with 1 the task gives `pass@1`, with n
    also `pass@n`, and `pass@10` and `pass@100` as far as n allows."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """Temperature of these programs; 0 is greedy decoding. Left out: 0 for one sample, 0.8 for several."""
    contamination: bool = True
    """Search the texts that the model was trained on for the items: an item is contaminated if they hold 70 % of its
    runs of eight words. The search reads what the stages trained on once more, some 1.5 million tokens per second and
    worker."""
    decoding: Literal["free", "constrained"] = "free"
    """How a suite that has both lets a model write: freely, or held token by token to the pattern of an answer."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """The writer of generated answers: this package's engine, or vLLM on GPUs, after a check that both write the same
    ([evaluation.md](evaluation.md#answers-by-vllm)). Likelihoods are this package's in either case."""
    batch_size: Annotated[Whole, Field(ge=1)] = 32
    """Sequences (a question with one of its answers) that a forward pass has memory for. Answers that share a question
    take less."""

    @field_validator("suites", "tasks", "leave_out")
    @classmethod
    def _no_repeats(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"names {', '.join(repeated)} twice; name each once")
        return names

    @field_validator("temperature")
    @classmethod
    def _draws_several(cls, temperature: float | None, info: ValidationInfo) -> float | None:
        samples = info.data.get("samples", 1)
        if temperature == 0 and samples > 1:
            raise ValueError(f"the {samples} samples of greedy decoding are all the same; use 0.8, or samples: 1")
        return temperature

    @model_validator(mode="after")
    def _needs_a_task(self) -> Evaluation:
        if not self.suites and not self.tasks:
            raise ValueError("names no suites and no tasks; give at least one, for example suites: [offline]")
        return self
