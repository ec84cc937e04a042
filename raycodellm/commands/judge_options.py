"""The judge that the options of `raycodellm eval` ask for."""

from __future__ import annotations

import argparse

from pydantic import ValidationError

from raycodellm import evaluation
from raycodellm.config import Judge, UserError

_ALL = 1_000_000
"""More instructions than any file has."""
_OPTIONS = {
    "base_url": "judge",
    "key_variable": "judge-key",
    "requests_per_minute": "judge-rate",
    "num_prompts": "limit",
}
"""Maps settings of the judge to the options that give them."""


def judge_of(options: argparse.Namespace) -> Judge | None:
    """The judge of the suite `win-rate`; None where the suite is not asked for. Raises UserError for half of it, and
    where the judge's key is missing."""
    if evaluation.WIN_RATE not in options.suites.split(","):
        if options.judge or options.judge_model or options.instructions:
            raise UserError(f"--judge, --judge-model and --instructions go with --suites {evaluation.WIN_RATE}")
        return None
    needed = ("judge", "judge_model", "pairs")
    if missing := [f"--{name.replace('_', '-')}" for name in needed if not getattr(options, name)]:
        raise UserError(f"--suites {evaluation.WIN_RATE}: needs {', '.join(missing)} too")
    values = {
        "base_url": options.judge,
        "model": options.judge_model,
        "key_variable": options.judge_key,
        "requests_per_minute": options.judge_rate,
        "prompts": options.instructions,
    }
    if options.limit is not None or options.instructions:
        values["num_prompts"] = _ALL if options.limit is None else options.limit
    try:
        judge = Judge.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] != "value_error":  # such an error says itself what was found, unless that may be a key
            said = f"found {first['input']!r}; {said[0].lower()}{said[1:].replace('nput should', 'must')}"
        raise UserError(f"--{_OPTIONS.get(str(first['loc'][0]), 'judge-model')}: {said}") from error
    evaluation.key_of(judge)
    return judge
