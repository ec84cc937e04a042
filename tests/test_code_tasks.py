"""Code that a model wrote scores by its tests, in the sandbox alone; what could not be run is never a zero."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from test_stage_store import chain
from tokenizers import pre_tokenizers

from raycodellm import evaluation, stage_store
from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation import evaluate, sandbox
from raycodellm.evaluation.code import judging as code_judging
from raycodellm.evaluation.code import tasks as code_tasks
from raycodellm.evaluation.code.judging import FIRST_LIMITS, Attempt
from raycodellm.evaluation.code.scores import pass_at_k, scores
from raycodellm.evaluation.sandbox import FAILED, NOT_RUN, PASSED, Limits, Program, Verdict
from raycodellm.evaluation.tasks.sampling import Sampling
from raycodellm.files import Folder
from raycodellm.tasks import FOLDER

DATA = Path(os.environ.get("RAYCODELLM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "eval"
HALVE = {
    "task_id": "own/0",
    "prompt": 'def halve(number: int) -> int:\n    """Half of an even number.\n    >>> halve(8)\n    4\n    """\n',
    "canonical_solution": "    return number // 2\n",
    "test": "def check(candidate):\n    assert candidate(8) == 4\n    assert candidate(-2) == -1\n",
    "entry_point": "halve",
}
LONGEST = {
    "task_id": 11,
    "text": "Write a function that gives the longest of some words.",
    "code": "def longest(words):\r\n    return max(words, key=len)",
    "test_list": ["assert longest(['a', 'abc', 'ab']) == 'abc'", "assert longest(['x']) == 'x'"],
    "test_setup_code": "",
    "challenge_test_list": [],
}


@pytest.fixture(scope="module")
def isolated():
    try:
        return sandbox.find_isolation()
    except sandbox.SandboxUnavailable as error:
        pytest.skip(str(error))


# ------------------------------------------------------------------------------------------------- pass@k


def test_pass_at_k_is_the_share_of_draws_of_k_samples_that_hold_a_right_one():
    for passed in range(6):
        samples = [True] * passed + [False] * (5 - passed)
        for k in range(1, 6):
            draws = list(itertools.combinations(samples, k))
            assert pass_at_k(5, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    with pytest.raises(ValueError, match="pass@6 of 5 samples"):
        pass_at_k(5, 1, 6)


def test_the_estimate_of_pass_at_k_is_right_on_average():
    chance, rng = 0.3, random.Random(0)
    estimates = [pass_at_k(20, sum(rng.random() < chance for _ in range(20)), 10) for _ in range(4000)]
    assert sum(estimates) / len(estimates) == pytest.approx(1 - (1 - chance) ** 10, abs=0.004)


def test_samples_that_were_not_run_are_no_failures():
    assert scores([PASSED]) == {"pass@1": 1.0, "not_run": 0.0}
    assert scores([FAILED]) == {"pass@1": 0.0, "not_run": 0.0}
    assert scores([NOT_RUN]) == {"not_run": 1.0}
    assert scores([PASSED, FAILED, NOT_RUN]) == {"pass@1": 0.5, "not_run": 0.0}
    assert scores([PASSED, *[FAILED] * 19])["pass@10"] == 0.5 and set(scores([FAILED] * 20)) == {
        *("pass@1", "pass@10", "pass@20", "not_run")
    }


def test_several_samples_are_drawn_and_one_is_the_likeliest():
    assert Sampling.of(Evaluation(tasks=("humaneval",))) == (1, 0.0)
    assert Sampling.of(Evaluation(tasks=("humaneval",), samples=10)) == (10, 0.8)
    assert Sampling.of(Evaluation(tasks=("humaneval",), samples=10, temperature=0.2)) == (10, 0.2)
    with pytest.raises(ValueError, match="10 samples of greedy decoding are all the same"):
        Evaluation(tasks=("humaneval",), samples=10, temperature=0.0)


# ------------------------------------------------------------------------------------------------- verdicts


def test_right_programs_pass_wrong_ones_fail_and_malicious_ones_change_nothing(isolated, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("as it was")
    malicious = f"    import os\n    open({str(secret)!r}, 'w').write('changed')\n    os._exit(0)\n"
    completions = [HALVE["canonical_solution"], "    return number\n", malicious, "    return (\n", ""]
    (verdicts,) = code_tasks.judge_humaneval([completions], [HALVE])
    assert [one["result"] for one in verdicts] == [PASSED, *[FAILED] * 4]
    assert [one["answer"] for one in verdicts] == completions and "the program raises" in verdicts[2]["why"]
    assert secret.read_text() == "as it was" and list(tmp_path.iterdir()) == [secret]
    assert code_tasks.score(HALVE, [verdicts]) == pytest.approx({"pass@1": 0.2, "pass@5": 1.0, "not_run": 0.0})

    doc = code_tasks.mbpp_item(LONGEST)
    programs = [doc["code"], "def longest(words): return words[0]", "import sys\nsys.exit(0)"]
    (verdicts,) = code_tasks.judge_mbpp([programs], [doc])
    assert [one["result"] for one in verdicts] == [PASSED, FAILED, FAILED]


def test_without_a_sandbox_no_code_is_run_and_every_item_says_why(monkeypatch):
    def none():
        raise sandbox.SandboxUnavailable("no sandbox works here (landlock: no kernel for it)")

    def run(*_):
        raise AssertionError("ran code outside a sandbox")

    monkeypatch.setattr(sandbox, "find_isolation", none)
    monkeypatch.setattr(sandbox, "run", run)
    (verdicts,) = code_tasks.judge_humaneval([[HALVE["canonical_solution"]]], [HALVE])
    assert verdicts[0]["result"] == NOT_RUN and "no kernel for it" in verdicts[0]["why"]
    assert code_tasks.score(HALVE, [verdicts]) == {"not_run": 1.0}


class Machine:
    """Pretended runs: programs that need so many seconds of computing, and what comes of them."""

    def __init__(self, needs: dict[str, tuple[float, str]]) -> None:
        self.needs, self.runs = needs, []

    def run_all(self, runs):
        self.runs += [(program.source, limits.cpu_seconds) for program, limits in runs.items()]
        return {program: self._run(program, limits) for program, limits in runs.items()}

    def _run(self, program: Program, limits: Limits) -> Verdict:
        seconds, result = self.needs[program.source]
        return Verdict(*((FAILED, "too long") if seconds > limits.cpu_seconds else (result, "")), seconds)


def attempt(source: str) -> Attempt:
    return Attempt(Program(source, "", "work"), Program("reference", "", "work"))


def test_a_program_may_compute_ten_times_as_long_as_the_tasks_own_solution():
    machine = Machine(
        {"quick": (0.1, PASSED), "slow": (5.0, PASSED), "endless": (1e9, PASSED), "reference": (0.6, PASSED)}
    )
    attempts = [attempt("quick"), attempt("slow"), attempt("endless")]
    found = code_judging._verdicts(attempts, machine.run_all)
    assert [found[one].result for one in attempts] == [PASSED, PASSED, FAILED]
    assert machine.runs[-2:] == [("slow", 6), ("endless", 6)]

    alone = Machine({"quick": (0.1, PASSED)})
    code_judging._verdicts([attempt("quick")], alone.run_all)
    assert alone.runs == [("quick", FIRST_LIMITS.cpu_seconds)], "the own solution runs only where a program failed"


def test_a_task_whose_own_solution_fails_here_says_nothing_of_the_program():
    machine = Machine({"wrong": (0.1, FAILED), "right": (0.1, PASSED), "reference": (0.1, FAILED)})
    found = code_judging._verdicts([attempt("wrong"), attempt("right")], machine.run_all)
    assert found[attempt("wrong")].result == NOT_RUN and "own solution" in found[attempt("wrong")].why
    assert found[attempt("right")].result == PASSED


def test_an_own_solution_that_passed_is_run_once_and_one_that_the_machine_failed_is_run_again(monkeypatch):
    verdicts = iter([Verdict(NOT_RUN, "no memory"), Verdict(PASSED)])
    monkeypatch.setattr(sandbox, "run", lambda program, isolation, limits: next(verdicts))
    monkeypatch.setattr(code_judging, "_passed", {})
    run = functools.partial(code_judging._run, Program("own", "", "work"), None, Limits())
    assert [run().result for _ in range(4)] == [NOT_RUN, PASSED, PASSED, PASSED]


# ------------------------------------------------------------------------------------------------- whole evaluations

QUARTER = {
    "task_id": "own/1",
    "prompt": 'def quarter(number: int) -> int:\n    """A quarter of a number."""\n',
    "canonical_solution": "    return number // 4\n",
    "test": "def check(candidate):\n    assert candidate(8) == 2\n",
    "entry_point": "quarter",
}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> tuple[str, Path, Path]:
    """A task of two items, a model that has learnt one right and one malicious completion by heart, and the file that
    the malicious one writes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("learnt")
    secret = folder / "secret"
    malicious = f"    open({str(secret)!r}, 'w')\n    return 2\n"
    texts = [HALVE["prompt"] + HALVE["canonical_solution"], QUARTER["prompt"] + malicious]
    tokenizer = Tokenizer(models.BPE({"<end>": 0} | {letter: 1 + n for n, letter in enumerate(ALPHABET)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=257, max_position_embeddings=1024, **shape, **ids))
    batch = wrapped([text + "<end>" for text in texts], return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(400):  # how many it takes depends on the folder's name
        optimizer.zero_grad()
        loss = model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    model.save_pretrained(folder / "model")
    wrapped.save_pretrained(folder / "model")
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in (HALVE, QUARTER)))
    (folder / "own.yaml").write_text(OWN_TASK.format(path=FOLDER / "humaneval" / "humaneval.yaml", folder=folder))
    return str(folder / "own.yaml"), folder / "model", secret


