"""`raycodellm eval`: scores of given models, and paired differences between two models over the same items."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raycodellm import evaluation, identity, pairs, records, stage_store, tables
from raycodellm.config import Evaluation, UserError
from raycodellm.files import Folder
from raycodellm.pairs import Gap, short_names
from raycodellm.tables import formats
from raycodellm.tables.plain_json import finite_json


@dataclass(frozen=True)
class Compared:
    """Scores of models, and differences between pairs of them."""

    settings: Evaluation
    results: dict[str, evaluation.EvaluationResult]
    """Maps each model to its scores."""
    pairs: dict[tuple[str, str], dict[str, Gap | None]]
    """Maps each (base, other) to the difference of each metric, other minus base over the items that both were scored
    on, with the p-value of one metric of each task; None where there are none."""
    judged: dict[tuple[str, str], evaluation.Comparison]
    """Maps each (base, other) to a judge's verdicts on their answers; empty without the suite `win-rate`."""


def run(
    models: Sequence[str],
    settings: Evaluation,
    wanted_pairs: Sequence[str],
    output: str | None,
    on_items: Callable[[str, int, int], None] = lambda model, scored, in_all: None,
    say: Callable[[str], None] = lambda line: None,
    device: str | None = None,
) -> Compared:
    """Evaluates `models` and compares `wanted_pairs`, each `base=other` of two models.

    With `output`, writes each model's metrics and items below that folder, and keeps each task's result there: a second
    call scores only what the first has not scored. `on_items(model, scored, in_all)` hears how many of a model's items
    are scored, `say` what is continued. With `settings.judge` the pairs' answers are compared too, and what the judge
    says is kept with `output`. `device`: such as `cpu`; a GPU, if the machine has one, when left out. Raises
    `JudgeFailed`, and `UserError` for a model that does not exist or cannot be scored, and for a pair of other models.
    """
    pairs_to_compare = list(dict.fromkeys(pair_of(pair, models) for pair in wanted_pairs))
    evaluation.check_variants(settings)
    tasks, places = evaluation.asked_tasks(settings), evaluation.Places.of(settings)
    evaluation.check_tasks(tasks, places)
    evaluation.find_data(tasks, places)
    contents = stage_store.contents_of_tasks([settings]) if output else None
    results = {}
    for model in models:
        if "/" not in model and not Path(model).exists():
            raise UserError(f"{model}: is no folder here and no hub id (owner/name); give one of them")
        folder = Folder(output) / model.strip("/").replace("/", "--") if output else None
        kept_results = (
            _kept_results(model, folder, settings, contents) if folder is not None and contents is not None else None
        )
        results[model] = _evaluate(model, settings, kept_results, partial(on_items, model), say, device)
        if folder is not None:
            folder.write_table("items.parquet", results[model].items)
            folder.write_json("metrics.json", results[model].metrics)
    items = {model: result.items for model, result in results.items()}
    gaps = pairs.compare(items, pairs_to_compare, evaluation.asked_averages(settings))
    comparisons = {}
    if settings.judge is not None:
        verdicts = evaluation.KeptVerdicts(Folder(output) / evaluation.WIN_RATE / "verdicts" if output else None)
        comparisons = evaluation.judged(pairs_to_compare, items, settings.judge, verdicts, on_items)
    if output:
        for (base, other), comparison in comparisons.items():
            name = "--against--".join(model.strip("/").replace("/", "--") for model in (other, base))
            (Folder(output) / evaluation.WIN_RATE).write_table(f"{name}.parquet", comparison.table())
    return Compared(settings, results, gaps, comparisons)


def _kept_results(
    model: str, folder: Folder, settings: Evaluation, contents: identity.Contents
) -> evaluation.KeptResults:
    """The results of the model's tasks in its folder of the output."""
    job = stage_store.evaluation_job(
        identity.evaluated_content(model), model, folder / records.EVALUATION, settings, contents
    )
    return evaluation.KeptResults(Folder(job.folder), job.keys)


def _evaluate(
    model: str,
    settings: Evaluation,
    kept_results: evaluation.KeptResults | None,
    on_items: Callable[[int, int], None],
    say: Callable[[str], None],
    device: str | None,
) -> evaluation.EvaluationResult:
    stage = evaluation.stage_of(model)
    try:
        return evaluation.evaluate(
            model,
            settings,
            last_stage=stage,
            device=device,
            results=kept_results,
            leaves_out_unfit=True,
            on_items=on_items,
            say=lambda line: say(f"{model}: {line}"),
        )
    except (
        evaluation.NothingFits,
        evaluation.WriterEnded,
        evaluation.WritersDisagree,
        FloatingPointError,  # the weights are not finite
    ) as error:
        raise UserError(f"{model}: {error}") from error


def pair_of(pair: str, models: Sequence[str]) -> tuple[str, str]:
    """The two models of `BASE=OTHER`. Raises UserError for anything else."""
    for position, character in enumerate(pair):  # a folder's name may contain = as well
        base, other = pair[:position], pair[position + 1 :]
        if character == "=" and base in models and other in models and base != other:
            return base, other
    raise UserError(f"--pairs {pair}: is not BASE=OTHER, two of the models given; they are {', '.join(models)}")


