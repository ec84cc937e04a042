"""The verdict: the arms that are confirmed with fresh seeds, and how they differ from the reference arm."""

from raycodellm.verdict.arms import reference_arm
from raycodellm.verdict.constraints import Breach, breaches, broken_by
from raycodellm.verdict.document import RULES, document
from raycodellm.verdict.findings import Findings, findings
from raycodellm.verdict.front import Front, FrontArm, front
from raycodellm.verdict.looks import Looks, PendingTrial, looks
from raycodellm.verdict.marks import KEY, MARKS, marks
from raycodellm.verdict.measurements import ItemTable
from raycodellm.verdict.seed_spread import ArmSpread, SeedSpreads, SpreadRatio, seed_spreads
from raycodellm.verdict.sentence import answer, difference, sentence
from raycodellm.verdict.settling import settled_by
from raycodellm.verdict.transfer import Transfer, is_task, transfers
from raycodellm.verdict.verdicts import Comparison, Verdict, family_metrics

__all__ = [
    "KEY",
    "MARKS",
    "RULES",
    "ArmSpread",
    "Breach",
    "Comparison",
    "Findings",
    "Front",
    "FrontArm",
    "ItemTable",
    "Looks",
    "PendingTrial",
    "SeedSpreads",
    "SpreadRatio",
    "Transfer",
    "Verdict",
    "answer",
    "breaches",
    "broken_by",
    "difference",
    "document",
    "family_metrics",
    "findings",
    "front",
    "is_task",
    "looks",
    "marks",
    "reference_arm",
    "seed_spreads",
    "sentence",
    "settled_by",
    "transfers",
]
