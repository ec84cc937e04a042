"""Packing keeps documents whole, says what it costs, and is worked out once."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_stage_store import chain, identities
from test_tokens import DOCUMENTS, write_store

from raycodellm.check import SizedCorpus
from raycodellm.config import Stage
from raycodellm.files import Folder
from raycodellm.records import StageJob
from raycodellm.stage import open_stores
from raycodellm.tokens import Reading, TokenStore
from raycodellm.tokens import store as stores
from raycodellm.tokens.packing import pack, report
from raycodellm.tokens.packing_file import file_name, read_packing

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=60)


def fill_one_by_one(sizes: list[int], length: int) -> list[int]:
    """Room left in each sequence by best-fit decreasing, as it is told in words."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - size)
        else:
            rooms.append(length - size)
    return sorted(rooms)


@given(SIZES, st.integers(2, 60))
def test_best_fit_is_that_of_one_document_after_the_other(sizes, length):
    packing = pack(np.array(sizes), length, "best_fit")
    pieces = [part for size in sizes for part in [length] * (size // length) + [size % length] * (size % length > 0)]
    used = np.add.reduceat(packing.size, packing.bounds[:-1])
    assert sorted(packing.size.tolist()) == sorted(pieces)
    assert sorted((length - used).tolist()) == fill_one_by_one(pieces, length)


@given(DOCUMENTS, st.integers(1, 3), st.integers(1, 50), st.integers(2, 30))
def test_documents_shorter_than_a_sequence_are_never_split(tmp_path_factory, documents, shards, batch, length):
    store = write_store(Folder(str(tmp_path_factory.mktemp("s"))), documents, None, shards, batch)
    packed = store.packed("best_fit")
    tokens, mask = packed.read(np.arange(packed.num_sequences(length)), length)
    rows = [row[: inside.sum()].tolist() for row, inside in zip(tokens, mask, strict=True)]
    assert all((~inside[inside.sum() :]).all() for inside in mask) and (tokens[~mask] == 0).all()
    assert sorted(token for row in rows for token in row) == sorted(token for one in documents for token in one)
    found = {tuple(piece) for row in rows for piece in split_after(row, 0)}
    for document in documents:
        if len(document) <= length:
            assert tuple(document) in found
        else:
            assert document[:length] in rows
    cost = store.packing_report(length, "best_fit")
    assert (cost.dropped_tokens, cost.padded_tokens) == (0, int((~mask).sum()))
    assert cost.split_documents == cost.long_documents == sum(len(document) > length for document in documents)
    assert cost.num_sequences * length - cost.padded_tokens == cost.num_tokens == store.num_tokens


def split_after(row: list[int], closing: int) -> list[list[int]]:
    ends = [place + 1 for place, token in enumerate(row) if token == closing]
    return [row[start:end] for start, end in zip([0, *ends], [*ends, len(row)], strict=True) if start < end]


@given(DOCUMENTS, st.integers(1, 30), st.sampled_from(["concatenate", "best_fit"]))
def test_examples_are_whole_in_either_packing_and_long_ones_are_counted(tmp_path_factory, documents, length, packing):
    prompts = [len(document) // 2 for document in documents]
    store = write_store(Folder(str(tmp_path_factory.mktemp("s"))), documents, prompts, 2, 100)
    cost = store.packing_report(length, packing)
    long = [document for document in documents if len(document) > length]
    assert (cost.dropped_documents, cost.dropped_tokens) == (len(long), sum(map(len, long)))
    assert cost.split_documents == 0 and cost.long_documents == len(long)
    assert cost.num_sequences == store.num_sequences(length, packing)
    tokens, mask = store.read(np.arange(cost.num_sequences), length, packing)
    assert int(mask.sum()) == sum(len(d) - len(d) // 2 for d in documents if len(d) <= length)
    found = sorted(tuple(piece) for row in tokens.tolist() for piece in split_after(row, 0) if piece != [0])
    assert found == sorted(tuple(document) for document in documents if len(document) <= length)


@given(DOCUMENTS, st.integers(1, 30))
def test_the_cost_of_concatenation_is_counted_exactly(tmp_path_factory, documents, length):
    store = write_store(Folder(str(tmp_path_factory.mktemp("s"))), documents, None, 2, 100)
    cost = store.packing_report(length)
    whole = store.num_sequences(length) * length
    ends = np.cumsum([len(document) for document in documents]).tolist()
    spans = [(end - len(document), end) for end, document in zip(ends, documents, strict=True)]
    inside = [(start, end) for start, end in spans if start < whole]
    assert cost.dropped_tokens == store.num_tokens - whole and cost.padded_tokens == 0
    assert cost.dropped_documents == len(spans) - len(inside)
    assert cost.split_documents == sum(start // length != (end - 1) // length for start, end in inside)
    assert f"{cost.split_documents:,} of {len(documents):,} documents split" in str(cost)


def test_a_million_documents_are_packed_in_seconds_and_best_fit_splits_fewer():
    sizes = np.random.default_rng(0).lognormal(6, 1.3, 1_000_000).astype(np.int64) + 2
    began = time.process_time()
    packing = pack(sizes, 2048, "best_fit")
    assert time.process_time() - began < 3
    best, ends = report(sizes, 2048, "best_fit", table=packing), report(sizes, 2048, "concatenate")
    assert best.padded_share < 0.001
    assert best.split_documents == best.long_documents < ends.split_documents / 3
    assert best.num_sequences < 1.001 * ends.num_sequences


def test_a_packed_remote_store_is_read_by_ranges(tmp_path, monkeypatch):
    documents = [[*np.random.default_rng(i).integers(1, 399, 7 + i % 40).tolist(), 0] for i in range(200)]
    local = write_store(Folder(str(tmp_path)), documents, None, 3, 64)
    order = np.random.default_rng(0).permutation(local.num_sequences(32, "best_fit"))
    expected = local.read(order, 32, "best_fit")
    monkeypatch.setattr(Folder, "_opened", local.folder._opened)
    remote = TokenStore.open(Folder("s3://bucket/store")).packed("best_fit")
    for found, want in zip(remote.read(order, 32), expected, strict=True):
        assert found.tolist() == want.tolist()


# ------------------------------------------------------------------------------------------------- kept on disk

SOME = [[*range(1, 2 + i % 30), 0] for i in range(300)]


def test_a_packing_is_worked_out_once_and_mapped_after_that(tmp_path, monkeypatch):
    store = write_store(Folder(str(tmp_path)), SOME, None, 2, 100)
    first = store.read(np.arange(10), 40, "best_fit")[0].tolist()
    assert (tmp_path / "packing-best_fit-40.arrow").is_file()

    def worked_out_again(*_: object) -> None:
        raise AssertionError("packed again")

    monkeypatch.setattr(stores, "pack", worked_out_again)
    again = TokenStore.open(store.folder)
    assert again.read(np.arange(10), 40, "best_fit")[0].tolist() == first
    assert not again._table(40, Reading("best_fit")).start.flags.writeable  # pages of the file, not a copy
    with pytest.raises(AssertionError, match="packed again"):
        again.num_sequences(41, "best_fit")


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage", "empty", "of another store", "of another shape"])
def test_a_damaged_packing_is_made_again(tmp_path, damage):
    store = write_store(Folder(str(tmp_path / "a")), SOME, None, 2, 100)
    other = write_store(Folder(str(tmp_path / "b")), SOME[:-1], None, 2, 100)
    name = file_name("best_fit", 40)
    expected = store.read(np.arange(10), 40, "best_fit")[0].tolist()
    other.num_sequences(40, "best_fit")
    whole = store.folder.read_bytes(name)
    middle = len(whole) // 2
    damaged = {
        "cut": whole[:-20],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :],
        "garbage": b"\0" * 500,
        "empty": b"",
        "of another store": other.folder.read_bytes(name),
        "of another shape": store.folder.read_bytes("tokens-00000.arrow"),
    }[damage]
    store.folder.write_bytes(name, damaged)
    again = TokenStore.open(store.folder)
    assert read_packing(store.folder, name, again._packing_fingerprint(40, Reading("best_fit"))) is None
    assert again.read(np.arange(10), 40, "best_fit")[0].tolist() == expected
    assert store.folder.read_bytes(name) == whole


def test_a_store_that_takes_no_file_is_packed_in_memory(tmp_path, monkeypatch):
    store = write_store(Folder(str(tmp_path)), SOME, None, 2, 100)

    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Folder, "write_bytes", refused)
    count = store.num_sequences(40, "best_fit")
    assert count == -(-sum(map(len, SOME)) // 40) and store.read(np.arange(count), 40, "best_fit")[1].sum() > 0
    assert not (tmp_path / "packing-best_fit-40.arrow").exists()


@pytest.mark.slow
def test_threads_and_processes_that_pack_at_once_agree(tmp_path):
    store = write_store(Folder(str(tmp_path)), SOME, None, 2, 100)
    code = (
        "import sys, numpy as np; from raycodellm.tokens import TokenStore;"
        "s = TokenStore.open(sys.argv[1]); print(s.read(np.arange(20), 40, 'best_fit')[0].sum())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    with ThreadPoolExecutor(4) as pool:
        sums = set(pool.map(lambda _: int(store.read(np.arange(20), 40, "best_fit")[0].sum()), range(8)))
    assert {int(process.communicate(timeout=500)[0]) for process in processes} == sums
    assert len(sums) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_open_store_is_found_again_in_the_same_process_until_it_is_made_again(tmp_path):
    store = write_store(Folder(str(tmp_path)), SOME, None, 2, 100)
    sent = pickle.dumps(store.packed("best_fit"))
    first, second = pickle.loads(sent), pickle.loads(sent)
    assert first.store is second.store and first.packing == "best_fit" and len(sent) < 600
    began = time.process_time()
    for _ in range(100):
        pickle.loads(sent).read(np.arange(20), 40)
    assert (time.process_time() - began) / 100 < 0.02  # seconds per read task
    write_store(Folder(str(tmp_path)), SOME[:50], None, 2, 100)
    third = pickle.loads(sent)
    assert third.store is not first.store and third.manifest.num_documents == 50
    assert third.num_sequences(40) < first.num_sequences(40)


# ---------------------------------------------------------------------------------------------- through a stage


def test_packing_is_part_of_a_stages_identity_only_where_it_is_not_the_default(sweep_text):
    plain = identities(sweep_text)
    said = identities(sweep_text, "stages.0.packing=concatenate")
    packed = identities(sweep_text, "stages.0.packing=best_fit")
    assert said == plain
    assert packed[0] != plain[0]
    with pytest.raises(ValidationError, match="best_fit"):
        Stage.model_validate({**chain(sweep_text).stages[0].stage.model_dump(), "packing": "worst_fit"})


@pytest.mark.parametrize(
    ("is_instruct", "packing", "number"), [(True, "concatenate", 1), (False, "best_fit", 1), (False, "concatenate", 0)]
)
def test_a_small_source_is_estimated_to_fill_a_sequence_where_the_rest_is_padding(is_instruct, packing, number):
    estimate = SizedCorpus(Folder("/none"), 100, "", is_instruct=is_instruct)  # no token store yet
    assert estimate.num_sequences(512, Reading(packing)) == number
    assert estimate.num_sequences(100, Reading(packing)) == 1


def test_a_stage_plans_and_reads_by_its_packing(tmp_path, sweep_text):
    folders = {name: Folder(str(tmp_path / name)) for name in SOURCES}
    made = {name: write_store(folder, SOME, None, 2, 100) for name, folder in folders.items() if name != "asks"}
    made["asks"] = write_store(folders["asks"], SOME, [1] * len(SOME), 2, 100)
    for packing in ("concatenate", "best_fit"):
        job = chain(sweep_text, f"stages.0.packing={packing}", corpora=made).stages[0]
        assert isinstance(job, StageJob) and job.stage.packing == packing
        for source, store in zip(job.sources, open_stores(job), strict=True):
            count = made[source.name].num_sequences(64, packing)
            assert source.num_sequences == store.num_sequences(64) == count
            _, mask = store.read(np.arange(count), 64)
            assert mask.all() == (packing == "concatenate")
            assert store.every_token_counts == (packing == "concatenate")


def test_prompts_count_in_the_loss_of_a_stage_that_is_not_of_responses_only(tmp_path, sweep_text):
    made = {name: write_store(Folder(f"{tmp_path}/{name}"), SOME, None, 2, 100) for name in ("prose", "python")}
    made["asks"] = write_store(Folder(f"{tmp_path}/asks"), SOME, [1] * len(SOME), 2, 100)
    counted = {}
    for only in ("true", "false"):
        override = f"instruct.responses_only={only}"
        job = chain(sweep_text, "instruct.sources=[asks]", override, corpora=made).stages[1]
        (store,) = open_stores(job)
        _, mask = store.read(np.arange(job.sources[0].num_sequences), job.stage.sequence_length)
        counted[only] = int(mask.sum())
    assert counted == {"true": sum(map(len, SOME)) - len(SOME), "false": sum(map(len, SOME))}


SOURCES = ("prose", "python", "asks")
