"""A stage is known by what determines its weights, and by nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from raycodellm import config, mixture, store
from raycodellm.config import UserError
from raycodellm.files import Folder

PARAMS = {"pretrain.code_ratio": 0.5, "pretrain.schedule": "constant"}


@dataclass(frozen=True)
class Corpus:
    fingerprint: str
    num_tokens: int = 100_000

    @property
    def folder(self) -> Folder:
        return Folder(f"/tokens/{self.fingerprint}")

    def num_sequences(self, sequence_length: int) -> int:
        return self.num_tokens // sequence_length


CORPORA = {"prose": Corpus("p"), "python": Corpus("c"), "asks": Corpus("i")}


def chain(text: str, *overrides: str, params=PARAMS, seed=0, corpora=CORPORA, tokenizer="t", storage="/s"):
    file = config.parse(text, overrides=overrides)
    sweep = config.resolve(file, {name: value for name, value in params.items() if name in file.domains})
    return store.chain(sweep, seed, corpora, Folder("/tok"), tokenizer, 512, Folder(storage))


def identities(*args, **kwargs) -> list[str]:
    return [job.identity for job in chain(*args, **kwargs).stages]


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "scaling.workers=4",
        "scaling.deepspeed.zero=3",
        "scaling.slots=7",
        "evaluation.limit=3",
        "search.trials=9",
        "pretrain.tokens=8_000",  # rounded up to the same whole steps
    ],
)
def test_what_does_not_decide_the_weights_leaves_the_identity(sweep_text: str, override: str) -> None:
    assert identities(sweep_text, override) == identities(sweep_text)


def test_storage_and_renamed_stages_leave_the_identity(sweep_text: str) -> None:
    assert identities(sweep_text, storage="/elsewhere") == identities(sweep_text)
    renamed = sweep_text.replace("name: pretrain", "name: first")
    params = {name.replace("pretrain", "first"): value for name, value in PARAMS.items()}
    assert identities(renamed, params=params) == identities(sweep_text)


@pytest.mark.parametrize(
    "override",
    [
        "model={preset: nano}",
        "pretrain.tokens=9_000",
        "pretrain.batch_tokens=2_048",
        "pretrain.learning_rate.peak=1.0e-3",
        "pretrain.weight_decay=0.0",
    ],
)
def test_what_decides_the_weights_changes_every_stage_from_there_on(sweep_text: str, override: str) -> None:
    before, after = identities(sweep_text), identities(sweep_text, override)
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_seed_tokenizer_and_data_change_the_identity(sweep_text: str) -> None:
    base = identities(sweep_text)
    assert identities(sweep_text, seed=1)[0] != base[0]
    assert identities(sweep_text, tokenizer="u")[0] != base[0]
    assert identities(sweep_text, corpora={**CORPORA, "python": Corpus("d")})[0] != base[0]


def test_a_later_stages_setting_leaves_the_stages_before_it(sweep_text: str) -> None:
    before, after = identities(sweep_text), identities(sweep_text, "instruct.learning_rate.peak=0.5")
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_equal_mixtures_are_one_stage_however_they_are_written(sweep_text: str) -> None:
    nothing = [
        identities(sweep_text, params={"pretrain.code_ratio": 0.0, "pretrain.schedule": shape})[0]
        for shape in ("constant", "increase", "decrease")
    ]
    assert len(set(nothing)) == 1
    # A source that gives not one token may change or be left out.
    other = identities(
        sweep_text, params={"pretrain.code_ratio": 0.0}, corpora={**CORPORA, "python": Corpus("d", 999_936)}
    )
    assert other[0] == nothing[0]


def test_a_stage_starts_where_those_before_it_stopped_in_each_source(sweep_text: str) -> None:
    plain = ("instruct.responses_only=false", "instruct.weights=null", "instruct.code_ratio=0.25")
    made = chain(sweep_text, *plain, "instruct.sequence_length=64")
    first, second = made.stages
    drawn = mixture.plan(first).counts(first.stage.num_sequences)
    assert [source.start for source in first.sources] == [0, 0]
    assert [source.start for source in second.sources] == drawn.tolist()
    assert second.parent == first.folder
    assert made.evaluation.model == f"{second.folder}/model"


def test_a_source_without_one_whole_sequence_is_refused_where_it_is_drawn(sweep_text: str) -> None:
    sweep = config.parse(sweep_text).example()
    small = {**CORPORA, "asks": Corpus("i", 10)}
    with pytest.raises(UserError, match=r"sources\.asks.*example.*256 tokens"):
        store.check_epochs(sweep, [chain(sweep_text, corpora=small)])
    store.check_epochs(sweep, [chain(sweep_text)])
