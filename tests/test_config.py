"""A sweep file is taken as a whole or refused with the key, the value found and what would work."""

from __future__ import annotations

import pytest
import yaml

from raycodellm import config
from raycodellm.config import UserError
from raycodellm.config.two_ways import refuse_both_ways


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        config.parse(text, overrides=overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pretrain.tokns=5", ("stages.pretrain.tokns", "unknown key", "'tokens'")),
        ("sweeep=1", ("sweeep", "unknown key", "did you mean 'seed'")),
        ("pretrain.tokens=-5", ("stages.pretrain.tokens", "-5", "greater than 0")),
        ("pretrain.tokens=many", ("stages.pretrain.tokens", "'many'")),
        ("pretrain.code_ratio=1.4", ("stages.pretrain.code_ratio", "1.4", "less than or equal to 1")),
        ("pretrain.code_ratio={search: {uniform: [0, 1.4]}}", ("stages.pretrain.code_ratio", "1.4")),
        ("pretrain.code_ratio={search: {unifrom: [0, 1]}}", ("pretrain.code_ratio", "unifrom", "uniform")),
        ("pretrain.code_ratio={search: {uniform: [0.5, 0.1]}}", ("pretrain.code_ratio", "the lower first")),
        ("pretrain.learning_rate.peak={search: {loguniform: [0, 1]}}", ("learning_rate.peak", "over 0")),
        ("instruct.weights={pyton: 1.0}", ("stages.instruct.weights", "'pyton'", "did you mean 'python'")),
        ("instruct.weights={asks: 0.7}", ("stages.instruct", "0.7", "add up to 1")),
        ("instruct.weights={asks: 0.5, python: 0.5}", ("stages.instruct.weights", "'python'", "not drawn")),
        ("instruct.sources=[python]", ("stages.instruct", "asks", "not drawn")),
        ("pretrain.weights={prose: 1.0}", ("stages.pretrain", "exactly one of", "code_ratio", "weights")),
        ("pretrain.batch_tokens=1000", ("stages.pretrain", "1000", "multiple", "1024")),
        ("pretrain.learning_rate.schedule=cosin", ("learning_rate.schedule", "'cosin'", "'cosine'")),
        ("model.preset=tyny", ("preset", "'tyny'", "did you mean 'tiny'")),
        ("scaling.max_preemptions=-1", ("scaling.max_preemptions", "-1", "greater than or equal to 0")),
        ("model.pretrained=x", ("model", "exactly one of")),
        ("sources.prose.kind=txt", ("sources.prose.kind", "'txt'", "'text'")),
        ("sources.python.kind=text", ("stages.pretrain.code_ratio", "code", "source")),
        ("scaling.deepspeed.zero=4", ("scaling.deepspeed.zero", "4", "0, 1, 2 or 3")),
        ("scaling.slots=0", ("scaling.slots", "0")),
        ("evaluation.tasks=[]", ("evaluation", "no tasks", "at least one", "suites: [offline]")),
        ("evaluation.suites=[offline, offline]", ("evaluation.suites", "offline", "twice")),
        ("evaluation.tasks=[boxes, boxes]", ("evaluation.tasks", "boxes", "twice")),
        ("search.sampler=best", ("search.sampler", "'best'", "'tpe'")),
        ("search.enqueue=[{pretrain.code_ratoi: 0.1}]", ("search.enqueue.0", "did you mean 'pretrain.code_ratio'")),
        ("search.enqueue=[{pretrain.code_ratio: 0.9}]", ("search.enqueue.0", "0.9", "[0.0, 0.75]")),
        ("scaling.workers={search: {int: [1, 2]}}", ("scaling.workers", "cannot be searched")),
        ("pretrain.name={search: {choice: [a, b]}}", ("stages.0.name", "cannot be searched")),
        ("pretrain.code_ratio={search: {uniform: [0, 1.5]}}", ("found 1.5; must be less", "a choice or another range")),
        ("search.confirm={margin: small}", ("search.confirm.margin: found 'small'; give a number", "{bpb: 0.01")),
        ("search.confirm={margin: -1}", ("search.confirm.margin: found -1; must be greater than 0",)),
        ("search.confirm={margin: {bpb: 0}}", ("search.confirm.margin.bpb: found 0; must be greater than 0",)),
        ("search.confirm={margin: {}}", ("search.confirm.margin: found {}", "at least one")),
        ("search.warm_start=first", ("search.warm_start", "'first'", "warm_start: [first-sweep]")),
        ("budget=3", ("budget: found 3", "budget: {tokens: 2e9")),
        ("ladder={presets: [tiny, nano], learning_rate: 1}", ("ladder.learning_rate", "{tiny: 1, nano: 0.4}")),
        ("search.objective=[{metric: a/b, mode: min}, {metric: a/b, mode: max}]", ("objective", "a/b", "twice")),
        ("instruct.name=pretrain", ("'pretrain'", "twice")),
        ("stages.7.tokens=3", ("7", "0 to 1")),
        ("nonsense", ("KEY=VALUE",)),
    ],
)
def test_a_mistake_is_refused_by_its_key_and_value(sweep_text: str, override: str, words: tuple[str, ...]) -> None:
    message = refusal(sweep_text, override)
    for word in words:
        assert word in message, message
    assert "dict[" not in message and message.count("margin") <= 2, message  # each fault once, in words of YAML


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("is empty", "start with name:")),
        ("- a\n- b", ("holds a list", "start with name:")),
        ("name", ("holds 'name'",)),
        ("name: [", ("not valid YAML",)),
        ("name: a\nname: b", ("'name'", "twice")),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(text: str, words: tuple[str, ...]) -> None:
    message = refusal(text)
    for word in words:
        assert word in message


