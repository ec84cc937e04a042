"""Names in a sweep enter its identities by content, and written files are checked before they are believed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from test_stage_store import materials

from raycodellm import check, config, evaluation, identity, model, stage_store, storage_files, tokens
from raycodellm.config import Evaluation, Model, Optimizer, Stage, Tokenizer, UserError
from raycodellm.config.old_spellings import STAGE_SETTINGS
from raycodellm.evaluation.data import sources as data_sources
from raycodellm.evaluation.results.task_results import write_result
from raycodellm.evaluation.tasks import content as task_files
from raycodellm.files import Folder
from raycodellm.identity import file_hashes, hub_commits, model_files, numeric_settings, pretrained_content
from raycodellm.records import StageRecord, TrialResult, as_json
from raycodellm.sweep import opening as run_folders
from raycodellm.sweep import provenance
from raycodellm.tokens.tokenizer import tokenizer_fingerprint

OLD = time.time() - 3600


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return file_hashes.cache_file()


def write(path: Path, data: bytes, changed: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (changed, changed))
    return path


def flip(path: Path, place: int = 0) -> None:
    """Turns bits of one byte, in place: the same length."""
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0xFF]))


# -------------------------------------------------------------------------------------------------- hashes


def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets hashes of files that were just written be kept."""
    monkeypatch.setattr(file_hashes, "RACY_SECONDS", -1.0)


def test_a_file_is_read_once_until_it_changes(tmp_path, own_cache, monkeypatch):
    settled(monkeypatch)
    path = write(tmp_path / "weights", b"12345678")
    (first,) = file_hashes.content_hashes([path])
    reads: list[Path] = []
    content_hash = file_hashes.content_hash
    monkeypatch.setattr(file_hashes, "content_hash", lambda path: reads.append(path) or content_hash(path))
    assert file_hashes.content_hashes([path, path]) == [first, first] and not reads
    while write(tmp_path / "later", b"").stat().st_ctime_ns == path.stat().st_ctime_ns:
        pass  # the file system's clock ticks every few milliseconds
    flip(path)
    os.utime(path, (OLD, OLD))  # the content's time set back: the inode's own is not
    assert file_hashes.content_hashes([path]) != [first] and reads == [path]
    whole = own_cache.read_bytes()
    own_cache.write_bytes(b"\xff\xfe\n[half a line")  # damaged: hashed again
    assert file_hashes.content_hashes([path]) != [first] and len(reads) == 2
    own_cache.write_bytes(whole)  # by another process, whose hashes are taken
    assert file_hashes.content_hashes([path]) != [first] and len(reads) == 2


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path, own_cache, monkeypatch):
    monkeypatch.setattr(file_hashes, "RACY_SECONDS", 3600.0)  # so that a machine which stands still is in time
    file_hashes.content_hashes([write(tmp_path / "weights", b"12345678", time.time())])
    assert not own_cache.exists()


def test_a_cache_that_cannot_be_written_fails_nothing(tmp_path, monkeypatch):
    settled(monkeypatch)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = write(tmp_path / "weights", b"1")
    assert file_hashes.content_hashes([path]) == file_hashes.content_hashes([path])


def test_the_cache_forgets_its_older_half(tmp_path, own_cache, monkeypatch):
    settled(monkeypatch)
    monkeypatch.setattr(file_hashes, "CACHE_BYTES", 2000)
    for number in range(40):
        file_hashes.content_hashes([write(tmp_path / f"f{number}", b"1")])
    lines = own_cache.read_text().splitlines()
    assert len(lines) < 30 and "f39" in lines[-1]


# ------------------------------------------------------------------------------------------ pretrained models