def as_json(compared: Compared) -> str:
    """The scores, the differences, and the averages without a value, as one JSON object; null for an end of an interval
    that is not finite."""
    averages = evaluation.asked_averages(compared.settings)
    models = {
        model: {"metrics": result.metrics, "missing": evaluation.missing_averages(averages, result.metrics)}
        for model, result in compared.results.items()
    }
    compared_pairs = [
        {
            "base": base,
            "other": other,
            "differences": {name: None if gap is None else _gap(gap) for name, gap in of_pair.items()},
            **({"win_rate": _win_rate(compared.judged[base, other].rate)} if compared.judged else {}),
        }
        for (base, other), of_pair in compared.pairs.items()
    ]
    return json.dumps(finite_json({"models": models, "pairs": compared_pairs}), indent=2, ensure_ascii=False)


def _gap(gap: Gap) -> dict[str, Any]:
    test = {"p": gap.p, "p_corrected": gap.p_corrected, "test": gap.test}
    ends = None if gap.bootstrap is None else [gap.bootstrap.low, gap.bootstrap.high]
    return {**gap.interval._asdict(), "bootstrap": ends, "items": gap.items, **test}


def _win_rate(rate: evaluation.WinRate) -> dict[str, Any]:
    return {**vars(rate), "rate": None if rate.rate is None else rate.rate._asdict()}


def text(compared: Compared, num_characters: int = 200) -> str:
    """The scores and the differences for a screen of `num_characters` in a line."""
    by_model = {model: result.metrics for model, result in compared.results.items()}
    lines = scores_text(by_model, compared.settings, num_characters) if any(by_model.values()) else []
    has_tests = False
    for (base, other), gaps in compared.pairs.items():
        if gaps:
            lines.append(f"{other} against {base}, over the same items (95 % over items, which cover no seeds):")
            lines += [f"  {line}" for line in difference_lines(_gaps_to_show(gaps, (by_model[base], by_model[other])))]
            has_tests |= bool(_num_tested(gaps))
        if compared.judged:
            names = short_names([*by_model])
            lines.append(f"{other} against {base}, as judged on open instructions:")
            rate = compared.judged[base, other].rate
            lines += [f"  {line}" for line in evaluation.win_rate_lines(rate, names[base], names[other])]
    if has_tests:
        lines.append(
            "p: of no difference between these two models, over items alone; McNemar's exact test, or Student's over "
            f"items or clusters. Corrected for all {sum(map(_num_tested, compared.pairs.values()))} tests, pairs × "
            "tasks (Holm)."
        )
    return "\n".join(lines)


def _num_tested(gaps: Mapping[str, Gap | None]) -> int:
    return sum(gap is not None and gap.p is not None for gap in gaps.values())


def _gaps_to_show(
    gaps: Mapping[str, Gap | None], metrics_of_both: Sequence[Mapping[str, float]]
) -> dict[str, Gap | None]:
    """The differences without those of clean accuracy of tasks that no contaminated item was found in, as in the table
    of scores: it is the accuracy again, or that of the items that could be looked for."""
    ending = "/acc_clean"
    return {
        name: gap
        for name, gap in gaps.items()
        if not name.endswith(ending)
        or any(metrics.get(f"{name.removesuffix(ending)}/contaminated") for metrics in metrics_of_both)
    }


def difference_lines(gaps: Mapping[str, Gap | None]) -> list[str]:
    """A line for each metric."""
    return [f"{name}: {_gap_text(gap)}" for name, gap in gaps.items()]


def _gap_text(gap: Gap | None) -> str:
    if gap is None:
        return "no items that both models were scored on"
    p = f", p {formats.p_value(gap.p)}, corrected {formats.p_value(gap.p_corrected)} ({gap.test})" if gap.test else ""
    value, low, high = gap.interval
    return f"{value:+.4f} ({formats.signed_interval(low, high, decimals=4)}){p}"


def scores_text(by_model: Mapping[str, Mapping[str, float]], settings: Evaluation, num_characters: int) -> list[str]:
    """The models' scores as a table: side by side where that fits into the width, else one table below the other. Then
    what a reader should know of them."""
    lines = []
    names = short_names([*by_model])
    wide_table = tables.table_lines(
        tables.side_by_side({names[model]: metrics for model, metrics in by_model.items()}, settings)
    )
    if len(by_model) > 1 and max(map(len, wide_table)) <= num_characters:
        lines += wide_table
    else:
        for model, metrics in by_model.items():
            lines += [model, *tables.table_lines(tables.score_table(metrics, settings), indent="  ")]
    lines.append("Intervals: 95 % over items, which cover no seeds.")
    remarks_by_model = {model: tables.remarks(metrics, settings) for model, metrics in by_model.items()}
    for remark in dict.fromkeys(remark for remarks in remarks_by_model.values() for remark in remarks):
        model_names = [names[model] for model, remarks in remarks_by_model.items() if remark in remarks]
        lines.append(remark if len(model_names) == len(by_model) else f"{', '.join(model_names)}: {remark}")
    return [*lines, *evaluation.overruled_lines(settings), *_too_long(by_model, names)]


def _too_long(by_model: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> list[str]:
    lines = []
    for model, metrics in by_model.items():
        for task in [
            name.rpartition("/")[0] for name, value in metrics.items() if name.endswith("/too_long") and value
        ]:
            scored, too_long, not_run = (
                metrics.get(f"{task}/{count}", 0) for count in ("items", "too_long", "not_run")
            )
            in_all = scored + too_long + not_run
            lines.append(f"{names[model]}: {too_long:.0f} of {in_all:.0f} items of {task} do not fit the context")
    return lines
