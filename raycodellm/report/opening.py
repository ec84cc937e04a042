"""The lines under the answer: what was asked, what the answer rests on, and what would tell more."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from raycodellm import regression, search, storage_files
from raycodellm.report.answer import metric_in_words, unknown_noise
from raycodellm.report.figures.forest import arm_words
from raycodellm.report.records import Records
from raycodellm.tables import formats
from raycodellm.tables.trials import is_present, params_of
from raycodellm.verdict import Verdict, settled_by
from raycodellm.verdict.arms import equal_params
from raycodellm.verdict.sentence import remedy

_MOST_NAMED = 2


class Line(NamedTuple):
    """One line of the opening."""

    label: str
    text: str


def opening(records: Records) -> list[Line]:
    """The question, the evidence and the next steps, without an empty line; nothing of a sweep that trains nothing."""
    if not records.sweep.stages:
        return []
    labelled = (("Asked", question(records)), ("Rests on", rests_on(records)), ("Next", next_steps(records)))
    return [Line(label, text) for label, text in labelled if text]


# ------------------------------------------------------------------------------------------------- the question


def question(records: Records) -> str:
    """The question, with the model and the tokens that it is asked of."""
    objectives, names = records.sweep.search.objectives, list(records.file.domains)
    metrics = " and ".join(map(metric_in_words, objectives))
    num_arms = len({row["arm"] for row in records.rows}) or search.num_arms(records.file)
    varied = _joined_names(names, 6)
    point = search.reference_point(records.file)
    if not names:
        sentence = f"How good is this training in {metrics}?"
    elif point is not None:
        does = "Does" if len(names) == 1 else "Do"
        sentence = f"{does} {varied} change {metrics} against the reference ({formats.params(point)})?"
    else:
        sentence = f"Which {varied} {'gives' if len(names) == 1 else 'give'} the best {metrics}?"
    arms = f"{num_arms} arm{'s' * (num_arms != 1)}"
    return f"{sentence} {arms} of {_model(records)}, {_tokens(records)}."


def _joined_names(names: list[str], most: int) -> str:
    shown = formats.short_param_names(names)
    if len(shown) > most:
        return f"{', '.join(shown[:most])} and {len(shown) - most} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


def _model(records: Records) -> str:
    model = records.sweep.model
    if model.preset is not None:
        return f"the preset {model.preset}"
    return f"the model {model.pretrained}" if model.pretrained is not None else "a model of its own configuration"


def _tokens(records: Records) -> str:
    """The tokens of each stage; those of a stage that differ from arm to arm are left out."""
    searched = {name for name in records.file.domains if name.rpartition(".")[2] in ("tokens", "enabled")}
    stages = [
        stage for stage in records.sweep.stages if not {f"{stage.name}.tokens", f"{stage.name}.enabled"} & searched
    ]
    text = ", ".join(f"{formats.count(stage.num_tokens)} tokens in {stage.name}" for stage in stages)
    return text or "on tokens that differ from arm to arm"


# ------------------------------------------------------------------------------------------------- the evidence


def rests_on(records: Records) -> str:
    """The seeds, items and corrections behind the answer; empty where no verdict is given."""
    findings, metric = records.findings, records.sweep.search.objectives[0].metric
    verdicts = [verdict for verdict in findings.verdicts if verdict.metric == metric]
    if not verdicts or findings.basis == "none":
        return ""
    seeds = [len(verdict.seeds) for verdict in verdicts]
    fresh = {
        "confirmation": "fresh seeds per arm, which the search never saw,",
        "all seeds": "seeds per arm",
        "first in rank": "seeds per arm",
    }[findings.basis]
    span = f"{min(seeds)} to {max(seeds)}" if min(seeds) != max(seeds) else str(seeds[0])
    items = max(verdict.items or 0 for verdict in verdicts)
    has_items = items or any(is_present(row.get(f"metrics.{metric}_low")) for row in records.rows)
    over = f" and {items:,} items" if items else " and the items" if has_items else ""
    noise = "seeds and items" if has_items else "seeds"
    num_looks = len(findings.looks.told)
    looks = f", {num_looks} look{'s' * (num_looks != 1)}" if findings.basis == "confirmation" else ""
    num_metrics = len({verdict.metric for verdict in findings.verdicts})
    family = f"{len(verdicts)} arm{'s' * (len(verdicts) != 1)}, {num_metrics} metric{'s' * (num_metrics != 1)}"
    intervals = "In brackets: 95 % intervals" if records.has_reference else "Differences have 95 % intervals"
    sentences = [
        f"{span} {fresh}{over}.",
        f"{intervals} over {noise}, which hold at once for all comparisons ({family}{looks}).",
    ]
    if (spread := records.seed_spreads) is not None:
        sentences.append(f"One seed's score varies by a standard deviation of {formats.score(spread.pooled.value)}.")
    if records.has_reference and len(verdicts) > 1:
        sentences.append("Arms are compared with the reference, not with each other.")
    return " ".join(sentences)


# ------------------------------------------------------------------------------------------------- what next


def next_steps(records: Records) -> str:
    """The next steps that would tell more; empty where nothing is to be said yet."""
    if records.best is None or records.num_open > 0:
        return ""
    steps = (_second_seed, _more_seeds, _range_ends, _accuracy_advice, _suggestions)
    return " ".join(filter(None, (step(records) for step in steps)))


def _second_seed(records: Records) -> str:
    if not unknown_noise(records):
        return ""
    return settled_by(records.file, records.rows, records.items)


def _more_seeds(records: Records) -> str:
    """The arms of which more seeds would tell, beside the one that the answer tells of."""
    metric = records.sweep.search.objectives[0].metric
    verdicts = [verdict for verdict in records.findings.verdicts if verdict.metric == metric]
    if all(verdict.word == "not known" for verdict in verdicts):
        return ""  # the answer says how many seeds would tell
    unknown = [verdict for verdict in verdicts if verdict.word == "not known" and remedy(verdict)]
    return " ".join(
        f"{_arm_text(records, verdict)} is not known{remedy(verdict)}." for verdict in unknown[:_MOST_NAMED]
    )


def _arm_text(records: Records, verdict: Verdict) -> str:
    return f"Arm {verdict.arm} ({arm_words(records, verdict.params)})"


def _range_ends(records: Records) -> str:
    """A sentence on the parameters whose value in the best arm, if it is better for sure, is an end of their range."""
    best = records.best
    if best is None or best.verdict != "better" or not records.has_reference:
        return ""
    clauses = []
    for name, domain in records.file.domains.items():
        value = best.params.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or domain.kind == "simplex":
            continue
        numbers = [option for option in domain.options if isinstance(option, (int, float))] or [domain.low, domain.high]
        is_limit = name.endswith("code_ratio") and value in (0, 1)
        if len(numbers) > 1 and value in (min(numbers), max(numbers)) and not is_limit:
            end = "largest" if value == max(numbers) else "smallest"
            clauses.append(f"{name} {formats.value(value)} is the {end} that was tried")
    return f"In arm {best.arm} {' and '.join(clauses)}: a better one may lie beyond." if clauses else ""


def _accuracy_advice(records: Records) -> str:
    best = records.best
    if best is None or best.beats_chance is not False:
        return ""
    return "While accuracy is that of guessing, a larger model or more tokens tell more about answers than more seeds."


def _suggestions(records: Records) -> str:
    """The points that `raycodellm suggest` has named and nobody has run, or how to have some named."""
    suggested = storage_files.attempt(partial(regression.read_suggested, records.run), records.say)
    if suggested is None or not suggested.points:
        advice = "raycodellm suggest, on this run's folder, predicts the best point and names points to try."
        return advice if _can_be_fitted(records) else ""
    measured = [params_of(row) for row in records.rows]
    unmeasured = [
        point for point in suggested.points if not any(equal_params(point.params, params) for params in measured)
    ]
    if not unmeasured:
        return ""
    points = "a point" if len(unmeasured) == 1 else f"{len(unmeasured)} points"
    return f"raycodellm suggest has named {points} to try next (suggested.json) that this sweep has not run."


def _can_be_fitted(records: Records) -> bool:
    arms = regression.measured_means(records.rows, records.sweep.search.objectives[0].metric)
    if not records.file.domains or not arms:
        return False
    return len(arms) >= regression.arms_needed(regression.Encoding.of(records.file, [arm.params for arm in arms]))