def test_a_local_model_is_known_by_its_weights_and_not_by_their_size(tmp_path):
    for name, data in (
        ("config.json", b"{}"),
        ("model.safetensors", b"abcd"),
        ("README.md", b"r"),
        ("vocab.txt", b"v"),
    ):
        write(tmp_path / "m" / name, data)
    before = pretrained_content(str(tmp_path / "m"))
    flip(tmp_path / "m" / "model.safetensors")
    after = pretrained_content(str(tmp_path / "m"))
    assert before != after
    write(tmp_path / "m" / "README.md", b"other")
    write(tmp_path / "m" / "model.safetensors", (tmp_path / "m" / "model.safetensors").read_bytes(), OLD + 9)
    assert pretrained_content(str(tmp_path / "m")) == after == pretrained_content(f"file://{tmp_path}/m")
    shutil.copytree(tmp_path / "m", tmp_path / "moved")
    assert pretrained_content(str(tmp_path / "moved")) == after
    with pytest.raises(UserError, match=r"holds no config\.json"):
        pretrained_content(str(tmp_path / "cache"))


@pytest.fixture
def cached_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hub that cannot be reached, and a local cache that holds two commits of one repository."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub_commits.commit.cache_clear()
    repo = tmp_path / "hub" / "models--owner--name"
    for commit in ("a" * 40, "b" * 40):
        for file in ("config.json", "tokenizer.json"):
            write(repo / "snapshots" / commit / file, b"{}")
    write(repo / "refs" / "main", b"a" * 40)
    yield repo
    hub_commits.commit.cache_clear()


def test_a_model_of_the_hub_is_known_by_its_commit_offline_too(cached_repo, sweep_text):
    assert pretrained_content("owner/name") == ["hub", "owner/name", "a" * 40]
    read = config.parse(sweep_text, overrides=("model={pretrained: owner/name}",))
    before = tokenizer_fingerprint(Tokenizer(pretrained="owner/name"), [], 0)
    assert stage_store.contents_of_file(read).models == {"owner/name": ["hub", "owner/name", "a" * 40]}
    chain = stage_store.chain(read.example(), 0, materials(read.example()))
    assert chain.stages[0].model.pretrained == f"owner/name@{'a' * 40}"
    hub_commits.commit.cache_clear()
    (cached_repo / "refs" / "main").write_text("b" * 40)
    assert pretrained_content("owner/name") == ["hub", "owner/name", "b" * 40]
    assert tokenizer_fingerprint(Tokenizer(pretrained="owner/name"), [], 0) != before
    assert pretrained_content(f"owner/name@{'a' * 40}") == ["hub", "owner/name", "a" * 40]
    with pytest.raises(
        UserError, match=r"^model\.pretrained: 'owner/other' is no folder here.*hf download owner/other"
    ):
        pretrained_content("owner/other")
    with pytest.raises(UserError, match=r"^tokenizer\.pretrained: 'owner/other'"):
        tokenizer_fingerprint(Tokenizer(pretrained="owner/other"), [], 0)


# ------------------------------------------------------------------------------------------------------ tasks


@pytest.fixture
def task(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)  # from which the task's functions import
    write(tmp_path / "words.py", b"from more_words import end\n\n\ndef text(doc):\n    return doc['q'] + end\n")
    write(tmp_path / "more_words.py", b"end = '?'\n")
    write(tmp_path / "unrelated.py", b"end = '?'\n")
    write(tmp_path / "items.jsonl", b'{"q": "a"}\n')
    write(tmp_path / "base.yaml", b"output_type: generate_until\ndoc_to_target: q\n")
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/items.jsonl}}}}\n"
    text = f"task: own\ninclude: base.yaml\n{data}test_split: test\ndoc_to_text: !function words.text\n"
    return write(tmp_path / "own.yaml", text.encode())


@pytest.mark.parametrize("file", ["own.yaml", "base.yaml", "words.py", "more_words.py", "items.jsonl"])
def test_a_task_is_known_by_its_files_modules_and_data(tmp_path, task, file):
    before = evaluation.task_content(str(task))
    (tmp_path / "unrelated.py").write_text("other = 1\n")
    assert evaluation.task_content(str(task)) == before
    with open(tmp_path / file, "a") as opened:
        opened.write("# edited\n" if file != "items.jsonl" else "\n")
    assert evaluation.task_content(str(task)) != before


