"""Text whose bits per byte are measured: documents of files, or documents of a sweep's sources that no stage trains on.

The YAML files below `tasks/bpb/` name `dataset`. lm-eval's command gives it files by
`--metadata '{"texts": {"prose": "book.txt"}}'`.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycodellm import corpora
from raycodellm.config import Evaluation, Source, UserError
from raycodellm.config.text_domains import HELD_OUT, KIND_OF_DOMAIN, task_of
from raycodellm.corpora import Document
from raycodellm.files import Folder
from raycodellm.records import HeldOutSource

if TYPE_CHECKING:
    import datasets

Texts = tuple[tuple[str, tuple[str | HeldOutSource, ...]], ...]
"""Each domain, and where its text is read: paths of files, or held-out documents."""

PIECE_CHARACTERS = 32_768
"""Characters of the longest item. A book as one item would give neither progress nor a kept block for minutes."""

_GIVEN: contextvars.ContextVar[Texts] = contextvars.ContextVar("texts", default=())
DOMAIN_OF_TASK = {task_of(domain): domain for domain in KIND_OF_DOMAIN}


def texts_of(settings: Evaluation, held_out: Sequence[HeldOutSource] = ()) -> Texts:
    """Where the settings' texts are read. `held_out`: of the sweep's sources; without them a domain that is measured on
    sources has no text."""
    found: dict[str, tuple[str | HeldOutSource, ...]] = {}
    for domain, text in settings.texts.given().items():
        if text == HELD_OUT:
            found[domain] = tuple(one for one in held_out if one.domain == domain)
        else:
            found[domain] = (text,) if isinstance(text, str) else text
    return tuple(found.items())


def held_out_tasks(settings: Evaluation) -> frozenset[str]:
    """Names of the tasks that measure documents of a sweep's own sources."""
    return frozenset(task_of(domain) for domain, text in settings.texts.given().items() if text == HELD_OUT)


@contextlib.contextmanager
def texts_given(texts: Texts) -> Iterator[None]:
    """Until the `with` ends, `dataset` reads these texts."""
    token = _GIVEN.set(texts)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def dataset(domain: str, texts: Mapping[str, str | Sequence[str]] | None = None, **_: object) -> datasets.DatasetDict:
    """A domain's documents, a row each, or several for a long one: `text`, and its source as the item's part. `texts`:
    paths by domain, of lm-eval's command. Raises UserError where there is no text of the domain."""
    import datasets

    given = dict(_GIVEN.get()) | {
        name: (paths,) if isinstance(paths, str) else tuple(paths) for name, paths in (texts or {}).items()
    }
    documents = [one for place in given.get(domain, ()) for one in _documents(domain, place)]
    rows = list(_rows(documents))
    if not rows:
        raise UserError(
            f"evaluation.texts: the task {task_of(domain)!r} has no text of domain {domain!r}; give a path, such as "
            f"texts: {{{domain}: texts/*.txt}}, or in a sweep file a source of that kind"
        )
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))


def _documents(domain: str, place: str | HeldOutSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """(text, attributes) of each document."""
    if isinstance(place, HeldOutSource):
        yield from ((text, {"part": place.source}) for text in held_out_texts(place))
    else:
        yield from ((text, {}) for text in file_texts(domain, place))


def _rows(documents: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[dict[str, str]]:
    """A row per document, or per piece of a long one: the first piece of every document, then the second of those that
    have one, and so on, so that the first rows are of all documents. Pieces of a document are one cluster."""
    pieces = [cut(text) for text, _ in documents]
    for turn in itertools.zip_longest(*pieces):
        for number, piece in enumerate(turn):
            if piece is not None:
                cluster = {"cluster": number} if len(pieces[number]) > 1 else {}
                yield {"text": piece, "attributes": json.dumps({**documents[number][1], **cluster})}


def cut(text: str, most: int = PIECE_CHARACTERS) -> list[str]:
    """The text in pieces of at most `most` characters that end with a line, or a word, where one ends in the piece's
    second half. The pieces together are the text."""
    pieces = []
    start = 0
    while len(text) - start > most:
        ends = (text.rfind(sign, start + most // 2, start + most) + 1 for sign in ("\n", " "))
        end = next((end for end in ends if end), start + most)
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def held_out_texts(source: HeldOutSource) -> Iterator[str]:
    """The documents of a token store that no stage trains on, as text; empty ones are left out."""
    from raycodellm.tokens import TokenStore
    from raycodellm.tokens.tokenizer import open_tokenizer

    store, tokenizer = TokenStore.open(source.store), open_tokenizer(Folder(source.tokenizer))
    for tokens in store.held_out_documents(source.num_tokens):
        if text := tokenizer.decode(tokens.tolist()):
            yield text


def file_texts(domain: str, path: str) -> Iterator[str]:
    """The documents of the files at a path. Raises UserError where there are none, and for files that hold none."""
    source = _source(domain, path)
    skipped: Counter[str] = Counter()
    found = False
    try:
        inputs = corpora.source_fingerprint(source)
        for one in corpora.read_in_process(source, inputs):
            if isinstance(one, Document):
                found = True
                yield one.text
            else:
                skipped[one.reason] += one.count
    except UserError as error:
        raise UserError(f"evaluation.texts.{domain}: {error}") from error
    if not found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common(3)) or "all files are empty"
        columns = corpora.columns_found(source, inputs)
        hint = ""
        if columns != "none":
            hint = (
                f"; columns found: {columns[:200]}; call the one with the text `text`, or make the file a source of "
                f"the sweep, which has text_field, and say texts: {{{domain}: held_out}}"
            )
        raise UserError(f"evaluation.texts.{domain}: {path} holds no document: {reasons}{hint}")


def text_files(domain: str, path: str) -> list[Path] | None:
    """The local files that a path of `evaluation.texts` names; see `corpora.local_files`."""
    return corpora.local_files(_source(domain, path), path)


def measured_files(task: str, texts: Texts) -> list[Path]:
    """The local files whose text a task of `tasks/bpb/` measures; none for another task."""
    domain = DOMAIN_OF_TASK.get(task, "")
    given = (one for one in dict(texts).get(domain, ()) if isinstance(one, str))
    return [file for one in given for file in text_files(domain, one) or ()]


def text_content(task: str, texts: Texts) -> list[Any]:
    """JSON values that identify the files of a task of `tasks/bpb/`; empty for another task."""
    domain = DOMAIN_OF_TASK.get(task, "")
    return [["text", _fingerprint(domain, one)] for one in dict(texts).get(domain, ()) if isinstance(one, str)]


def held_out_content(task: str, texts: Texts) -> list[Any]:
    """JSON values that identify the held-out documents of a task of `tasks/bpb/`; empty for another task. They are not
    known before the sweep's token stores are."""
    places = dict(texts).get(DOMAIN_OF_TASK.get(task, ""), ())
    held_out = (one for one in places if isinstance(one, HeldOutSource))
    return [["held out", one.source, one.fingerprint, one.num_tokens] for one in held_out]


def _fingerprint(domain: str, path: str) -> str:
    try:
        return corpora.source_fingerprint(_source(domain, path)).fingerprint
    except UserError as error:
        raise UserError(f"evaluation.texts.{domain}: {error}") from error


def _source(domain: str, path: str) -> Source:
    return Source(kind=KIND_OF_DOMAIN[domain] or "text", path=path)