OWN_TASK = """
include: {path}
task: own_code
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/items.jsonl}}}}
"""
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.slow
def test_a_models_malicious_completion_changes_nothing_and_fails_while_its_right_one_passes(isolated, learnt):
    task, model, secret = learnt
    got = evaluate(model, Evaluation(tasks=(task,)))
    right, malicious = got.items.to_pylist()
    assert right["prediction"] == HALVE["canonical_solution"] and str(secret) in malicious["prediction"]
    assert json.loads(right["attributes"])["result"] == PASSED
    verdict = json.loads(malicious["attributes"])
    assert verdict["result"] == FAILED and "the program raises" in verdict["why"]
    assert got.metrics["own_code/pass@1"] == 0.5 and not secret.exists()


@pytest.mark.slow
def test_several_samples_give_pass_at_k_and_equal_ones_are_judged_once(isolated, learnt, monkeypatch):
    sources = []

    def run(program, *settings):
        sources.append(program.source)
        return whole(program, *settings)

    whole = sandbox.run
    monkeypatch.setattr(sandbox, "run", run)
    task, model, secret = learnt
    got = evaluate(model, Evaluation(tasks=(task,), samples=4, temperature=0.01))
    assert got.metrics["own_code/pass@1"] == got.metrics["own_code/pass@4"] == 0.5 and not secret.exists()
    assert sources.count(HALVE["prompt"] + HALVE["canonical_solution"]) == 1


