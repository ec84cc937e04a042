"""Jupyter notebooks (nbformat 3 and 4) as text: prose as it is, code between fences, outputs if asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from raycodellm.config import Source
from raycodellm.corpora import source_files
from raycodellm.corpora.content import whole_content
from raycodellm.corpora.documents import Record, SkipError
from raycodellm.corpora.inputs import MIB, Part
from raycodellm.corpora.markdown import fenced
from raycodellm.corpora.registry import Format

LARGEST_NOTEBOOK = 64 * MIB
"""Bytes. Most of a notebook is images and other outputs, which are left out."""
_DATA_LINK = re.compile(r"\]\(\s*data:[^)]*\)")
_LANGUAGE = re.compile(r"[\w+#.-]{1,40}")
_LARGEST_LEVEL = 6
MOST_VALUES = 4 << 20
"""JSON values of the largest notebook. A value takes 60 to 70 bytes of memory however short it is written, so that
64 MiB of short values would take 1.4 GiB."""
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def read_notebook(part: Part, source: Source) -> Iterator[Record]:
    data = whole_content(part, LARGEST_NOTEBOOK) if part.num_bytes <= LARGEST_NOTEBOOK else None
    if data is None:
        raise SkipError(f"notebook over {LARGEST_NOTEBOOK // MIB} MiB")
    yield "", notebook_text(data, source.notebook_outputs) if data.strip() else b""


def notebook_text(data: bytes, outputs: bool = False) -> str:
    """The cells in order, with blank lines between them; empty for an empty notebook. Raises SkipError.

    Markdown, raw and heading cells are text without images; code cells are fenced, with the notebook's language.
    `outputs` adds printed text, plain results and errors, fenced as `output`, but no images and no HTML.
    """
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > MOST_VALUES:
        raise SkipError(f"notebook of over {MOST_VALUES >> 20} million values")
    try:
        notebook = json.loads(data)
    except (ValueError, RecursionError):
        raise SkipError("broken notebook") from None
    if not isinstance(notebook, Mapping):
        raise SkipError("broken notebook")
    metadata = _mapping(notebook.get("metadata"))
    language_name = _mapping(metadata.get("language_info")).get("name")
    language = _language(language_name) or _language(_mapping(metadata.get("kernelspec")).get("language"))
    texts: list[str] = []
    for cell in _cells(notebook):
        kind = cell.get("cell_type")
        source = _joined_text(cell.get("source", cell.get("input")))
        if kind == "code":
            fence = _language(cell.get("language")) or language
            texts.append(fenced(source.strip("\n"), fence) if source.strip() else "")
            if outputs:
                texts += _outputs(cell.get("outputs"))
        elif kind == "heading":
            texts.append(f"{'#' * _level(cell.get('level'))} {source.strip()}")
        elif kind in ("markdown", "raw", "html"):
            texts.append(without_images(source).strip())
        else:
            raise SkipError("broken notebook")
    return "\n\n".join(text for text in texts if text)


def without_images(text: str) -> str:
    """Markdown in which images that are written as data are empty links."""
    end = text.rfind(")") + 1  # no link ends behind it; searching there for an end at each link takes quadratic time
    return _DATA_LINK.sub("]()", text[:end]) + text[end:]


def _level(value: Any) -> int:
    return min(max(value, 1), _LARGEST_LEVEL) if isinstance(value, int) else 1


def _language(value: Any) -> str:
    """A name that can follow a fence; empty for any other value."""
    return value if isinstance(value, str) and _LANGUAGE.fullmatch(value) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _cells(notebook: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    sheets = notebook.get("worksheets", [notebook])  # nbformat 3 has sheets
    for sheet in sheets if isinstance(sheets, list) else [None]:
        cells = _mapping(sheet).get("cells")
        if not isinstance(cells, list) or not all(isinstance(cell, Mapping) for cell in cells):
            raise SkipError("broken notebook")
        yield from cells


def _joined_text(source: Any) -> str:
    if isinstance(source, str):
        return source
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        return "".join(source)
    raise SkipError("broken notebook")


def _outputs(outputs: Any) -> Iterator[str]:
    for output in map(_mapping, outputs if isinstance(outputs, list) else ()):
        if output.get("output_type") in ("error", "pyerr"):
            lines = output.get("traceback")
            output_text = "\n".join(line for line in lines if isinstance(line, str)) if isinstance(lines, list) else ""
        else:
            plain = _mapping(output.get("data")).get("text/plain")
            output_text = _joined_text(next((value for value in (plain, output.get("text")) if value is not None), ""))
        text = _TERMINAL_CODES.sub("", output_text).strip("\n")
        if text.strip():
            yield fenced(text, "output")


FORMAT = Format(
    name="notebook",
    extensions=frozenset({".ipynb"}),
    is_data=False,
    read=read_notebook,
    can_start_inside=lambda uri: False,
    identity=source_files.identity(reader=3),
)
