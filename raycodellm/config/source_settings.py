"""The sources: what text a sweep trains on, what part is held out, and how often a small run repeats it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raycodellm.config.cleaning_settings import Cleaning, Take, spoken_take
from raycodellm.config.field_types import Frozen, Number, Whole

KINDS = ("text", "code", "markup", "code_adjacent", "synthetic_code", "math", "instruct_text", "instruct_code")
CODE_KINDS = frozenset({"code", "markup", "code_adjacent", "synthetic_code", "instruct_code"})
INSTRUCT_KINDS = frozenset({"instruct_text", "instruct_code"})


class Source(Frozen):
    kind: Literal[KINDS]  # type: ignore[valid-type]
    path: str | tuple[str, ...]
    format: Literal["parquet", "jsonl", "arrow", "text", "source", "notebook", "commits", "instruct", "qa"] | None = (
        None
    )
    """Guessed from the file names when left out; `commits` (of git repositories) and `qa` never are."""
    languages: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Of a source tree, or of a history's files: python, c, … instead of what the kind takes by itself."""
    subset: str | None = None
    """Of a data set in a Hugging Face layout; the default one, or the only one, when left out."""
    split: str | None = None
    """Of a data set in a Hugging Face layout; train, or the only one, when left out."""
    notebook_outputs: bool = False
    """Printed text and plain results of notebooks as well."""
    text_field: str | tuple[str, ...] = "text"
    """Column that holds the text (Parquet, JSONL); several are joined by a newline."""
    documents: Literal["file", "paragraphs"] = "file"
    """What one document of a plain text file is."""
    limit_documents: Annotated[Whole, Field(ge=1)] | None = None
    max_epochs: Annotated[Number, Field(gt=0.0)] | None = None
    """Passes over the source that a trial may make, all its stages together; any number when left out."""

    cleaning: Cleaning | None = None
    """Which documents stay; what is not set here is as in the sweep's own `cleaning`."""
    score_field: str | None = None
    """Column with a number per document, for `take`."""
    license_field: str | None = None
    """Column with a document's license, an SPDX identifier or a list of them, for `cleaning.licenses`."""
    take: Take | None = None
    """`top 30 %`: the documents of the highest `score_field`, a share of the UTF-8 bytes that cleaning leaves."""

    @field_validator("take", mode="before")
    @classmethod
    def _spoken_take(cls, take: Any) -> Any:
        return spoken_take(take)

    @model_validator(mode="after")
    def _columns_named(self) -> Source:
        if self.take is not None and self.score_field is None:
            raise ValueError("take needs score_field, the column to go by; add for example score_field: quality")
        return self

    @model_validator(mode="after")
    def _reading_fits(self) -> Source:
        if self.languages and self.format not in (None, "source", "commits"):
            raise ValueError(f"languages go with format source or commits; found {self.format}: remove one of them")
        for setting in ("subset", "split"):
            if getattr(self, setting) is None:
                continue
            if self.languages or self.format in ("source", "commits"):
                raise ValueError(f"{setting} goes with data sets, not with source trees or commits; remove it")
            if any(path.startswith("builtin:") for path in self.paths):
                raise ValueError(f"{setting} goes with data sets, and a builtin source has none; remove it")
        return self

    @field_validator("path")
    @classmethod
    def _some_path(cls, path: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not path or (not isinstance(path, str) and not all(path)):
            raise ValueError("is empty; give a file, a folder, a glob or a list of them")
        return path

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def is_code(self) -> bool:
        return self.kind in CODE_KINDS

    @property
    def is_instruct(self) -> bool:
        return self.kind in INSTRUCT_KINDS


class HeldOut(Frozen):
    """Whole documents of every source, which no stage of the sweep trains on, and how often they are measured."""

    tokens: Annotated[Whole, Field(gt=0)]
    """Tokens of each source; a few fewer are measured where they do not fill whole sequences. Documents longer than an
    eighth of this are passed over, and trained on, where the shorter ones are enough."""
    every_tokens: Annotated[Whole, Field(gt=0)] = 1_000_000
    """Trained tokens between two measurements; the stage's end is always measured."""


class MatchRepetition(Frozen):
    """A small run that repeats its data as often as a large one would: each source is cut to the share of its target's
    tokens that the sweep's budget is of the target's, so that at any mixture its epochs are the target's."""

    target_tokens: Annotated[Whole, Field(gt=0)]
    """Of the target run: all stages and sources together."""
    source_tokens: dict[str, Annotated[Whole, Field(gt=0)]]
    """Tokens that the target run has of each source; a source left out is not cut."""