def test_a_task_s_data_may_be_a_folder_or_a_glob(tmp_path):
    write(tmp_path / "data" / "a.jsonl", b"1")
    for kwargs in (f"data_dir: {tmp_path}/data", f"data_files: '{tmp_path}/data/*.jsonl'"):
        file = write(tmp_path / "t.yaml", f"task: t\ndataset_path: json\ndataset_kwargs: {{{kwargs}}}\n".encode())
        before = evaluation.task_content(str(file))
        flip(tmp_path / "data" / "a.jsonl")
        assert evaluation.task_content(str(file)) != before


def test_a_built_in_task_is_known_by_the_files_it_is_made_by(tmp_path, monkeypatch):
    before = evaluation.task_content("boxes")
    shutil.copytree(task_files.FOLDER, tmp_path / "tasks")
    monkeypatch.setattr(task_files, "FOLDER", tmp_path / "tasks")
    assert evaluation.task_content("boxes") == before
    with open(tmp_path / "tasks" / "boxes" / "__init__.py", "a") as file:
        file.write("# edited\n")
    assert evaluation.task_content("boxes") != before


def test_a_task_that_cannot_be_read_is_refused_in_one_line(tmp_path):
    for text in (b"- a\n", b"task: [\n", b"task: a\ninclude: nothing.yaml\n"):
        with pytest.raises(UserError, match=r"^evaluation\.tasks: ") as caught:
            evaluation.task_content(str(write(tmp_path / "t.yaml", text)))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_the_version_of_lm_eval_is_in_an_evaluation_s_identity(sweep_text):
    sweep = config.parse(sweep_text).example()
    known = stage_store.contents_of([sweep])
    assert known.lm_eval == evaluation.lm_eval_version()
    other = replace(known, lm_eval="0.0")
    chains = [stage_store.chain(sweep, 0, replace(materials(sweep), contents=contents)) for contents in (known, other)]
    assert chains[0].stages == chains[1].stages
    assert chains[0].evaluation.identity != chains[1].evaluation.identity


# ----------------------------------------------------------------------------------- defaults, pass-through settings


def test_a_default_that_changes_gives_no_old_stage_a_new_meaning():
    class Later(Stage):
        optimizer: Optimizer = Optimizer(weight_decay=0.2)

    fields = {
        "name": "s",
        "tokens": 64,
        "sequence_length": 8,
        "batch_tokens": 8,
        "learning_rate": {"peak": 0.1},
        "weights": {"a": 1.0},
    }
    one, other, said = Stage(**fields), Later(**fields), Stage(**fields, optimizer={"weight_decay": 0.1})
    known = [identity.stage_identity(stage, [], [0.0], "step", False, "p") for stage in (one, other, said)]
    assert known[0] != known[1] and known[0] == known[2]


def test_of_deepspeed_s_settings_only_those_enter_that_change_numbers():
    placed = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}, "steps_per_print": 3}
    assert numeric_settings(placed) == {}
    quantized = {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}, "fp16": {"loss_scale": 8}}
    assert numeric_settings(quantized) == {
        "zero_optimization": {"zero_quantized_weights": True},
        "fp16": {"loss_scale": 8},
    }
    assert numeric_settings({"a key of next year": 1}) == {"a key of next year": 1}


# ------------------------------------------------------------------------------------------------- old storages


def test_stages_of_an_older_recipe_are_said_once_and_never_taken(tmp_path):
    storage = Folder(str(tmp_path / "s"))
    assert stage_store.report_older_stages(storage) is None and stage_store.report_older_stages(storage) is None
    storage.write_bytes(".recipe", b"2\n")
    (storage / "stages" / "pretrain-0123").write_bytes("DONE", b"")
    said = stage_store.report_older_stages(storage)
    assert "1 stages" in said and "recipe 2" in said and "\n" not in said
    assert stage_store.report_older_stages(storage) is None


def test_a_run_is_not_continued_on_other_data(tmp_path, sweep_text):
    run = run_folders.open_run(config.parse(sweep_text), Folder(str(tmp_path / "s")))
    stores = {"prose": SimpleNamespace(fingerprint="a"), "python": SimpleNamespace(fingerprint="b")}
    provenance.fix_data(run, "t", stores)
    provenance.fix_data(run, "u", stores)  # no trial has ended
    (run.folder / "trials" / "0000").write_bytes("result.json", b"{}")
    run = replace(run)  # as the next driver opens it
    provenance.fix_data(run, "u", stores)
    with pytest.raises(UserError, match=r"sources\.prose: its content has changed since 1 trials"):
        provenance.fix_data(run, "u", {**stores, "prose": SimpleNamespace(fingerprint="c")})
    with pytest.raises(UserError, match="tokenizer: its content has changed"):
        provenance.fix_data(run, "t", stores)


