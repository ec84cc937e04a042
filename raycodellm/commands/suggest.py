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


def suggest(path: str, asked: Suggesting, complain: Callable[[str], None]) -> int:
    """Fits the arms of the run folder `path`, prints what is predicted, writes `suggested.json` into the folder and the
    points as YAML; or, with `against`, prints predicted beside measured. Returns the exit code.

    Without `into`, all that is printed is YAML: the words are comments. Raises `UserError` where arms are too few.
    """
    from raycodellm import regression, runs

    if is_ladder(path):
        raise UserError(
            f"{path}: is a ladder; give the run folder of one of its sizes, <storage>/<sweep name>-<preset>"
        )
    run = runs.open_run(path, complain)
    if asked.against is not None:
        return _against(run, runs.open_run(asked.against, complain))
    file = run.run.file
    if not file.parameters:
        raise UserError(f"{path}: the sweep searches over nothing, so there is nothing to suggest")
    if asked.points < 1:
        raise UserError(f"--points: found {asked.points}; give 1 or more")
    rows = _rows(run)
    objective = _objective(run, rows, asked)
    arms = regression.measured_means(rows, objective.metric)
    needed = regression.arms_needed(regression.Encoding.of(file, [one.params for one in arms]))
    if len(arms) < needed:
        raise UserError(
            f"{path}: {len(arms)} different arms have {objective.metric}; the fit needs {needed}: raise search.trials "
            f"and run the sweep again{_with_failed(rows)}"
        )
    reference = _reference(run, rows, arms)
    found = regression.suggestion(
        file,
        [one.params for one in arms],
        [one.score for one in arms],
        objective.mode,
        reference,
        asked.points,
        [len(one.by_seed) for one in arms],
        regression.seed_spread(arms),
    )
    said = [*_said(found, arms, objective, reference is not None), *_fewer(found, asked.points), *unseen(file, rows)]
    if found.forms:
        regression.write_suggested(run.folder, _kept(run, found, objective, arms))
    _write(said, regression.as_enqueue(file, [one.params for one in found.points]), asked.into)
    return DONE


def _with_failed(rows: list[Row]) -> str:
    """The option that runs failed trials again, where there are any."""
    failed = sum(row["state"] == "failed" for row in rows)
    return f", with --retry-failed for the {failed} trial{'s' * (failed != 1)} that failed" if failed else ""


def _rows(run: OpenedRun) -> list[Row]:
    return [result.row() for result in run.results]


def _objective(run: OpenedRun, rows: list[Row], asked: Suggesting) -> Objective:
    """The metric to fit, with its direction. Raises `UserError` for one that no trial has, or without a direction."""
    objectives = {one.metric: one for one in run.sweep.search.objectives}
    metric = asked.metric or next(iter(objectives))
    known = sorted({name.removeprefix("metrics.") for row in rows for name in row if name.startswith("metrics.")})
    if metric not in objectives and metric not in known:
        same_end = [name for name in known if name.rpartition("/")[2] == metric.rpartition("/")[2]]
        there_is = f"there is {', '.join((same_end or known)[:6])}" if known else "no trial has a score yet"
        raise UserError(f"--metric {metric}: no trial has it; {there_is}")
    mode = asked.mode or (objectives[metric].mode if metric in objectives else _direction(metric))
    if mode is None:
        raise UserError(f"--metric {metric}: does not tell whether low or high is better; add --mode min or --mode max")
    return Objective.model_validate({"metric": metric, "mode": mode})


def _direction(metric: str) -> str | None:
    parts = metric.split("/")
    if any(part.startswith("bpb") for part in parts):
        return "min"
    return "max" if parts[-1].startswith("acc") else None


def _reference(run: OpenedRun, rows: list[Row], arms: list[MeasuredArm]) -> int | None:
    """Place of the reference among the arms; None where there is none, or it has no score."""
    from raycodellm import verdict

    arm = verdict.reference_arm(run.run.file, rows)
    return next((place for place, one in enumerate(arms) if one.arm == arm), None)


def _kept(run: OpenedRun, found: Suggestion, objective: Objective, arms: list[MeasuredArm]) -> Suggested:
    from raycodellm import regression

    form, error = found.forms[0]
    optimum = found.optimum and replace(found.optimum, arm=arms[found.optimum.arm].arm)
    return regression.Suggested(
        format=1,
        sweep=run.name,
        metric=objective.metric,
        mode=objective.mode,
        form=form,
        error=error,
        level=regression.LEVEL,
        num_arms=found.num_arms,
        points=found.points,
        optimum=optimum,
    )