def test_a_missing_file_and_binary_text_are_refused(tmp_path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot be read .*; did you mean .*/binary\.yaml\?$"):
        config.load(tmp_path / "binary.yml")
    with pytest.raises(UserError, match="not UTF-8"):
        config.load(tmp_path / "binary.yaml")


def test_a_stage_is_rounded_up_to_whole_steps(sweep_text: str) -> None:
    stage = config.parse(sweep_text, overrides=("pretrain.tokens=8_193",)).example().stages[0]
    assert (stage.num_steps, stage.num_tokens, stage.num_sequences) == (9, 9 * 1024, 9 * 16)


def test_every_spelling_of_an_override_reaches_the_same_leaf(sweep_text: str) -> None:
    for key in ("pretrain.learning_rate.peak", "stages.pretrain.learning_rate.peak", "stages.0.learning_rate.peak"):
        assert config.parse(sweep_text, overrides=(f"{key}=0.5",)).example().stages[0].learning_rate.peak == 0.5


def test_searched_leaves_get_the_values_of_their_parameters(sweep_text: str) -> None:
    file = config.parse(sweep_text)
    assert list(file.domains) == ["pretrain.code_ratio", "pretrain.schedule"]
    sweep = config.resolve(file, {"pretrain.code_ratio": 0.25, "pretrain.schedule": "decrease"})
    assert (sweep.stages[0].code_ratio, sweep.stages[0].schedule) == (0.25, "decrease")


def test_the_resolved_file_reads_back_as_the_same_sweep(sweep_text: str) -> None:
    file = config.parse(sweep_text)
    again = config.parse(yaml.safe_dump(config.resolved_tree(file), sort_keys=False))
    assert again.domains == file.domains
    assert again.example() == file.example()
    assert config.resolved_tree(again) == config.resolved_tree(file)


def test_an_instruct_stage_draws_the_instruct_kinds_and_others_the_rest(sweep_text: str) -> None:
    sweep = config.parse(sweep_text).example()
    assert sweep.drawn_sources(sweep.stages[0]) == ("prose", "python")
    assert sweep.drawn_sources(sweep.stages[1]) == ("asks",)


def test_what_decides_the_numbers_is_said_of_a_stage_or_as_before_of_all(sweep_text: str) -> None:
    given = "{communication_data_type: fp16}"
    numerics = f"{{precision: bf16, attention: eager, deepspeed_config: {given}}}"
    new = (f"pretrain.numerics={numerics}", f"instruct.numerics={numerics}")
    places = (("precision", "bf16"), ("attention", "eager"), ("config", given))
    old = tuple(f"scaling.deepspeed.{key}={value}" for key, value in places)
    one, other = (config.parse(sweep_text, overrides=overrides) for overrides in (new, old))
    assert one.example() == other.example()
    assert config.resolved_tree(one) == config.resolved_tree(other)
    assert {stage.numerics.precision for stage in other.example().stages} == {"bf16"}
    again = "scaling.deepspeed.zero=1", "scaling.deepspeed.precision=fp32"  # a file of before, with its defaults
    assert config.parse(sweep_text, overrides=again).example() == config.parse(sweep_text).example()


def test_a_stage_and_the_old_place_that_contradict_each_other_are_refused(sweep_text: str) -> None:
    message = refusal(sweep_text, "pretrain.precision=bf16", "scaling.deepspeed.precision=fp16")
    assert (
        "stages.pretrain.numerics.precision: found 'bf16'" in message
        and "scaling.deepspeed.precision says 'fp16'" in message
    )
    assert "'fp8'" in refusal(sweep_text, "scaling.deepspeed.precision=fp8")
    for shape in ("scaling=3", "scaling.deepspeed=bf16", "stages=3", "stages=[3]"):
        refusal(sweep_text, "scaling.deepspeed.precision=bf16", shape)


def test_an_override_of_the_old_place_meets_what_the_file_says_there(sweep_text: str) -> None:
    def numerics(deepspeed: dict, *overrides: str) -> list:
        tree = yaml.safe_load(sweep_text)
        tree["scaling"]["deepspeed"] = deepspeed
        sweep = config.parse(yaml.safe_dump(tree), overrides=overrides).example()
        return [(stage.numerics.precision, stage.numerics.deepspeed_config) for stage in sweep.stages]

    assert numerics({"precision": "fp32"}, "scaling.deepspeed.precision=bf16") == [("bf16", {})] * 2
    assert numerics({"precision": "bf16"}, "scaling.deepspeed={zero: 1}") == [("fp32", {})] * 2
    two = {"communication_data_type": "fp16", "prescale_gradients": True}
    both = numerics({"config": {"communication_data_type": "fp16"}}, "scaling.deepspeed.config.prescale_gradients=true")
    assert both == [("fp32", two)] * 2
    with pytest.raises(UserError, match=r"pretrain.*remove one of the two"):  # and not of both stages, silently
        numerics({"config": {"a": 1}}, "pretrain.deepspeed_config.b=2")
    with pytest.raises(UserError, match="holds a search; write it as"):
        numerics({"precision": {"search": {"choice": ["fp32", "bf16"]}}})


def test_a_stage_is_named_by_its_name_before_its_place_and_a_wrong_name_is_one_line(sweep_text: str) -> None:
    tree = yaml.safe_load(sweep_text)
    tree["stages"][0]["name"], tree["stages"][1]["name"] = "1", "0"
    changed = config.parse(yaml.safe_dump(tree), overrides=("stages.0.tokens=4096",)).example()
    assert [stage.tokens for stage in changed.stages] == [8_192, 4_096]
    tree["stages"][0]["name"] = ["pre"]
    with pytest.raises(UserError, match="name"):
        config.parse(yaml.safe_dump(tree), overrides=("seed=1",))


GROUPED = {
    "pretrain.weight_decay": ("pretrain.optimizer.weight_decay", "0.2"),
    "pretrain.adam_betas": ("pretrain.optimizer.betas", "[0.8, 0.9]"),
    "stages.0.adam_epsilon": ("pretrain.optimizer.epsilon", "1e-6"),
    "stages.pretrain.gradient_clip": ("pretrain.optimizer.gradient_clip", "0.5"),
    "instruct.optimizer_state": ("instruct.optimizer.state", "keep"),
    "pretrain.average_last": ("pretrain.averaging.last", "3"),
    "pretrain.average_every": ("pretrain.averaging.every", "0.3"),
    "pretrain.precision": ("pretrain.numerics.precision", "bf16"),
    "pretrain.attention": ("pretrain.numerics.attention", "eager"),
    "pretrain.deepspeed_config.communication_data_type": (
        "pretrain.numerics.deepspeed_config.communication_data_type",
        "fp16",
    ),
    "pretrain.on_nan": ("pretrain.faults.on_nan", "skip_batch"),
    "pretrain.loss_limit": ("pretrain.faults.loss_limit", "{search: {choice: [2.0, 3.0]}}"),
}


def test_settings_of_a_stage_may_stand_in_their_groups_or_as_before_beside_them(sweep_text: str) -> None:
    old = tuple(f"{key}={value}" for key, (_, value) in GROUPED.items())
    new = tuple(f"{key}={value}" for key, value in GROUPED.values())
    before, after = (config.parse(sweep_text, overrides=overrides) for overrides in (old, new))
    assert before == after and config.resolved_tree(before) == config.resolved_tree(after)
    flat = yaml.safe_load(sweep_text)
    flat["stages"][0] |= {"weight_decay": 0.2, "precision": "bf16"}
    assert config.parse(yaml.safe_dump(flat), overrides=old) == after  # the file's own spelling, an override of either
    assert config.parse(yaml.safe_dump(flat), overrides=new) == after


def test_a_searched_setting_has_one_name_in_its_old_and_its_new_spelling(sweep_text: str) -> None:
    space, name = "{search: {loguniform: [0.01, 0.1]}}", "pretrain.optimizer.weight_decay"
    points = (
        "search.enqueue=[{pretrain.weight_decay: 0.02}]",
        "search.enqueue=[{pretrain.optimizer.weight_decay: 0.02}]",
    )
    files = [
        config.parse(sweep_text, overrides=(f"{path}={space}", point))
        for path in ("pretrain.weight_decay", name)
        for point in points
    ]
    assert all(file.tree == files[0].tree and [one.name for one in file.parameters][-1] == name for file in files)
    assert config.current_name("pretrain.weight_decay") == config.current_name(name) == name
    both = "search.enqueue=[{pretrain.weight_decay: 0.02, pretrain.optimizer.weight_decay: 0.03}]"
    assert "remove one of the two" in refusal(sweep_text, f"{name}={space}", both)


def test_the_old_and_the_new_spelling_of_a_setting_may_not_contradict_each_other(sweep_text: str) -> None:
    tree = yaml.safe_load(sweep_text)
    tree["stages"][0] |= {"weight_decay": 0.2, "optimizer": {"weight_decay": 0.3}}
    assert "optimizer.weight_decay: found 0.3, but weight_decay, its older spelling, says 0.2" in refusal(
        yaml.safe_dump(tree)
    )
    tree["stages"][0]["optimizer"] = {"search": {"choice": [{"weight_decay": 0.3}]}}
    assert "write optimizer.weight_decay inside optimizer" in refusal(yaml.safe_dump(tree))


def test_one_thing_is_said_in_one_of_two_ways_and_an_override_takes_the_place_of_the_other(sweep_text: str) -> None:
    way, other = "stages.pretrain.learning_rate.warmup", "pretrain.learning_rate.warmup_steps=3"
    tree = config.parse(sweep_text, overrides=(f"{way}=0.2", other)).tree
    assert "warmup" not in tree["stages"][0]["learning_rate"]
    refuse_both_ways(tree, "sweep.yaml")
    tree["stages"][0]["learning_rate"]["warmup"] = 0.2
    with pytest.raises(
        UserError, match=rf"^sweep.yaml: {way.removesuffix('.warmup')}: found warmup: 0.2 and warmup_st"
    ):
        refuse_both_ways(tree, "sweep.yaml")
    saved = config.resolved_tree(config.parse(yaml.safe_dump(tree)))  # with all defaults
    refuse_both_ways(saved, "sweep.yaml")
    assert saved["stages"][0]["learning_rate"]["warmup_steps"] == 3 and saved["scaling"]["checkpoint_seconds"] > 0
    tree["stages"][0]["learning_rate"]["warmup_steps"] = {"search": {"choice": [None, 3]}}  # the share may count
    refuse_both_ways(tree, "sweep.yaml")


def test_a_misspelt_key_that_is_required_is_told_once(sweep_text: str) -> None:
    tree = yaml.safe_load(sweep_text)
    tree["stages"][0]["tokns"] = tree["stages"][0].pop("tokens")
    said = refusal(yaml.safe_dump(tree))
    assert "stages.pretrain.tokns: unknown key; did you mean 'tokens'?" in said and "is missing" not in said
    del tree["stages"][0]["tokns"], tree["stages"][0]["sequence_length"]
    assert "stages.pretrain.tokens: is missing; add tokens" in refusal(yaml.safe_dump(tree))


@pytest.mark.parametrize(
    ("key", "meant"),
    [("weight_dcay", "optimizer.weight_decay"), ("precison", "numerics.precision"), ("betas", "optimizer.betas")],
)
def test_a_misspelt_setting_of_a_group_is_answered_with_its_place(sweep_text: str, key: str, meant: str) -> None:
    assert f"unknown key; did you mean {meant!r}?" in refusal(sweep_text, f"pretrain.{key}=1")