def test_a_run_is_not_continued_with_another_model_task_or_recipe(tmp_path, task, sweep_text, monkeypatch):
    file = config.parse(sweep_text, overrides=(f"evaluation.tasks=[{task}]",))
    run = run_folders.open_run(file, Folder(str(tmp_path / "s")))
    provenance.fix_contents(run)
    task.write_text(task.read_text() + "num_fewshot: 0\n")
    provenance.fix_contents(run)  # no trial has ended
    (run.folder / "trials" / "0000").write_bytes("result.json", b"{}")
    run = replace(run)  # as the next driver opens it
    provenance.fix_contents(run)
    task.write_text(task.read_text() + "description: other\n")
    with pytest.raises(UserError, match=r"evaluation\.tasks: the content of '.*own\.yaml' has changed since 1 trials"):
        provenance.fix_contents(run)
    with pytest.raises(UserError, match=r"has changed since"):
        provenance.fix_contents(run, num_left=0)  # the old score would be shown for it
    whole = run.folder.read_bytes("contents.json")
    run.folder.write_bytes("contents.json", whole[:40])
    provenance.fix_contents(run)  # damaged: nothing can be compared, and the run goes on
    assert run.folder.read_bytes("contents.json") != whole
    (run.folder.local / "contents.json").unlink()
    provenance.fix_contents(run, num_left=0)  # an older run that is done stays done
    with pytest.raises(UserError, match=r"training recipe is \d+, was an older one"):
        provenance.fix_contents(run)


def test_a_run_that_began_under_another_recipe_is_not_continued_before_a_trial_has_ended_either(tmp_path, sweep_text):
    run = run_folders.open_run(config.parse(sweep_text), Folder(str(tmp_path / "s")))
    provenance.fix_contents(run)
    provenance.require_same_recipe(run, 2)
    run.folder.write_json("contents.json", {**run.folder.read_json("contents.json"), "recipe": 3})
    with pytest.raises(UserError, match=r"recipe is \d+, was 3 since this run began"):
        provenance.require_same_recipe(run, 2)
    for number in range(2):
        (run.folder / "trials" / f"{number:04d}").write_bytes("result.json", b"{}")
    provenance.require_same_recipe(replace(run), 2)  # nothing is left to do


# ------------------------------------------------------------------------------------------ damage to what was made


LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def finish(stage: Folder) -> None:
    """Leaves what makes a stage a finished one."""
    record = StageRecord("0123456789abcdef", stage.name, 3, 3_072, 5.0, 2.0, 2.0, "c0ffee")
    stage.write_json("stage.json", {"record": as_json(record)})
    stage.write_bytes("DONE", b"")


def test_a_stage_whose_model_is_damaged_is_trained_again_and_its_reader_refuses_it(tmp_path, sweep_text, caplog):
    sweep = config.parse(sweep_text).example()
    chain = stage_store.chain(sweep, 0, materials(sweep, storage=str(tmp_path / "s")))
    first = Folder(chain.stages[0].folder)
    made = model.build(Model(config=LLAMA), 100, seed=0)
    made.save_pretrained(first.local / "model")
    model_files.write_checksums(first.local / "model")
    finish(first)
    assert list(stage_store.finished_outcomes(chain)) == [chain.stages[0].key]
    model.build(Model(config=LLAMA), 100, seed=1, parent=first / "model")
    flip(first.local / "model" / "model.safetensors", 900)
    with pytest.raises(model.DamagedModel, match=r"model\.safetensors: has changed.*trained once more"):
        model.build(Model(config=LLAMA), 100, seed=1, parent=first / "model")
    for task, key in chain.evaluation.keys.items():
        scored = evaluation.TaskResult(pa.table({"task": [task], "item": [0]}), {f"{task}/items": 1.0}, (task,), 1.0)
        write_result(Folder(chain.evaluation.folder), key, scored)
    finish(Folder(chain.stages[1].folder))
    assert list(stage_store.finished_outcomes(chain)) == [job.key for job in chain.jobs]  # nobody will read it
    Folder(chain.stages[1].folder).delete("DONE")
    with caplog.at_level(logging.WARNING):
        assert list(stage_store.finished_outcomes(chain)) == [chain.evaluation.key]
    assert "is trained again" in caplog.text and not first.exists("DONE")


