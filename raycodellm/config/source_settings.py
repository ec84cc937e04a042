"""The sources: what text a sweep trains on, what part is held out, and how often a small run repeats it."""

from __future__ import annotations

from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raycodellm.config.cleaning_settings import Cleaning, Take, take_from_text
from raycodellm.config.field_types import Frozen, Number, Whole

FORMATS = tuple(sorted(name for _, name, _ in iter_modules([str(Path(__file__).parents[1] / "corpora" / "formats")])))
"""Names of the formats of source files: each is a file of `corpora/formats`, which says what the format is. Only the
names are looked up, so that a mistake in a sweep file is reported before anything is imported."""
KINDS = ("text", "code", "markup", "code_adjacent", "synthetic_code", "math", "instruct_text", "instruct_code")
CODE_KINDS = frozenset({"code", "markup", "code_adjacent", "synthetic_code", "instruct_code"})
INSTRUCT_KINDS = frozenset({"instruct_text", "instruct_code"})


class Source(Frozen):
    """One source, under its name. A source of an instruct kind holds prompts and responses; all others hold text."""

    kind: Literal[KINDS]  # type: ignore[valid-type]
    """Kind of the text. `code`, `markup`, `code_adjacent`, `synthetic_code` and `instruct_code` count as code in the
    code ratio."""
    path: str | tuple[str, ...]
    """A file, folder, glob, or list of them: local, `s3://`, `gs://`, `abfss://`, `hf://`, or `builtin:`
    (`python-prose`, `python-code`, `python-instruct`, `tasks-instruct`, `formal-language`)."""
    format: Literal[FORMATS] | None = None  # type: ignore[valid-type]
    """How the files are read; guessed from the files' names when left out. `commits` (of git repositories) and `qa` are
    never guessed. A source of an instruct kind finds its prompts and responses in any format with columns."""
    languages: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Programming languages (`python`, `c`, …) taken from a source tree, or from a history's files; the usual ones of
    the source's `kind` when left out."""
    subset: str | None = None
    """Subset of a data set in a Hugging Face layout; the default or the only one when left out."""
    split: str | None = None
    """Split of a data set in a Hugging Face layout; `train` or the only one when left out."""
    notebook_outputs: bool = False
    """Takes printed text and plain results of notebooks too."""
    text_field: str | tuple[str, ...] = "text"
    """Column that holds the text, in formats with columns; several columns are joined by a newline."""
    documents: Literal["file", "paragraphs"] = "file"
    """One document of a plain text file: the whole file, or a paragraph between blank lines."""
    limit_documents: Annotated[Whole, Field(ge=1)] | None = None
    """Most documents read; all when left out."""
    max_epochs: Annotated[Number, Field(gt=0.0)] | None = None
    """Most passes over the source that a trial may make, all its stages together; a trial that needs more is refused.
    No limit when left out."""
    cleaning: Cleaning | None = None
    """Which documents stay. A key left out is as in the sweep's own `cleaning`."""
    score_field: str | None = None
    """Column with a number per document, for `take`."""
    license_field: str | None = None
    """Column with a document's license (an SPDX identifier or a list of them), for `cleaning.licenses`."""
    take: Take | None = None
    """Keeps the documents with the highest or lowest `score_field`: `top 30 %`, `bottom 10 %`, or a mapping."""

    @field_validator("take", mode="before")
    @classmethod
    def _take_from_text(cls, take: Any) -> Any:
        return take_from_text(take)

    @model_validator(mode="after")
    def _columns_named(self) -> Source:
        if self.take is not None and self.score_field is None:
            raise ValueError("take needs score_field, the column to go by; add for example score_field: quality")
        return self

    @field_validator("path")
    @classmethod
    def _some_path(cls, path: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not path or (not isinstance(path, str) and not all(path)):
            raise ValueError("is empty; give a file, a folder, a glob or a list of them")
        return path

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def is_code(self) -> bool:
        return self.kind in CODE_KINDS

    @property
    def is_instruct(self) -> bool:
        return self.kind in INSTRUCT_KINDS


class HeldOut(Frozen):
    """Text held out for measuring: whole documents of every source, which no stage of the sweep trains on."""

    tokens: Annotated[Whole, Field(gt=0)]
    """Tokens held out of each source. Slightly fewer are measured where they do not fill whole sequences. Documents
    longer than an eighth of this are trained on, not held out, where the shorter ones are enough."""
    every_tokens: Annotated[Whole, Field(gt=0)] = 1_000_000
    """Trained tokens between two measurements; the stage's end is always measured."""


class MatchRepetition(Frozen):
    """Makes a small run repeat its data as often as a large target run would: each source is cut to the share of the
    target's tokens that the sweep's budget is of the target's budget, so that at any mixture its epochs are equal."""

    target_tokens: Annotated[Whole, Field(gt=0)]
    """Tokens that the target run trains on, in all stages and from all sources together."""
    source_tokens: dict[str, Annotated[Whole, Field(gt=0)]]
    """Tokens that the target run has of each source; a source left out is not cut."""
