"""Evaluation of models that are there already: a table of scores, and paired differences over the same items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raycodellm import evaluation, uncertainty
from raycodellm.config import Evaluation, UserError
from raycodellm.files import Folder


def run(models: Sequence[str], settings: Evaluation, pairs: Sequence[str], output: str | None) -> str:
    """Evaluates `models` and says how they score; `pairs` are `base=other` of two of them. Returns the text.

    Raises `UserError` for a model that is not there or a pair that names another one.
    """
    wanted = [_pair(pair, models) for pair in pairs]
    evaluation.check_tasks(settings.tasks)
    results = {}
    for model in models:
        if "/" not in model and not Path(model).exists():
            raise UserError(f"{model}: is no folder here and no hub id (owner/name); give one of them")
        results[model] = evaluation.evaluate(model, settings)
        if output:
            folder = Folder(output) / model.strip("/").replace("/", "--")
            folder.write_table("items.parquet", results[model].items)
            folder.write_json("metrics.json", results[model].metrics)
    lines = [line for model in models for line in _scores(model, results[model].metrics)]
    for base, other in wanted:
        lines.append(f"{other} against {base}, over the same items (95 % interval):")
        for task in settings.tasks:
            for column, name in (("correct", "acc"), ("bits_per_byte", "bpb")):
                found = uncertainty.paired_difference(results[base].items, results[other].items, task, column)
                difference, low, high = found
                clear = "" if low <= 0 <= high else "  *"
                lines.append(f"  {task}/{name}: {difference:+.4f} [{low:+.4f}, {high:+.4f}]{clear}")
    return "\n".join(lines)


def _pair(pair: str, models: Sequence[str]) -> tuple[str, str]:
    base, equals, other = pair.partition("=")
    for name in (base, other):
        if not equals or name not in models:
            raise UserError(f"--pairs {pair}: is not BASE=OTHER of the models given; they are {', '.join(models)}")
    return base, other


def _scores(model: str, metrics: dict[str, float]) -> list[str]:
    names = [name for name in metrics if f"{name}_low" in metrics]
    rows = []
    for name in names:
        low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
        rows.append(f"  {name}: {metrics[name]:.4f} [{low:.4f}, {high:.4f}]{_chance(name, metrics)}")
    too_long = {name: value for name, value in metrics.items() if name.endswith("/too_long") and value}
    return [model, *rows, *(f"  {name}: {value:.0f} items do not fit the context" for name, value in too_long.items())]


def _chance(name: str, metrics: dict[str, float]) -> str:
    task, _, score = name.partition("/")
    chance = metrics.get(f"{task}/chance")
    return f" (chance {chance:.3f})" if score == "acc" and chance is not None else ""
