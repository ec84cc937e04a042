"""Bits per byte are measured on text that no stage trains on: of the sweep's own sources, or of files."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_evaluation import write_model
from test_stage_store import chain, identities
from test_tokens import write_store

from raycodellm import config, evaluation
from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation import evaluate
from raycodellm.evaluation.texts.held_out import (
    PIECE_CHARACTERS,
    cut,
    dataset,
    file_texts,
    held_out_texts,
    texts_given,
    texts_of,
)
from raycodellm.files import Folder
from raycodellm.records import HeldOutSource
from raycodellm.stage_store.slices import EVALUATED_SHARE
from raycodellm.tokens import TokenStore
from raycodellm.tokens.tokenizer import open_tokenizer

MEASURED = "evaluation={suites: [offline, bpb]}"
TEXTS = [
    f"Text number {number} tells of {'sea and ' * (number % 30)}sand, ünïcode 漢字 too.\n" for number in range(300)
]

# ------------------------------------------------------------------------------------------------- what is asked


def test_the_suite_measures_every_plain_source_of_the_sweep_by_its_kind(sweep_text):
    settings = config.parse(sweep_text, overrides=(MEASURED,)).example().evaluation
    assert settings.texts.given() == {"prose": "held_out", "code": "held_out"}
    assert [name for name in evaluation.asked_tasks(settings) if "bpb" in name] == ["bpb_prose", "bpb_code"]
    assert evaluation.left_out_tasks(settings) == ("humaneval_bpb", "mbpp_bpb")

    files = config.parse(sweep_text, overrides=(MEASURED, "evaluation.texts={prose: book.txt, chinese: zh}")).example()
    assert files.evaluation.texts.given() == {"prose": "book.txt", "code": "held_out", "chinese": "zh"}
    alone = config.parse(sweep_text, overrides=("evaluation.tasks=[bpb_code]",)).example().evaluation
    assert alone.texts.given() == {"code": "held_out"}


def test_the_programs_of_data_sets_are_measured_where_their_data_is_given():
    settings = Evaluation(suites=("bpb",), data="/data")
    assert evaluation.asked_tasks(settings) == ("humaneval_bpb", "mbpp_bpb")
    assert evaluation.left_out_tasks(settings) == ()
    with pytest.raises(UserError, match=r"bpb has no task for these settings; give it text, such as texts: \{prose"):
        evaluation.asked_tasks(Evaluation(suites=("bpb",)))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("{markup: held_out}", r"evaluation\.texts\.markup: held_out, but no source is of kind markup"),
        ("{chinese: held_out}", r"evaluation\.texts\.chinese: held_out, but no kind of source says so"),
        ("{poems: a.txt}", r"evaluation\.texts\.poems"),
    ],
)
def test_a_domain_without_text_is_refused(sweep_text, texts, words):
    with pytest.raises(UserError, match=words):
        config.parse(sweep_text, overrides=(f"evaluation.texts={texts}",)).example()


def test_a_text_that_no_task_measures_is_named_and_refused_where_it_lies_nowhere(tmp_path):
    (tmp_path / "book.txt").write_text("A text.")
    settings = Evaluation(tasks=("bpb_prose",), texts={"prose": "nowhere", "math": str(tmp_path / "book.txt")})
    assert evaluation.unmeasured_texts(settings, {"bpb_prose"}) == ["math"]
    for path, said in (("book.txtt", "did you mean .*book.txt"), ("no/*.txt", "since there is no folder")):
        lost = Evaluation(tasks=("bpb_prose",), texts={"math": str(tmp_path / path)})
        with pytest.raises(UserError, match=rf"evaluation\.texts\.math: .*{said}"):
            evaluation.unmeasured_texts(lost, {"bpb_prose"})


# ------------------------------------------------------------------------------------------------- what is held out


def test_measured_documents_are_held_out_of_every_stage_of_each_source_and_no_others(sweep_text):
    plain, measured = chain(sweep_text), chain(sweep_text, MEASURED)
    assert {part.held_out_tokens for job in plain.stages for part in job.sources} == {0}
    asked = 100_000 // EVALUATED_SHARE
    for job in measured.stages:
        kept = {part.name: part.held_out_tokens for part in job.sources}
        assert kept == {name: asked if name in ("prose", "python") else 0 for name in kept}
    assert [(one.source, one.domain, one.num_tokens) for one in measured.evaluation.held_out] == [
        ("prose", "prose", asked),
        ("python", "code", asked),
    ]
    assert identities(sweep_text) != identities(sweep_text, MEASURED), "a model that trained on less is another one"
    assert plain.evaluation.held_out == ()


def test_a_stage_that_holds_out_more_decides_what_is_measured(sweep_text):
    held = chain(sweep_text, MEASURED, "pretrain.held_out={tokens: 12_000}").evaluation.held_out
    assert [one.num_tokens for one in held] == [12_000, 12_000]


def test_another_token_store_is_another_evaluation(sweep_text):
    from dataclasses import replace

    from test_stage_store import CORPORA

    other = {**CORPORA, "prose": replace(CORPORA["prose"], fingerprint="q")}
    one, two = (chain(sweep_text, MEASURED, corpora=corpora).evaluation for corpora in (CORPORA, other))
    assert one.identity != two.identity


# ------------------------------------------------------------------------------------------------- texts


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), context=32)


@pytest.fixture(scope="module")
def store(tmp_path_factory, model) -> TokenStore:
    """The texts as a token store, with the tokens of `model`."""
    tokenizer = open_tokenizer(Folder(str(model)))
    ids = [[*tokenizer.encode(text).ids, 0] for text in TEXTS]
    return write_store(Folder(str(tmp_path_factory.mktemp("store"))), ids, None, 3, 100)


def held_out(store, model, num_tokens=1500) -> HeldOutSource:
    return HeldOutSource("books", "prose", store.folder.uri, "f", str(model), num_tokens)


def test_a_document_is_measured_whole_or_trained_on(store, model):
    measured = list(held_out_texts(held_out(store, model)))
    assert len(measured) > 10 and Counter(measured) <= Counter(TEXTS)
    tokenizer, length = open_tokenizer(Folder(str(model))), 1
    reading = store.packed("concatenate").reading._replace(held_out_tokens=1500)
    rows, _ = store.read(list(range(store.num_sequences(length, reading))), length, reading)
    trained = tokenizer.decode(rows.ravel().tolist(), skip_special_tokens=False).split("<|endoftext|>")[:-1]
    assert Counter(trained) + Counter(measured) == Counter(TEXTS)


def test_held_out_documents_are_scored_whole_in_windows_with_their_exact_bytes(store, model, tmp_path):
    settings = Evaluation(tasks=("bpb_prose",), texts={"prose": "held_out"})
    got = evaluate(model, settings, held_out=[held_out(store, model)])
    texts = list(held_out_texts(held_out(store, model)))
    rows = got.items.to_pylist()
    assert [row["num_bytes"] for row in rows] == [len(text.encode()) for text in texts]
    assert not any(row["too_long"] for row in rows) and max(map(len, texts)) > 32 * 6
    assert {json.loads(row["attributes"])["part"] for row in rows} == {"books"}
    assert got.metrics["bpb_prose/bpb_low"] < got.metrics["bpb_prose/bpb"] < got.metrics["bpb_prose/bpb_high"]
    assert got.metrics["bpb_prose/bpb_books"] == pytest.approx(got.metrics["bpb_prose/bpb"])
    bits = sum(row["bits_per_byte"] * row["num_bytes"] for row in rows)
    total = sum(row["num_bytes"] for row in rows)
    assert got.metrics["bpb_prose/bpb_corpus"] == pytest.approx(bits / total)
    assert got.metrics["bpb_prose/bits_per_byte"] == pytest.approx(bits / total), "lm-eval's own aggregation"

    files = tmp_path / "held_out.jsonl"
    files.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    other = evaluate(model, Evaluation(suites=("bpb",), texts={"prose": str(files)}))
    assert other.items["bits_per_byte"].to_pylist() == got.items["bits_per_byte"].to_pylist()
    assert math.isfinite(other.metrics["mean/bpb"])


def test_files_of_a_domain_are_read_as_sources_are(tmp_path):
    (tmp_path / "a.txt").write_text("One document.\n")
    (tmp_path / "b.txt").write_text("Another one.\n")
    (tmp_path / "c.jsonl").write_text('{"text": "A third."}\n{"other": 1}\n')
    texts = texts_of(Evaluation(tasks=("bpb_prose",), texts={"prose": (f"{tmp_path}/*.txt", f"{tmp_path}/c.jsonl")}))
    with texts_given(texts):
        assert sorted(dataset("prose")["test"]["text"]) == ["A third.", "Another one.", "One document."]
    from_lm_eval = dataset("code", texts={"code": f"{tmp_path}/a.txt"}, version=1)
    assert from_lm_eval["test"]["text"] == ["One document."]
    with pytest.raises(UserError, match=r"'bpb_math' has no text of domain 'math'; .*texts: \{math: texts"):
        dataset("math")
    (tmp_path / "empty.jsonl").write_text('{"other": 1}\n')
    said = r"evaluation\.texts\.prose: .*empty\.jsonl holds no document: 1 .*columns found: other; call"
    with pytest.raises(UserError, match=said):
        list(file_texts("prose", f"{tmp_path}/empty.jsonl"))
    with pytest.raises(UserError, match=r"evaluation\.texts\.prose: .*nothing"):
        list(file_texts("prose", f"{tmp_path}/nothing"))


@given(st.text(alphabet="ab \n漢", max_size=60), st.integers(2, 9))
def test_a_long_text_is_cut_at_lines_and_words_and_nothing_is_lost(text, most):
    pieces = cut(text, most)
    assert "".join(pieces) == text and max(map(len, pieces)) <= most


def test_the_pieces_of_long_documents_come_by_turns_and_count_as_one_cluster(tmp_path):
    line = "A line of a book.\n"
    for name, lines in (("a", 4000), ("b", 6000), ("c", 1)):
        (tmp_path / f"{name}.txt").write_text(line * lines)
    with texts_given(texts_of(Evaluation(tasks=("bpb_prose",), texts={"prose": f"{tmp_path}/*.txt"}))):
        rows = dataset("prose")["test"].to_list()
    clusters = [json.loads(row["attributes"]).get("cluster") for row in rows]
    assert clusters == [0, 1, None, 0, 1, 0, 1, 1] and rows[0]["text"].endswith("book.\n")
    assert len(rows[0]["text"]) <= PIECE_CHARACTERS
    for number, lines in ((0, 4000), (1, 6000)):
        found = "".join(row["text"] for row, one in zip(rows, clusters, strict=True) if one == number)
        assert found == (line * lines).strip("\n")


def test_a_changed_file_is_another_task(tmp_path):
    file = tmp_path / "a.txt"
    contents = []
    for text in ("one", "two"):
        file.write_text(text)
        places = evaluation.Places.of(Evaluation(tasks=("bpb_prose",), texts={"prose": str(file)}))
        contents.append(evaluation.task_content("bpb_prose", places))
    assert contents[0] != contents[1] and str(tmp_path) not in json.dumps(contents)
