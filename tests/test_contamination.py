"""Items that a model was trained on are told from those that it never saw."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from test_evaluation import write_model
from worker_group import together

from raycodellm import evaluation, stage
from raycodellm.config import Evaluation, LearningRate, Model, Scaling, Source, Stage, Tokenizer
from raycodellm.corpora import item_runs, seen_in, source_fingerprint
from raycodellm.evaluation import contaminated_items, evaluate
from raycodellm.evaluation.texts.contamination import NotKnown
from raycodellm.evaluation.workers import Stopped, Workers
from raycodellm.files import Folder
from raycodellm.records import SourceSlice, StageJob, as_json
from raycodellm.tokens import build_tokenizer, prepare_store

LENGTH, NUM_SEQUENCES = 64, 8
WORDS = [f"{first}{second}" for first in ("ba", "ce", "di", "fo", "gu") for second in ("lm", "rn", "st", "nt", "mp")]


def sentence(seed: int, num_words: int = 20) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


ITEMS = [sentence(seed) for seed in range(200)]


@pytest.mark.parametrize(
    ("text", "is_contaminated"),
    [
        (ITEMS[0], True),
        (ITEMS[0].upper().replace(" ", " ... "), True),  # case and punctuation make no other words
        (" ".join(ITEMS[0].split()[:17]), True),  # 10 of its 13 runs
        (" ".join(ITEMS[0].split()[:16]), False),  # 9
        (" ".join(reversed(ITEMS[0].split())), False),
        ("", False),
    ],
)
def test_an_item_is_contaminated_if_70_percent_of_its_runs_of_8_words_were_seen(text, is_contaminated):
    runs = item_runs([ITEMS[1], ITEMS[0], "a short one"])
    assert runs.contaminated(seen_in([text], runs.hashes)) == [False, is_contaminated, None]


def test_runs_may_be_seen_in_different_texts():
    words = ITEMS[0].split()
    runs = item_runs([ITEMS[0]])
    assert runs.contaminated(seen_in([" ".join(words[:14]), " ".join(words[6:])], runs.hashes)) == [True]
    assert runs.contaminated(seen_in([" ".join(words[:10]), " ".join(words[10:])], runs.hashes)) == [False]


@pytest.fixture
def job(tmp_path: Path) -> StageJob:
    """A stage that draws some of the sequences of a source whose every document is an item."""
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps({"text": item}) + "\n" for item in ITEMS))
    tokenizer = build_tokenizer(Tokenizer(train={"vocab_size": 400}), ITEMS, Folder(str(tmp_path / "tokenizer")))
    source = Source(kind="text", path=str(file))
    folder = Folder(str(tmp_path / "store"))
    store = prepare_store("items", source, source_fingerprint(source), tokenizer.folder, "print", 0, folder)
    settings = Stage(
        name="pretrain",
        tokens=NUM_SEQUENCES * LENGTH,
        sequence_length=LENGTH,
        batch_tokens=4 * LENGTH,
        learning_rate=LearningRate(peak=0.01),
        weights={"items": 1.0},
    )
    return StageJob(
        identity="0123456789abcdef",
        folder=str(tmp_path / "stages" / "first"),
        parent=None,
        stage=settings,
        model=Model(preset="tiny"),
        tokenizer=tokenizer.folder.uri,
        vocab_size=400,
        breakpoints=((0.0, (1.0,)), (1.0, (1.0,))),
        interpolation="step",
        sources=(SourceSlice("items", "text", folder.uri, store.num_sequences(LENGTH), 0),),
        seed=3,
        scaling=Scaling(),
    )


def seen_whole(job: StageJob) -> list[bool]:
    """For each item whether most of it stands in the sequences that the stage draws; found without hashes."""
    drawn = [text for some in stage.trained_texts(job) for text in some]
    return [
        any(" ".join(words[start : start + 17]) in text for text in drawn for start in range(4))
        for words in (item.split() for item in ITEMS)
    ]


def leave(job: StageJob) -> None:
    Folder(job.folder).write_json("stage.json", {"job": as_json(job)})


def test_only_items_in_the_drawn_sequences_of_this_stage_and_those_before_it_are_contaminated(job, tmp_path):
    second = replace(
        job,
        folder=str(tmp_path / "stages" / "second"),
        parent=job.folder,
        sources=(replace(job.sources[0], num_sequences_consumed=NUM_SEQUENCES),),
    )
    leave(job)
    leave(second)
    texts = {"drawn": ITEMS, "others": [sentence(seed) for seed in range(1000, 1050)]}
    first = contaminated_items(Folder(job.folder), texts)
    assert first["drawn"] == seen_whole(job) and first["others"] == [False] * 50
    assert 4 < sum(first["drawn"]) < 60
    both = contaminated_items(Folder(second.folder), texts)
    assert both["drawn"] == [a or b for a, b in zip(seen_whole(job), seen_whole(second), strict=True)]
    assert sum(both["drawn"]) > sum(first["drawn"])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_search_that_one_worker_is_told_to_stop_ends_on_all_and_leaves_no_half_answer(job, monkeypatch, num_workers):
    from raycodellm.stage import texts

    monkeypatch.setattr(texts, "_BLOCK_TOKENS", LENGTH)
    leave(job)
    asked = []

    def search(rank, gather):
        def should_stop() -> bool:
            asked.append(rank)
            return rank == num_workers - 1

        group = Workers(rank, num_workers, gather if num_workers > 1 else None)
        return contaminated_items(Folder(job.folder), {"drawn": ITEMS}, group, should_stop)

    assert all(isinstance(ended, Stopped) for ended in together(num_workers, search))
    assert asked.count(num_workers - 1) == 1
    assert not [*Path(job.folder).glob("seen-*")]


def test_a_search_that_was_stopped_or_killed_goes_on_where_it_was(job, monkeypatch):
    from raycodellm.evaluation.texts import contamination
    from raycodellm.stage import texts

    monkeypatch.setattr(texts, "_BLOCK_TOKENS", LENGTH)
    monkeypatch.setattr(contamination, "_KEEP_SECONDS", 0.0)
    leave(job)
    read: list[int] = []
    seen_in = contamination.corpora.seen_in
    monkeypatch.setattr(contamination.corpora, "seen_in", lambda *args: read.append(1) or seen_in(*args))
    whole = contaminated_items(Folder(job.folder), {"drawn": ITEMS})
    num_lists = len(read)
    [kept] = Path(job.folder).glob("seen-*")
    kept.unlink()
    read.clear()

    def killed() -> bool:
        if len(read) == 4:
            raise MemoryError
        return False

    for should_stop, error in ((lambda: len(read) == 2, Stopped), (killed, MemoryError)):
        with pytest.raises(error):
            contaminated_items(Folder(job.folder), {"drawn": ITEMS}, should_stop=should_stop)
    assert contaminated_items(Folder(job.folder), {"drawn": ITEMS}) == whole
    assert num_lists > 5 and num_lists <= len(read) <= num_lists + 1, (
        "the list that a killed search was at is read twice"
    )
    assert {path.name.partition("-")[0] for path in Path(job.folder).iterdir()} == {"seen", "stage.json"}


def test_the_trained_texts_are_those_of_every_sequence_once_however_many_workers_read_them(job, monkeypatch):
    from raycodellm.stage import texts

    several = replace(job, stage=job.stage.model_copy(update={"tokens": 5 * job.sources[0].num_sequences * LENGTH}))
    whole = [text for some in stage.trained_texts(several) for text in some]
    # The fifth epoch and the third and fourth are left out: the second is whole, and the first came before it.
    assert len(whole) < 3 * (len(ITEMS) + several.sources[0].num_sequences)
    assert all(any(item.split()[9] in text for text in whole) for item in ITEMS)
    monkeypatch.setattr(texts, "_BLOCK_TOKENS", 3 * LENGTH)
    shared = [text for rank in range(3) for some in stage.trained_texts(job, rank, 3) for text in some]
    alone = [text for some in stage.trained_texts(job) for text in some]
    assert sorted(shared) == sorted(alone)


def test_what_a_stage_was_trained_on_is_searched_once_for_each_task(job, monkeypatch):
    leave(job)
    found = contaminated_items(Folder(job.folder), {"drawn": ITEMS[:50]})
    searched: list[int] = []
    search = stage.trained_texts
    monkeypatch.setattr(stage, "trained_texts", lambda *args, **skip: searched.append(1) or search(*args, **skip))
    assert contaminated_items(Folder(job.folder), {"drawn": ITEMS[:50]}) == found
    assert searched == []
    contaminated_items(Folder(job.folder), {"drawn": ITEMS[:50], "added": ITEMS[50:]})
    assert searched == [1]
    for path in Path(job.folder).glob("seen-*"):
        path.write_bytes(b"torn")
    assert contaminated_items(Folder(job.folder), {"drawn": ITEMS[:50]}) == found


TASK = """
task: sentences
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""


