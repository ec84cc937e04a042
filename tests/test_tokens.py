"""Token stores hold every token of every document once, in one order, and say so when they do not."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycodellm import stage, tokens
from raycodellm.config import Scaling, Source, Sweep, Tokenizer, UserError
from raycodellm.corpora import Document, Skip, source_fingerprint
from raycodellm.files import Folder
from raycodellm.records import SourceSlice
from raycodellm.tokens import (
    TokenStore,
    build_tokenizer,
    encoding,
    file_warnings,
    inspect,
    prepare,
    prepare_store,
    sizes,
    tokenise,
)
from raycodellm.tokens.manifest import token_dtype, write_manifest
from raycodellm.tokens.packing import pack
from raycodellm.tokens.parallel import make_at_once
from raycodellm.tokens.progress import SourceProgress
from raycodellm.tokens.ranges import RemoteValues
from raycodellm.tokens.shard_files import write_shard
from raycodellm.tokens.tokenizer import (
    DONE,
    END_OF_TEXT,
    TokenizerInfo,
    encode_documents,
    open_encoder,
    open_tokenizer,
    tokenizer_fingerprint,
)

TEXTS = [
    f"Document number {i}: the quick brown fox, {i * i} lazy dogs.\n\n    def f(x):\n        return x + {i}\n"
    for i in range(300)
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> TokenizerInfo:
    folder = Folder(str(tmp_path_factory.mktemp("tokenizer")))
    return build_tokenizer(Tokenizer(train={"vocab_size": 400}), TEXTS, folder)


@pytest.fixture
def text_source(tmp_path) -> Source:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS) + '{"text": null}\n{"text"\n')
    return Source(kind="text", path=str(path))


def make(source: Source, trained: TokenizerInfo, folder: Folder, name: str = "texts", seed: int = 0) -> TokenStore:
    return prepare_store(name, source, source_fingerprint(source, seed), trained.folder, "print", seed, folder)


def files(folder: Folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder.uri).iterdir())}


def all_tokens(store: TokenStore) -> np.ndarray:
    return store.read(np.arange(store.num_sequences(1)), 1)[0].ravel()


# ------------------------------------------------------------------------------------------------------ tokenizer


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_from_its_tokens(trained, text):
    (data,), _ = encode_documents(open_encoder(trained), [Document("a", text)], 0)
    ids = np.frombuffer(data, np.uint16).tolist()
    assert ids[-1] == trained.eos_id
    assert 0 not in ids[:-1]
    assert open_tokenizer(trained.folder).decode(ids[:-1]) == text


def test_a_document_that_spells_out_the_special_token_does_not_end_there(trained):
    document = Document("a", f"x {END_OF_TEXT} y")
    (data,), _ = encode_documents(open_encoder(trained), [document], 0)
    assert np.frombuffer(data, np.uint16).tolist().count(0) == 1


def one_by_one(trained: TokenizerInfo, texts: list[str]) -> list[list[int]]:
    """The token ids that `tokenizers` itself gives for each whole text."""
    tokenizer = open_tokenizer(trained.folder)
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def in_numbers(encoded: list[bytes]) -> list[list[int]]:
    return [np.frombuffer(ids, np.uint16).tolist() for ids in encoded]


PARTS = [
    "word",
    " ",
    "\n",
    "  x",
    "é",
    "\t",
    "1",
    "!",
    "\u3000",
    "'s",
    "'",
    "’",
    "中文",
    "ʼ",
    "🤗",
    "⸺",
    "ª",
    "\x1c",
    "\xa0",
    "²",
]


@given(st.lists(st.sampled_from(PARTS), max_size=60).map("".join) | st.text(st.characters(exclude_categories=["Cs"])))
def test_words_that_were_seen_before_have_the_tokens_of_the_whole_text(trained, text):
    texts = [text, "b", text + " b", ""]
    encoder = encoding.Encoder(open_tokenizer(trained.folder), np.dtype(np.uint16))
    expected = one_by_one(trained, texts)
    assert in_numbers(encoder.encode(texts)) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "LONGEST_PIECE", 3)
        patch.setattr(encoding, "BATCH_CHARACTERS", 10)
        patch.setattr(encoding, "KEPT_WORDS", 2)
        assert in_numbers(encoder.encode(texts)) == expected


@pytest.mark.slow
def test_every_character_that_parts_words_here_parts_them_in_the_tokenizer(trained):
    parts = open_tokenizer(trained.folder).pre_tokenizer
    known = encoding.known_characters()
    assert all(re.match(f"[{''.join(known)}]", character) for character in "aé中1²!“—€한")
    for points in (*known, encoding._SPACE):
        characters = [chr(point) for point in range(0x10000) if re.match(f"[{points}]", chr(point))]
        text = "\n".join(f"a{c}1{c}!{c}{c} {c}x {c}" for c in characters)
        expected = [text[first:last] for _, (first, last) in parts.pre_tokenize_str(text)]
        assert encoding._any_words().findall(text) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"add_prefix_space": True}},
        {"pre_tokenizer": {"use_regex": False}},
        {"normalizer": {"type": "Lowercase"}},
        {"added_tokens": [{"id": 5, "content": "a b", "special": False}]},
        {"model": {"dropout": 0.5}},
    ],
)
def test_words_are_kept_only_where_each_is_encoded_alone(trained, change):
    from tokenizers import Tokenizer as Rust

    said = json.loads((Path(trained.folder.uri) / "tokenizer.json").read_text())
    assert encoding.splits_like_gpt2(Rust.from_str(json.dumps(said)))
    for key, value in change.items():
        if key == "added_tokens":
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            said[key].append({**flags, **value[0]})
        elif said[key] is None:
            said[key] = value
        else:
            said[key].update(value)
    other = Rust.from_str(json.dumps(said))
    assert not encoding.splits_like_gpt2(other)
    if "model" not in change:
        encoder = encoding.Encoder(other, np.dtype(np.uint16))
        texts = ["a b A-B", "\nx  y"]
        assert in_numbers(encoder.encode(texts)) == [other.encode(t, add_special_tokens=False).ids for t in texts]


def test_kept_words_do_not_grow_without_end(trained, monkeypatch):
    monkeypatch.setattr(encoding, "KEPT_WORDS", 100)
    encoder = encoding.Encoder(open_tokenizer(trained.folder), np.dtype(np.uint16))
    for number in range(0, 3000, 20):
        texts = [f"w{i} {'y' * (i % 200)}" for i in range(number, number + 20)]
        assert in_numbers(encoder.encode(texts)) == one_by_one(trained, texts)
        assert len(encoder._kept_ids) <= 200 and max(map(len, encoder._kept_ids)) <= encoding.LONGEST_WORD


@given(st.sampled_from(["Q:", "Q:\n", "Q: \n\n", "doc.\n  "]), st.sampled_from([" yes", "def f():\n", "\n\nx", "  y"]))
def test_prompt_and_response_have_the_tokens_of_the_whole_text(trained, prompt, response):
    encoder = open_encoder(trained)
    if not prompt[-1].isspace() and not response[0].isspace():
        response = " " + response
    (pair,), (num_prompt,) = encode_documents(encoder, [Document("a", prompt, response)], 0)
    (whole,), _ = encode_documents(encoder, [Document("a", prompt + response)], 0)
    assert pair == whole
    ids = np.frombuffer(pair, np.uint16)[:num_prompt].tolist()
    assert open_tokenizer(trained.folder).decode(ids) == prompt.rstrip()


def test_training_is_the_same_for_any_order_of_the_sample(tmp_path, trained):
    again = build_tokenizer(Tokenizer(train={"vocab_size": 400}), TEXTS[::-1], Folder(str(tmp_path)))
    assert again.vocab_size == trained.vocab_size == 400
    assert files(again.folder) == files(trained.folder)


def test_a_pretrained_tokenizer_is_taken_from_its_folder(tmp_path, trained):
    taken = build_tokenizer(Tokenizer(pretrained=trained.folder.uri), [], Folder(str(tmp_path / "taken")))
    assert (taken.vocab_size, taken.eos_id) == (trained.vocab_size, trained.eos_id)
    assert files(taken.folder) == files(trained.folder)
    config = json.loads((tmp_path / "taken" / "tokenizer_config.json").read_text())
    (tmp_path / "taken" / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "</s>"}))
    with pytest.raises(UserError, match="end-of-text token is '</s>'"):
        build_tokenizer(Tokenizer(pretrained=str(tmp_path / "taken")), [], Folder(str(tmp_path / "other")))
    assert not (tmp_path / "other" / DONE).exists()
    with pytest.raises(UserError, match=r"no folder with a tokenizer; .* the nearest folder that exists is"):
        build_tokenizer(Tokenizer(pretrained=str(tmp_path / "nothing")), [], Folder(str(tmp_path / "other")))


def test_a_tokenizer_is_known_by_its_settings_its_sources_and_its_files(tmp_path, text_source, trained, monkeypatch):
    monkeypatch.setattr("raycodellm.identity.hub_commits.commit", lambda name, files: "0" * 40)
    inputs = source_fingerprint(text_source)
    train = Tokenizer(train={"vocab_size": 400})
    prints = {
        tokenizer_fingerprint(train, [inputs], 0),
        tokenizer_fingerprint(train, [inputs], 1),
        tokenizer_fingerprint(train, [inputs, inputs], 0),
        tokenizer_fingerprint(Tokenizer(train={"vocab_size": 500}), [inputs], 0),
        tokenizer_fingerprint(Tokenizer(pretrained="gpt2"), [inputs], 0),
        tokenizer_fingerprint(Tokenizer(pretrained=trained.folder.uri), [inputs], 0),
    }
    assert len(prints) == 6
    shutil.copytree(trained.folder.uri, tmp_path / "copy")
    copied = tokenizer_fingerprint(Tokenizer(pretrained=str(tmp_path / "copy")), [], 5)
    assert copied in prints


@pytest.mark.slow
def test_transformers_loads_the_folder_and_renders_chats_as_they_were_trained(tmp_path, trained, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(trained.folder.uri)
    assert loaded.eos_token_id == loaded.pad_token_id == loaded.bos_token_id == trained.eos_id == 0
    assert len(loaded) == trained.vocab_size
    for text in TEXTS[:20]:
        ids = loaded(text)["input_ids"]
        (data,), _ = encode_documents(open_encoder(trained), [Document("a", text)], 0)
        assert ids == np.frombuffer(data, np.uint16).tolist()[:-1]
        assert loaded.decode(ids) == text
    said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi "}]
    prompt = loaded.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert prompt == "System: Be kind.\nUser: Hi\nAssistant:"
    said.append({"role": "assistant", "content": "Hello"})
    assert loaded.apply_chat_template(said, tokenize=False) == prompt + " Hello" + END_OF_TEXT
    said[-1]["content"] = "\n    return x"
    assert loaded.apply_chat_template(said, tokenize=False) == prompt + "    return x" + END_OF_TEXT
    loaded.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.json").rename(tmp_path / "saved" / "tokenizer.json.away")
    with pytest.raises(UserError, match=r"tokenizer\.pretrained"):
        build_tokenizer(Tokenizer(pretrained=str(tmp_path / "saved")), [], Folder(str(tmp_path / "x")))


# --------------------------------------------------------------------------------------------------------- stores


def write_store(
    folder: Folder, documents: list[list[int]], prompts: list[int] | None, shards: int, batch: int
) -> TokenStore:
    """A store of these documents (closing token included) in this order."""
    dtype = token_dtype(400)
    written = []
    for number, some in enumerate(np.array_split(np.arange(len(documents)), shards)):
        rows = pa.table(
            {
                "key": pa.array([int(i).to_bytes(8) for i in some], pa.binary()),
                "tokens": pa.array([np.array(documents[i], dtype).tobytes() for i in some], pa.large_binary()),
                "num_prompt": pa.array([prompts[i] if prompts else 0 for i in some], pa.int32()),
                "num_bytes": pa.array([len(documents[i]) for i in some], pa.int64()),
                "skipped": pa.array([None] * len(some), pa.string()),
                "count": pa.array([0] * len(some), pa.int64()),
            }
        )
        shuffled = rows.take(pa.array(random.Random(number).sample(range(len(rows)), len(rows)), pa.int64()))
        written.append(write_shard(folder, number, shuffled, dtype, prompts is not None, batch))
    kind = "text" if prompts is None else "instruct_text"
    fields = {"fingerprint": "f", "source_fingerprint": "s", "tokenizer_fingerprint": "t", "seed": 0}
    write_manifest(folder, written, name="s", kind=kind, vocab_size=400, eos_id=0, **fields)
    return TokenStore.open(folder)


DOCUMENTS = st.lists(
    st.lists(st.integers(1, 399), min_size=1, max_size=20).map(lambda ids: [*ids, 0]), min_size=1, max_size=40
)


@given(DOCUMENTS, st.integers(1, 4), st.integers(1, 50), st.integers(1, 30))
def test_sequences_are_the_documents_end_to_end_whatever_the_shards(tmp_path_factory, documents, shards, batch, length):
    store = write_store(Folder(str(tmp_path_factory.mktemp("s"))), documents, None, shards, batch)
    stream = [token for document in documents for token in document]
    count = store.num_sequences(length)
    assert count == len(stream) // length
    order = np.random.default_rng(0).permutation(count)
    read, mask = store.read(order, length)
    assert read.dtype == np.int32 and mask.all() and mask.shape == read.shape == (count, length)
    assert read[np.argsort(order)].ravel().tolist() == stream[: count * length]
    manifest = store.manifest
    assert (manifest.num_tokens, manifest.num_documents, manifest.num_examples) == (len(stream), len(documents), 0)


@given(DOCUMENTS, st.integers(1, 4), st.integers(1, 50), st.integers(1, 30))
def test_examples_stay_whole_and_only_responses_count(tmp_path_factory, documents, shards, batch, length):
    prompts = [len(document) // 2 for document in documents]
    store = write_store(Folder(str(tmp_path_factory.mktemp("s"))), documents, prompts, shards, batch)
    kept = [i for i, document in enumerate(documents) if len(document) <= length]
    assert store.packing_report(length).dropped_documents == len(documents) - len(kept)
    read, mask = store.read(np.arange(store.num_sequences(length)), length)
    expected, expected_mask = [], []
    for i in kept:
        example = documents[i]
        if not expected or len(expected[-1]) + len(example) > length:
            expected.append([])
            expected_mask.append([])
        expected[-1] += example
        expected_mask[-1] += [False] * prompts[i] + [True] * (len(example) - prompts[i])
    assert read.tolist() == [ids + [0] * (length - len(ids)) for ids in expected]
    assert mask.tolist() == [row + [False] * (length - len(row)) for row in expected_mask]


def test_packing_a_million_examples_is_quick_and_wastes_little():
    sizes = np.random.default_rng(0).integers(10, 200, 1_000_000)
    packing = pack(sizes, 512, "concatenate", num_prompt=sizes // 2)
    used = np.add.reduceat(packing.size, packing.bounds[:-1])
    assert used.max() <= 512 and used.mean() > 400
    assert packing.bounds[-1] == len(sizes)


def test_a_store_is_pickled_by_its_folder_and_read_by_several_threads(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    documents = [[*np.random.default_rng(i).integers(1, 399, 50).tolist(), 0] for i in range(100)]
    store = pickle.loads(pickle.dumps(write_store(Folder(str(tmp_path)), documents, None, 3, 100)))
    assert len(pickle.dumps(store)) < 500
    expected = store.read(np.arange(100), 51)[0].tolist()
    with ThreadPoolExecutor(8) as pool:
        assert all(
            read[0].tolist() == expected for read in pool.map(lambda _: store.read(np.arange(100), 51), range(20))
        )


def test_a_remote_store_is_read_by_ranges_and_keeps_nothing_in_memory(tmp_path, monkeypatch):
    documents = [[*np.random.default_rng(i).integers(1, 399, 50).tolist(), 0] for i in range(100)]
    local = write_store(Folder(str(tmp_path)), documents, None, 2, 64)
    expected = local.read(np.arange(50), 102)[0].tolist()
    monkeypatch.setattr(Folder, "_opened", local.folder._opened)
    remote = TokenStore.open(Folder("s3://bucket/store"))
    assert remote.folder.local is None
    assert remote.read(np.arange(50), 102)[0].tolist() == expected
    assert all(isinstance(reader.values, RemoteValues) for reader in remote._stream._readers.values())


def test_sequences_that_are_not_there_are_refused(tmp_path):
    store = write_store(Folder(str(tmp_path)), [[1, 2, 3, 0]] * 10, None, 1, 100)
    for sequence in (-1, 10):
        with pytest.raises(IndexError, match="of 10 of length 4"):
            store.read(np.array([sequence]), 4)
    assert store.read(np.array([], np.int64), 4)[0].shape == (0, 4)


def test_large_vocabularies_take_four_bytes_per_token():
    assert token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.uint32


@pytest.mark.parametrize("name", ["tokens-00001.arrow", "examples-00000.arrow"])
def test_damage_is_found_on_opening_or_on_verifying(tmp_path, name):
    folder = Folder(str(tmp_path))
    store = write_store(folder, [[1, 2, 3, 0]] * 10, [1] * 10, 2, 100)
    store.verify()
    data = folder.read_bytes(name)
    folder.write_bytes(name, data[:-10])
    with pytest.raises(tokens.StoreError, match=f"{name}: has {len(data) - 10} bytes, written were {len(data)}"):
        TokenStore.open(folder)
    folder.write_bytes(name, data[:200] + bytes([data[200] ^ 1]) + data[201:])
    with pytest.raises(tokens.StoreError, match=f"{name}: has changed"):
        TokenStore.open(folder).verify()
    folder.delete(name)
    with pytest.raises(tokens.StoreError, match=f"{name}: is missing"):
        TokenStore.open(folder)
    folder.write_bytes("manifest.json", b'{"name": "s"}')
    with pytest.raises(tokens.StoreError, match="is not a manifest"):
        TokenStore.open(folder)


def test_a_stage_does_not_train_on_a_damaged_store(tmp_path):
    folder = Folder(str(tmp_path))
    store = write_store(folder, [[1, 2, 3, 0]] * 10, None, 2, 100)
    sources = [SourceSlice("s", "text", folder.uri, 10, 0, planned=(3,))]
    settings = SimpleNamespace(packing="concatenate", responses_only=False)
    job = SimpleNamespace(sources=sources, stage=settings, scaling=Scaling())
    assert stage.open_stores(job)[0].manifest == store.manifest
    data = folder.read_bytes("tokens-00001.arrow")
    folder.write_bytes("tokens-00001.arrow", data[:200] + bytes([data[200] ^ 1]) + data[201:])
    with pytest.raises(tokens.StoreError, match=r"tokens-00001.arrow: has changed.*make this token store again"):
        stage.open_stores(job)


# -------------------------------------------------------------------------------------------------------- preparing


def test_a_store_holds_every_document_once_in_an_order_of_its_own(tmp_path, text_source, trained):
    store = make(text_source, trained, Folder(str(tmp_path / "store")))
    manifest = store.manifest
    assert manifest.skipped == {"broken JSON": 1, "null": 1}
    assert manifest.num_documents == len(TEXTS)
    assert manifest.num_bytes == sum(len(text.encode()) for text in TEXTS)
    text = open_tokenizer(trained.folder).decode(all_tokens(store).tolist(), skip_special_tokens=False)
    found = text.split(END_OF_TEXT)[:-1]
    assert sorted(found) == sorted(TEXTS) and found != TEXTS
    store.verify()
    other = make(text_source, trained, Folder(str(tmp_path / "other")), seed=1)
    assert sorted(all_tokens(other)) == sorted(all_tokens(store))
    assert all_tokens(other).tolist() != all_tokens(store).tolist()


def test_a_finished_store_is_reused_and_a_damaged_or_half_written_one_made_again(tmp_path, text_source, trained):
    folder, said = Folder(str(tmp_path / "store")), []
    inputs = source_fingerprint(text_source)
    again = lambda: prepare_store("t", text_source, inputs, trained.folder, "print", 0, folder, said.append)  # noqa: E731
    again()
    whole = files(folder)
    again()
    assert [progress.state for progress in said] == ["running", "done", "reused"]
    for damage in ("manifest.json", "tokens-00000.arrow"):
        (tmp_path / "store" / damage).unlink()
        again()
        assert files(folder) == whole
    data = bytearray(whole["tokens-00000.arrow"])
    data[len(data) // 2] ^= 0xFF  # the same length
    (tmp_path / "store" / "tokens-00000.arrow").write_bytes(data)
    again()
    assert files(folder) == whole and said[-1].state == "done"
    stale = tmp_path / "store" / ".tokens-00000.arrow.killed"
    stale.write_bytes(b"half")
    os.utime(stale, (0, 0))
    (tmp_path / "store" / "manifest.json").unlink()
    again()
    assert files(folder) == whole


def test_a_full_disk_is_said_and_leaves_no_finished_store(tmp_path, text_source, trained, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder = Folder(str(tmp_path / "store"))
    monkeypatch.setattr("raycodellm.files.os.fsync", full)
    with pytest.raises(OSError, match=r"store/tokens-00000.arrow: cannot be written .* No space left on device"):
        make(text_source, trained, folder)
    assert folder.list() == []


MAKE = """
import os, signal, sys
from raycodellm.tokens import prepare_store, sizes
from raycodellm.config import Source
from raycodellm.corpora import source_fingerprint
from raycodellm.files import Folder
from raycodellm.records import SourceSlice

