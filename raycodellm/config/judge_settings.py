"""The judge of a sweep: a model behind an endpoint that compares the arms' answers with the reference's."""

from __future__ import annotations

import re
import urllib.parse
from typing import Annotated

from pydantic import Field, field_validator

from raycodellm.config.field_types import Frozen, Number, Whole

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_LENGTH = 64
"""A longer name is more likely a key itself than the name of a variable."""


class Judge(Frozen):
    """A judge at an OpenAI-compatible endpoint, which after the search compares each arm's answers to open instructions
    with the reference arm's, seed by seed and in both orders. It needs `search.reference`, and is no objective."""

    base_url: str
    """The endpoint, up to and with `/v1`. A judge is known by its model's name: with another address of the same judge
    no judgement is asked for again."""
    model: Annotated[str, Field(min_length=1)]
    """The judge's name at the endpoint."""
    key_variable: str | None = None
    """Environment variable that holds the endpoint's key, on the machine that runs the sweep; none for an endpoint that
    asks for none. The key itself stands in no file."""
    prompts: str | None = None
    """File of instructions, in the layout of Dolly or Alpaca, or with `prompt`: JSON lines, a JSON list, or Parquet.
    The package's own when left out."""
    num_prompts: Annotated[Whole, Field(ge=1)] = 100
    """Instructions, the first of the file; all of a shorter file."""
    answer_tokens: Annotated[Whole, Field(ge=1)] = 256
    """Greatest length of an answer, in tokens of the evaluated model; where its context is full before, the answer ends
    there."""
    verdict_tokens: Annotated[Whole, Field(ge=1)] = 512
    """Greatest length of what the judge says, in its tokens."""
    concurrency: Annotated[Whole, Field(ge=1, le=256)] = 4
    """Requests to the endpoint at a time."""
    requests_per_minute: Annotated[Number, Field(ge=0.001)] | None = None
    """Most requests that are begun in a minute; as many as `concurrency` manages when left out."""
    timeout_seconds: Annotated[Number, Field(gt=0, le=86_400)] = 120.0
    """Wait for one verdict before it is asked for again."""

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        host = (url.partition("://")[2] or url).partition("/")[0]
        if "?" in url or "@" in host:  # first: the value is not shown, it may hold the key
            raise ValueError("holds more than an address; name the variable with the key in key_variable")
        if not _is_web_address(url):
            raise ValueError(f"found {url[:100]!r}; give the address of an endpoint, such as http://localhost:8000/v1")
        return url

    @field_validator("key_variable")
    @classmethod
    def _is_variable(cls, name: str | None) -> str | None:
        if name is not None and (not _VARIABLE.fullmatch(name) or len(name) > _KEY_LENGTH):
            # The value is not shown: it may be the key itself.
            raise ValueError("is no name of an environment variable; give its name, such as JUDGE_API_KEY, not the key")
        return name


def _is_web_address(url: str) -> bool:
    """True for `http://` or `https://` with a host, without white space, and with a number for a port."""
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018  # raises ValueError for a port that is no number up to 65,535
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", url)