@pytest.mark.slow
def test_samples_are_drawn_from_the_whole_nucleus_and_not_from_the_50_likeliest_tokens(learnt):
    from raycodellm.evaluation.engine.decoding import Decoding
    from raycodellm.evaluation.engine.language_model import load_model
    from raycodellm.evaluation.tasks.loading import load_tasks

    loaded = load_tasks((learnt[0],), 0, sampling=Sampling(4, 100.0))
    (task,) = loaded.by_name[learnt[0]].values()
    decoding = replace(Decoding.of(task.config.generation_kwargs, 256), max_tokens=1, until=())
    assert (decoding.temperature, decoding.top_p) == (100.0, 0.95)
    lm = load_model(str(learnt[1]), 64, "cpu")
    drawn = lm.generate([lm.tok_encode("def")] * 400, [f"0 {number}" for number in range(400)], decoding)
    assert len(set(drawn)) > 50


def test_the_data_sets_own_solutions_are_measured_with_all_their_bytes(learnt, tmp_path):
    _, model, _ = learnt
    items = Path(learnt[0]).parent / "items.jsonl"
    (tmp_path / "bpb.yaml").write_text(
        f"include: {FOLDER / 'humaneval' / 'humaneval_bpb.yaml'}\ntask: own_bpb\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {items}}}}}\n"
    )
    got = evaluate(model, Evaluation(tasks=(str(tmp_path / "bpb.yaml"),)))
    rows = got.items.to_pylist()
    assert [row["num_bytes"] for row in rows] == [len(one["canonical_solution"]) for one in (HALVE, QUARTER)]
    assert rows[0]["bits_per_byte"] < 0.5 < rows[1]["bits_per_byte"], "the model has learnt one of them"
    assert got.metrics["own_bpb/bpb_corpus"] == pytest.approx(got.metrics["own_bpb/bits_per_byte"])


