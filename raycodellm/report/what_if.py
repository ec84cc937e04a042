"""The report's curves of what a change of one parameter would do, and its table of parameters that act together."""

from __future__ import annotations

from raycodellm import regression, verdict
from raycodellm.regression import WhatIf
from raycodellm.report import figures
from raycodellm.report.figures import Figure
from raycodellm.report.records import Records
from raycodellm.tables import Cell, Table, formats

NOTE = (
    "Predicted from the arms by all forms at once, each by its likelihood (docs/suggest.md). The bands are "
    "pointwise 95 % bands of the expected score, and hold what is not known of form and noise. They tell of no turn "
    "beyond the last arm, and are no verdict: arms that are compared with fresh seeds are."
)
INTERACTION_NOTE = (
    "Difference of differences: how much more the first parameter's change does to the score after the second one's "
    "change than before it, averaged over the rest of the space. Halves of a range, and options against the first one; "
    "a weight takes from its mixture's others in proportion. "
    "The intervals hold at 95 % for all rows at once (Bonferroni). Where one includes 0, nothing is known of an "
    "interaction, which is not the same as none."
)
MOST_ROWS = 30


def parts(records: Records) -> list[str | Figure | Table]:
    """Sentence, curves and table; one line where the arms are too few, nothing where nothing is searched."""
    objective = records.sweep.search.objectives[0]
    arms = regression.measured_means(records.rows, objective.metric)
    if not records.file.domains or not arms:
        return []
    fit = WhatIf.of(records.file, arms)
    if isinstance(fit, int):
        return [f"Shown from {fit} different arms on, two per free parameter and ten at least; there are {len(arms)}."]
    base, base_words = _base(records, arms)
    curves = [curve for name in fit.names if (curve := fit.curve(name, base)) is not None]
    if not curves:
        return []
    noise = (
        "The noise between seeds is known from arms with several seeds."
        if fit.knows_seeds
        else "No arm has a second seed: noise is taken to be what arms with near parameters do not share."
    )
    cut = f" The first {figures.MOST_CURVES} parameters are shown." if len(curves) > figures.MOST_CURVES else ""
    sentence = (
        f"One parameter changes, the others stay those of {base_words}. Fitted to {fit.num_arms} arms. {noise}{cut}"
    )
    shown_parts: list[str | Figure | Table] = [sentence, *figures.what_if(records, curves, base)]
    table = _table(fit)
    return [*shown_parts, INTERACTION_NOTE, table] if table.rows else shown_parts


def _base(records: Records, arms: list[regression.MeasuredArm]) -> tuple[dict, str]:
    """The point that the curves go through, and its name: the reference, or the arm that is first in rank."""
    arm = verdict.reference_arm(records.file, records.rows)
    params_by_arm = {measured.arm: measured.params for measured in arms}
    if arm in params_by_arm:
        return params_by_arm[arm], f"the reference, arm {arm} ({formats.params(params_by_arm[arm])})"
    first_arm = records.best.arm if records.best is not None and records.best.arm in params_by_arm else arms[0].arm
    return params_by_arm[first_arm], f"arm {first_arm}, first in rank ({formats.params(params_by_arm[first_arm])})"


def _table(fit: WhatIf) -> Table:
    rows = []
    for interaction in fit.interactions()[:MOST_ROWS]:
        word = "yes" if interaction.is_told else "not known"
        rows.append(
            (
                f"{interaction.one}: {interaction.one_from} → {interaction.one_to}",
                f"{interaction.other}: {interaction.other_from} → {interaction.other_to}",
                Cell(f"{interaction.value:+.3f}", interaction.value),
                Cell(formats.signed_interval(interaction.low, interaction.high), interaction.low),
                Cell(word, kind="not-known" if word == "not known" else ""),
            )
        )
    header = ("effect of", "changes with", "by", "corrected 95 % interval", "told from 0")
    return Table(header, rows, left=(0, 1, 4))
