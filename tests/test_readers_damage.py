"""Damaged and hostile files: what is sound is read, what is not is counted, in bounded time and memory."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import os
import random
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import read, texts

from raycodellm.config import Source, UserError
from raycodellm.corpora import (
    json_arrays,
    read_in_process,
    source_fingerprint,
)
from raycodellm.corpora.documents import SkipError
from raycodellm.corpora.formats import commits, parquet
from raycodellm.corpora.formats.notebook import notebook_text
from raycodellm.corpora.inputs import InputFile
from raycodellm.corpora.listing import sources
from raycodellm.corpora.listing.globs import Glob
from raycodellm.corpora.listing.layouts import choose_files
from raycodellm.corpora.markdown import to_text
from raycodellm.corpora.tables import rows_at_once

SECONDS = 2.0
"""Limit for inputs on which quadratic time takes minutes."""


# ---------------------------------------------------------------------------------------------------- packed files


def rows_of(count: int) -> list[str]:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randrange(2, 9))) for _ in range(2000)]
    return [f"{number} {' '.join(rng.choices(words, k=20))}" for number in range(count)]


ROWS = rows_of(3000)
LINES = "".join(json.dumps({"text": row}) + "\n" for row in ROWS).encode()
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": lambda d: pa.compress(d, "zstd", asbytes=True)}
ENDINGS = [".gz", *(pytest.param(one, marks=pytest.mark.slow) for one in (".bz2", ".zst"))]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("after", [bytes(512), b"garbage"])
def test_what_follows_a_whole_packed_file_costs_no_row(tmp_path, ending, after):
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(PACKERS[ending](LINES) + after)
    documents, skips = read(Source(kind="text", path=str(path)))
    assert [document.text for document in documents] == ROWS
    assert skips == {"unreadable file": 1}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_packed_file_that_is_cut_gives_all_that_unpacks(tmp_path, ending):
    import zlib

    packed = PACKERS[ending](LINES)[: len(PACKERS[ending](LINES)) * 9 // 10]
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(packed)
    documents, skips = read(Source(kind="text", path=str(path)))
    unpacks = {".gz": lambda: zlib.decompressobj(31).decompress(packed), ".bz2": lambda: _bz2_up_to_its_cut(packed)}
    least = unpacks[ending]().count(b"\n") if ending in unpacks else 1800  # it unpacks by blocks of 128 KiB
    assert len(documents) >= least and [document.text for document in documents] == ROWS[: len(documents)]
    assert skips == {"unreadable file": 1}


def _bz2_up_to_its_cut(packed: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(packed)


def test_rows_before_damage_in_the_middle_of_a_packed_file_are_read(tmp_path):
    packed = bytearray(gzip.compress(LINES))
    half = len(packed) // 2
    packed[half : half + 2000] = bytes(2000)
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    documents, skips = read(Source(kind="text", path=str(tmp_path)))
    same = next(
        n for n, (d, row) in enumerate(zip(documents, ROWS, strict=False)) if d.text != row
    )  # of what was whole
    assert same > len(ROWS) * 0.4 and skips["unreadable file"] == 1


def test_a_packed_text_in_windows_gives_the_lines_before_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("raycodellm.corpora.formats.text.LARGEST_TEXT", 100_000)
    monkeypatch.setattr("raycodellm.corpora.formats.text.WINDOW_BYTES", 1 << 30)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\n".join(ROWS).encode()) + b"\0")
    documents, skips = read(Source(kind="text", path=str(tmp_path)))
    assert [document.text.split("\n") for document in documents] == [ROWS[:-1]]  # the last has no end
    assert skips["unreadable file"] == 1


# ----------------------------------------------------------------------------------------------- Arrow and Parquet


def arrow(path: Path, table: pa.Table, kind: str = "file", **options) -> bytes:
    new = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}[kind]
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as to:
        to.write_table(table, max_chunksize=100)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("offset", [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"])
def test_a_damaged_batch_of_an_arrow_file_is_lost_alone_however_the_file_is_cut(tmp_path, kind, offset):
    data = bytearray(arrow(tmp_path / "a.arrow", pa.table({"text": ROWS[:1000]}), kind))
    ends = b"".join(len("".join(ROWS[400 : 400 + n]).encode()).to_bytes(4, "little") for n in (50, 51))
    place = data.index(ends)  # of row 450's offsets, in the fifth batch
    data[place : place + 4] = offset  # beyond the buffer or before it: read as it is, it ended the process
    (tmp_path / "a.arrow").write_bytes(data)
    for part_bytes in (None, 10_000):
        documents, skips = read(Source(kind="text", path=str(tmp_path)), part_bytes)
        assert [document.text for document in documents] == ROWS[:400] + ROWS[500:1000]
        assert [document.id for document in documents][400] == "a.arrow:500" and skips == {"unreadable batch": 1}


def test_a_packed_batch_that_claims_to_be_huge_is_damage(tmp_path):
    data = bytearray(arrow(tmp_path / "a.arrow", pa.table({"text": ROWS[:300]}), compression="zstd"))
    first = data.index(b"\x28\xb5\x2f\xfd", data.index(b"\x28\xb5\x2f\xfd") + 4)  # of the text, behind its offsets
    data[first - 8 : first] = (1 << 50).to_bytes(8, "little")
    (tmp_path / "a.arrow").write_bytes(data)
    documents, skips = read(Source(kind="text", path=str(tmp_path)))
    assert len(documents) == 200 and skips == {"unreadable batch": 1}


@pytest.mark.slow
def test_rows_that_repeat_a_large_value_are_unfolded_a_few_at_a_time(tmp_path):
    large = pa.DictionaryArray.from_arrays(pa.array([0] * 600, pa.int32()), pa.array(["x" * (3 << 20)]))
    pq.write_table(pa.table({"text": large, "n": range(600)}), tmp_path / "a.parquet", compression="zstd")
    with pa.OSFile(str(tmp_path / "a.parquet")) as file:
        group = pq.ParquetFile(file).metadata.row_group(0)
        assert parquet._largest_dictionary(file, group, ["text"]) == (3 << 20) + 4
    assert [rows_at_once(size) for size in (0, 1 << 19, 3 << 20, 1 << 30)] == [512, 512, 85, 1]
    arrow(tmp_path / "a.arrow", pa.table({"text": large.slice(0, 200)}), compression="zstd")
    for name in ("a.parquet", "a.arrow"):
        source = Source(kind="text", path=str(tmp_path / name))
        first = itertools.islice(read_in_process(source, source_fingerprint(source)), 100)
        assert {len(document.text) for document in first} == {3 << 20}


# ----------------------------------------------------------------------------------------------------- JSON arrays


def elements(data: bytes, step: int = 1 << 20) -> list[object]:
    return list(json_arrays.array_values(data[start : start + step] for start in range(0, len(data), step)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\{}[],: \n中'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='ab"'), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES, max_size=6), st.sampled_from([1, 2, 7, 1 << 20]), st.sampled_from([None, 1]))
def test_an_array_is_cut_into_its_elements_however_it_is_read(values, step, indent):
    data = json.dumps(values, ensure_ascii=False, indent=indent).encode()
    assert elements(data, step) == values


GOOD = [json.dumps({"text": f'the "{n}" {{}}', "turns": [{"role": "a"}, {"role": "b"}]}) for n in range(40)]


@pytest.mark.parametrize(
    "bad",
    [
        '{"text": undefined}',
        "{'text': 'single quotes'}",
        '{"text": "a\nline"}',
        GOOD[0][:-1],
        GOOD[0].replace("]", ""),
        GOOD[0].replace(' {}"', " {}"),
        "<html>",
        '{"text": NaN}',
        "null",
        "[1, {}]",
    ],
)
def test_one_bad_element_of_an_array_is_lost_alone(tmp_path, bad):
    (tmp_path / "a.json").write_text(f"[{', '.join([*GOOD[:20], bad, *GOOD[20:]])}]")
    documents, skips = read(Source(kind="text", path=str(tmp_path)))
    assert [document.text for document in documents] == [f'the "{n}" {{}}' for n in range(40)]
    assert sum(skips.values()) == 1


@given(st.integers(1, len(", ".join(GOOD[:6]))), st.sampled_from(list('"{}],x\n')))
def test_a_wrong_character_in_an_array_costs_at_most_one_element(place, wrong):
    data = f"[{', '.join([*GOOD[:6], *GOOD])}]"
    found = elements((data[:place] + wrong + data[place + 1 :]).encode())
    sound = [value for value in found if isinstance(value, dict) and "turns" in value]
    assert sound[-40:] == [json.loads(one) for one in GOOD] and len(sound) >= 45


def test_arrays_begin_with_a_mark_end_early_and_follow_each_other(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + b'[{"text": "marked", "score": NaN}]')
    (tmp_path / "b.json").write_text('[{"text": "whole"}, {"text"')
    (tmp_path / "c.json").write_text('[{"text": "first"}]\n[{"text": "second"},\n{"text": "third"}')
    documents, skips = read(Source(kind="text", path=str(tmp_path)))
    assert [document.text for document in documents] == ["marked", "whole", "first", "second", "third"]
    assert skips == {"broken JSON": 2}


def test_an_element_over_the_limit_is_counted_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(json_arrays, "LONGEST_LINE", 1000)
    long = json.dumps({"text": "x" * 5000})
    first, skip, last = elements(f'[{{"text": "a"}}, {long}, {{"text": "b"}}]'.encode(), 100)
    assert (first, str(skip), last) == ({"text": "a"}, "JSON value over 0 MiB", {"text": "b"})


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 500_000,
        b'[{"a":[' + b"{}," * 300_000,
        b'[{"a":[{},' * 60_000,
        b'[{"a": "}, {' * 60_000,
        b"[[[[},{" * 60_000,
        (b'{"a":[{},' * 30_000 + b"}") * 2,
        b'[{"a":"\n' * 60_000,
    ],
)
def test_arrays_take_linear_time_whatever_is_in_them(data):
    began = time.process_time()
    elements(data)
    assert time.process_time() - began < SECONDS


# ------------------------------------------------------------------------------------------------ several columns


def test_a_null_in_one_of_several_columns_keeps_the_others_and_is_counted_by_name(tmp_path):
    rows = [{"title": None, "body": "b"}, {"title": "t", "body": "c"}, {"title": None, "body": None}, {"body": "d"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    documents, skips = read(Source(kind="text", path=str(tmp_path), text_field=("title", "body")))
    assert [document.text for document in documents] == ["b", "t\nc"]
    assert skips == {
        "null in column 'title', the others kept": 1,
        "null in all of 'title', 'body'": 1,
        "no column 'title'": 1,
    }


# ------------------------------------------------------------------------------------------------------- notebooks


def notebook(*cells: dict, **more) -> bytes:
    return json.dumps({"cells": list(cells), "metadata": {}, **more}).encode()


def test_a_packed_notebook_is_unpacked_up_to_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("raycodellm.corpora.formats.notebook.LARGEST_NOTEBOOK", 3 << 20)
    (tmp_path / "a.ipynb.gz").write_bytes(gzip.compress(notebook({"cell_type": "raw", "source": "x" * (4 << 20)})))
    (tmp_path / "b.ipynb.gz").write_bytes(gzip.compress(notebook({"cell_type": "raw", "source": "short"})))
    documents, skips = read(Source(kind="code_adjacent", path=str(tmp_path), format="notebook"))
    assert [document.text for document in documents] == ["short"] and skips == {"notebook over 3 MiB": 1}


def test_a_notebook_of_too_many_values_is_not_unfolded():
    with pytest.raises(SkipError, match="over 4 million values"):
        notebook_text(b"[" + b"{}," * (5 << 20) + b"{}]")


def test_a_notebooks_odd_fields_are_no_trouble():
    cells = [
        *({"cell_type": "heading", "level": level, "source": "h"} for level in (4_000_000_000, 10**30, -3, "x", 2)),
        {"cell_type": "code", "source": "x", "language": ["a"], "outputs": [{"output_type": "error", "traceback": 5}]},
    ]
    text = notebook_text(notebook(*cells, metadata={"language_info": {"name": "a\n```"}}), outputs=True)
    assert text.split("\n\n") == ["###### h", "###### h", "# h", "# h", "## h", "```\nx\n```"]


@pytest.mark.parametrize(
    "source", ["](data:" * 100_000, "](" + " " * 300_000, "](data:x)" * 50_000 + "](data:" * 50_000]
)
def test_links_of_a_notebook_take_linear_time(source):
    began = time.process_time()
    notebook_text(notebook({"cell_type": "markdown", "source": source}))
    assert time.process_time() - began < SECONDS


# ----------------------------------------------------------------------------------------------- files and folders


@pytest.fixture
def tree(tmp_path) -> Path:
    """A folder with links of every kind, a pipe and a device; a secret lies outside."""
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "deep").mkdir(parents=True)
    (outside / "secret.txt").write_text("secret")
    (outside / "deep" / "secret.txt").write_text("secret")
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "sub" / "b.txt").write_text("b")
    (root / "out.txt").symlink_to(outside / "secret.txt")
    (root / "sub" / "up.txt").symlink_to("../../outside/secret.txt")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "in.txt").symlink_to("a.txt")
    (root / "gone.txt").symlink_to("nothing")
    (root / "zero.txt").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.txt")
    return root


NO_FILE, LINK_OUT = "no file (a pipe, a device, a socket, or a link to nothing)", "link out of the folder"


def test_links_out_of_a_folder_are_not_followed_but_counted(tree):
    documents, skips = read(Source(kind="text", path=str(tree)))
    assert sorted(document.id for document in documents) == ["a.txt", "in.txt", "sub/b.txt"]
    assert skips == {LINK_OUT: 3, NO_FILE: 3}
    assert texts(tree / "out.txt") == ["secret"], "a link that is named is meant"
    assert texts(tree / "folder" / "*.txt") == ["secret"]


@pytest.mark.parametrize(
    ("pattern", "expected", "skipped"),
    [
        ("*.txt", ["a.txt", "in.txt"], {LINK_OUT: 1, NO_FILE: 3}),
        ("**/*.txt", ["a.txt", "in.txt", "sub/b.txt"], {LINK_OUT: 2, NO_FILE: 3}),
        ("s*/*.txt", ["sub/b.txt"], {LINK_OUT: 1}),
        ("[as]*", ["a.txt", "sub/b.txt"], {LINK_OUT: 1}),
    ],
)
def test_a_glob_meets_pipes_devices_and_links(tree, pattern, expected, skipped):
    documents, skips = read(Source(kind="text", path=f"{tree}/{pattern}"))
    assert sorted(document.id for document in documents) == expected and skips == skipped


def test_what_is_no_file_or_leads_out_is_said_where_nothing_else_is(tree):
    for path, said in (
        (tree / "pipe.txt", "is a pipe, a device or a socket; give a file"),
        ("/dev/zero", "is a pipe, a device or a socket; give a file"),
        (f"{tree}/p*.txt", "matches no file to read .no file .a pipe.*: 1"),
        (f"{tree}/f*/*.txt", "matches no file to read .link out of the folder: 1"),
        (f"{tree}/[z-a]*.txt", "matches no file; give"),
    ):
        with pytest.raises(UserError, match=said) as found:
            source_fingerprint(Source(kind="text", path=str(path)))
        assert len(str(found.value)) < 300 + 2 * len(str(tree))


def test_a_snapshot_of_the_hubs_cache_may_link_to_its_blobs(tmp_path):
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "datasets--a--b" / "blobs").mkdir()
    (tmp_path / "datasets--a--b" / "blobs" / "f00").write_text("text")
    (snapshot / "a.txt").symlink_to("../../blobs/f00")
    assert texts(snapshot) == ["text"]


def test_a_folder_that_cannot_be_opened_is_counted(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert read(Source(kind="text", path=str(tmp_path)))[1] == {"folder that cannot be opened": 1}


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("**/*.py", "a.py", True),
        ("**/*.py", "x/y/a.py", True),
        ("**.py", "x/y/a.py", True),
        ("x/**", "x/y/a.py", True),
        ("x/**", "x", False),
        ("x/*", "x/y/a.py", True),
        ("x/*.py", "x/y/a.py", False),
        ("x/**/b/*.py", "x/b/a.py", True),
        ("x/**/b/*.py", "x/1/b/2/b/a.py", True),
        ("[!a]?.py", "bc.py", True),
        ("[z-a].py", "b.py", False),
        ("[", "[", True),
    ],
)
def test_globs_are_compared_folder_by_folder(pattern, name, matches):
    assert Glob(pattern).match(name) == matches


def test_no_glob_takes_long():
    began = time.process_time()
    Glob("*a" * 20 + "b").match("a" * 250)
    Glob("**/a/" * 20 + "b").match("a/" * 200 + "c")
    assert time.process_time() - began < SECONDS


# --------------------------------------------------------------------------------------------------- dataset cards


def chosen(card: str, names: tuple[str, ...] = ("d/a.jsonl",)) -> list[str] | None:
    files = {"README.md": card.encode()}
    return choose_files("p", ["README.md", *names], lambda name: files[name], None, None, False)


@pytest.mark.parametrize(
    "card",
    [
        "---\nmade: 2024-13-45\nconfigs:\n- config_name: default\n  data_files: d/*.jsonl\n---\n",
        "---\nn: !!int abc\nwhen: !!timestamp x\nconfigs:\n- data_dir: d\n---\n",
        "---\nconfigs:\n- {config_name: no, default: true, data_files: [{split: train, path: [d/a.jsonl]}]}\n---",
        "\ufeff--- \nbig: 1" + "0" * 5000 + "\nconfigs:\n- data_files: {train: d/a.jsonl}\n--- \ntext",
    ],
)
def test_a_card_is_read_as_text_whatever_else_is_in_it(card):
    assert chosen(card) == ["d/a.jsonl"]


@pytest.mark.parametrize(
    "files",
    ["{train: {a: b}}", "[[1]]", "[{split: [x], path: y}]", "{train: }", "[{split: train}]", "[{a: {b: c}}, d]"],
)
def test_a_card_with_types_that_say_nothing_is_refused_in_one_line(files):
    with pytest.raises(UserError, match=r"its README\.md has data_files of 'default' that are neither"):
        chosen(f"---\nconfigs:\n- data_files: {files}\n---\n")


@pytest.mark.slow
def test_a_card_that_cannot_be_read_is_for_people_alone():
    began = time.process_time()
    bomb = "---\n" + "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1},*a{n - 1}]\n" for n in range(1, 40))
    for card in (
        "---\n" + "\n" * 200_000,
        "---\n" + "[" * 5000 + "\n---\n",
        "---\n: : :\n---\n",
        "---\nconfigs: 5\n---",
    ):
        assert chosen(card) is None
    with pytest.raises(UserError):
        chosen(f"{bomb}configs:\n- config_name: *a39\n  data_files: x\n---\n")
    assert time.process_time() - began < SECONDS


def test_of_a_card_no_more_is_read_than_a_card_has(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST_CARD", 100)
    (tmp_path / "README.md").write_text("---\nconfigs:\n- data_files: b.jsonl\n---\n" + "x" * 1000)
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    card = tmp_path / "README.md"
    assert texts(tmp_path) == ["b"]
    assert len(sources._read_card(InputFile(str(card), card.stat().st_size, "", card.name))) == 100


@pytest.mark.parametrize(
    "files",
    [
        {"dataset_dict.json": {"splits": 5}},
        {"dataset_dict.json": {"splits": [["train"]]}},
        {"state.json": {"_data_files": 5}, "dataset_info.json": {}},
        {"state.json": {"_data_files": [{"name": "x"}]}, "dataset_info.json": {}},
        {"state.json": {"_data_files": ["x"]}, "dataset_info.json": {}},
    ],
)
def test_a_saved_data_set_with_odd_types_is_refused_in_one_line(files):
    with pytest.raises(UserError, match="save the data set again"):
        choose_files("p", files, lambda name: json.dumps(files[name]).encode(), None, None, False)


# ------------------------------------------------------------------------------------------------ HTML and commits


@pytest.mark.parametrize("unit", ["<a ", "<a b='", "<a/", "<p", "<!--", "<script", "</"])
def test_html_that_opens_tags_and_closes_none_takes_linear_time(unit):
    began = time.process_time()
    text = to_text("<p>one &lt; two</p>" + unit * (200_000 // len(unit)))
    assert time.process_time() - began < SECONDS and text.startswith("one < two\n\n<")


def test_what_stands_behind_the_last_tag_is_text_as_before():
    assert to_text("<p>a > b &amp; c < d") == "a > b & c < d"
    assert to_text("<p>a <b>bold</b> and <i") == "a bold and <i"
    assert to_text("<pre>x = 1\ny &lt; 2") == "```\nx = 1\ny < 2\n```"


@pytest.mark.parametrize("unit", ["a", " ", "a.", "<@", "\n", "a@a.", "-"])
def test_addresses_in_a_message_are_found_in_linear_time(unit):
    began = time.process_time()
    commits._EMAIL.sub("", unit * (200_000 // len(unit)) + "x")
    assert time.process_time() - began < SECONDS


def test_addresses_are_taken_out_of_a_message():
    said = "By A <a.b+c@d-e.org> and x@y.example.com, not @name nor a@b.\nSigned-off-by: B  <b@c>"
    assert commits._EMAIL.sub("", said) == "By A and , not @name nor a@b.\nSigned-off-by: B"
