"""`raycodellm suggest`: which point a sweep's trials predict as the best, and which points to try next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raycodellm.commands.into import write_into
from raycodellm.commands.read_run import is_ladder
from raycodellm.commands.request import DONE
from raycodellm.config import Objective, UserError
from raycodellm.tables import Table, cells, formats, table_lines

if TYPE_CHECKING:
    from raycodellm.config import SweepFile
    from raycodellm.regression import MeasuredArm, Suggested, Suggestion
    from raycodellm.runs import OpenedRun
    from raycodellm.tables.trials import Row


@dataclass(frozen=True)
class Suggesting:
    """The requests of the command line."""

    points: int = 3
    """Most points to try next."""
    metric: str | None = None
    """None for the sweep's first objective."""
    mode: str | None = None
    """min or max, for a metric that does not tell by its name."""
    into: str | None = None
    """File for the points; None prints them."""
    against: str | None = None
    """Run folder in which suggested points have run."""


def suggest(path: str, options: Suggesting, complain: Callable[[str], None]) -> int:
    """Fits the arms of the run folder `path`, prints the prediction, writes `suggested.json` into the folder and the
    points as YAML; or, with `against`, prints predicted beside measured scores. Returns the exit code.

    Without `into`, the whole output is YAML: the words are comments. Raises `UserError` where arms are too few.
    """
    from raycodellm import regression, runs

    if is_ladder(path):
        raise UserError(
            f"{path}: is a ladder; give the run folder of one of its sizes, <storage>/<sweep name>-<preset>"
        )
    run = runs.open_run(path, complain)
    if options.against is not None:
        return _compare_with_measured(run, runs.open_run(options.against, complain))
    file = run.run.file
    if not file.parameters:
        raise UserError(f"{path}: the sweep searches over nothing, so there is nothing to suggest")
    if options.points < 1:
        raise UserError(f"--points: found {options.points}; give 1 or more")
    rows = _rows(run)
    objective = _objective(run, rows, options)
    arms = regression.measured_means(rows, objective.metric)
    num_needed = regression.arms_needed(regression.Encoding.of(file, [arm.params for arm in arms]))
    if len(arms) < num_needed:
        raise UserError(
            f"{path}: {len(arms)} different arms have {objective.metric}; the fit needs {num_needed}: raise "
            f"search.trials and run the sweep again{_retry_hint(rows)}"
        )
    reference = _reference_index(run, rows, arms)
    suggestion = regression.suggestion(
        file,
        [arm.params for arm in arms],
        [arm.score for arm in arms],
        objective.mode,
        reference,
        options.points,
        [len(arm.by_seed) for arm in arms],
        regression.seed_spread(arms),
    )
    lines = [
        *_suggestion_lines(suggestion, arms, objective, reference is not None),
        *_few_points_lines(suggestion, options.points),
        *left_out_lines(file, rows),
    ]
    if suggestion.forms:
        regression.write_suggested(run.folder, _record(run, suggestion, objective, arms))
    _write(lines, regression.as_enqueue(file, [point.params for point in suggestion.points]), options.into)
    return DONE


def _retry_hint(rows: list[Row]) -> str:
    """A hint at the option that runs failed trials again; empty if no trial failed."""
    failed = sum(row["state"] == "failed" for row in rows)
    return f", with --retry-failed for the {failed} trial{'s' * (failed != 1)} that failed" if failed else ""


def _rows(run: OpenedRun) -> list[Row]:
    return [result.row() for result in run.results]


def _objective(run: OpenedRun, rows: list[Row], options: Suggesting) -> Objective:
    """The metric to fit, with its direction. Raises `UserError` for one that no trial has, or without a direction."""
    objectives = {objective.metric: objective for objective in run.sweep.search.objectives}
    metric = options.metric or next(iter(objectives))
    metric_names = sorted(
        {name.removeprefix("metrics.") for row in rows for name in row if name.startswith("metrics.")}
    )
    if metric not in objectives and metric not in metric_names:
        same_end = [name for name in metric_names if name.rpartition("/")[2] == metric.rpartition("/")[2]]
        hint = f"there is {', '.join((same_end or metric_names)[:6])}" if metric_names else "no trial has a score yet"
        raise UserError(f"--metric {metric}: no trial has it; {hint}")
    mode = options.mode or (objectives[metric].mode if metric in objectives else _usual_mode(metric))
    if mode is None:
        raise UserError(f"--metric {metric}: does not tell whether low or high is better; add --mode min or --mode max")
    return Objective.model_validate({"metric": metric, "mode": mode})


def _usual_mode(metric: str) -> str | None:
    """min or max, if the metric's name tells which is better; else None."""
    parts = metric.split("/")
    if any(part.startswith("bpb") for part in parts):
        return "min"
    return "max" if parts[-1].startswith("acc") else None


def _reference_index(run: OpenedRun, rows: list[Row], arms: list[MeasuredArm]) -> int | None:
    """Index of the reference among the arms; None if the sweep has no reference, or the reference has no score."""
    from raycodellm import verdict

    arm = verdict.reference_arm(run.run.file, rows)
    return next((index for index, measured_arm in enumerate(arms) if measured_arm.arm == arm), None)