@pytest.mark.parametrize(
    ("break_it", "found"),
    [
        (lambda folder: (folder / "a").unlink(), "a: is missing"),
        (lambda folder: (folder / "a").write_bytes(b"xx"), "a: has 2 bytes, written were 1"),
        (lambda folder: flip(folder / "a"), "a: has changed"),
        (lambda folder: (folder / "checksums.json").write_text("[1"), "cannot be read"),
    ],
)
def test_damage_to_a_model_folder_names_the_file(tmp_path, break_it, found):
    write(tmp_path / "a", b"1")
    assert model_files.find_damage(tmp_path) is None  # nothing is known of it
    model_files.write_checksums(tmp_path)
    assert model_files.find_damage(tmp_path) is None
    break_it(tmp_path)
    assert found in model_files.find_damage(tmp_path)


# ----------------------------------------------------------------------------------------------- nobody's code


def test_a_model_s_own_python_is_never_run_and_nobody_is_asked(tmp_path, monkeypatch):
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    write(tmp_path / "m" / "config.json", json.dumps(own).encode())
    write(tmp_path / "m" / "own.py", f"open({str(tmp_path / 'ran')!r}, 'w').close()\n".encode())
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail("asked on standard input"))
    for asked in (
        lambda: model.num_parameters(Model(pretrained=str(tmp_path / "m")), 100),
        lambda: model.build(Model(pretrained=str(tmp_path / "m")), 100, seed=0),
        lambda: evaluation.evaluate(tmp_path / "m", Evaluation(tasks=("boxes",), limit=1)),
    ):
        with pytest.raises(UserError, match=r"Python code of its own, which raycodellm never runs"):
            asked()
    assert not (tmp_path / "ran").exists()


def test_everything_that_transformers_loads_is_told_to_trust_no_code():
    package = Path(model.__file__).parents[1]
    for path in package.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if ".from_pretrained(" in line or ".from_config(" in line:
                assert "trust_remote_code=False" in line, f"{path.name}: {line.strip()}"


# ------------------------------------------------------------------------------------------------------ check


def test_check_prints_the_identities_that_a_run_has_and_none_before_they_are_known(tmp_path, task):
    for name in ("prose", "python"):
        lines = [f"{name} number {number}: the quick brown fox jumps\n\n" for number in range(4000)]
        write(tmp_path / name / "a.txt", "".join(lines).encode())
    text = f"""
name: small
model: {{preset: tiny}}
tokenizer: {{train: {{vocab_size: 300}}}}
sources:
  prose: {{kind: text, path: {tmp_path}/prose, documents: paragraphs}}
  python: {{kind: code, path: {tmp_path}/python, format: text, documents: paragraphs}}
stages:
  - &first
    {{name: one, tokens: 4096, sequence_length: 64, batch_tokens: 1024, learning_rate: {{peak: 0.1}}, code_ratio: 0.5}}
  - {{<<: *first, name: two, tokens: 2000}}
evaluation: {{tasks: [{task}]}}
search: {{trials: 1, sampler: random}}
"""
    file, storage = config.parse(text), Folder(str(tmp_path / "storage"))
    before = check.describe(file, storage)
    assert "tokens rounded up to whole steps: two 2,000 to 2,048\n" in before
    assert "CPU core hours at" in before and "cost: --prices shows it in money" in before
    sweep = file.example()
    made = tokens.prepare(sweep, storage)
    tokenizer = (made.tokenizer_folder, made.tokenizer_fingerprint, made.vocab_size)
    contents = stage_store.contents_of_file(file)
    stages = stage_store.chain(sweep, 0, stage_store.Materials(made.stores, *tokenizer, storage, contents)).stages
    after = check.describe(file, storage)
    for job in stages:
        assert f"{job.stage.name} {job.identity[:6]}" in after
        assert job.identity[:6] not in before