texts, tokenizer, target = sys.argv[1:4]
def make():
    source = Source(kind="text", path=texts)
    return prepare_store("t", source, source_fingerprint(source), Folder(tokenizer), "print", 0, Folder(target))
"""


def start(code: str, text_source: Source, trained: TokenizerInfo, target: Path, *more: str) -> subprocess.Popen:
    arguments = [sys.executable, "-c", MAKE + code, str(text_source.path), trained.folder.uri, str(target), *more]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(  # the first is of the tokens, the second of the documents' lengths, the last of the manifest
    ("call", "number"),
    [
        ("replace", 3),
        *(
            pytest.param(call, number, marks=pytest.mark.slow)
            for call, number in (("fsync", 1), ("fsync", 2), ("fsync", 3), ("replace", 1), ("replace", 2))
        ),
    ],
)
def test_a_writer_that_is_killed_leaves_nothing_that_looks_finished(tmp_path, text_source, trained, call, number):
    code = f"""
count, real = 0, os.{call}
def killed(*arguments):
    global count
    count += 1
    if count == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
os.{call} = killed
make()
"""
    process = start(code, text_source, trained, tmp_path / "store")
    process.communicate(timeout=500)
    assert process.returncode == -9
    with pytest.raises(FileNotFoundError):
        TokenStore.open(str(tmp_path / "store"))
    store = make(text_source, trained, Folder(str(tmp_path / "store")), "t")
    store.verify()
    whole = make(text_source, trained, Folder(str(tmp_path / "whole")), "t")
    left = {name: data for name, data in files(store.folder).items() if not name.startswith(".")}
    assert left == files(whole.folder)


@pytest.mark.slow
def test_a_store_that_the_disk_cannot_hold_is_an_error_and_not_a_store(tmp_path, text_source, trained):
    code = """
