"""A sweep with `stages: []` evaluates given models: each once per task, known by its content, and trains nothing."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from driver_without_ray import Cluster, Driver

from raycodellm import config, evaluation, model, report, runs, search, stage_store, storage_files, sweep
from raycodellm.check import given_models
from raycodellm.config import Model, SweepFile, Unreachable, UserError
from raycodellm.files import Folder
from raycodellm.identity import hub_commits

pytestmark = pytest.mark.usefixtures("no_rivals")

GIVEN = """
name: given
model: {search: {choice: [{pretrained: HERE/base}, {pretrained: HERE/other}, {pretrained: HERE/third}]}}
stages: []
evaluation: {tasks: [boxes], limit: 8}
search: {sampler: grid, objective: {metric: boxes/bpb, mode: min}}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Three folders with the files by which a model is known."""
    for name in ("base", "other", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')
        (tmp_path / name / "model.safetensors").write_text(name)
        (tmp_path / name / "tokenizer.json").write_text("{}")
    return tmp_path


def given(here: Path, *overrides: str) -> SweepFile:
    return config.parse(GIVEN.replace("HERE", str(here)), overrides=overrides)


def chains(file: SweepFile, storage: Path) -> list[stage_store.Chain]:
    contents = stage_store.contents_of_file(file)
    materials = stage_store.Materials({}, Folder("/t"), "", 0, Folder(str(storage)), contents)
    return [stage_store.chain(config.resolve(file, point), 0, materials) for point in search.grid(file)]


# ------------------------------------------------------------------------------------------------- the sweep file


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.replicates=2", ("search.replicates", "found 2", "no model has a training seed")),
        ("search={sampler: grid, reference: {model: {pretrained: HERE/base}}, confirm: {}}", ("search.confirm",)),
        ("search.sampler=tpe", ("search.sampler", "tpe", "use grid")),
        ("model={preset: tiny}", ("stages: is empty", "random weights", "model.pretrained")),
        ("tokenizer={train: {}}", ("tokenizer", "leave tokenizer out")),
        ("sources={a: {kind: text, path: b}}", ("tokenizer: is missing",)),
        ("search.pairs=[[HERE/base, far]]", ("search.pairs.0: 'far' is no model of the search", "known")),
        ("search.pairs=[[HERE/base, HERE/base]]", ("search.pairs.0", "compared with itself")),
        ("search.pairs=[[HERE/base, HERE/other], [HERE/base, HERE/other]]", ("search.pairs.1", "named twice")),
        ("search.pairs=[[HERE/base, HERE/other], [HERE/other, HERE/base]]", ("search.pairs.1", "named twice")),
        (
            "search.pairs=[HERE/base, HERE/other]",
            ("search.pairs.0: found", "list in brackets, for example pairs: [["),
        ),
        ("search.pairs=[[HERE/base, HERE/other, HERE/base]]", ("search.pairs.0: found", "give 2 values at most")),
        ("match_repetition={target_tokens: 9, source_tokens: {}}", ("match_repetition", "nothing is trained")),
    ],
)
def test_what_has_no_meaning_without_training_is_refused(here: Path, override: str, said: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        given(here, override.replace("HERE", str(here)))
    assert all(one in str(caught.value) for one in said), caught.value


def test_a_source_without_a_stage_must_be_measured(here: Path) -> None:
    sources = ("sources={prose: {kind: text, path: p.txt}}", "tokenizer={train: {}}")
    with pytest.raises(UserError, match=r"^sources\.prose: nothing is trained .* measure"):
        given(here, *sources)
    measured = given(here, *sources, "evaluation.suites=[bpb]").example()
    assert measured.evaluation.texts.prose == "held_out"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.pairs=[[a, b]]", "search.pairs: compares given models"),
        ("sources={}", "sources: is missing"),
        ("tokenizer=null", "tokenizer: is missing"),
        ("stages=[]", "random weights"),
    ],
)
def test_a_sweep_that_trains_needs_what_it_needed(sweep_text: str, override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        config.parse(sweep_text, overrides=(override,))


def test_without_pairs_every_model_is_compared_with_the_reference_or_else_the_first(here: Path) -> None:
    base, other, third = (f"{here}/{name}" for name in ("base", "other", "third"))
    assert given(here).pairs() == ((base, other), (base, third))
    assert given(here, f"search.reference={{model: {{pretrained: {third}}}}}").pairs() == (
        (third, base),
        (third, other),
    )
    assert given(here, f"search.pairs=[[{other}, {third}]]").pairs() == ((other, third),)
    plain = f"model={{pretrained: {{search: {{choice: [{base}, {other}]}}}}}}"
    assert given(here, plain).pairs() == ((base, other),)
    assert given(here, f"model={{pretrained: {base}}}").pairs() == ()


# ------------------------------------------------------------------------------------------------- identity


def test_a_given_model_is_evaluated_by_its_content_and_nothing_is_written_into_its_folder(here: Path) -> None:
    shutil.copytree(here / "base", here / "copy")
    copied = f"model={{pretrained: {{search: {{choice: [{here}/base, {here}/copy, {here}/other]}}}}}}"
    base, copy, other = chains(given(here, copied), here / "storage")
    assert base.stages == () and base.jobs == (base.evaluation,)
    assert base.evaluation.key == copy.evaluation.key != other.evaluation.key
    assert base.evaluation.folder == copy.evaluation.folder
    assert base.evaluation.folder.startswith(f"{here}/storage/models/")
    assert base.evaluation.model == f"{here}/base" and base.evaluation.parent == ""


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_other_weights_or_another_tokenizer_are_another_model(here: Path, file: str) -> None:
    before = chains(given(here), here / "storage")[0].evaluation
    (here / "base" / file).write_text('{"other": 1}')
    after = chains(given(here), here / "storage")[0].evaluation
    assert before.key != after.key and before.folder != after.folder


def test_a_relative_folder_is_found_from_another_working_folder(here: Path, monkeypatch) -> None:
    monkeypatch.chdir(here)
    file = given(here, "model={pretrained: base}")
    contents = stage_store.contents_of_file(file)
    monkeypatch.chdir("/")  # as a trial's process does
    materials = stage_store.Materials({}, Folder("/t"), "", 0, Folder("/s"), contents)
    assert stage_store.chain(file.example(), 0, materials).evaluation.model == f"{here}/base"


def test_a_model_of_the_hub_is_evaluated_at_its_commit(here: Path, monkeypatch) -> None:
    monkeypatch.setattr(hub_commits, "commit", lambda name, files: "a" * 40)
    (made,) = chains(given(here, "model={pretrained: owner/name}"), here)
    assert made.evaluation.model == f"owner/name@{'a' * 40}"
    with evaluation.model_files(made.evaluation.model) as files:
        assert hub_commits.loadable(files) == ("owner/name", {"revision": "a" * 40})


def test_a_folder_without_a_model_is_refused_by_its_key(here: Path) -> None:
    (here / "base" / "config.json").unlink()
    with pytest.raises(UserError, match=r"^model\.pretrained: .*/base holds no config\.json"):
        stage_store.contents_of_file(given(here))


# ------------------------------------------------------------------------------------------------- the run


def drive(file: SweepFile, storage: Folder, cluster: Cluster, said: list[str]) -> int:
    """Runs the trials that are left; returns how many were left."""
    with (
        sweep.lock(sweep.open_run(file, storage, said.append), said.append) as run,
        pytest.MonkeyPatch.context() as patch,
    ):
        left = search.num_trials(file) - sweep.tell_written_results(run, said.append)
        now = itertools.count(0.0, 10.0)
        driver = Driver(run, cluster, patch, lambda: next(now))
        for number in range(left):
            driver.end(str(number), driver.carry_out(driver.suggest(str(number))))
        return left


def test_each_model_is_evaluated_once_on_each_task_and_an_added_task_alone(here: Path, monkeypatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    storage, cluster, said = Folder(f"{here}/storage"), Cluster(), []
    assert [drive(given(here), storage, cluster, said) for _ in range(2)] == [3, 0]
    assert len(cluster.num_evaluated) == 3 and not cluster.num_trained
    added = given(here, "evaluation.tasks=[boxes, logical_deduction]")
    assert [drive(added, storage, cluster, said) for _ in range(2)] == [3, 0]
    assert set(cluster.num_evaluated.values()) == {1} and len(cluster.num_evaluated) == 6
    another = given(here, "name=another", "search.pairs=[]", "evaluation.tasks=[logical_deduction]",
                    "search.objective.metric=logical_deduction/bpb")  # fmt: skip
    assert drive(another, storage, cluster, said) == 3 and len(cluster.num_evaluated) == 6
    run = sweep.Run(added, storage)
    result = storage_files.read_result(run.trial_folder(0))
    assert result.stages == () and result.tokens == {"total": 0} and "logical_deduction/bpb" in result.metrics
    assert {path.name for path in (here / "base").iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    sweep.write_table(run, said.append)
    folder = report.write_report(run.folder, storage)
    told = folder.read_json("pairs.json")["pairs"]
    assert [(Path(one["base"]).name, Path(one["other"]).name) for one in told if one["metric"] == "boxes/bpb"] == [
        ("base", "other"),
        ("base", "third"),
    ]
    assert {one["verdict"] for one in told if one["p"] is not None} == {"not known"}
    page = folder.read_text("report.md")
    assert "Of 4 comparisons of given models (pairs × tasks), 0 better, 0 worse, 4 not known" in page
    assert "no training seed is behind a given model" in page and "winner" not in page and "Ledger" not in page
    whole = evaluation.read_trial_items(run.trial_folder(0), storage)
    run.trial_folder(0).write_bytes("items.parquet", b"half")
    again = evaluation.read_trial_items(run.trial_folder(0), storage)
    assert again.column("bits_per_byte").to_pylist() == whole.column("bits_per_byte").to_pylist()


# ------------------------------------------------------------------------------------------------- the check


def test_check_shows_given_models_and_leaves_out_what_the_hub_alone_knows(here: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_commits, "_silent_until", 0.0)
    file = given(here, "model={pretrained: {search: {choice: [owner/near, owner/far]}}}")
    table = "\n".join(given_models.models(file, given_models.look_up(file)))
    assert table.count("hub, not reached from here") == 2 and "near → far" in table
    assert "left out for 2 models" in table and "whether they exist, and their size" in table


def test_a_hub_that_cannot_be_reached_is_not_asked_for_every_model(monkeypatch) -> None:
    asked: list[str] = []

    def unreachable(self, repo, **how):
        asked.append(repo)
        raise TimeoutError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", unreachable)
    monkeypatch.setattr(hub_commits, "_silent_until", 0.0)
    for name in ("owner/one", "owner/two"):
        with pytest.raises(Unreachable):
            hub_commits.commit(name, ("config.json",))
    for load in (hub_commits.loadable, lambda name: model.context_length(Model(pretrained=name), 0)):
        with pytest.raises(Unreachable, match="hf download owner/one"):  # before transformers asks, again and again
            load("owner/one")
    assert asked == ["owner/one"]


def test_other_pairs_are_compared_without_another_evaluation(here: Path, monkeypatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    storage, cluster, said = Folder(f"{here}/storage"), Cluster(), []
    drive(given(here), storage, cluster, said)
    turned = given(here, f"search.pairs=[[{here}/third, {here}/other]]")
    assert drive(turned, storage, cluster, said) == 0
    opened = runs.open_run(f"{here}/storage/given")
    opened.write_report()
    (one,) = [one for one in (opened.folder / "report").read_json("pairs.json")["pairs"] if one["p"] is not None]
    assert (one["base"], one["other"]) == (f"{here}/third", f"{here}/other")
    assert opened.model(0) == here / "base"
    assert any("no training seed is behind a given model" in line for line in opened.status.lines())
