"""Files become documents: the same ones however they are cut, and what is lost is counted by reason."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import read, write

from raycodellm import corpora
from raycodellm.config import Source, UserError
from raycodellm.corpora import (
    Document,
    document_key,
    formats,
    plan_parts,
    read_part,
    registry,
    source_fingerprint,
)
from raycodellm.corpora.documents import SkipError
from raycodellm.corpora.listing.builtin import Builtin


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(("error", "reason"), [(ValueError("x"), "unreadable part of a file"), (SkipError("y"), "y")])
def test_a_reader_that_fails_inside_a_file_is_counted(tmp_path, monkeypatch, error, reason):
    def fails_late(part, source):
        yield f":{part.start}", "text"
        if part.start:
            raise error

    failing = replace(registry.known_format("jsonl"), read=fails_late)
    monkeypatch.setattr(registry, "known_formats", lambda: {"jsonl": failing})
    path = write(tmp_path / "a.jsonl", jsonl({"text": "a"}, {"text": "b"}))
    documents, skips = read(Source(kind="text", path=path), 20)
    assert len(documents) == 2 and skips == {reason: 1}


def test_a_new_format_is_read_as_its_recipe_says(tmp_path, monkeypatch):
    """The example of `corpora/formats/__init__.py`, run as it stands there."""
    recipe = textwrap.dedent(re.search(r"(?s)\n(    from collections.*?)\nA record is", formats.__doc__ or "")[1])
    names: dict = {}
    exec(compile(recipe, "recipe", "exec"), names)
    monkeypatch.setattr(registry, "known_formats", lambda: {"tsv": names["FORMAT"]})
    rows = [b"title\ttext", *(b"%d\tline %d" % (n, n) for n in range(20)), b"21\tnot utf-8: \xff"]
    path = write(tmp_path / "a.tsv", b"\n".join(rows))
    for part_bytes in (1, 20, 1000):
        found, skips = read(Source(kind="text", path=path), part_bytes)
        assert [document.text for document in found] == [f"line {n}" for n in range(20)]
        assert skips == {"undecodable bytes": 1}


# ------------------------------------------------------------------------------------------------------- formats


def test_a_text_file_is_one_document_or_its_paragraphs(tmp_path):
    path = write(tmp_path / "book.txt", "One\ntwo.\r\n\n \n\nThree.\n\n")
    assert read(Source(kind="text", path=path))[0] == [Document("book.txt", "One\ntwo.\n\n \n\nThree.")]
    documents, skips = read(Source(kind="text", path=path, documents="paragraphs"))
    assert [document.text for document in documents] == ["One\ntwo.", "Three."]
    assert not skips


LINES = st.lists(st.sampled_from(["", " ", "a", "bcd ef", "ö" * 5, "x" * 40]), max_size=30).map("\n".join)


@given(LINES, st.integers(1, 50))
def test_paragraphs_are_the_same_for_every_cut(tmp_path_factory, text, part_bytes):
    path = write(tmp_path_factory.mktemp("p") / "a.txt", text or "x")
    source = Source(kind="text", path=path, documents="paragraphs")
    assert read(source, part_bytes) == read(source)


@given(
    st.lists(st.sampled_from(['{"text": "a"}', "", "{broken", '{"text": "' + "long " * 9 + '"}']), max_size=20),
    st.integers(1, 60),
    st.booleans(),
)
def test_json_lines_are_the_same_for_every_cut(tmp_path_factory, lines, part_bytes, ended):
    path = write(tmp_path_factory.mktemp("j") / "a.jsonl", "\n".join([*lines, '{"text": "last"}']) + "\n" * ended)
    source = Source(kind="text", path=path)
    documents, skips = read(source, part_bytes)
    assert (documents, skips) == read(source)
    assert len(documents) == sum(line.startswith('{"') for line in lines) + 1
    assert skips["broken JSON"] == lines.count("{broken")


def test_a_long_text_file_is_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("raycodellm.corpora.formats.text.WINDOW_BYTES", 100)
    monkeypatch.setattr("raycodellm.corpora.formats.text.LARGEST_TEXT", 100)
    lines = [f"line {i} of the text" for i in range(40)]
    for name, data in (("a.txt", "\n".join(lines).encode()), ("a.txt.gz", gzip.compress("\n".join(lines).encode()))):
        write(tmp_path / name / name, data)
        documents, skips = read(Source(kind="text", path=str(tmp_path / name)))
        assert len(documents) > 5 and sum(skips.values()) == 1 and "several documents" in next(iter(skips))
        assert "\n".join(document.text for document in documents).split("\n") == lines


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.zst"])
def test_json_lines_are_read_plain_and_compressed(tmp_path, name):
    data = jsonl({"text": "one"}, {"text": "two"}).encode()
    packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)}
    path = write(tmp_path / name, packed.get(Path(name).suffix, bytes)(data))
    documents, _ = read(Source(kind="text", path=path))
    assert documents == [Document(f"{name}:0", "one"), Document(f"{name}:16", "two")]


def test_several_columns_are_joined_by_a_newline(tmp_path):
    path = write(tmp_path / "m.jsonl", jsonl({"question": "1+1?", "answer": "2"}))
    source = Source(kind="math", path=path, text_field=("question", "answer"))
    assert read(source)[0] == [Document("m.jsonl:0", "1+1?\n2")]


def test_parquet_rows_are_the_same_for_every_cut(tmp_path):
    table = pa.table(
        {"id": range(100), "text": [None if i == 7 else " " if i == 8 else f"row {i}" for i in range(100)]}
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=9)
    source = Source(kind="text", path=str(tmp_path))
    documents, skips = read(source)
    assert [document.id for document in documents[:8]] == [f"a.parquet:{i}" for i in (0, 1, 2, 3, 4, 5, 6, 9)]
    assert documents[-1] == Document("a.parquet:99", "row 99")
    assert skips == {"null": 1, "empty": 1}
    for part_bytes in (1, 100, 1000):
        assert read(source, part_bytes) == (documents, skips)


def test_a_parquet_file_without_the_column_counts_its_rows(tmp_path):
    pq.write_table(pa.table({"content": ["a", "b", "c"]}), tmp_path / "a.parquet")
    assert read(Source(kind="text", path=str(tmp_path))) == ([], {"no column 'text'": 3})


def test_a_source_tree_gives_the_files_of_its_kind_and_counts_the_rest(tmp_path):
    write(tmp_path / "pkg" / "a.py", "x = 1\r\n")
    write(tmp_path / "pkg" / "empty.py", "")
    write(tmp_path / "pkg" / "big.py", "x = 1\n" * 200_000)
    write(tmp_path / "pkg" / "binary.py", b"x\0\1")
    write(tmp_path / "web" / "app.min.js", "var a=1;")
    write(tmp_path / "web" / "bundle.js", "a" * 2000)
    write(tmp_path / "web" / "page.html", "<p>")
    for hidden in (".git/x.py", "node_modules/x.js", "vendor/x.go", "pkg/__pycache__/x.py", "pkg/.secret.py"):
        write(tmp_path / hidden, "x")
    documents, skips = read(Source(kind="code", path=str(tmp_path)))
    assert documents == [Document("pkg/a.py", "x = 1\n", meta={"path": "pkg/a.py"})]
    assert {reason: skips[reason] for reason in ("empty", "source file over 1 MiB", "binary", "minified")} == {
        "empty": 1,
        "source file over 1 MiB": 1,
        "binary": 1,
        "minified": 2,
    }
    assert read(Source(kind="markup", path=str(tmp_path)))[0] == [
        Document("web/page.html", "<p>", meta={"path": "web/page.html"})
    ]


# ------------------------------------------------------------------------------------------------- instruction data


@pytest.mark.parametrize(
    ("record", "prompt", "response"),
    [
        ({"prompt": "1+1=", "completion": "2"}, "1+1=", " 2"),
        ({"prompt": "Q?\n", "completion": "A"}, "Q?\n", "A"),
        ({"prompt": "Q", "response": "\nA"}, "Q", "\nA"),
        ({"instruction": "Add.", "input": "1, 2", "output": "3"}, "User: Add.\n1, 2\nAssistant:", " 3"),
        ({"instruction": "Add.", "input": "", "response": "3"}, "User: Add.\nAssistant:", " 3"),
        ({"question": "1+1?", "answer": "2"}, "User: 1+1?\nAssistant:", " 2"),
        (
            {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
                          {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"},
                          {"role": "assistant", "content": "Go well"}]},
            "System: Be kind.\nUser: Hi\nAssistant: Hello\nUser: Bye\nAssistant:",
            " Go well",
        ),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
            "User: Hi\nAssistant:",
            " Yo",
        ),
    ],
)  # fmt: skip
def test_every_common_form_of_instructions_is_read(tmp_path, record, prompt, response):
    path = write(tmp_path / "i.jsonl", jsonl(record))
    assert read(Source(kind="instruct_text", path=path))[0] == [Document("i.jsonl:0", prompt, response)]
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "i.parquet")
    assert read(Source(kind="instruct_text", path=str(tmp_path / "i.parquet")))[0][0][1:3] == (prompt, response)


def test_instruction_data_read_as_plain_text_is_prompt_and_response(tmp_path):
    path = write(tmp_path / "i.jsonl", jsonl({"question": "1+1?", "answer": "2"}))
    source = Source(kind="math", path=path, format="instruct")
    assert read(source)[0] == [Document("i.jsonl:0", "User: 1+1?\nAssistant: 2")]


# -------------------------------------------------------------------------------------------------------- skips


def test_every_unusable_record_is_counted_by_its_reason(tmp_path):
    lines = [
        b'{"text": "good"}',
        b'{"text": "bad \xff bytes"}',
        b'{"text": "half a pair \\ud800"}',
        b'{"text": ',
        b"[" * 100_000,
        b'["no", "object"]',
        b'{"content": "x"}',
        b'{"text": null}',
        b'{"text": 3}',
        b'{"text": "  "}',
        b"",
    ]
    documents, skips = read(Source(kind="text", path=write(tmp_path / "a.jsonl", b"\n".join(lines))))
    assert [document.text for document in documents] == ["good"]
    assert skips == {
        "undecodable bytes": 2,
        "broken JSON": 2,
        "not an object": 1,
        "no column 'text'": 1,
        "null": 1,
        "column 'text' is not text": 1,
        "empty": 1,
    }


def test_damaged_files_give_what_stands_before_the_damage_and_are_counted(tmp_path):
    packed = gzip.compress(os.urandom(3_000_000).hex().encode() + b"\n" + b'{"text": "end"}\n')
    write(tmp_path / "a.jsonl.gz", packed[:-100])
    write(tmp_path / "b.jsonl", jsonl({"text": "good"}))
    write(tmp_path / "c.jsonl.gz", b"no gzip at all")
    documents, skips = read(Source(kind="text", path=str(tmp_path)))
    assert [document.text for document in documents] == ["good"]
    assert skips["unreadable file"] == 2
    write(tmp_path / "p" / "a.parquet", b"PAR1 no parquet PAR1")
    assert read(Source(kind="text", path=str(tmp_path / "p"))) == ([], {"unreadable file": 1})


def test_a_damaged_row_group_loses_only_itself_however_the_file_is_cut(tmp_path):
    table = pa.table({"text": [f"row {i} " + os.urandom(20).hex() for i in range(1000)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=100, use_dictionary=False, compression="snappy")
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(3).column(0).data_page_offset
    data[start : start + 60] = b"\xff" * 60
    path.write_bytes(data)
    documents, skips = read(Source(kind="text", path=str(path)))
    assert len(documents) == 900 and skips == {"unreadable row group": 1}
    assert read(Source(kind="text", path=str(path)), 1000) == (documents, skips)
    path.write_bytes(data[:-8])
    assert read(Source(kind="text", path=str(path)), 1000) == ([], {"unreadable file": 1})


def test_odd_names_and_dangling_links_are_no_trouble(tmp_path):
    folder = os.fsencode(tmp_path)
    Path(os.fsdecode(folder + b"/\xff.txt")).write_text("text")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    documents, _ = read(Source(kind="text", path=str(tmp_path)))
    assert [document.id for document in documents] == ["\ufffd.txt"]


def test_a_line_longer_than_the_limit_is_counted_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora.content, "LONGEST_LINE", 1 << 20)
    path = write(tmp_path / "a.jsonl", jsonl({"text": "x" * (3 << 20)}, {"text": "next"}))
    documents, skips = read(Source(kind="text", path=path))
    assert [document.text for document in documents] == ["next"]
    assert sum(skips.values()) == 1 and "line over" in next(iter(skips))


def test_a_file_that_changes_after_it_was_listed_stops_the_run(tmp_path):
    source = Source(kind="text", path=write(tmp_path / "a.txt", "one"))
    inputs = source_fingerprint(source)
    write(tmp_path / "a.txt", "another")
    with pytest.raises(RuntimeError, match="changed while read"):
        list(read_part(next(plan_parts(source, inputs, 1000)), source, inputs.format))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(FileNotFoundError):
        list(read_part(next(plan_parts(source, inputs, 1000)), source, inputs.format))


# ------------------------------------------------------------------------------------------------- finding files


def test_folders_globs_and_lists_find_the_same_files(tmp_path):
    for name in ("a/1.txt", "a/2.txt", "b/3.txt", "README.md"):
        write(tmp_path / name, f"text of {name}")
    whole = source_fingerprint(Source(kind="text", path=str(tmp_path)))
    assert [file.name for file in whole.files] == ["a/1.txt", "a/2.txt", "b/3.txt"]
    assert source_fingerprint(Source(kind="text", path=f"{tmp_path}/**/*.txt")).fingerprint == whole.fingerprint
    some = source_fingerprint(Source(kind="text", path=(f"{tmp_path}/a", f"{tmp_path}/b/*.txt")))
    assert [file.name for file in some.files] == ["1.txt", "2.txt", "3.txt"]


def test_a_fingerprint_follows_content_and_settings_but_not_the_place(tmp_path):
    one, two = write(tmp_path / "x" / "a.txt", "text"), write(tmp_path / "y" / "a.txt", "text")
    print_of = lambda **fields: source_fingerprint(Source(**{"kind": "text", "path": one, **fields})).fingerprint  # noqa: E731
    assert print_of() == print_of(path=two) == print_of(path=str(tmp_path / "x"))
    assert print_of() == print_of(text_field="unused by text files")
    assert len({print_of(), print_of(documents="paragraphs"), print_of(limit_documents=5)}) == 3
    before = print_of()
    write(tmp_path / "x" / "a.txt", "test")
    assert print_of() != before


def test_the_format_is_that_of_most_bytes(tmp_path):
    write(tmp_path / "README.txt", "short")
    write(tmp_path / "data.jsonl", jsonl({"text": "long " * 100}))
    assert source_fingerprint(Source(kind="text", path=str(tmp_path))).format == "jsonl"
    assert source_fingerprint(Source(kind="text", path=str(tmp_path), format="text")).format == "text"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "{}/no/such/file.txt"}, "nearest folder that exists is {}$"),
        ({"path": "{}/empty"}, "holds no file"),
        ({"path": "{}/*.nothing"}, "matches no file; give"),
        ({"path": "{}/emptyy/*.txt"}, "there is no folder 'emptyy'; did you mean {}/empty[?]$"),
        ({"path": "{}/b.txt"}, "there is no such file or folder; did you mean {}/a.txt[?]$"),
        ({"path": "{}/odd.xyz"}, "found .xyz.*set format"),
        ({"path": "{}/a.txt", "kind": "instruct_text"}, "needs prompts and responses"),
        ({"path": "https://a/x.jsonl"}, "https:// is not read; download it"),
        ({"path": "builtin:prose"}, "builtin:python-prose"),
        ({"path": "builtin:python-code", "kind": "instruct_code"}, "no prompts and responses"),
        ({"path": "{}/a.txt", "format": "source"}, None),
        ({"path": "{}", "format": "parquet"}, "none of the .* files found is parquet"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused_with_what_would_work(tmp_path, fields, message):
    write(tmp_path / "odd.xyz", "x")
    write(tmp_path / "a.txt", "x")
    (tmp_path / "empty").mkdir()
    source = Source(**{"kind": "text", **fields, "path": fields["path"].format(tmp_path)})
    if message is None:
        assert source_fingerprint(source).files
        return
    with pytest.raises(UserError, match=message.format(tmp_path)):
        source_fingerprint(source)


def test_a_file_that_two_paths_of_a_source_name_is_read_once_and_counted(tmp_path):
    for name in ("a.jsonl", "deep/b.jsonl"):
        write(tmp_path / "data" / name, jsonl({"text": name}))
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    paths = [f"{tmp_path}/{path}" for path in ("data", "data/deep/b.jsonl", "data/deep/*.jsonl", "linked/a.jsonl")]
    documents, skips = read(Source(kind="text", path=paths))
    assert [document.text for document in documents] == ["a.jsonl", "deep/b.jsonl"]
    assert skips == {"file of an earlier path of the source": 3}
    alone, overlapping = (source_fingerprint(Source(kind="text", path=path)) for path in (paths[0], paths))
    assert alone.fingerprint == overlapping.fingerprint and alone.excluded == ()


def test_remote_folders_are_listed_and_read_through_their_file_system(tmp_path, monkeypatch):
    from pyarrow.fs import SubTreeFileSystem, LocalFileSystem  # noqa: I001

    for name in ("set/a.jsonl", "set/deep/b.jsonl.gz", "set/.hidden.jsonl", "other/c.jsonl"):
        data = jsonl({"text": name}).encode()
        write(tmp_path / "bucket" / name, gzip.compress(data) if name.endswith("gz") else data)

    class Bucket:
        filesystem, path = SubTreeFileSystem(str(tmp_path), LocalFileSystem()), "bucket"

    monkeypatch.setattr(corpora.content, "Folder", lambda _: Bucket)
    for path in ("s3://bucket/set", "s3://bucket/set/**/*.jsonl*", "s3://bucket/set/"):
        documents, _ = read(Source(kind="text", path=path))
        assert [document.text for document in documents] == ["set/a.jsonl", "set/deep/b.jsonl.gz"]
    assert read(Source(kind="text", path="s3://bucket/other/c.jsonl"))[0] == [Document("c.jsonl:0", "other/c.jsonl")]
    with pytest.raises(UserError, match="no such object"):
        source_fingerprint(Source(kind="text", path="s3://bucket/nothing"))


# ------------------------------------------------------------------------------------------- keys, samples, builtins


def test_keys_depend_on_seed_place_and_content_only():
    documents = [
        Document("a", "x"),
        Document("b", "x"),
        Document("a", "y"),
        Document("a", "x", "y"),
        Document("a", "xy"),
    ]
    assert len({document_key(seed, document) for seed in (0, 1) for document in documents}) == 10
    assert document_key(0, Document("a", "x")).hex() == document_key(0, Document("a", "x")).hex()


def test_a_sample_is_balanced_comes_from_everywhere_and_repeats(tmp_path):
    small = Source(kind="text", path=write(tmp_path / "s.txt", "small " * 100))
    large = Source(
        kind="text", path=write(tmp_path / "l.txt", "\n".join(f"line {i:06d} of many" for i in range(100_000)))
    )
    sources = [(source, source_fingerprint(source)) for source in (small, large)]
    texts = list(corpora.sample_texts(sources, 100_000, seed=1, chunk_bytes=4096))
    assert texts == list(corpora.sample_texts(reversed(sources), 100_000, seed=1, chunk_bytes=4096))
    assert texts != list(corpora.sample_texts(sources, 100_000, seed=2, chunk_bytes=4096))
    assert sum(len(text.encode()) for text in texts) == pytest.approx(100_000, abs=2)
    assert texts[0].startswith("small") and len(texts[0]) == 600
    numbers = [
        int(text.split()[1]) for text in "\n".join(texts[1:]).split("\n") if text.startswith("line ") and len(text) > 11
    ]
    assert min(numbers) < 20_000 and max(numbers) > 80_000


def test_a_builtin_with_pairs_and_a_seed_is_read_as_either_kind(monkeypatch):
    monkeypatch.setitem(corpora.BUILTINS, "pairs", Builtin(pairs, instruct=True, num_examples=50))
    instruct, plain = Source(kind="instruct_text", path="builtin:pairs"), Source(kind="math", path="builtin:pairs")
    one, two = source_fingerprint(instruct, 1), source_fingerprint(instruct, 2)
    assert one.fingerprint != two.fingerprint
    rows = list(corpora.read_in_process(instruct, one))
    assert len(rows) == 50 and rows[3] == Document("pairs:3", "1+3=", " 4")
    assert next(iter(corpora.read_in_process(plain, one))) == Document("pairs:0", "1+0= 1")


def pairs(seed: int, num_examples: int):
    return ((f"{seed}+{i}=", f" {seed + i}") for i in range(num_examples))


# -------------------------------------------------------------------------------------------------------- real data


@pytest.mark.slow
def test_real_books_problems_and_instructions_are_read_whole(test_data):
    expected = {
        ("text", "text", "text"): (7, 10_760_000),
        ("math", "math/gsm8k_train.jsonl", ("question", "answer")): (7473, 3_900_000),
        ("instruct_code", "instruct/code_gpteacher.jsonl", "text"): (4535, 1_880_000),
        ("instruct_text", "instruct/text_t0.jsonl", "text"): (9208, 10_300_000),
        ("code_adjacent", "eval/HumanEval.jsonl.gz", "prompt"): (164, 74_000),
    }
    for (kind, path, field), (count, num_bytes) in expected.items():
        documents, skips = read(Source(kind=kind, path=str(test_data / path), text_field=field))
        assert (len(documents), dict(skips)) == (count, {})
        assert sum(len(document.content.encode()) for document in documents) == pytest.approx(num_bytes, rel=0.01)
