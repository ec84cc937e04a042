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
    """The judge of the suite `win-rate`; None where the suite is not asked for. Raises UserError if one of the judge's
    options or its key is missing."""
    if evaluation.WIN_RATE not in options.suites.split(","):
        if options.judge or options.judge_model or options.instructions:
            raise UserError(f"--judge, --judge-model and --instructions go with --suites {evaluation.WIN_RATE}")
        return None
    required = ("judge", "judge_model", "pairs")
    if missing := [f"--{name.replace('_', '-')}" for name in required if not getattr(options, name)]:
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
        first_error = error.errors()[0]
        message = first_error["msg"].removeprefix("Value error, ")
        if first_error["type"] != "value_error":  # such an error says itself what was found, unless that may be a key
            message = (
                f"found {first_error['input']!r}; {message[0].lower()}{message[1:].replace('nput should', 'must')}"
            )
        raise UserError(f"--{_OPTIONS.get(str(first_error['loc'][0]), 'judge-model')}: {message}") from error
    evaluation.key_of(judge)
    return judge
