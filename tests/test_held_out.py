"""Held out are whole documents from all over a source: each is measured or trained on, never both."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_packing import split_after
from test_stage_store import chain
from test_tokens import DOCUMENTS, write_store

from raycodellm import check
from raycodellm.check.tables import sources
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.stage import World, open_stores
from raycodellm.stage.held_out import HeldOut
from raycodellm.tokens import Reading, SourceSize
from raycodellm.tokens.documents import LARGEST_SHARE, choose_held_out

HELD = "held_out={tokens: 1000}"
SAME = ("instruct.responses_only=false", "instruct.weights=null", "instruct.code_ratio=0.25")


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=80), st.integers(1, 5000))
def test_about_as_many_tokens_as_asked_for_are_held_out_in_whole_documents(sizes, asked):
    sizes = np.array(sizes)
    held = choose_held_out(sizes, asked)
    total = int(sizes[held].sum())
    assert total >= min(asked, sizes.sum()) and held.any()
    # Without the one that was taken last there are too few.
    assert total - sizes[held][0] < asked
    if sizes[sizes <= asked // LARGEST_SHARE].sum() >= 2 * asked:
        assert sizes[held].max() <= asked // LARGEST_SHARE


@pytest.mark.parametrize("place", [0, 150, 299])
def test_one_freak_document_is_passed_over_wherever_it_stands(place):
    sizes = np.full(300, 400)
    sizes[place] = 100_000  # nearly half of the source
    held = choose_held_out(sizes, 8_000)
    assert not held[place] and held.sum() == 20


def test_a_source_of_a_few_books_gives_its_shortest():
    sizes = np.array([150_000, 500_000, 300_000, 420_000])
    assert choose_held_out(sizes, 50_000).tolist() == [True, False, False, False]


def pieces(rows: np.ndarray, mask: np.ndarray) -> Counter:
    """How often each document stands whole in rows of whole documents."""
    kept = [row[inside].tolist() for row, inside in zip(rows, mask, strict=True)]
    return Counter(tuple(piece) for row in kept for piece in split_after(row, 0))


@given(DOCUMENTS, st.integers(1, 3), st.integers(1, 50), st.integers(2, 30), st.integers(1, 200))
def test_a_document_is_trained_on_or_measured_by_sequences_of_any_length(
    tmp_path_factory, documents, shards, batch, length, asked
):
    store = write_store(Folder(str(tmp_path_factory.mktemp("s"))), documents, None, shards, batch)
    held = choose_held_out(np.array([len(document) for document in documents]), asked)
    for measured in (False, True):
        stream = [t for document, apart in zip(documents, held, strict=True) if apart == measured for t in document]
        reading = Reading("concatenate", asked, measured)
        count = store.num_sequences(length, reading)
        assert count == len(stream) // length
        assert store.held_out(asked) == len(stream) or not measured
        order = np.random.default_rng(0).permutation(count)
        read, mask = store.read(order, length, reading)
        assert mask.all() and read[np.argsort(order)].ravel().tolist() == stream[: count * length]
        with pytest.raises(IndexError):
            store.read(np.array([count]), length, reading)
    both = [store.packed(Reading("best_fit", asked, measured)) for measured in (False, True)]
    found = [pieces(*part.read(np.arange(part.num_sequences(30)), 30)) for part in both]
    for part, measured in zip(found, (False, True), strict=True):
        chosen = [tuple(document) for document, apart in zip(documents, held, strict=True) if apart == measured]
        assert part == Counter(chosen)


@given(DOCUMENTS, st.integers(1, 100), st.sampled_from(["concatenate", "best_fit"]))
def test_an_example_is_trained_on_or_measured_with_its_prompt(tmp_path_factory, documents, asked, packing):
    prompts = [len(document) // 2 for document in documents]
    store = write_store(Folder(str(tmp_path_factory.mktemp("s"))), documents, prompts, 2, 100)
    held = choose_held_out(np.array([len(document) for document in documents]), asked)
    for measured in (False, True):
        part = store.packed(Reading(packing, asked, measured))
        _, mask = part.read(np.arange(part.num_sequences(25)), 25)
        chosen = [len(d) - len(d) // 2 for d, apart in zip(documents, held, strict=True) if apart == measured]
        assert int(mask.sum()) == sum(chosen)


def test_stages_of_two_lengths_hold_out_the_same_documents_and_measure_all_over_them(tmp_path, sweep_text):
    rng = np.random.default_rng(0)
    written = [[*(rng.integers(1, 399, size)).tolist(), 0] for size in rng.integers(20, 200, 300).tolist()]
    corpora = {name: write_store(Folder(f"{tmp_path}/{name}"), written, None, 2, 100) for name in ("prose", "python")}
    corpora["asks"] = write_store(Folder(f"{tmp_path}/asks"), written, [1] * len(written), 2, 100)
    jobs = chain(sweep_text, *SAME, f"pretrain.{HELD}", "instruct.held_out={tokens: 400}", corpora=corpora).stages
    for job in jobs:
        length, stores = job.stage.sequence_length, open_stores(job)
        for source, store in zip(job.sources, stores, strict=True):
            assert source.held_out_tokens == 1000
            assert (
                source.num_sequences
                == store.num_sequences(length) // source.shuffle_group_size * source.shuffle_group_size
            )
        measured = [store.measured() for store in pickle.loads(pickle.dumps(stores))]
        held = HeldOut(job, stores, World(), 4)
        index, sequence = held._own_sequences(measured, length)
        counts = [source.held_out_sequences for source in job.sources]
        assert counts == [{64: 1000, 256: 400}[length] // length] * 2
        assert np.bincount(index).tolist() == counts
        assert len(set(zip(index.tolist(), sequence.tolist(), strict=True))) == sum(counts)
        assert sequence.max() < measured[0].num_sequences(length)
    assert jobs[0].identity != chain(sweep_text, *SAME, corpora=corpora).stages[0].identity


def test_a_source_that_is_one_document_cannot_be_held_out(tmp_path, sweep_text):
    corpora = {name: write_store(Folder(f"{tmp_path}/{name}"), [[1] * 9_999 + [0]], None, 1, 100) for name in "ab"}
    names = {"prose": corpora["a"], "python": corpora["b"], "asks": corpora["b"]}
    said = r"pretrain\.held_out\.tokens: found 1000, .*10,000 of source 'prose'.*over half"
    with pytest.raises(UserError, match=said):
        chain(sweep_text, f"pretrain.{HELD}", corpora=names)


def test_check_counts_epochs_of_what_is_trained_on(sweep_text):
    names = ("prose", "python", "asks")
    corpora = {name: check.SizedCorpus(Folder(f"/tokens/{name}"), 100_000, name) for name in names}
    one = chain(sweep_text, "pretrain.held_out={tokens: 20_000}", corpora=corpora)
    assert [source.num_sequences for source in one.stages[0].sources] == [80_000 // 64] * 2
    sizes = {name: SourceSize(100_000, 400_000, True, corpus.folder) for name, corpus in corpora.items()}
    *_, prose, _, asks = (line.split() for line in sources(sizes, corpora, [one]))
    assert prose[-3:] == ["4,096", "0.05", "20,000"]  # 0.04 of all tokens, those held out included
    assert asks[-3:] == ["2,048", "0.02", "0"]