# ------------------------------------------------------------------------------------------------- words


def _said(found: Suggestion, arms: list[MeasuredArm], objective: Objective, has_reference: bool) -> list[str]:
    from raycodellm import regression

    metric, stay = objective.metric, arms[found.stay_arm]
    title = "the reference" if has_reference else "the best measured arm"
    base = f"{title}, arm {stay.arm} ({formats.params(stay.params)}), measured {metric} {formats.score(stay.score)}"
    if not found.forms:
        return [f"the {len(arms)} arms do not differ in what is searched", f"stay where you are: {base}"]
    rows = [(name, cells.score(error)) for name, error in found.forms]
    table = Table((f"form, fitted to {metric} of {len(arms)} arms", "error on held-out arms"), rows)
    lines = [*table_lines(table), ""]
    assert found.best is not None and found.difference is not None
    if found.forms[0][0] == regression.CONSTANT:
        lines.append("no form predicts held-out arms better than the mean of all arms does")
    best, (value, low, high) = found.best, found.difference
    lines += [
        f"predicted best: {formats.params(best.params)}",
        f"  {metric} {formats.score(best.predicted)} (90 %: {formats.interval(best.low, best.high)}, with one seed)",
        *_measured_best(found, arms, metric),
        f"{base}",
        f"  difference {value:+.3f} (90 %: {formats.signed_interval(low, high)})",
        "the intervals hold for the best of many predictions, and leave open which form is right;",
        f"  {regression.HELD}",
    ]
    if found.is_far:
        lines.append("the predicted best is farther from all arms than they are from their neighbours: a guess")
    if found.moves:
        lines.append("told apart: try the predicted best, with fresh seeds (search.confirm)")
    else:
        lines.append(f"not told apart: stay where you are{'; the points below may teach more' * bool(found.points)}")
    return lines


def _fewer(found: Suggestion, asked: int) -> list[str]:
    """A line where there are fewer points to try than were asked for."""
    if not found.forms or len(found.points) >= asked:
        return []
    number = len(found.points) or "none"
    return [f"{number} of {asked} points: all others that may be best were measured, or are close to one of these"]


def _measured_best(found: Suggestion, arms: list[MeasuredArm], metric: str) -> list[str]:
    """The best measured arm beside the predicted best."""
    one = found.optimum
    if one is None:
        return []
    arm = f"best measured: arm {arms[one.arm].arm} ({formats.params(one.params)})"
    if one.predicted_measured is not None and one.predicted_measured == one.score:
        arm = f"  it is the best measured one, arm {arms[one.arm].arm}"
    seeds = "one seed" if one.num_seeds == 1 else f"{one.num_seeds} seeds"
    return [
        arm,
        f"  {metric} {formats.score(one.score)} with {seeds}; the other arms alone predict "
        f"{formats.score(one.from_others)} (90 %: {formats.interval(one.low, one.high)})",
    ]


def unseen(file: SweepFile, rows: list[Row]) -> list[str]:
    """Lines on what the fit of one metric leaves out: constraints of the search, and arms that were stopped early."""
    constraints = [one.name for one in file.example().search.constraints]
    lines = [f"no constraint is predicted: a point may break {' or '.join(constraints)}"] if constraints else []
    stopped = {row["arm"] for row in rows if row["state"] == "pruned"}
    if stopped:
        lines.append(f"stopped early, so without a score and not in the fit: {len(stopped)} of the arms")
    return lines


def _write(said: list[str], points: str, into: str | None) -> None:
    """Prints words and points, or writes the points into a file. Raises `UserError` where that is not possible."""
    if into is None:
        print("\n".join(f"# {line}".rstrip() for line in said))
        print(points, end="")
        return
    write_into(into, points)
    print("\n".join(said))
    print(f"points: {into}")


def _against(run: OpenedRun, other: OpenedRun) -> int:
    """Prints predicted beside measured, and keeps the predictions in the other run, whose report shows them too."""
    from raycodellm import regression

    suggested = regression.read_suggested(run.folder)
    if suggested is None:
        raise UserError(f"{run.folder}: has no suggested.json; run `raycodellm suggest {run.folder}` first")
    table = regression.predicted_beside_measured(suggested, _rows(other))
    if not table.rows:
        print(f"{other.folder}: none of the {len(suggested.points)} suggested points has been measured")
        return DONE
    if regression.read_suggested(other.folder) is None:
        regression.write_suggested(other.folder, suggested)
    print("\n".join(table_lines(table)))
    return DONE
