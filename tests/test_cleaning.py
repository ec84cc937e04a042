"""Cleaning leaves out what it was asked to, counts all of it, and does so the same way however a source is read."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycodellm import config
from raycodellm.config import Cleaning, NearDuplicates, Source, Take, Tokenizer, UserError
from raycodellm.corpora import (
    CleaningPlan,
    Document,
    Skip,
    benchmark_of,
    cleaned,
    source_fingerprint,
    too_short_warnings,
)
from raycodellm.corpora.cleaning import duplicates as duplicates_module
from raycodellm.corpora.cleaning.decision import SurveyResult, decide, not_taken, over_limit
from raycodellm.corpora.cleaning.duplicates import bands_and_rows, exact, near, signatures
from raycodellm.corpora.cleaning.plan import checks, cleaning_identity
from raycodellm.corpora.cleaning.survey import BATCH_DOCUMENTS, survey
from raycodellm.corpora.cleaning.words import Words, hash_words, runs, script_share, shingles, word_list
from raycodellm.files import Folder, fingerprint
from raycodellm.tokens import TokenStore, build_tokenizer, manifest, prepare_store, sizes, store_fingerprint, tokenise
from raycodellm.tokens.tokenizer import TokenizerInfo

WORDS = re.findall(
    r"\w+", "the of a model code learns reasoning from data that people wrote when they had time to think"
)


def text(seed: int, num_words: int = 60) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + str(rng.randrange(50)) for _ in range(num_words))


def clean(documents: list[Document], cuts: tuple[int, ...] = (), benchmark=None, **settings) -> tuple[list, Counter]:
    """(what stays, reason -> count) of documents that were read in units which end at `cuts`."""
    source = Source(kind="text", path="x", **settings)
    plan = CleaningPlan(source, 0, benchmark)
    bounds = [0, *sorted(cuts), len(documents)]
    units = [documents[start:stop] for start, stop in itertools.pairwise(bounds)]
    with SurveyResult() as gathered:
        for unit in random.Random(len(cuts)).sample(range(len(units)), len(units)):
            for stats in survey(iter(units[unit]), plan, unit):
                gathered.add(stats)
        decision = decide(plan, gathered)
    rows = [row for n, unit in enumerate(units) for row in cleaned(unit, decision.codes.get(n, b""), decision.reasons)]
    skips: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, Skip):
            skips[row.reason] += row.count
    return [row for row in rows if isinstance(row, Document)], skips


def numbered(texts: list[str], **meta) -> list[Document]:
    return [
        Document(f"a:{n}", one, meta={name: values[n] for name, values in meta.items()}) for n, one in enumerate(texts)
    ]


# ------------------------------------------------------------------------------------------------------ settings


def test_a_source_has_the_sweeps_cleaning_where_it_sets_nothing_else():
    default = Cleaning(min_characters=200, near_duplicates=True, decontaminate=13, script={"latin": 0.5})
    own = Cleaning(min_characters=10, near_duplicates=False, script=False)
    assert own.completed_by(default).active_settings() == {"min_characters": 10, "decontaminate": {"ngram": 13}}
    assert Cleaning().completed_by(default).active_settings() == default.active_settings()
    off = Cleaning(exact_duplicates=False, max_characters=0)
    assert Cleaning().completed_by(None).active_settings() == {} == off.active_settings()
    assert Cleaning(near_duplicates=0.7).near_duplicates == NearDuplicates(jaccard=0.7)
    assert Cleaning.model_validate(default.model_dump(mode="json", exclude_none=True)) == default


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cleaning: {min_characters: 9, max_characters: 3}", "min_characters 9 is over max_characters 3"),
        ("cleaning: {script: {latan: 0.8}}", "'latan' is no Unicode script; did you mean 'latin'"),
        ("cleaning: {exact_duplicate: true}", "sources.prose.cleaning.exact_duplicate: unknown key; did you mean"),
        ("cleaning: {near_duplicates: 1.5}", "sources.prose.cleaning.near_duplicates.jaccard: found 1.5"),
        ("cleaning: {licenses: [mit]}", "sources.prose.cleaning.licenses: needs license_field"),
        ("take: best 30 %", "found 'best 30 %'; say for example top 30 %"),
        ("take: {top: 0.3, bottom: 0.1}", "needs exactly one of top and bottom"),
        ("take: top 30 %", "take needs score_field"),
    ],
)
def test_a_mistake_is_said_with_what_would_work(sweep_text, line, said):
    wrong = sweep_text.replace("limit_documents: 200", f"limit_documents: 200, {line}")
    with pytest.raises(UserError) as caught:
        config.parse(wrong)
    assert said in str(caught.value)


def test_top_thirty_percent_may_be_said_in_words():
    said = [Source(kind="text", path="x", score_field="q", take=take).take for take in ("top 30 %", "Bottom 2.5%")]
    assert said == [Take(top=0.3), Take(bottom=0.025)]


def test_stores_without_cleaning_keep_their_fingerprint_and_all_settings_change_it(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    source = Source(kind="text", path=str(tmp_path / "a.jsonl"), license_field="l", score_field="q")
    inputs = source_fingerprint(source)
    bench = benchmark_of({"t": ["one two three four five six seven eight nine ten"]}, 13)
    same = [{}, {"cleaning": {}}, {"cleaning": {"near_duplicates": False, "script": False, "max_characters": 0}}]
    different = [
        {"cleaning": {"min_characters": 2}},
        {"cleaning": {"script": {"latin": 0.8}}},
        {"cleaning": {"exact_duplicates": True}},
        {"cleaning": {"near_duplicates": True}},
        {"cleaning": {"near_duplicates": 0.7}},
        {"cleaning": {"licenses": ["mit"]}},
        {"cleaning": {"paths": {"exclude": ["x"]}}},
        {"take": "top 30 %"},
        {"take": "bottom 30 %"},
    ]
    fields = {"kind": "text", "path": source.path, "license_field": "l", "score_field": "q"}

    def of(changed: dict, benchmark=None) -> str:
        return store_fingerprint(Source(**fields, **changed), inputs, "print", 0, benchmark)

    assert {of(changed) for changed in same} == {
        fingerprint([manifest.FORMAT_VERSION, sizes.SHARD_BYTES, "text", inputs.fingerprint, "print", 0])
    }
    asked = {"cleaning": {"decontaminate": True}}
    other = benchmark_of({"t": ["one two three four five six seven eight nine eleven"]}, 13)
    assert len({of(changed) for changed in [*same, *different]} | {of(asked, bench), of(asked, other)}) == 12


# -------------------------------------------------------------------------------------------------- each document


def test_documents_are_judged_by_length_script_license_path_and_score():
    documents = [
        Document("src/a.py", "x" * 50, meta={"path": "src/a.py", "l": "MIT", "q": 1}),
        Document("src/b.min.js", "x" * 50, meta={"path": "src/b.min.js", "l": "MIT", "q": 1}),
        Document("docs/c.py", "x" * 50, meta={"path": "docs/c.py", "l": "MIT", "q": 1}),
        Document("src/d.py", "x" * 50, meta={"path": "src/d.py", "l": None, "q": 1}),
        Document("src/e.py", "x" * 50, meta={"path": "src/e.py", "l": ["mit", "GPL-3.0-only"], "q": 1}),
        Document("src/f.py", "x" * 50, meta={"path": "src/f.py", "l": "GPL-3.0-only OR Apache-2.0", "q": 1}),
        Document("src/g.py", "short", meta={"path": "src/g.py", "l": "MIT", "q": 1}),
        Document("src/h.py", "x" * 5000, meta={"path": "src/h.py", "l": "MIT", "q": 1}),
        Document("src/i.py", "это по-русски " * 9, meta={"path": "src/i.py", "l": "MIT", "q": 1}),
        Document("src/j.py", "x" * 50, meta={"path": "src/j.py", "l": "MIT", "q": None}),
        Document("src/k.py", "x" * 50, meta={"path": "src/k.py", "l": "MIT", "q": "good"}),
        Document("src/l.py", "x" * 50, meta={"path": "src/l.py", "l": "MIT", "q": float("nan")}),
        Document("src/m.py", "x" * 50, meta={"path": "src/m.py", "l": "MIT", "q": 10**400}),
    ]
    kept, skips = clean(
        documents,
        license_field="l",
        score_field="q",
        take={"top": 1.0},
        cleaning={
            "paths": {"include": ["src/**"], "exclude": ["*.min.js"]},
            "licenses": ["mit", "apache-2.0"],
            "min_characters": 10,
            "max_characters": 1000,
            "script": {"Latin": 0.8},
        },
    )
    assert [document.id for document in kept] == ["src/a.py", "src/f.py"]
    assert skips == {
        "path not included": 1,
        "path excluded": 1,
        "no license": 1,
        "license not allowed": 1,
        "under 10 characters": 1,
        "over 1000 characters": 1,
        "under 80 % latin letters": 1,
        "no q": 1,
        "q is not a number": 3,
    }


@pytest.mark.parametrize(
    ("path", "pattern", "matches"),
    [
        ("a/tests/b.py", "tests", True),
        ("a/latest/b.py", "tests", False),
        ("a/b.min.js", "*.min.js", True),
        ("src/a/b.py", "src/**", True),
        ("lib/src/b.py", "src/**", False),
        ("lib/src/b.py", "**/src/*.py", True),
    ],
)
def test_globs_without_a_slash_match_at_any_depth(path, pattern, matches):
    source = Source(kind="code", path="x", cleaning={"paths": {"exclude": [pattern]}})
    ((_, test),) = checks(source)
    assert test(Document(path, "x", meta={"path": path})) == matches


def test_the_share_of_a_script_counts_letters_alone(monkeypatch):
    monkeypatch.setattr("raycodellm.corpora.cleaning.words.PIECE", 1 << 17)
    assert script_share("abc 123 !? абв", "latin") == 0.5
    assert script_share("1234 !?", "latin") == 0.0
    assert script_share("日本語のテキスト", "han") == 3 / 8
    assert script_share("é" * 300_000 + "я" * 100_000, "latin") == 0.75


# ----------------------------------------------------------------------------------------------------------- words


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=8), st.integers(1, 5))
def test_words_are_hashed_alike_alone_and_together(texts, size):
    words = hash_words(texts)
    for number, one in enumerate(texts):
        mine = words.hashes[words.offsets[number] : words.offsets[number + 1]]
        assert mine.tolist() == hash_words([one]).hashes.tolist()
        spelled = word_list(one)
        assert len(spelled) == len(mine) and len(set(spelled)) == len(set(mine.tolist()))
    hashes, offsets = shingles(words, size)
    for number, one in enumerate(texts):
        alone, _ = shingles(hash_words([one]), size)
        assert hashes[offsets[number] : offsets[number + 1]].tolist() == alone.tolist()
        assert len(alone) == (max(1, len(word_list(one)) - size + 1) if word_list(one) else 0)


def test_case_and_punctuation_do_not_matter_and_order_does():
    same = hash_words(['He said: "No, Sir!"', "he SAID no sir", "sir no said he"])
    first, second, third = (runs(Words(same.hashes[i * 4 : i * 4 + 4], np.array([0, 4])), 4).hashes for i in range(3))
    assert first == second != third


def test_a_text_longer_than_a_piece_has_the_words_of_its_pieces(monkeypatch):
    whole = hash_words([text(1, 500)]).hashes
    monkeypatch.setattr("raycodellm.corpora.cleaning.words.PIECE", 100)
    assert hash_words([text(1, 500)]).hashes.tolist() == whole.tolist()
    assert len(hash_words(["x" * 1000]).hashes) == 5  # a word without an end is cut, so that memory is bounded


# ------------------------------------------------------------------------------------------------------ duplicates


def test_of_equal_texts_the_first_stays():
    documents = numbered([text(n % 7) for n in range(30)])
    kept, skips = clean(documents, (11, 19), cleaning={"exact_duplicates": True})
    assert kept == documents[:7]
    assert skips == {"exact duplicate": 23}
    pair = [Document("a:0", "ab", "c"), Document("a:1", "a", "bc"), Document("a:2", "ab", "c")]
    assert clean(pair, cleaning={"exact_duplicates": True})[0] == pair[:2]


def changed(one: str, num_words: int, seed: int) -> str:
    words = one.split()
    for place in random.Random(seed).sample(range(len(words)), num_words):
        words[place] = f"other{seed}x{place}"
    return " ".join(words)


def jaccard(one: str, other: str, size: int = 5) -> float:
    sets = [{tuple(w[i : i + size]) for i in range(len(w) - size + 1)} for w in (word_list(one), word_list(other))]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_what_looks_alike_is_left_out_and_what_does_not_stays():
    originals = [text(n, 400) for n in range(60)]
    like = [changed(one, 3, n) for n, one in enumerate(originals)]
    unlike = [changed(one, 30, 1000 + n) for n, one in enumerate(originals)]
    assert min(jaccard(a, b) for a, b in zip(originals, like, strict=True)) > 0.9
    assert max(jaccard(a, b) for a, b in zip(originals, unlike, strict=True)) < 0.65
    documents = numbered([*originals, *unlike, *like])
    kept, skips = clean(documents, (50, 100), cleaning={"near_duplicates": True})
    assert kept == documents[:120]
    assert skips == {"near duplicate": 60}
    assert len(clean(documents, cleaning={"near_duplicates": 0.3})[0]) == 60


def test_a_limit_keeps_the_documents_of_the_smallest_keys_in_however_many_groups_they_are_looked_at(monkeypatch):
    keys = np.random.default_rng(0).permutation(50).astype(np.uint64)
    is_left = keys % 7 != 0
    for size, limit in ((3, 10), (50, 10), (7, 1), (3, 100)):
        monkeypatch.setattr(duplicates_module, "GROUP_ROWS", size)
        kept = is_left & ~over_limit(keys, is_left, limit)
        assert sorted(keys[kept]) == sorted(keys[is_left])[:limit]


def test_likeness_is_estimated_and_found_as_the_formula_says():
    near_by = NearDuplicates(jaccard=0.8)
    assert bands_and_rows(0.8, 128) == (16, 8)
    bands, rows = bands_and_rows(0.8, 128)
    assert 1 - (1 - 0.8**rows) ** bands >= 0.9
    pairs = [(text(n, 300), changed(text(n, 300), 6, n)) for n in range(100)]
    true = np.array([jaccard(a, b) for a, b in pairs])
    _, sketches = signatures(hash_words([one for pair in pairs for one in pair]), near_by)
    estimated = duplicates_module._similarities(sketches, np.array([range(0, 200, 2), range(1, 200, 2)]))
    assert abs(np.mean(estimated - true)) < 0.01
    assert np.std(estimated - true) < 1.2 * np.sqrt(0.8 * 0.2 / 128)


def test_short_texts_and_texts_without_words_are_compared_as_a_whole_or_not_at_all():
    documents = numbered(["Yes, it is.", "yes it is", "yes it was", "!!!", "???", "…"])
    kept, _ = clean(documents, cleaning={"near_duplicates": True})
    assert [document.id for document in kept] == ["a:0", "a:2", "a:3", "a:4", "a:5"]


def test_clusters_go_through_others_and_groups_fit_into_memory(monkeypatch):
    positions = np.arange(8, dtype=np.uint64)
    column = np.array([5, 5, 7, 7, 9, 9, 5, 0], np.uint64)
    other = np.array([1, 2, 2, 3, 4, 5, 6, 0], np.uint64)
    sketches = np.zeros((8, 16), np.uint8)
    alive = np.ones(8, bool)
    whole = near([column, other], sketches, positions, alive, 0.8)
    assert sorted(whole) == [1, 2, 3, 5, 6]  # 0-1, 1-2 (the other band), 2-3, 4-5, 0-6
    monkeypatch.setattr(duplicates_module, "GROUP_ROWS", 2)
    assert sorted(near([column, other], sketches, positions, alive, 0.8)) == sorted(whole)
    low, high = np.array([3, 4, 3, 4, 3], np.uint64), np.array([1, 1, 1, 2, 1], np.uint64)
    assert sorted(exact(low, high, np.array([9, 1, 8, 2, 7], np.uint64))) == [0, 2]
    alive[0] = False
    assert 0 not in near([column], sketches, positions, alive, 0.8)


# --------------------------------------------------------------------------------------------------- contamination

QUESTION = "There are three boxes on the table and the red one holds the key to the old garden gate"


def test_documents_with_words_of_an_item_are_left_out_and_written_down():
    bench = benchmark_of(
        {"boxes": [QUESTION + " Yes", "No"], "gates": ["Open the garden gate at nine o'clock, please"]}, 13
    )
    assert bench.num_too_short == (1, 0)
    documents = numbered(
        [
            text(1),
            f"{text(2)} THERE are three boxes -- on the table; and the red one holds the key. {text(3)}",
            "three boxes on the table and the red one holds the wine",
            "We open the garden gate at nine o clock please. " + QUESTION,
            "open the garden gate at nine",
        ]
    )
    source = Source(kind="text", path="x", cleaning={"decontaminate": True})
    plan = CleaningPlan(source, 0, bench)
    with SurveyResult() as gathered:
        for stats in survey(documents, plan):
            gathered.add(stats)
        decision = decide(plan, gathered)
    assert [code != 0 for code in decision.codes[0]] == [False, True, False, True, False]
    tasks = decision.findings["tasks"]
    assert tasks["boxes"]["documents"] == 2 and tasks["gates"]["documents"] == 1
    assert tasks["boxes"]["items_too_short"] == 1
    assert tasks["boxes"]["examples"][0] == {
        "document": "a:1",
        "words": "there are three boxes on the table and the red one holds the",
    }
    assert tasks["gates"]["examples"][0]["words"] == "open the garden gate at nine o clock please"


GAOKAO = "下列关于中国古代史的说法，不正确的是哪一项？商鞅变法在秦国推行。"
"""A text of 29 characters in three clauses."""


def test_in_scripts_without_spaces_each_letter_is_a_word():
    assert word_list("使用Python3编写，第10章") == ["使", "用", "python3", "编", "写", "第", "10", "章"]
    assert word_list("コーヒー ง่าย Café, wörld's 한국어") == [
        *("コ", "ー", "ヒ", "ー", "ง่", "า", "ย", "café", "wörld", "s", "한국어"),
    ]


@given(st.lists(st.text(alphabet="ab1 ,中文\u0301\u0e48กคーカ.", max_size=12), max_size=4))
def test_words_of_mixed_scripts_are_the_same_alone_and_together(texts):
    together = hash_words(texts)
    for number, one in enumerate(texts):
        mine = together.hashes[together.offsets[number] : together.offsets[number + 1]]
        assert mine.tolist() == hash_words([one]).hashes.tolist() and len(mine) == len(word_list(one))
        assert "".join(word_list(one)) == one.translate(dict.fromkeys(map(ord, " ,.")))


def test_chinese_items_are_found_and_near_duplicates_are_compared_by_letters():
    bench = benchmark_of({"gaokao": [GAOKAO, "正确的是甲"]}, 13)
    assert bench.num_too_short == (1,)
    quoting = f"前面的文字。{GAOKAO[3:20]}后面还有别的文字"
    assert clean(
        [Document("a", quoting), Document("b", "中国古代史很长")], benchmark=bench, cleaning={"decontaminate": True}
    ) == (
        [Document("b", "中国古代史很长")],
        {"words of an evaluation item": 1},
    )
    long = "今天我们学习怎样用计算机处理文字其中每个字都算作一个词" * 3 + "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥"
    kept, skips = clean(
        numbered([long, long[:50] + "换" + long[51:], "完全不同的一段话"]), cleaning={"near_duplicates": 0.7}
    )
    assert len(kept) == 2 and skips == {"near duplicate": 1}


def test_a_task_of_which_a_tenth_cannot_be_looked_for_is_warned_of():
    bench = benchmark_of({"short": ["No"] * 2 + [QUESTION] * 8, "long": ["No"] + [QUESTION] * 9}, 13)
    assert too_short_warnings(bench) == [
        "decontaminate: 2 of 10 items of short have under 8 words and are not looked for"
    ]


def test_a_document_that_holds_an_item_never_stands_for_its_clean_duplicates():
    bench = benchmark_of({"boxes": [QUESTION]}, 13)
    base = text(5, 600)
    documents = numbered([f"{base} {QUESTION}", base])
    kept, skips = clean(documents, benchmark=bench, cleaning={"decontaminate": True, "near_duplicates": 0.7})
    assert kept == documents[1:]
    assert skips == {"words of an evaluation item": 1}


# ------------------------------------------------------------------------------------------------- take and limit


def test_the_best_are_taken_until_their_share_of_the_bytes_is_reached():
    sizes, positions = np.array([10, 20, 30, 40]), np.arange(4, dtype=np.uint64)
    scores = np.array([0.5, 0.9, 0.5, 0.1])
    assert not_taken(scores, sizes, positions, Take(top=0.2)).tolist() == [0, 2, 3]
    assert not_taken(scores, sizes, positions, Take(top=0.3)).tolist() == [2, 3]  # equal scores in the source's order
    assert not_taken(scores, sizes, positions, Take(top=0.31)).tolist() == [3]
    assert not_taken(scores, sizes, positions, Take(bottom=0.4)).tolist() == [0, 2, 1]
    assert not_taken(scores, sizes, positions, Take(top=1.0)).tolist() == []


def test_take_comes_after_duplicates_and_before_the_limit():
    documents = numbered([text(1), text(1), text(2), text(3), text(4)], q=[9, 9, 8, 1, 2])
    kept, skips = clean(documents, cleaning={"exact_duplicates": True}, score_field="q", take="top 45 %")
    assert kept == [documents[0], documents[2]]
    assert skips == {"exact duplicate": 1, "not in the top 45 % by q": 2}
    kept, skips = clean(documents, score_field="q", take="top 45 %", limit_documents=2)
    assert len(kept) == 2 and skips == {"not in the top 45 % by q": 2, "over limit_documents": 1}


# ----------------------------------------------------------------------------------------------------- properties

SOME = st.lists(
    st.tuples(
        st.sampled_from(["", "a b c d e f g", "a b c d e f h", QUESTION, "привет " * 9, "x" * 30]), st.integers(0, 3)
    ),
    max_size=25,
)


@given(SOME, st.lists(st.integers(0, 25), max_size=4), st.integers(1, 6))
def test_counts_add_up_and_no_cut_changes_what_stays(texts, cuts, batch):
    documents = numbered([one * (1 + q) + str(q) for one, q in texts], q=[q or None for _, q in texts])
    settings = {
        "cleaning": {
            "min_characters": 3,
            "exact_duplicates": True,
            "near_duplicates": 0.5,
            "script": {"latin": 0.5},
            "decontaminate": True,
        },
        "score_field": "q",
        "take": "top 60 %",
        "limit_documents": 3,
        "benchmark": benchmark_of({"boxes": [QUESTION]}, 13),
    }
    kept, skips = clean(documents, **settings)
    assert len(kept) + skips.total() == len(documents)
    assert len(kept) <= 3 and len({document.text for document in kept}) == len(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raycodellm.corpora.cleaning.survey.BATCH_DOCUMENTS", batch)
        assert clean(documents, tuple(min(cut, len(documents)) for cut in cuts), **settings) == (kept, skips)
    assert batch < BATCH_DOCUMENTS


def test_a_source_that_changes_between_its_two_readings_is_an_error():
    documents = numbered(["a", "b"])
    for codes in (b"\0", b"\0\0\0"):
        with pytest.raises(RuntimeError, match=r"2 documents were read, and [13] before"):
            list(cleaned(documents, codes, ("x",)))


# ---------------------------------------------------------------------------------------------------------- stores


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TokenizerInfo:
    folder = Folder(str(tmp_path_factory.mktemp("tokenizer")))
    return build_tokenizer(Tokenizer(train={"vocab_size": 400}), [text(n) for n in range(50)], folder)


CLEANING = {
    "min_characters": 100,
    "exact_duplicates": True,
    "near_duplicates": True,
    "decontaminate": True,
    "script": {"latin": 0.5},
}


@pytest.fixture
def dirty(tmp_path) -> Source:
    """Documents of every sort, in two files."""
    texts = [text(n, 80) for n in range(150)]
    rows = [*texts, *texts[:20], *(changed(one, 1, n) for n, one in enumerate(texts[20:40])), "short", "я" * 300]
    rows += [f"{text(900, 80)} {QUESTION} {text(901, 80)}"]
    random.Random(0).shuffle(rows)
    lines = [json.dumps({"text": one, "q": random.Random(one).random()}) + "\n" for one in rows]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jsonl").write_text("".join(lines[:100]) + "{broken\n")
    (tmp_path / "d" / "b.jsonl").write_text("".join(lines[100:]))
    return Source(kind="text", path=str(tmp_path / "d"), cleaning=CLEANING, score_field="q")


def make(source: Source, trained: TokenizerInfo, folder: Folder) -> TokenStore:
    bench = benchmark_of({"boxes": [QUESTION]}, 13)
    return prepare_store("d", source, source_fingerprint(source), trained.folder, "print", 0, folder, None, bench)


def files(folder: Folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder.uri).iterdir())}


def test_a_cleaned_store_says_what_it_left_out(tmp_path, dirty, trained):
    manifest = make(dirty, trained, Folder(f"{tmp_path}/store")).manifest
    assert manifest.num_documents == 150
    assert manifest.skipped == {
        "broken JSON": 1,
        "exact duplicate": 20,
        "near duplicate": 20,
        "under 100 characters": 1,
        "under 50 % latin letters": 1,
        "words of an evaluation item": 1,
    }
    assert sum(manifest.skipped.values()) + manifest.num_documents == 194
    assert manifest.skipped_bytes["under 100 characters"] == 5
    assert manifest.skipped_bytes["under 50 % latin letters"] == 600
    assert "broken JSON" not in manifest.skipped_bytes
    whole = make(dirty.model_copy(update={"cleaning": None}), trained, Folder(f"{tmp_path}/whole")).manifest
    assert whole.num_bytes == manifest.num_bytes + sum(manifest.skipped_bytes.values())
    found = json.loads((tmp_path / "store" / "contamination.json").read_text())
    assert found["tasks"]["boxes"]["documents"] == 1
    assert not (tmp_path / "whole" / "contamination.json").exists()


def test_a_source_of_which_nothing_is_left_is_refused_with_the_reasons(tmp_path, dirty, trained):
    nothing = dirty.model_copy(update={"cleaning": Cleaning(min_characters=100_000)})
    with pytest.raises(UserError, match=r"sources.d: .*under 100000 characters: 193"):
        make(nothing, trained, Folder(f"{tmp_path}/store"))


@pytest.mark.slow
@pytest.mark.ray
def test_a_cleaned_store_is_the_same_bytes_with_and_without_ray(ray_cluster, tmp_path, dirty, trained, monkeypatch):
    taken = dirty.model_copy(update={"take": Take(top=0.4), "limit_documents": 40})
    here = [make(source, trained, Folder(f"{tmp_path}/here{i}")) for i, source in enumerate((dirty, taken))]
    assert here[1].manifest.num_documents == 40
    monkeypatch.setattr(sizes, "IN_PROCESS_BYTES", 0)
    monkeypatch.setattr("raycodellm.corpora.ray_reading.MIB", 1000)
    for num_tasks in (3, 8):
        monkeypatch.setattr(tokenise, "_num_tasks", lambda num=num_tasks: num)
        for i, source in enumerate((dirty, taken)):
            store = make(source, trained, Folder(f"{tmp_path}/there{num_tasks}{i}"))
            assert files(store.folder) == files(here[i].folder)


def test_settings_that_do_nothing_have_no_identity():
    assert cleaning_identity(Source(kind="text", path="x", cleaning={"exact_duplicates": False}), None) is None