import resource
sys.dont_write_bytecode = True  # Python would keep the first 5,000 bytes of it, and no later process could import that
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    make()
except OSError as error:
    print(error)
"""
    out, err = start(code, text_source, trained, tmp_path / "store").communicate(timeout=500)
    assert "store/tokens-00000.arrow: cannot be written" in out and "File too large" in out, err
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.slow
def test_writers_of_one_store_at_once_do_not_disturb_each_other(tmp_path, text_source, trained):
    code = "print(make().manifest.num_tokens)"
    writers = [start(code, text_source, trained, tmp_path / "store") for _ in range(3)]
    said = {writer.communicate(timeout=500)[0] for writer in writers}
    store = TokenStore.open(str(tmp_path / "store"))
    store.verify()
    assert said == {f"{store.num_tokens}\n"}
    assert files(store.folder) == files(make(text_source, trained, Folder(str(tmp_path / "whole")), "t").folder)


@pytest.mark.slow
def test_one_document_of_100_megabytes_takes_a_few_times_its_size(tmp_path, trained):
    import pyarrow.parquet as pq

    text = "".join(f"line {i % 1000}: the quick brown fox\n" for i in range(3_400_000))
    assert len(text) > 100_000_000
    pq.write_table(pa.table({"text": [text, "short"]}), tmp_path / "long.parquet")
    expected = (len(text) + 5, len(one_by_one(trained, [text[:100_000]])[0]))
    code = """
