"""`raycodellm eval`: scores of given models, and paired differences between two models over the same items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raycodellm import evaluation, statistics
from raycodellm.config import Evaluation, UserError
from raycodellm.files import Folder

if TYPE_CHECKING:
    import pyarrow as pa


def run(
    models: Sequence[str],
    settings: Evaluation,
    pairs: Sequence[str],
    output: str | None,
    on_items: Callable[[str, int, int], None] = lambda model, scored, in_all: None,
) -> str:
    """Evaluates `models` and compares `pairs`, each `base=other` of two models; returns the text to print.

    With `output`, writes each model's metrics and items below that folder. `on_items(model, scored, in_all)` hears how
    many of a model's items are scored. Raises `UserError` for a model that does not
    exist or cannot be scored, and for a pair of other models.
    """
    wanted = [_pair(pair, models) for pair in pairs]
    evaluation.check_variants(settings)
    evaluation.check_tasks(evaluation.asked_tasks(settings), evaluation.Places.of(settings))
    results = {}
    for model in models:
        if "/" not in model and not Path(model).exists():
            raise UserError(f"{model}: is no folder here and no hub id (owner/name); give one of them")
        results[model] = _evaluated(model, settings, partial(on_items, model))
        if output:
            folder = Folder(output) / model.strip("/").replace("/", "--")
            folder.write_table("items.parquet", results[model].items)
            folder.write_json("metrics.json", results[model].metrics)
    lines = [line for model in models for line in _scores(model, results[model].metrics)]
    for base, other in wanted:
        lines.append(f"{other} against {base}, over the same items (95 % intervals over items, which cover no seeds):")
        averages = evaluation.asked_averages(settings)
        lines += [f"  {line}" for line in differences(results[base].items, results[other].items, averages)]
    return "\n".join(lines)


def _evaluated(model: str, settings: Evaluation, on_items: Callable[[int, int], None]) -> evaluation.EvaluationResult:
    try:
        return evaluation.evaluate(model, settings, last_stage=evaluation.stage_of(model), on_items=on_items)
    except (evaluation.NothingFits, FloatingPointError) as error:  # FloatingPointError: the weights are not finite
        raise UserError(f"{model}: {error}") from error


def _pair(pair: str, models: Sequence[str]) -> tuple[str, str]:
    for place, letter in enumerate(pair):  # a folder's name may contain = as well
        base, other = pair[:place], pair[place + 1 :]
        if letter == "=" and base in models and other in models and base != other:
            return base, other
    raise UserError(f"--pairs {pair}: is not BASE=OTHER, two of the models given; they are {', '.join(models)}")


def differences(base: pa.Table, other: pa.Table, averages: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """One line per metric of each named task or group, of their parts' accuracy, of the mean over tasks, and of the
    suites' `averages`: the difference with its interval."""
    names = [*evaluation.named_tasks(base)]
    both = evaluation.Items(base, averages), evaluation.Items(other, averages)
    metrics = dict.fromkeys(name for items in both for name in items.metric_names())
    tasks = [*names, evaluation.MEAN] if len(names) > 1 else names
    lines = []
    for name in [*(f"{task}/{metric}" for task in tasks for metric in metrics), *(averages or ())]:
        before, after = (items.samples(name) for items in both)
        if before or after:  # a task that is scored by likelihood alone has no accuracy
            found = statistics.paired_difference(before, after)
            no_items = "no items that both models were scored on"
            lines.append(f"{name}: {'{:+.4f} [{:+.4f}, {:+.4f}]'.format(*found) if found else no_items}")
    return lines


def _scores(model: str, metrics: dict[str, float]) -> list[str]:
    names = [name for name in metrics if f"{name}_low" in metrics]
    rows = []
    for name in names:
        low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
        rows.append(f"  {name}: {metrics[name]:.4f} [{low:.4f}, {high:.4f}]{_chance(name, metrics)}")
    too_long = {name: value for name, value in metrics.items() if name.endswith("/too_long") and value}
    return [model, *rows, *(f"  {name}: {value:.0f} items do not fit the context" for name, value in too_long.items())]


def _chance(name: str, metrics: dict[str, float]) -> str:
    task, _, score = name.rpartition("/")
    is_accuracy = score == "acc" or score.startswith("acc_")
    chance = metrics.get(f"{task}/chance{score.removeprefix('acc')}")
    return f" (chance {chance:.3f})" if is_accuracy and chance is not None else ""
