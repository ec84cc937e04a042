"""A sandbox for code that a model wrote, which imports nothing else of the package.

`python -m raycodellm.evaluation.sandbox SAMPLES.jsonl` runs samples in HumanEval's format.
"""

from raycodellm.evaluation.sandbox.inside.checker import FAILED, NOT_RUN, PASSED
from raycodellm.evaluation.sandbox.isolation import KINDS, Isolation, SandboxUnavailable
from raycodellm.evaluation.sandbox.probe import find_isolation, proven
from raycodellm.evaluation.sandbox.supervise import Limits, Program, Verdict, limits_for, run

__all__ = [
    "FAILED",
    "KINDS",
    "NOT_RUN",
    "PASSED",
    "Isolation",
    "Limits",
    "Program",
    "SandboxUnavailable",
    "Verdict",
    "find_isolation",
    "limits_for",
    "proven",
    "run",
]