def test_an_evaluation_marks_the_items_and_gives_the_accuracy_without_them(job, tmp_path):
    leave(job)
    rows = [{"question": item, "choices": [WORDS[0], WORDS[1]], "gold": 0} for item in ITEMS]
    (tmp_path / "sentences.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sentences.yaml").write_text(TASK.format(data=tmp_path / "sentences.jsonl"))
    asked = Evaluation(tasks=(str(tmp_path / "sentences.yaml"),), limit=120)
    model = write_model(Path(job.folder) / "model")
    found = evaluate(model, asked, last_stage=Folder(job.folder))
    marks = seen_whole(job)[:120]
    assert found.items["contaminated"].to_pylist() == marks and any(marks)
    clean = [right for right, mark in zip(found.items["correct"].to_pylist(), marks, strict=True) if not mark]
    assert found.metrics["sentences/acc_clean"] == pytest.approx(sum(clean) / len(clean))
    assert found.metrics["sentences/contaminated"] == sum(marks)

    unsearched = evaluate(model, asked.model_copy(update={"contamination": False}), last_stage=Folder(job.folder))
    assert unsearched.items["contaminated"].null_count == 120 and "sentences/acc_clean" not in unsearched.metrics

    def work(rank, gather):
        return evaluate(model, asked, rank=rank, world_size=2, gather=gather, last_stage=Folder(job.folder))

    for file in Path(job.folder).glob("seen-*"):
        file.unlink()
    for several in together(2, work):
        assert several.items["contaminated"].to_pylist() == marks


