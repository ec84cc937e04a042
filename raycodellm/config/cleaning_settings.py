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
"""Common Unicode scripts, for the hint that names the script probably meant."""


class NearDuplicates(Frozen):
    """Drops documents that are nearly alike, found by MinHash with locality-sensitive hashing over shingles of words
    (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, sections 3.3 and 3.4)."""

    enabled: bool = True
    """false turns the sweep's setting off for one source."""
    jaccard: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.8
    """Least Jaccard similarity of near duplicates: shingles that both documents have, as a share of those that either
    has."""
    shingle: Annotated[Whole, Field(ge=1, le=50)] = 5
    """Neighbouring words that make one shingle."""
    permutations: Annotated[Whole, Field(ge=16, le=1024)] = 128
    """Hash values per document that the similarity is estimated from; the standard error is about
    sqrt(jaccard (1 - jaccard) / permutations)."""


class Decontaminate(Frozen):
    """Drops documents that share a run of words with an item of the sweep's evaluation tasks."""

    enabled: bool = True
    """false turns the sweep's setting off for one source."""
    ngram: Annotated[Whole, Field(ge=3, le=100)] = 13
    """Words in the run (Brown et al. 2020, Language Models are Few-Shot Learners, appendix C)."""


class Paths(Frozen):
    """Globs over the paths inside a source tree. A glob without a slash is matched against the file's name."""

    include: tuple[str, ...] = ()
    """A path must match one of these globs; all paths do when left out."""
    exclude: tuple[str, ...] = ()
    """A path that matches one of these globs is dropped."""


class Cleaning(Frozen):
    """Which documents of a source stay. A setting that is left out is off, or as in the sweep's `cleaning`; `false`
    (for numbers 0) turns a setting of the sweep off for one source."""

    min_characters: Annotated[Whole, Field(ge=0)] | None = None
    """Drops shorter documents."""
    max_characters: Annotated[Whole, Field(ge=0)] | None = None
    """Drops longer documents; 0 sets no limit."""
    script: dict[str, Ratio] | None = None
    """Unicode script (`latin`, `cyrillic`, …) -> least share of a document's letters in that script. A document without
    a letter has a share of 0."""
    exact_duplicates: bool | None = None
    """Keeps only the first of the documents with the same text."""
    near_duplicates: NearDuplicates | None = None
    """Drops documents that are nearly alike: `true`, the Jaccard similarity as a number, or a mapping."""
    licenses: tuple[str, ...] | None = None
    """SPDX identifiers, in any case; keeps documents whose column `license_field` holds one of them."""
    paths: Paths | None = None
    """Keeps files of a source tree by their path."""
    decontaminate: Decontaminate | None = None
    """Drops documents that contain evaluation items: `true`, the number of words as a number, or a mapping."""

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
                raise ValueError(f"{name!r} is no Unicode script; {suggest(name.lower(), SCRIPTS)}")
        return script

    @model_validator(mode="after")
    def _lengths_fit(self) -> Cleaning:
        if self.max_characters and (self.min_characters or 0) > self.max_characters:
            raise ValueError(
                f"min_characters {self.min_characters} is over max_characters {self.max_characters}, so no document "
                "would stay; make min_characters the smaller one"
            )
        return self

    def completed_by(self, default: Cleaning | None) -> Cleaning:
        """These settings, completed by those of `default` where a setting is None here."""
        if default is None:
            return self
        own = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return type(self)(**{name: getattr(default, name) for name in type(self).model_fields} | own)

    def active_settings(self) -> dict[str, Any]:
        """The settings that are on, as plain values."""
        active = {}
        for name, value in self.model_dump(mode="json", exclude_none=True).items():
            if isinstance(value, dict) and "enabled" in value:
                value = {key: inner for key, inner in value.items() if key != "enabled"} if value["enabled"] else None
            if value and (not isinstance(value, dict) or any(value.values())):
                active[name] = value
        return active


class Take(Frozen):
    """The documents with the highest or lowest scores, as a share of the UTF-8 bytes that all other cleaning leaves:
    exactly one of the two keys."""

    top: Annotated[Number, Field(gt=0.0, le=1.0)] | None = None
    """Share of the bytes, from the highest score down."""
    bottom: Annotated[Number, Field(gt=0.0, le=1.0)] | None = None
    """Share of the bytes, from the lowest score up."""

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


_TAKE_TEXT = re.compile(r"\s*(top|bottom)\s+(\d+(?:\.\d*)?|\.\d+)\s*%\s*", re.IGNORECASE)


def take_from_text(value: Any) -> Any:
    """`top 30 %` as {top: 0.3}; a value that is no text unchanged. Raises ValueError for any other text."""
    if not isinstance(value, str):
        return value
    match = _TAKE_TEXT.fullmatch(value)
    if match is None:
        raise ValueError(f"found {value!r}; say for example top 30 % or bottom 10 %")
    return {match[1].lower(): float(match[2]) / 100}


def is_script(name: str) -> bool:
    """True if Unicode has a script of this name, in any case."""
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
