"""The report of a run, made from its records alone, also of an unfinished run or of one with failed trials."""

from raycodellm.report.best import BestArm, best_arm, best_arm_of
from raycodellm.report.ranking import ArmScore, ranking
from raycodellm.report.records import Records, read_records
from raycodellm.report.write import summary_text, write_pages, write_report

__all__ = [
    "ArmScore",
    "BestArm",
    "Records",
    "best_arm",
    "best_arm_of",
    "ranking",
    "read_records",
    "summary_text",
    "write_pages",
    "write_report",
]