def test_without_a_sandbox_items_are_not_run_and_no_zero(learnt, monkeypatch):
    def none():
        raise sandbox.SandboxUnavailable("no sandbox works here (landlock: no kernel for it)")

    monkeypatch.setattr(sandbox, "find_isolation", none)
    task, model, secret = learnt
    got = evaluate(model, Evaluation(tasks=(task,)))
    for row in got.items.to_pylist():
        assert row["not_run"] and json.loads(row["attributes"])["result"] == NOT_RUN
        assert "no kernel for it" in json.loads(row["attributes"])["why"]
    assert "own_code/pass@1" not in got.metrics and got.metrics["own_code/not_run"] == 2.0
    assert not secret.exists()


@pytest.mark.slow
def test_a_machine_without_a_sandbox_leaves_no_result_for_one_that_has_it(learnt, monkeypatch, tmp_path):
    def none():
        raise sandbox.SandboxUnavailable("no sandbox works here")

    task, model, _ = learnt
    asked, kept = Evaluation(tasks=(task,)), evaluation.KeptResults(Folder(str(tmp_path)), {task: "key"})
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "find_isolation", none)
        evaluate(model, asked, results=kept)
    assert kept._folder.list() == ["key.parquet"] and kept.read([task]) == {} and kept.read_all() is None
    assert evaluation.kept_items(kept._folder, {"own": {task: "key"}}).num_rows == 2, "the trial's own table has them"
    assert evaluate(model, asked, results=kept).metrics["own_code/not_run"] == 0.0
    assert kept.read_all()[task].metrics["own_code/items"] == 2.0


# ------------------------------------------------------------------------------------------------- documents


def test_mbpp_is_its_test_split_with_the_tests_in_the_prompt():
    datasets = pytest.importorskip("datasets")
    rows = [{**LONGEST, "task_id": number} for number in (10, 11, 510, 511)]
    docs = code_tasks.mbpp_docs(datasets.Dataset.from_list(rows))
    assert docs["task_id"] == ["11", "510"]
    assert docs[0]["prompt"].startswith('"""\nWrite a function') and docs[0]["prompt"].endswith('== \'x\'\n"""\n')
    assert docs[0]["entry_point"] == "longest" and "\r" not in docs[0]["code"]


def test_sanitized_mbpp_is_read_in_the_schema_of_the_hub_and_in_that_of_humaneval():
    hub = {**LONGEST, "prompt": LONGEST["text"], "test_imports": ["import math"]}
    del hub["text"], hub["test_setup_code"]
    copy = {
        "task_id": "MbppEval/11",
        "prompt": "def longest(words):\n    '''\n    Write a function that gives the longest of some words.\n    '''\n",
        "canonical_solution": "    return max(words, key=len)",
        "test": "def check(candidate):\n" + "".join(f"    {test}\n" for test in LONGEST["test_list"]),
        "entry_point": "longest",
    }
    one, other = code_tasks.mbpp_item(hub), code_tasks.signature_item(copy)
    assert {**other, "task_id": "11", "test": one["test"]} == one
    assert one["test"] == "import math\n" + other["test"]


def test_all_splits_of_sanitized_mbpp_are_evaluated_together_or_none(tmp_path):
    folder = tmp_path / "google-research-datasets" / "mbpp" / "sanitized"
    folder.mkdir(parents=True)
    row = {"prompt": LONGEST["text"], "code": LONGEST["code"], "test_imports": [], "test_list": LONGEST["test_list"]}
    for number, split in enumerate(("train", "test", "validation", "prompt")):
        (folder / f"{split}.jsonl").write_text(
            "".join(json.dumps({**row, "task_id": 2 * number + n}) + "\n" for n in (0, 1))
        )
    places = evaluation.Places(data=str(tmp_path))
    task = evaluation.load_tasks(("mbpp_sanitized",), 0, places).single["mbpp_sanitized"]
    assert sorted(doc["task_id"] for doc in task.eval_docs) == [str(number) for number in range(8)]
    (folder / "prompt.jsonl").unlink()
    with pytest.raises(UserError, match=r"evaluates the splits .* together, and .* comes without prompt"):
        evaluation.load_tasks(("mbpp_sanitized_bleu",), 0, places)


