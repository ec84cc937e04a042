"""How a source's documents are cleaned: typed settings, each off until it is set. `raycodellm.corpora` applies them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from raycodellm.config.errors import suggest
from raycodellm.config.field_types import Frozen, Number, Ratio, Whole

SCRIPTS = (
    "latin",
    "cyrillic",
    "greek",
    "han",
    "hiragana",
    "katakana",
    "hangul",
    "arabic",
    "hebrew",
    "devanagari",
    "thai",
)
"""Some of the scripts that Unicode knows, for the hint that names what was probably meant."""


class NearDuplicates(Frozen):
    """MinHash with locality-sensitive hashing over shingles of words (Broder 1997; Leskovec, Rajaraman and Ullman,
    Mining of Massive Datasets, sections 3.3 and 3.4)."""

    enabled: bool = True
    jaccard: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.8
    """Least share of shingles that two documents have in common, of all that either has, to be called alike."""
    shingle: Annotated[Whole, Field(ge=1, le=50)] = 5
    """Neighbouring words that make one shingle."""
    permutations: Annotated[Whole, Field(ge=16, le=1024)] = 128
    """Values per document that its likeness is estimated from; the standard error is about
    sqrt(jaccard (1 - jaccard) / permutations)."""


class Decontaminate(Frozen):
    """Documents that share a run of words with an item of the sweep's evaluation tasks are left out."""

    enabled: bool = True
    ngram: Annotated[Whole, Field(ge=3, le=100)] = 13
    """Words in the run (Brown et al. 2020, Language Models are Few-Shot Learners, appendix C)."""


class Paths(Frozen):
    """Globs over the paths inside a source tree; one without a slash is matched against the file's name."""

    include: tuple[str, ...] = ()
    """Where given, a path must match one of these."""
    exclude: tuple[str, ...] = ()


class Cleaning(Frozen):
    """Which documents of a source stay. What is None is off, or as the sweep's `cleaning` has it; `false` (for numbers
    0) turns a sweep's setting off for one source."""

    min_characters: Annotated[Whole, Field(ge=0)] | None = None
    max_characters: Annotated[Whole, Field(ge=0)] | None = None
    """0 for no limit."""
    script: dict[str, Ratio] | None = None
    """Least share of a document's letters that is of this Unicode script; a document without a letter has none."""
    exact_duplicates: bool | None = None
    """Of documents with the same text only the first stays."""
    near_duplicates: NearDuplicates | None = None
    """true, the Jaccard similarity as a number, or its settings."""
    licenses: tuple[str, ...] | None = None
    """SPDX identifiers, in any case, one of which the column `license_field` must hold."""
    paths: Paths | None = None
    decontaminate: Decontaminate | None = None
    """true, the number of words, or its settings."""

    @field_validator("near_duplicates", mode="before")
    @classmethod
    def _near(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else {"jaccard": value} if _is_number(value) else value

    @field_validator("decontaminate", mode="before")
    @classmethod
    def _ngram(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else {"ngram": value} if _is_number(value) else value

    @field_validator("script", "paths", mode="before")
    @classmethod
    def _no_settings(cls, value: Any) -> Any:
        return {} if value is False else value

    @field_validator("licenses", mode="before")
    @classmethod
    def _no_licenses(cls, value: Any) -> Any:
        return () if value is False else (value,) if isinstance(value, str) else value

    @field_validator("script")
    @classmethod
    def _known_scripts(cls, script: dict[str, float] | None) -> dict[str, float] | None:
        for name in script or ():
            if not is_script(name):
                raise ValueError(f"{name!r} is no script that Unicode knows; {suggest(name.lower(), SCRIPTS)}")
        return script

    @model_validator(mode="after")
    def _lengths_fit(self) -> Cleaning:
        if self.max_characters and (self.min_characters or 0) > self.max_characters:
            raise ValueError(
                f"min_characters {self.min_characters} is over max_characters {self.max_characters}: no document has "
                "such a length; make the first the smaller one"
            )
        return self

    def over(self, default: Cleaning | None) -> Cleaning:
        """These settings, and those of `default` where nothing is set here."""
        if default is None:
            return self
        mine = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return type(self)(**{name: getattr(default, name) for name in type(self).model_fields} | mine)

    def active(self) -> dict[str, Any]:
        """The settings that do something, as plain values."""
        active = {}
        for name, value in self.model_dump(mode="json", exclude_none=True).items():
            if isinstance(value, dict) and "enabled" in value:
                value = {key: inner for key, inner in value.items() if key != "enabled"} if value["enabled"] else None
            if value and (not isinstance(value, dict) or any(value.values())):
                active[name] = value
        return active


class Take(Frozen):
    """The documents with the highest, or lowest, scores: a share of the UTF-8 bytes that all the others leave."""

    top: Annotated[Number, Field(gt=0.0, le=1.0)] | None = None
    bottom: Annotated[Number, Field(gt=0.0, le=1.0)] | None = None

    @model_validator(mode="after")
    def _one_end(self) -> Take:
        if (self.top is None) == (self.bottom is None):
            raise ValueError("needs exactly one of top and bottom; for example top 30 % or {top: 0.3}")
        return self

    @property
    def share(self) -> float:
        return self.top if self.top is not None else self.bottom or 0.0

    @property
    def end(self) -> str:
        return "top" if self.top is not None else "bottom"


_SPOKEN = re.compile(r"\s*(top|bottom)\s+(\d+(?:\.\d*)?|\.\d+)\s*%\s*", re.IGNORECASE)


def spoken_take(value: Any) -> Any:
    """`top 30 %` as {top: 0.3}. Raises ValueError for text that says something else."""
    if not isinstance(value, str):
        return value
    said = _SPOKEN.fullmatch(value)
    if said is None:
        raise ValueError(f"found {value!r}; say for example top 30 % or bottom 10 %")
    return {said[1].lower(): float(said[2]) / 100}


def is_script(name: str) -> bool:
    """Whether Unicode has a script of this name, in any case."""
    import regex

    if not re.fullmatch(r"[A-Za-z][A-Za-z _]*", name):
        return False
    try:
        regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