@pytest.mark.slow
def test_a_model_whose_data_is_gone_is_evaluated_without_marks_and_that_is_said(job, tmp_path):
    said: list[str] = []
    model = write_model(Path(job.folder) / "model")
    asked = Evaluation(tasks=("boxes",), limit=2)
    found = evaluate(model, asked, last_stage=Folder(job.folder), say=said.append)
    assert found.items["contaminated"].null_count == 2
    (line,) = said
    assert line.startswith("which items the model was trained on is not known: ") and "stage.json" in line


def test_a_search_that_takes_long_reports_and_so_hears_of_a_stop(job, monkeypatch):
    """A slot hears of a stop by the answer to a report."""
    leave(job)
    model = write_model(Path(job.folder) / "model")
    monkeypatch.setattr(
        stage, "trained_texts", lambda job, rank, world_size, skip: (read.append(1) or [""] for _ in range(9))
    )
    read: list[int] = []
    told: list[tuple[int, int]] = []
    with pytest.raises(Stopped):
        evaluate(
            model,
            Evaluation(tasks=("boxes",), limit=2),
            last_stage=Folder(job.folder),
            on_items=lambda *items: told.append(items),
            should_stop=lambda: len(told) > 2,
        )
    assert told == [(0, 2)] * 3 and len(read) == 3


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_storage_that_is_away_for_a_while_ends_the_attempt_and_leaves_no_items_unmarked(
    job, monkeypatch, num_workers
):
    """The result would be kept without marks for good, although the job would soon have known them."""
    leave(job)

    def away(job, rank, world_size, skip):
        if rank == num_workers - 1:
            raise TimeoutError("the store does not answer")
        yield ["nothing"]

    monkeypatch.setattr(stage, "trained_texts", away)

    def search(rank, gather):
        with pytest.raises(evaluation.NotRead, match="cannot be read now: the store does not answer") as raised:
            group = Workers(rank, num_workers, gather if num_workers > 1 else None)
            contaminated_items(Folder(job.folder), {"drawn": ITEMS}, group)
        return isinstance(raised.value.__cause__, TimeoutError)

    assert together(num_workers, search) == [rank == num_workers - 1 for rank in range(num_workers)]


def test_an_item_too_short_to_be_looked_for_is_neither(job):
    leave(job)
    assert contaminated_items(Folder(job.folder), {"short": ["yes", "no"]}) == {"short": [None, None]}


def test_a_store_that_is_gone_is_an_error(job):
    leave(replace(job, sources=(replace(job.sources[0], store=job.sources[0].store + "-gone"),)))
    with pytest.raises(NotKnown, match="store-gone"):
        contaminated_items(Folder(job.folder), {"drawn": ITEMS})