def _record(run: OpenedRun, suggestion: Suggestion, objective: Objective, arms: list[MeasuredArm]) -> Suggested:
    from raycodellm import regression

    form, error = suggestion.forms[0]
    optimum = suggestion.optimum and replace(suggestion.optimum, arm=arms[suggestion.optimum.arm].arm)
    return regression.Suggested(
        format=1,
        sweep=run.name,
        metric=objective.metric,
        mode=objective.mode,
        form=form,
        error=error,
        level=regression.LEVEL,
        num_arms=suggestion.num_arms,
        points=suggestion.points,
        optimum=optimum,
    )


# ------------------------------------------------------------------------------------------------- words


def _suggestion_lines(
    suggestion: Suggestion, arms: list[MeasuredArm], objective: Objective, has_reference: bool
) -> list[str]:
    from raycodellm import regression

    metric, stay_arm = objective.metric, arms[suggestion.stay_arm]
    title = "the reference" if has_reference else "the best measured arm"
    baseline = f"{title}, arm {stay_arm.arm} ({formats.params(stay_arm.params)}), measured {metric} "
    baseline += formats.score(stay_arm.score)
    if not suggestion.forms:
        return [f"the {len(arms)} arms do not differ in what is searched", f"stay where you are: {baseline}"]
    rows = [(name, cells.score(error)) for name, error in suggestion.forms]
    table = Table((f"form, fitted to {metric} of {len(arms)} arms", "error on held-out arms"), rows)
    lines = [*table_lines(table), ""]
    assert suggestion.best is not None and suggestion.difference is not None
    if suggestion.forms[0][0] == regression.CONSTANT:
        lines.append("no form predicts held-out arms better than the mean of all arms does")
    best, (value, low, high) = suggestion.best, suggestion.difference
    lines += [
        f"predicted best: {formats.params(best.params)}",
        f"  {metric} {formats.score(best.predicted)} (90 %: {formats.interval(best.low, best.high)}, with one seed)",
        *_best_measured_lines(suggestion, arms, metric),
        f"{baseline}",
        f"  difference {value:+.3f} (90 %: {formats.signed_interval(low, high)})",
        "the intervals hold for the best of many predictions, and leave open which form is right;",
        f"  {regression.HELD}",
    ]
    if suggestion.is_far:
        lines.append("the predicted best is farther from all arms than they are from their neighbours: a guess")
    if suggestion.moves:
        lines.append("told apart: try the predicted best, with fresh seeds (search.confirm)")
    else:
        lines.append(
            f"not told apart: stay where you are{'; the points below may teach more' * bool(suggestion.points)}"
        )
    return lines


def _few_points_lines(suggestion: Suggestion, num_asked: int) -> list[str]:
    """A line if there are fewer points to try than the user asked for."""
    if not suggestion.forms or len(suggestion.points) >= num_asked:
        return []
    number = len(suggestion.points) or "none"
    return [f"{number} of {num_asked} points: all others that may be best were measured, or are close to one of these"]


def _best_measured_lines(suggestion: Suggestion, arms: list[MeasuredArm], metric: str) -> list[str]:
    """The best measured arm beside the predicted best."""
    optimum = suggestion.optimum
    if optimum is None:
        return []
    arm = f"best measured: arm {arms[optimum.arm].arm} ({formats.params(optimum.params)})"
    if optimum.predicted_measured is not None and optimum.predicted_measured == optimum.score:
        arm = f"  it is the best measured one, arm {arms[optimum.arm].arm}"
    seeds = "one seed" if optimum.num_seeds == 1 else f"{optimum.num_seeds} seeds"
    return [
        arm,
        f"  {metric} {formats.score(optimum.score)} with {seeds}; the other arms alone predict "
        f"{formats.score(optimum.from_others)} (90 %: {formats.interval(optimum.low, optimum.high)})",
    ]


def left_out_lines(file: SweepFile, rows: list[Row]) -> list[str]:
    """Lines on what the fit of one metric leaves out: constraints of the search, and arms that were stopped early."""
    constraints = [constraint.name for constraint in file.example().search.constraints]
    lines = [f"no constraint is predicted: a point may break {' or '.join(constraints)}"] if constraints else []
    stopped = {row["arm"] for row in rows if row["state"] == "pruned"}
    if stopped:
        lines.append(f"stopped early, so without a score and not in the fit: {len(stopped)} of the arms")
    return lines


def _write(lines: list[str], points: str, into: str | None) -> None:
    """Prints the lines and the points, or writes the points into a file. Raises `UserError` if that is impossible."""
    if into is None:
        print("\n".join(f"# {line}".rstrip() for line in lines))
        print(points, end="")
        return
    write_into(into, points)
    print("\n".join(lines))
    print(f"points: {into}")


def _compare_with_measured(run: OpenedRun, other_run: OpenedRun) -> int:
    """Prints predicted beside measured, and keeps the predictions in the other run, whose report shows them too."""
    from raycodellm import regression

    suggested = regression.read_suggested(run.folder)
    if suggested is None:
        raise UserError(f"{run.folder}: has no suggested.json; run `raycodellm suggest {run.folder}` first")
    table = regression.predicted_beside_measured(suggested, _rows(other_run))
    if not table.rows:
        print(f"{other_run.folder}: none of the {len(suggested.points)} suggested points has been measured")
        return DONE
    if regression.read_suggested(other_run.folder) is None:
        regression.write_suggested(other_run.folder, suggested)
    print("\n".join(table_lines(table)))
    return DONE
