"""Jupyter notebooks (nbformat 3 and 4) as text: prose as it stands, code fenced, outputs where asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from raycodellm.corpora.qa_threads import fenced

_DATA_LINK = re.compile(r"\]\(\s*data:[^)]*\)")
_LANGUAGE = re.compile(r"[\w+#.-]{1,40}")
_LARGEST_LEVEL = 6
MOST_VALUES = 4 << 20
"""A value takes 60 to 70 bytes of memory however short it is written: with more, 64 MiB of JSON may take 1.4 GiB."""
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class BrokenNotebookError(ValueError):
    """No notebook, or none that can be read."""


def notebook_text(data: bytes, outputs: bool = False) -> str:
    """Cells in order, parted by blank lines. Raises BrokenNotebookError; an empty notebook gives an empty text.

    Markdown, raw and heading cells are text, images inside them left out; code cells are fenced, with the notebook's
    language. `outputs` adds printed text, plain results and errors, fenced as `output`; never images or HTML.
    """
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > MOST_VALUES:
        raise BrokenNotebookError(f"notebook of over {MOST_VALUES >> 20} million values")
    try:
        notebook = json.loads(data)
    except (ValueError, RecursionError):
        raise BrokenNotebookError("broken notebook") from None
    if not isinstance(notebook, Mapping):
        raise BrokenNotebookError("broken notebook")
    metadata = _mapping(notebook.get("metadata"))
    named = _mapping(metadata.get("language_info")).get("name")
    language = _language(named) or _language(_mapping(metadata.get("kernelspec")).get("language"))
    texts: list[str] = []
    for cell in _cells(notebook):
        kind = cell.get("cell_type")
        source = _joined(cell.get("source", cell.get("input")))
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
            raise BrokenNotebookError("broken notebook")
    return "\n\n".join(text for text in texts if text)


def without_images(text: str) -> str:
    """Markdown with the images that stand in it as data replaced by empty links."""
    end = text.rfind(")") + 1  # behind it no link ends, and looking for an end again and again takes quadratic time
    return _DATA_LINK.sub("]()", text[:end]) + text[end:]


def _level(value: Any) -> int:
    return min(max(value, 1), _LARGEST_LEVEL) if isinstance(value, int) else 1


def _language(value: Any) -> str:
    """A name that can stand behind a fence; empty for anything else."""
    return value if isinstance(value, str) and _LANGUAGE.fullmatch(value) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _cells(notebook: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "worksheets" in notebook:  # nbformat 3
        sheets = notebook["worksheets"]
        groups = [_mapping(sheet).get("cells") for sheet in sheets] if isinstance(sheets, list) else [None]
    else:
        groups = [notebook.get("cells")]
    for cells in groups:
        if not isinstance(cells, list) or not all(isinstance(cell, Mapping) for cell in cells):
            raise BrokenNotebookError("broken notebook")
        yield from cells


def _joined(source: Any) -> str:
    if isinstance(source, str):
        return source
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        return "".join(source)
    raise BrokenNotebookError("broken notebook")


def _outputs(outputs: Any) -> Iterator[str]:
    for output in map(_mapping, outputs if isinstance(outputs, list) else ()):
        if output.get("output_type") in ("error", "pyerr"):
            lines = output.get("traceback")
            text = "\n".join(line for line in lines if isinstance(line, str)) if isinstance(lines, list) else ""
        else:
            plain = _mapping(output.get("data")).get("text/plain")
            text = output.get("text") if plain is None else plain
            text = _joined(text) if text is not None else ""
        text = _TERMINAL_CODES.sub("", text).strip("\n")
        if text.strip():
            yield fenced(text, "output")
