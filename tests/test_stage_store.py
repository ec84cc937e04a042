"""A stage is known by what determines its weights, and by nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from raycodellm import config, mixture, stage_store
from raycodellm.config import UserError
from raycodellm.files import Folder
from raycodellm.records import StageRecord, as_json
from raycodellm.stage_store import finished_outcome
from raycodellm.tokens import Reading

PARAMS = {"pretrain.code_ratio": 0.5, "pretrain.schedule": "constant"}


@dataclass(frozen=True)
class Corpus:
    fingerprint: str
    num_tokens: int = 100_000

    @property
    def folder(self) -> Folder:
        return Folder(f"/tokens/{self.fingerprint}")

    def num_sequences(self, sequence_length: int, reading: Reading) -> int:
        held = self.held_out(reading.held_out_tokens)
        return (held if reading.measured else self.num_tokens - held) // sequence_length

    def held_out(self, num_tokens: int) -> int:
        """Tokens held out of documents of 100 tokens each."""
        return -(-num_tokens // 100) * 100


CORPORA = {"prose": Corpus("p"), "python": Corpus("c"), "asks": Corpus("i")}


def chain(text: str, *overrides: str, params=PARAMS, seed=0, corpora=CORPORA, tokenizer="t", storage="/s"):
    file = config.parse(text, overrides=overrides)
    sweep = config.resolve(file, {name: value for name, value in params.items() if name in file.domains})
    return stage_store.chain(sweep, seed, materials(sweep, corpora, tokenizer, storage))


def materials(sweep: config.Sweep, corpora=CORPORA, tokenizer="t", storage="/s") -> stage_store.Materials:
    contents = stage_store.contents_of([sweep])
    return stage_store.Materials(corpora, Folder("/tok"), tokenizer, 512, Folder(storage), contents)


def write_record(folder: str) -> None:
    """Leaves the files of a finished stage that the stage store reads."""
    record = StageRecord("0123456789abcdef", "pretrain", 3, 3_072, 5.0, 2.0, 2.0, "c0ffee")
    Folder(folder).write_json("stage.json", {"record": as_json(record)})
    Folder(folder).write_bytes("DONE", b"")


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
        "pretrain.optimizer.weight_decay=0.0",
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
    drawn = mixture.make_plan(first).counts(first.stage.num_sequences)
    assert [source.num_sequences_consumed for source in first.sources] == [0, 0]
    assert [source.num_sequences_consumed for source in second.sources] == drawn.tolist()
    assert second.parent == first.folder
    assert made.evaluation.model == f"{second.folder}/model"


def test_a_source_without_one_whole_sequence_is_refused_where_it_is_drawn(sweep_text: str) -> None:
    sweep = config.parse(sweep_text).example()
    small = {**CORPORA, "asks": Corpus("i", 10)}
    with pytest.raises(UserError, match=r"sources\.asks.*example.*256 tokens"):
        stage_store.check_epochs(sweep, [chain(sweep_text, corpora=small)])
    stage_store.check_epochs(sweep, [chain(sweep_text)])


def test_more_epochs_than_a_source_allows_are_refused_with_the_numbers(sweep_text: str) -> None:
    file = config.parse(sweep_text, overrides=("sources.python.max_epochs=2",))
    few = {**CORPORA, "python": Corpus("c", 2_000)}
    made = chain(sweep_text, "sources.python.max_epochs=2", corpora=few)
    drawn, there = sum(made.stages[0].sources[1].planned), made.stages[0].sources[1].num_sequences
    with pytest.raises(UserError, match=rf"sources\.python: .* {drawn / there:.2f} epochs .* max_epochs is 2"):
        stage_store.check_epochs(file.example(), [made])
    stage_store.check_epochs(file.example(), [chain(sweep_text, "sources.python.max_epochs=2")])


def test_epochs_count_what_the_stages_before_have_drawn(sweep_text: str) -> None:
    plain = ("instruct.responses_only=false", "instruct.weights=null", "instruct.code_ratio=0.5")
    file = config.parse(sweep_text, overrides=(*plain, "sources.python.max_epochs=1"))
    made = chain(sweep_text, *plain)
    tokens = sum(sum(job.sources[1].planned) * job.stage.sequence_length for job in made.stages)
    for there, refused in ((tokens + 256, False), (tokens - 256, True)):
        again = chain(sweep_text, *plain, corpora={**CORPORA, "python": Corpus("c", there)})
        if refused:
            with pytest.raises(UserError, match="by the end of stage 'instruct'"):
                stage_store.check_epochs(file.example(), [again])
        else:
            stage_store.check_epochs(file.example(), [again])


def test_an_additive_stage_is_the_competitive_one_of_its_whole_size(sweep_text: str) -> None:
    additive = chain(sweep_text, "pretrain.budget=additive").stages[0]
    plain = chain(sweep_text, f"pretrain.tokens={additive.stage.num_tokens}").stages[0]
    assert additive.identity == plain.identity
    text = sum(additive.sources[0].planned) * additive.stage.sequence_length
    assert abs(text - chain(sweep_text).stages[0].stage.num_tokens) <= additive.stage.batch_tokens


def test_stages_of_different_lengths_share_one_order_of_their_sources(sweep_text: str) -> None:
    plain = ("instruct.responses_only=false", "instruct.weights=null", "instruct.code_ratio=0.5")
    lengths = ("pretrain.sequence_length=32", "pretrain.batch_tokens=1_024", "instruct.sequence_length=256")
    first, second = chain(sweep_text, *plain, *lengths).stages
    for before, after in zip(first.sources, second.sources, strict=True):
        assert (before.shuffle_group_size, after.shuffle_group_size) == (8, 1)
        assert before.num_sequences == 8 * after.num_sequences
        assert after.num_sequences_consumed * 256 - 256 < sum(before.planned) * 32 <= after.num_sequences_consumed * 256
    alone = chain(sweep_text, "pretrain.sequence_length=32", "pretrain.batch_tokens=1_024").stages[0]
    assert alone.sources[0].shuffle_group_size == 1
    assert alone.identity != first.identity


def test_a_small_run_repeats_its_sources_as_often_as_its_target(sweep_text: str) -> None:
    """Target: 10 million tokens with 4 million of prose and 500 thousand of Python, at any mixture."""
    target = "match_repetition={target_tokens: 10_000_000, source_tokens: {prose: 4_000_000, python: 500_000}}"
    for ratio in (0.25, 0.75):
        made = chain(sweep_text, target, params={"pretrain.code_ratio": ratio, "pretrain.schedule": "constant"})
        prose, python = made.stages[0].sources
        tokens = made.stages[0].stage.num_tokens
        for source, share, there in ((prose, 1 - ratio, 4e6), (python, ratio, 5e5)):
            epochs = sum(source.planned) / source.num_sequences
            budget = sum(job.stage.num_tokens for job in made.stages)
            assert epochs == pytest.approx(share * 10_000_000 / there * tokens / budget, rel=0.15)
    assert made.stages[0].identity != chain(sweep_text).stages[0].identity


def test_a_source_too_small_to_match_its_target_is_refused(sweep_text: str) -> None:
    target = "match_repetition={target_tokens: 20_000, source_tokens: {python: 900_000}}"
    with pytest.raises(UserError, match=r"match_repetition\.source_tokens\.python: .* the source holds 100,000"):
        chain(sweep_text, target)


def test_planned_sequences_per_phase_add_up_to_the_plan(sweep_text: str) -> None:
    job = chain(sweep_text, params={"pretrain.code_ratio": 0.5, "pretrain.schedule": "decrease"}).stages[0]
    assert len(job.phase_ends) == 3
    assert job.phase_ends[-1] == job.stage.num_sequences
    counts = [mixture.make_plan(job).counts(end).tolist() for end in job.phase_ends]
    assert [sum(source.planned) for source in job.sources] == counts[-1]
    assert [source.planned[0] for source in job.sources] == counts[0]
    assert mixture.planned_by_phase(job) == mixture.planned_by_phase(
        replace(job, sources=tuple(replace(source, planned=()) for source in job.sources))
    )


_RECIPE = """
name: recipe
model: {preset: tiny}
tokenizer: {train: {vocab_size: 512}}
sources:
  text: {kind: text, path: a}
  code: {kind: code, path: b}
  markup: {kind: markup, path: c}
  math: {kind: math, path: d}
