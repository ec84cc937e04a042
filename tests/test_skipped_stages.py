"""A stage with `enabled: false` is skipped; searched over, it gives arms with and without the stage."""

from __future__ import annotations

import pytest
import yaml
from test_stage_store import CORPORA, materials

from raycodellm import config, search, stage_store
from raycodellm.config import UserError
from raycodellm.observability.labels import trial_labels

SKIPPABLE = "instruct.enabled={search: {choice: [true, false]}}"
TUNED = ("instruct.weights=null", "instruct.code_ratio={search: {choice: [0.0, 0.25]}}")
CODE_ASKS = 'sources.code_asks={kind: instruct_code, path: "builtin:python-instruct"}'


def parse(sweep_text: str, *overrides: str) -> config.SweepFile:
    fixed = ("pretrain.schedule=constant", "pretrain.code_ratio={search: {choice: [0.0, 0.25]}}")
    return config.parse(sweep_text, overrides=(*fixed, *overrides))


def chain(sweep: config.Sweep) -> stage_store.Chain:
    return stage_store.chain(sweep, 0, materials(sweep, {**CORPORA, "code_asks": CORPORA["asks"]}))


def six_arms(sweep_text: str) -> config.SweepFile:
    overrides = (SKIPPABLE, CODE_ASKS, *TUNED, "search.sampler=grid", "search.trials=null")
    return parse(sweep_text, *overrides)


def test_a_grid_crosses_pretraining_with_no_text_and_code_tuning_as_six_arms(sweep_text):
    arms = search.grid(six_arms(sweep_text))
    assert len(arms) == 6
    skipped = [arm for arm in arms if not arm["instruct.enabled"]]
    assert len(skipped) == 2 and all("instruct.code_ratio" not in arm for arm in skipped)


def test_a_skipped_stage_is_not_trained_and_leaves_the_other_stages_as_they_are(sweep_text):
    file = parse(sweep_text, SKIPPABLE)
    both = chain(config.resolve(file, {"instruct.enabled": True}))
    one = chain(config.resolve(file, {"instruct.enabled": False}))
    never_named = chain(parse(sweep_text).example())
    assert [job.stage.name for job in one.stages] == ["pretrain"]
    assert [job.key for job in both.stages] == [job.key for job in never_named.stages]
    assert one.stages[0].key == both.stages[0].key
    assert one.evaluation.key != both.evaluation.key


def test_the_other_stages_hold_out_and_shuffle_the_same_data_with_and_without_a_skipped_stage(sweep_text):
    tree = yaml.safe_load(sweep_text)
    more = {**tree["stages"][0], "name": "more", "sequence_length": 128, "held_out": {"tokens": 2_000}}
    tree["stages"].insert(1, more)
    first = [
        chain(config.parse(yaml.safe_dump(tree), overrides=(f"more.enabled={value}",)).example()).stages[0]
        for value in ("true", "false")
    ]
    assert first[0].key == first[1].key and first[0].sources[0].held_out_tokens == 2_000


def test_a_stage_goes_on_from_the_stage_before_a_skipped_one(sweep_text):
    tree = yaml.safe_load(sweep_text)
    tree["stages"].insert(1, {**tree["stages"][0], "name": "more", "code_ratio": 0.5, "enabled": False})
    found = chain(config.parse(yaml.safe_dump(tree)).example())
    assert [job.stage.name for job in found.stages] == ["pretrain", "instruct"]
    assert found.stages[1].parent == found.stages[0].folder


def test_a_stage_before_skippable_ones_keeps_its_optimizer_state_for_those_after(sweep_text):
    tree = yaml.safe_load(sweep_text)
    tree["stages"].insert(1, {**tree["stages"][0], "name": "more", "enabled": {"search": {"choice": [True, False]}}})
    tree["stages"][2]["optimizer"] = {"state": "keep"}
    assert config.stages_keeping_optimizer(config.parse(yaml.safe_dump(tree))) == {"pretrain", "more"}


def test_no_sampler_samples_a_parameter_of_a_skipped_stage(sweep_text):
    file = parse(sweep_text, SKIPPABLE, CODE_ASKS, *TUNED, "search.trials=40")
    arms = search.preview(file, 40)
    assert {arm["instruct.enabled"] for arm in arms} == {True, False}
    assert all(("instruct.code_ratio" in arm) == arm["instruct.enabled"] for arm in arms)


def test_a_stage_that_every_trial_skips_has_no_parameters(sweep_text):
    file = parse(sweep_text, "instruct.enabled=false", CODE_ASKS, *TUNED)
    assert [one.name for one in file.parameters] == ["pretrain.code_ratio"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("pretrain.enabled=false", "instruct.enabled=false"), "leave one enabled"),
        (("pretrain.enabled={search: {choice: [true, false]}}", SKIPPABLE), "leave one enabled"),
        (("instruct.enabled=1",), "instruct.enabled"),
        (("pretrain.enabled=false", "instruct.learning_rate.boundary=continue"), "needs a stage before this one"),
        (
            (SKIPPABLE, CODE_ASKS, *TUNED, "search.enqueue=[{instruct.enabled: false, instruct.code_ratio: 0.25}]"),
            "instruct.code_ratio: has no meaning",
        ),
    ],
)
def test_what_skipping_cannot_mean_is_refused_by_name(sweep_text, overrides, said):
    with pytest.raises(UserError, match=said):
        parse(sweep_text, *overrides)


def test_the_labels_of_a_trial_name_the_stages_that_it_trains(sweep_text):
    file = six_arms(sweep_text)
    labels = trial_labels(file, 0, 0, {"pretrain.code_ratio": 0.25, "instruct.enabled": False})
    assert [stage.stage for stage in labels.stages] == ["pretrain"]
