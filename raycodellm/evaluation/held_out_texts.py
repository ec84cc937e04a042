"""Text whose bits per byte are measured: documents of files, or documents of a sweep's sources that no stage trains on.

The YAML files below `tasks/bpb/` name `dataset`. lm-eval's command gives it files by
`--metadata '{"texts": {"prose": "book.txt"}}'`.
"""

from __future__ import annotations

import contextlib
import contextvars
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
    """A domain's documents, one row each: `text`, and its source as the item's part. `texts`: paths by domain, of
    lm-eval's command. Raises UserError where there is no text of the domain."""
    import datasets

    given = dict(_GIVEN.get()) | {
        name: (paths,) if isinstance(paths, str) else tuple(paths) for name, paths in (texts or {}).items()
    }
    rows = [row for place in given.get(domain, ()) for row in _rows(domain, place)]
    if not rows:
        raise UserError(
            f"evaluation.texts: the task {task_of(domain)!r} has no text of domain {domain!r}; give a path, such as "
            f"texts: {{{domain}: texts/*.txt}}, or in a sweep file a source of that kind"
        )
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))


def _rows(domain: str, place: str | HeldOutSource) -> Iterator[dict[str, str]]:
    if isinstance(place, HeldOutSource):
        for text in held_out_texts(place):
            yield {"text": text, "attributes": json.dumps({"part": place.source})}
    else:
        for text in file_texts(domain, place):
            yield {"text": text, "attributes": "{}"}


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
        for one in corpora.read_in_process(source, corpora.source_fingerprint(source)):
            if isinstance(one, Document):
                found = True
                yield one.text
            else:
                skipped[one.reason] += one.count
    except UserError as error:
        raise UserError(f"evaluation.texts.{domain}: {error}") from error
    if not found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common(3)) or "all files are empty"
        raise UserError(f"evaluation.texts.{domain}: {path} holds no document: {reasons}")


def text_files(domain: str, path: str) -> list[Path] | None:
    """The local files that a path of `evaluation.texts` names; see `corpora.local_files`."""
    return corpora.local_files(_source(domain, path), path)


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