import pathlib
store = make()
# Not the maximum that getrusage tells: it begins with that of the process that started this one.
(peak,) = (line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(store.manifest.num_documents, store.manifest.num_bytes, store.num_tokens, len(store.manifest.shards),
      int(peak.split()[1]) * 1024)
"""
    # Read and tokenised in one process, whatever its size: what one task of a cluster needs.
    code = "sizes.IN_PROCESS_BYTES = sizes.SHARD_BYTES = 1 << 40" + code
    source = Source(kind="text", path=str(tmp_path / "long.parquet"))
    out, err = start(code, source, trained, tmp_path / "store").communicate(timeout=500)
    assert out, err
    documents, num_bytes, num_tokens, shards, peak = map(int, out.split())
    assert (documents, num_bytes, shards) == (2, expected[0], 1)
    assert num_tokens == pytest.approx(expected[1] * len(text) / 100_000, rel=0.1)
    assert peak < 12 * len(text), f"{peak / 1e6:.0f} MB"


def test_a_source_without_a_document_is_refused_with_its_counts(tmp_path, trained):
    (tmp_path / "a.jsonl").write_text('{"content": "x", "id": 1}\n' * 3 + "{broken\n")
    folder = Folder(str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"no column 'text': 3.*columns found: content, id"):
        make(Source(kind="text", path=str(tmp_path / "a.jsonl")), trained, folder)
    assert not folder.exists("manifest.json")


def test_limited_documents_are_an_even_sample(tmp_path, text_source, trained):
    limited = text_source.model_copy(update={"limit_documents": 50})
    store = make(limited, trained, Folder(str(tmp_path / "limited")))
    assert store.manifest.num_documents == 50
    assert store.manifest.skipped["over limit_documents"] == len(TEXTS) - 50
    whole = make(text_source, trained, Folder(str(tmp_path / "whole")))
    # The limit takes the first of the shuffled documents, so the larger store begins with the smaller.
    assert all_tokens(whole)[: store.manifest.num_tokens].tolist() == all_tokens(store).tolist()
    sweep = sweep_of({"a": limited.model_dump()})
    estimate = inspect(sweep, Folder(str(tmp_path)))["a"]
    assert estimate.is_estimate and estimate.num_bytes == pytest.approx(store.manifest.num_bytes, rel=0.05)
    more = text_source.model_copy(update={"limit_documents": 5000})
    assert make(more, trained, Folder(str(tmp_path / "more"))).manifest.num_documents == len(TEXTS)


def sweep_of(sources: dict[str, dict], **tokenizer: object) -> Sweep:
    stage = {
        "name": "pretrain",
        "tokens": 640,
        "sequence_length": 64,
        "batch_tokens": 64,
        "learning_rate": {"peak": 1e-3},
    }
    first = next(iter(sources))
    return Sweep.model_validate(
        {
            "name": "s",
            "model": {"preset": "tiny"},
            "tokenizer": tokenizer or {"train": {"vocab_size": 400, "sample_bytes": 50_000}},
            "sources": sources,
            "stages": [{**stage, "sources": [first], "weights": {first: 1.0}}],
            "evaluation": {"tasks": ["boxes"]},
            "search": {"trials": 1},
        }
    )


def test_a_damaged_tokenizer_is_made_again(tmp_path, text_source):
    sweep, storage = sweep_of({"a": {"kind": "text", "path": text_source.path}}), Folder(str(tmp_path / "storage"))
    folder = prepare(sweep, storage).tokenizer_folder
    whole = files(folder)
    for name, change in (("tokenizer.json", lambda data: data.replace(b"q", b"x", 1)), (DONE, lambda data: data[:9])):
        folder.write_bytes(name, change(whole[name]))
        prepare(sweep, storage)
        assert files(folder) == whole


def test_a_sweep_is_prepared_once_and_inspected_without_reading(tmp_path, text_source):
    sweep = sweep_of({"a": text_source.model_dump(), "b": {**text_source.model_dump(), "kind": "code"}})
    storage, said = Folder(str(tmp_path / "storage")), []
    before = inspect(sweep, storage)
    stage = sweep.stages[0].model_copy(update={"sources": ("a", "b")})
    (shared,) = file_warnings(sweep.model_copy(update={"stages": (stage,)}), before)
    assert file_warnings(sweep, before) == []  # no stage draws from both
    assert shared.startswith("sources a and b share 1 file, such as ") and "the same documents twice" in shared
    overlapping = sweep_of({"a": {**text_source.model_dump(), "path": [str(text_source.path)] * 2}})
    (named_twice,) = file_warnings(overlapping, inspect(overlapping, storage))
    assert named_twice == "sources.a: files that two of its paths name: 1; each is read once"
    prepared = prepare(sweep, storage, said.append)
    after = inspect(sweep, storage)
    assert all(size.is_estimate for size in before.values()) and not any(size.is_estimate for size in after.values())
    assert {name: size.num_tokens for name, size in after.items()} == {
        name: store.manifest.num_tokens for name, store in prepared.stores.items()
    }
    assert list(prepared.stores) == ["a", "b"]
    assert prepared.vocab_size == 400
    assert prepared.tokenizer_folder.uri == f"{storage}/tokenizers/{prepared.tokenizer_fingerprint}"
    assert after["a"].folder == prepared.stores["a"].folder
    assert prepared.stores["a"].folder.uri.startswith(f"{storage}/tokens/a-")
    assert {progress.source for progress in said if progress.state == "done"} == {"tokenizer", "a", "b"}
    said.clear()
    again = prepare(sweep, storage, said.append)
    assert {progress.state for progress in said} == {"reused"}
    assert again.stores["a"].manifest == prepared.stores["a"].manifest
    changed = sweep.model_copy(update={"seed": 1})
    assert inspect(changed, storage)["a"].is_estimate


@pytest.mark.parametrize("ends", [UserError("sources.b: no text"), KeyboardInterrupt()])
def test_token_stores_in_work_are_given_up_where_another_fails_or_the_user_stops(ends: BaseException) -> None:
    reported: list[str] = []
    is_in_work, has_ended = threading.Event(), threading.Event()

    def make(name: str, report: Callable[[SourceProgress], None]) -> str:
        if name == "a":  # goes on for ever
            with contextlib.closing(SimpleNamespace(close=has_ended.set)):
                while True:
                    report(SourceProgress(name, "running"))
                    is_in_work.set()
                    time.sleep(0.001)
        assert is_in_work.wait(30)
        if isinstance(ends, KeyboardInterrupt):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            return name
        raise ends

    with pytest.raises(type(ends)):
        make_at_once(["a", "b"], make, lambda event: reported.append(event.source))
    assert has_ended.is_set() and set(reported) == {"a"}
    made = make_at_once(["a", "b"], lambda name, report: name.upper(), lambda event: None)
    assert list(made.items()) == [("a", "A"), ("b", "B")] and make_at_once([], make, reported.append) == {}


def test_a_source_that_cannot_be_found_is_named(tmp_path):
    sweep = sweep_of({"a": {"kind": "text", "path": str(tmp_path / "no.txt")}})
    with pytest.raises(UserError, match=r"sources.a: .*no.txt: there is no such file"):
        inspect(sweep, Folder(str(tmp_path)))


@pytest.mark.slow
def test_reading_a_store_imports_neither_ray_nor_transformers(tmp_path):
    write_store(Folder(str(tmp_path)), [[1, 2, 3, 0]] * 10, None, 1, 100)
    code = (
        "import sys; from raycodellm.tokens import TokenStore; import numpy as np;"
        f"TokenStore.open({str(tmp_path)!r}).read(np.arange(3), 4);"
        "print([m for m in ('ray', 'transformers', 'torch', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=True)
    assert done.stdout.strip() == "[]"


def test_skips_are_counted_once_in_however_many_tables_they_came(tmp_path, trained, text_source, monkeypatch):
    monkeypatch.setattr(tokenise, "TABLE_CHARACTERS", 3)
    rows = [Document("a", "one"), Skip("null"), Skip("empty"), Document("b", "two"), Skip("null", 3)]
    job = tokenise.TokeniseJob(text_source, trained, 0, 1, Folder(str(tmp_path)))
    some = [*tokenise.tokenised(rows[:3], job), *tokenise.tokenised(rows[3:], job)]
    assert len(some) == 2
    shard = write_shard(job.folder, 0, pa.concat_tables(some), token_dtype(400), False)
    assert shard.skipped == {"empty": 1, "null": 4}
    assert (shard.num_documents, shard.num_bytes) == (2, 6)


# ------------------------------------------------------------------------------------------------------------- Ray


@pytest.mark.slow
@pytest.mark.ray
def test_a_store_is_the_same_bytes_with_and_without_ray(ray_cluster, tmp_path, text_source, trained, monkeypatch):
    limited = text_source.model_copy(update={"limit_documents": 70})
    here = [make(source, trained, Folder(f"{tmp_path}/here{i}")) for i, source in enumerate((text_source, limited))]
    monkeypatch.setattr(sizes, "IN_PROCESS_BYTES", 0)
    monkeypatch.setattr("raycodellm.corpora.ray_reading.MIB", 1000)
    there = [make(source, trained, Folder(f"{tmp_path}/there{i}")) for i, source in enumerate((text_source, limited))]
    assert [files(store.folder) for store in there] == [files(store.folder) for store in here]


@pytest.mark.slow
@pytest.mark.ray
def test_many_shards_hold_the_order_of_one_and_a_failed_write_says_why(
    ray_cluster, tmp_path, text_source, trained, monkeypatch
):
    one = make(text_source, trained, Folder(str(tmp_path / "one")))
    monkeypatch.setattr(sizes, "SHARD_BYTES", 8000)
    monkeypatch.setattr("raycodellm.corpora.ray_reading.MIB", 1000)
    monkeypatch.setattr(tokenise, "_num_tasks", lambda: 7)
    many = make(text_source, trained, Folder(str(tmp_path / "many")))
    assert len(many.manifest.shards) == 5
    assert all_tokens(many).tolist() == all_tokens(one).tolist()
    assert many.manifest.skipped == one.manifest.skipped
    (tmp_path / "full" / "tokens-00002.arrow").mkdir(parents=True)
    with pytest.raises(OSError, match=r"^\[Errno 21\] \S*tokens-00002.arrow: cannot be written .*: Is a directory$"):
        make(text_source, trained, Folder(str(tmp_path / "full")))
    assert not (tmp_path / "full" / "manifest.json").exists()


def count_apart(folder: Path, tokenizer: Any) -> dict[str, tuple[int, int, int]]:
    """(documents, bytes, tokens) of the real data, counted without any of the package: from the files' own words."""

    def records(name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").split("\n") if line]

    def space_before(response: str) -> str:
        return response if response[:1].isspace() else " " + response

    texts = {"books": [path.read_text(encoding="utf-8").strip("\n") for path in sorted((folder / "text").iterdir())]}
    texts["math"] = [f"{one['question']}\n{one['answer']}" for one in records("math/gsm8k_train.jsonl")]
    texts["code"] = [
        f"User: {one['instruction']}{chr(10) * bool(one['input'])}{one['input']}\nAssistant: {one['response'].lstrip()}"
        for one in records("instruct/code_gpteacher.jsonl")
    ]
    texts["asks"] = [
        one["prompt"] + (one["completion"] if one["prompt"][-1].isspace() else space_before(one["completion"]))
        for one in records("instruct/text_t0.jsonl")
    ]
    found = {}
    for name, some in texts.items():
        encoded = [tokenizer.encode(text, add_special_tokens=False) for text in some]
        num_bytes = sum(len(text.encode()) for text in some)
        found[name] = (len(some), num_bytes, sum(len(one.ids) + 1 for one in encoded))
    return found


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.exhaustive  # `test_corpora.py` and `test_readers.py` read the real data in every run
def test_real_books_problems_and_instructions_become_stores(ray_cluster, tmp_path, test_data, monkeypatch):
    monkeypatch.setattr(sizes, "IN_PROCESS_BYTES", 6 << 20)  # so that some go through Ray and some do not
    paths = {
        "books": {"kind": "text", "path": str(test_data / "text")},
        "math": {"kind": "math", "path": str(test_data / "math"), "text_field": ["question", "answer"]},
        "code": {"kind": "instruct_code", "path": str(test_data / "instruct" / "code_gpteacher.jsonl")},
        "asks": {"kind": "instruct_text", "path": str(test_data / "instruct" / "text_t0.jsonl")},
    }
    sweep = sweep_of(paths, train={"vocab_size": 2048, "sample_bytes": 1_000_000})
    prepared = prepare(sweep, Folder(str(tmp_path)))
    stores = prepared.stores
    tokenizer = open_tokenizer(prepared.tokenizer_folder)
    expected = count_apart(test_data, tokenizer)
    assert [expected[name][0] for name in paths] == [7, 7473, 4535, 9208]
    for name, store in stores.items():
        store.verify()
        manifest = store.manifest
        assert manifest.skipped == {}
        assert (manifest.num_documents, manifest.num_bytes, manifest.num_tokens) == expected[name], name
        for packing in ("concatenate", "best_fit"):
            count = store.num_sequences(512, packing)
            cost = store.packing_report(512, packing)
            read, mask = store.read(np.arange(min(200, count)), 512, packing)
            assert read.max() < prepared.vocab_size
            assert cost.num_documents == manifest.num_documents and cost.num_sequences == count
            assert cost.dropped_tokens + count * 512 - cost.padded_tokens == manifest.num_tokens
            if packing == "concatenate":
                assert mask.all() == (not manifest.is_instruct)
    read, mask = stores["code"].read(np.array([0]), 512)
    response = tokenizer.decode(read[0][mask[0]].tolist(), skip_special_tokens=False)
    assert response.startswith(" ") and response.endswith(END_OF_TEXT)
    assert prepare(sweep, Folder(str(tmp_path))).stores["books"].manifest == stores["books"].manifest
