"""Win rates of a sweep: a judge compares each arm's answers with the reference arm's, seed by seed."""

from raycodellm.win_rates.judging import judge_trials
from raycodellm.win_rates.plan import LeftOut, Plan, SeedPair, most_questions, plan
from raycodellm.win_rates.rates import ArmWinRate, arm_win_rates
from raycodellm.win_rates.records import FOLDER, Judgements, Progress, WinRates, read_win_rates
from raycodellm.win_rates.words import NOTE, document, lines, table

__all__ = [
    "FOLDER",
    "NOTE",
    "ArmWinRate",
    "Judgements",
    "LeftOut",
    "Plan",
    "Progress",
    "SeedPair",
    "WinRates",
    "arm_win_rates",
    "document",
    "judge_trials",
    "lines",
    "most_questions",
    "plan",
    "read_win_rates",
    "table",
]