def test_check_says_whether_the_models_code_can_be_run_here(isolated, monkeypatch):
    assert evaluation.tasks_running_code(("humaneval", "mbpp", "mbpp_bpb", "boxes"), evaluation.Places()) == (
        "humaneval",
        "mbpp",
    )
    assert evaluation.isolation_here() == f"isolated by {isolated.kind} on this machine"

    def none():
        raise sandbox.SandboxUnavailable("no sandbox works here")

    monkeypatch.setattr(sandbox, "find_isolation", none)
    assert "its items would be not_run: no sandbox works here" in evaluation.isolation_here()


def test_tasks_with_metadata_in_a_list_as_older_files_have_it_can_be_checked(tmp_path):
    (tmp_path / "old.yaml").write_text("task: old\ndataset_path: json\nmetadata:\n  - version: 1.0\n")
    assert evaluation.tasks_running_code(("old",), evaluation.Places(include=str(tmp_path))) == ()


@pytest.mark.parametrize("asked", [{"include": "own", "tasks": ("old",)}, {"tasks": ("own/old.yaml",)}])
def test_a_trial_that_works_in_another_folder_knows_which_tasks_run_code(tmp_path, monkeypatch, asked):
    """Ray Tune starts each trial in a folder of its own, where the sweep file's relative paths lead nowhere."""
    (tmp_path / "own").mkdir()
    (tmp_path / "elsewhere").mkdir()
    text = f"task: old\ndataset_path: json\ndataset_kwargs: {{data_files: {tmp_path}/items.jsonl}}\n"
    (tmp_path / "own" / "old.yaml").write_text(text + "metadata: {runs_code: true}\n")
    (tmp_path / "items.jsonl").write_text(json.dumps(HALVE))
    monkeypatch.chdir(tmp_path)
    keys = set()
    for samples in (1, 4):
        settings = Evaluation(samples=samples, **asked)
        monkeypatch.chdir(tmp_path)
        contents = stage_store.contents_of_tasks([settings])
        monkeypatch.chdir(tmp_path / "elsewhere")
        keys |= {*stage_store.evaluation_job("model", "/model", Folder("/results"), settings, contents).keys.values()}
    assert len(keys) == 2


def test_how_programs_are_drawn_changes_the_tasks_that_run_code_and_no_others(sweep_text, tmp_path):
    (tmp_path / "items.jsonl").write_text(json.dumps(HALVE))
    humaneval = FOLDER / "humaneval" / "humaneval.yaml"
    (tmp_path / "own.yaml").write_text(OWN_TASK.format(path=humaneval, folder=tmp_path))
    asked = f"tasks: [boxes, {tmp_path / 'own.yaml'}]"
    keys = [chain(sweep_text, f"evaluation={{{asked}, samples: {samples}}}").evaluation.keys for samples in (1, 5)]
    assert keys[0]["boxes"] == keys[1]["boxes"]
    assert keys[0][str(tmp_path / "own.yaml")] != keys[1][str(tmp_path / "own.yaml")]


@pytest.mark.exhaustive
def test_every_solution_of_the_data_sets_passes_and_holds_no_stop_word(isolated):
    import datasets
    import yaml

    if not DATA.exists():
        pytest.skip(f"{DATA} is not there")

    def rows(name):
        data = (DATA / name).read_bytes()
        text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
        return datasets.Dataset.from_list([json.loads(line) for line in text.splitlines()])

    def stops(path):
        class Loader(yaml.SafeLoader): ...

        Loader.add_multi_constructor("!", lambda *_: None)
        return yaml.load((FOLDER / path).read_text(), Loader)["generation_kwargs"]["until"]

    humaneval = list(rows("HumanEval.jsonl.gz"))
    mbpp = list(code_tasks.mbpp_docs(rows("mbpp.jsonl")))
    sanitized = list(code_tasks.sanitized_docs(rows("mbpp_sanitized.jsonl")))
    assert (len(humaneval), len(mbpp), len(sanitized)) == (164, 500, 427)
    for docs, judge, column, path in (
        (humaneval, code_tasks.judge_humaneval, "canonical_solution", "humaneval/humaneval.yaml"),
        (mbpp, code_tasks.judge_mbpp, "code", "mbpp/mbpp.yaml"),
        (sanitized, code_tasks.judge_mbpp, "code", "mbpp/mbpp.yaml"),
    ):
        verdicts = judge([[doc[column]] for doc in docs], docs)
        assert {
            doc["task_id"]: one for doc, (one,) in zip(docs, verdicts, strict=True) if one["result"] != PASSED
        } == {}
        assert [doc["task_id"] for doc in docs if any(stop in doc[column] for stop in stops(path))] == []