def test_a_hub_that_is_away_does_not_keep_a_run_from_going_on(tmp_path, sweep_text, monkeypatch):
    task = write(tmp_path / "hub.yaml", b"task: hub\ndataset_path: owner/data\n")
    run = run_folders.open_run(
        config.parse(sweep_text, overrides=(f"evaluation.tasks=[{task}]",)), Folder(str(tmp_path / "s"))
    )
    (run.folder / "trials" / "0000").write_bytes("result.json", b"{}")
    known = {"recipe": provenance.RECIPE_VERSION, "compiled": False}
    found = []
    for commit in ("a" * 40, None, "a" * 40, "b" * 40):
        monkeypatch.setattr(data_sources, "hub_silence", lambda commit=commit: "" if commit else "no answer")
        monkeypatch.setattr(data_sources.hub_commits, "commit", lambda *asked, commit=commit: commit)
        monkeypatch.setattr(data_sources, "_is_cached", lambda path: True)
        contents = stage_store.contents_of_file(run.file)
        if not run.folder.exists("contents.json"):
            run.folder.write_json("contents.json", {**known, **as_json(contents)})
        if commit == "b" * 40:
            with pytest.raises(UserError, match="has changed"):
                provenance.fix_contents(run)
        else:
            found.append(provenance.fix_contents(run))
    assert found[0] == found[1] == found[2]


def test_a_run_is_continued_on_other_hardware_but_not_in_another_precision(tmp_path, sweep_text):
    storage = Folder(str(tmp_path / "s"))
    run_folders.open_run(config.parse(sweep_text), storage)
    offload = "scaling.deepspeed.config={zero_optimization: {offload_optimizer: {device: cpu}}}"
    run_folders.open_run(config.parse(sweep_text, overrides=(offload, "scaling.workers=2")), storage)
    for override, key in (
        ("scaling.deepspeed.precision=bf16", r"stages\.pretrain\.numerics\.precision"),
        ("pretrain.attention=eager", r"stages\.pretrain\.numerics\.attention"),
        ("pretrain.deepspeed_config={communication_data_type: fp16}", r"deepspeed_config\.communication_data_type"),
    ):
        with pytest.raises(UserError, match=rf"^{key}|^.*{key}: this run began with"):
            run_folders.open_run(config.parse(sweep_text, overrides=(override,)), storage)


def test_a_run_that_was_written_in_older_spellings_is_continued_and_shown_in_the_current_ones(tmp_path, sweep_text):
    space = "pretrain.weight_decay={search: {uniform: [0.0, 0.2]}}"
    storage = Folder(str(tmp_path / "s"))
    run = run_folders.open_run(config.parse(sweep_text, overrides=(space, "instruct.precision=bf16")), storage)
    written = config.resolved_tree(run.file)
    for stage in written["stages"]:
        for old, (group, key) in STAGE_SETTINGS.items():
            if key in stage[group]:
                stage[old] = stage[group].pop(key)
        for group in ("optimizer", "averaging", "numerics", "faults"):
            assert stage.pop(group) == {}
    run.folder.write_bytes("sweep.yaml", config.write_yaml(written).encode())
    again = run_folders.open_run(config.parse(sweep_text, overrides=(space, "instruct.precision=bf16")), storage)
    assert again.file.parameters == run.file.parameters
    trial = run.trial_folder(0)
    trial.write_json("result.json", as_json(TrialResult(0, "complete", 0, 0, params={"pretrain.weight_decay": 0.1})))
    assert storage_files.read_result(trial).params == {"pretrain.optimizer.weight_decay": 0.1}
    rows = [{"number": 0, "state": "complete", "arm": 0, "seed": 0, "params.pretrain.weight_decay": 0.1}]
    run.folder.write_table("trials.parquet", pa.Table.from_pylist(rows))
    assert storage_files.read_trials_table(run.folder)[0]["params.pretrain.optimizer.weight_decay"] == 0.1