stages:
  - &first
    name: code
    tokens: 40_000
    sequence_length: 64
    batch_tokens: 1_024
    learning_rate: {peak: 0.001}
    weights: {code: 0.8, markup: 0.2}
  - <<: *first
    name: continued
    weights: {text: 0.9, code: 0.1}
  - <<: *first
    name: cooldown
    tokens: 8_000
    weights: null
    phases: [{share: 0.5, weights: {text: 0.8, code: 0.2}}, {share: 0.5, weights: {text: 0.5, math: 0.3, code: 0.2}}]
    interpolation: linear
evaluation: {tasks: [boxes]}
search: {sampler: grid, trials: 1}
"""


def test_code_then_text_then_a_cooldown_mix_draws_each_source_where_the_stage_before_stopped() -> None:
    """Aryabumi et al. 2024, 3.1 and 3.5: 80 % code and 20 % markup, then 90 % text and 10 % code, then a cooldown."""
    corpora = {name: Corpus(name[0], 1_000_000) for name in ("text", "code", "markup", "math")}
    stages = chain(_RECIPE, params={}, corpora=corpora).stages
    drawn = [{source.name: sum(source.planned) for source in job.sources} for job in stages]
    assert drawn[0] == {"text": 0, "code": 512, "markup": 128, "math": 0}
    assert drawn[1] == {"text": 576, "code": 64, "markup": 0, "math": 0}
    starts = {source.name: source.num_sequences_consumed for source in stages[2].sources}
    assert starts == {"text": 576, "code": 576, "markup": 128, "math": 0}
    assert sum(drawn[2].values()) == 128
    assert drawn[2]["code"] in (25, 26)


# ----------------------------------------------------------------------- stages that lean on the one before them


@pytest.mark.parametrize(
    "override",
    [
        "pretrain.faults.loss_limit=9",
        "scaling.deepspeed.micro_batch=auto",
        "scaling.deepspeed.activation_checkpointing=true",
        "scaling.deepspeed.deterministic=true",
        "scaling.checkpoint_tokens=100",
        "scaling.peak_tflops=3",
    ],
)
def test_when_a_stage_fails_and_how_it_runs_leaves_the_identity(sweep_text: str, override: str) -> None:
    assert identities(sweep_text, override) == identities(sweep_text)


def test_what_a_stage_takes_over_changes_it_and_not_its_parent(sweep_text: str) -> None:
    before = identities(sweep_text)
    for override in ("instruct.optimizer.state=keep", "instruct.learning_rate.boundary=continue"):
        after = identities(sweep_text, override)
        assert (after[0], after[1] != before[1]) == (before[0], True)
    first, second = chain(sweep_text, "instruct.optimizer.state=keep").stages
    assert (first.keep_optimizer, second.keep_optimizer) == (True, False)


def test_a_rate_that_continues_starts_where_the_parent_s_ended(sweep_text: str) -> None:
    first, second = chain(sweep_text, "instruct.learning_rate.boundary=continue").stages
    assert first.start_rate is None
    rate = first.stage.learning_rate
    assert second.start_rate == pytest.approx(rate.peak * rate.final)
    assert chain(sweep_text).stages[1].start_rate is None


def test_a_stage_keeps_its_optimizer_for_a_trial_that_only_may_ask_for_it(sweep_text: str) -> None:
    searched = "instruct.optimizer.state={search: {choice: [fresh, keep]}}"
    assert config.stages_keeping_optimizer(config.parse(sweep_text)) == frozenset()
    kept = config.stages_keeping_optimizer(config.parse(sweep_text, overrides=(searched,)))
    assert kept == {"pretrain"}
    sweep = config.resolve(config.parse(sweep_text, overrides=(searched,)), {"instruct.optimizer.state": "fresh"})
    made = stage_store.chain(sweep, 0, materials(sweep), kept)
    assert [job.keep_optimizer for job in made.stages] == [True, False]


def test_a_stage_is_not_done_while_it_lacks_the_optimizer_that_is_asked_for(sweep_text: str, tmp_path) -> None:
    (plain, _), (asked, _) = (
        chain(sweep_text, *overrides, storage=str(tmp_path)).stages
        for overrides in ((), ("instruct.optimizer.state=keep",))
    )
    assert plain.folder == asked.folder
    write_record(plain.folder)
    assert finished_outcome(plain) and not finished_outcome(asked)
    (Folder(plain.folder) / "optimizer").write_bytes("COMPLETE", b"")
    assert finished_outcome(asked)


@pytest.mark.parametrize("key", ["optimizer.state=keep", "learning_rate.boundary=continue"])
def test_the_first_stage_has_nothing_to_take_over(sweep_text: str, key: str) -> None:
    with pytest.raises(UserError, match=r"pretrain\..*needs a stage before this one"):
        config.parse(sweep_text, overrides=(f"pretrain.{key}",))


# ---------------------------------------------------------------------------------------------- held-out text


def test_no_stage_trains_on_what_any_stage_measures(sweep_text: str) -> None:
    plain = ("instruct.responses_only=false", "instruct.weights=null", "instruct.code_ratio=0.25")
    held = "instruct.held_out={tokens: 1000}"
    first, second = chain(sweep_text, *plain, held).stages
    assert (first.stage.sequence_length, second.stage.sequence_length) == (64, 256)
    for source in (*first.sources, *second.sources):
        length = 64 if source in first.sources else 256
        assert source.held_out_tokens == 1000
        assert 99_000 - 256 < source.num_sequences * length <= 99_000
    assert [source.held_out_sequences for source in first.sources] == [0, 0]  # it measures nothing itself
    assert [source.held_out_sequences for source in second.sources] == [3, 3]
    assert identities(sweep_text, *plain, held)[0] != identities(sweep_text, *plain)[0]


def test_how_often_held_out_text_is_measured_leaves_the_identity(sweep_text: str) -> None:
    often, seldom = (identities(sweep_text, f"pretrain.held_out={{tokens: 1000, every_tokens: {n}}}") for n in (5, 50))
    assert often == seldom


def test_holding_out_over_half_of_a_source_is_refused(sweep_text: str) -> None:
    with pytest.raises(UserError, match=r"pretrain\.held_out\.tokens: found 60000.*at most 50000"):
        chain(sweep_text, "pretrain.held_out={tokens: 60_000}")
