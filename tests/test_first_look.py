"""Every source is looked into before the first token store is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raycodellm import config, tokens
from raycodellm.config import Source, UserError
from raycodellm.corpora import source_fingerprint
from raycodellm.files import Folder
from raycodellm.tokens import first_look


def lines(path: Path, *records: object) -> Source:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return Source(kind="text", path=str(path))


def look(**sources: Source) -> list[str]:
    return first_look.look_into({name: (source, source_fingerprint(source)) for name, source in sources.items()})


def test_a_source_without_a_document_is_refused_with_its_reasons_and_columns(tmp_path):
    good = lines(tmp_path / "a.jsonl", {"text": "a"})
    with pytest.raises(UserError) as said:
        look(good=good, bad=lines(tmp_path / "b.jsonl", {"body": "b"}, {"body": "c"}))
    assert "sources.bad: " in str(said.value) and "(no column 'text': 2); columns found: body" in str(said.value)
    nothing = lines(tmp_path / "c.jsonl")
    with pytest.raises(UserError, match=r"nothing was found to read\); nor in sources.other"):
        look(nothing=nothing, good=good, other=nothing)


def test_sources_that_begin_without_a_document_are_made_first(tmp_path, monkeypatch):
    monkeypatch.setattr(first_look, "LOOK_RECORDS", 5)
    good = lines(tmp_path / "a.jsonl", {"text": "a"})
    late = lines(tmp_path / "b.jsonl", *[{"text": None}] * 8, {"text": "b"})
    assert look(good=good, more=good, late=late) == ["late", "good", "more"]


QUICKSTART = str(Path(__file__).parents[1] / "sweeps" / "quickstart.yaml")


def test_nothing_is_made_where_one_of_the_sources_cannot_be_read(tmp_path):
    lines(tmp_path / "bad.jsonl", {"body": "x"})
    file = config.load(QUICKSTART, (f"sources.prose.path={tmp_path / 'bad.jsonl'}",))
    storage = tmp_path / "storage"
    with pytest.raises(UserError, match=r"sources\.prose: .*columns found: body"):
        tokens.prepare(file.example(), Folder(str(storage)))
    assert not storage.exists()
    with pytest.raises(UserError, match=r"sources\.prose: .*columns found: body"):
        tokens.inspect(file.example(), Folder(str(storage)))


def test_check_says_that_one_tokenizer_of_all_sources_joins_their_stores():
    sweep = config.load(QUICKSTART, ()).example()
    (said,) = tokens.warnings_of(sweep)
    assert said.startswith(f"the tokenizer is trained on all {len(sweep.sources)} sources: a change to one of them")
    alone = config.load(QUICKSTART, ("tokenizer={pretrained: gpt2}",)).example()
    assert tokens.warnings_of(alone) == []


def test_check_warns_of_items_that_cannot_be_looked_for():
    sweep = config.load(QUICKSTART, ("cleaning={decontaminate: true}",)).example()
    said = tokens.warnings_of(sweep, {"boxes": ["yes", "no"], "long": ["a b c d e f g h i j k l m n"]})
    assert said[0] == "decontaminate: 2 of 2 items of boxes have under 8 words and are not looked for"
