"""Another engine may write answers in the place of this package's, if it writes the same. vLLM cannot be installed
beside this package: both engines are this package's own, and vLLM's process meets a module that takes the arguments of
the real one alone. The last tests meet a real vLLM, where RAYCODELLM_VLLM_PYTHON names a Python that has one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_evaluation import write_model

from raycodellm import evaluation
from raycodellm.config import Evaluation, UserError
from raycodellm.evaluation import run
from raycodellm.evaluation.engine import vllm_writer
from raycodellm.evaluation.engine.agreement import differences, problem
from raycodellm.evaluation.engine.decoding import Decoding
from raycodellm.evaluation.engine.language_model import AnswerLM, load_model
from raycodellm.evaluation.engine.vllm_writer import (
    ARGUMENTS,
    PYTHON,
    VllmWriter,
    WriterEnded,
    engine_settings,
    environment_for,
    explained,
    given_arguments,
    opened_process,
    python_with_vllm,
    sampling_parameters,
)
from raycodellm.evaluation.isolation import quiet
from raycodellm.tasks import training_examples

PROMPTS = [prompt for prompt, _ in training_examples(5, 12)]
GREEDY = Decoding(max_tokens=12, until=("\n",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def loaded(folder: Path, batch_size: int = 8) -> AnswerLM:
    with quiet():
        return load_model(str(folder), batch_size, "cpu")


@pytest.fixture(scope="module")
def lm(folder) -> AnswerLM:
    return loaded(folder)


@pytest.fixture
def other(folder) -> AnswerLM:
    """The same model, loaded again."""
    return loaded(folder, batch_size=3)


def spoiled(lm: AnswerLM) -> AnswerLM:
    """The model with another last layer, as a wrong conversion leaves one."""
    import torch

    with torch.no_grad():
        weights = lm.model.get_output_embeddings().weight
        weights.copy_(weights.flip(0) * 3)
    return lm


# ------------------------------------------------------------------------------------------------------- the check


def test_an_engine_of_the_same_model_agrees(lm, other):
    assert differences(lm, other, [lm.tok_encode(prompt) for prompt in PROMPTS], GREEDY) == []


def test_an_engine_of_other_weights_is_told_with_both_answers(lm, other):
    requests = [request(number, prompt) for number, prompt in enumerate(PROMPTS)]
    said = problem(lm, spoiled(other), "boxes", requests)
    [first, *_] = found = differences(lm, other, [lm.tok_encode(prompt) for prompt in PROMPTS], GREEDY)
    assert len(found) == len(PROMPTS) and first.gap is not None and first.gap > 0.01 and first.ours != first.theirs
    worst = max(found, key=lambda one: one.gap)
    assert f"{len(PROMPTS)} of {len(PROMPTS)} items of 'boxes'" in said
    assert repr(worst.ours) in said and repr(worst.theirs) in said and "leave evaluation.backend out" in said


def test_tokens_that_rounding_may_exchange_are_no_disagreement(lm, other):
    import torch

    with torch.no_grad():
        for weights in other.model.parameters():
            weights.mul_(1 + 1e-5 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(3)))
    prompts = [lm.tok_encode(prompt) for prompt in PROMPTS]
    assert differences(lm, other, prompts, dataclasses.replace(GREEDY, max_tokens=60)) == []


def test_an_engine_that_ends_its_answers_elsewhere_disagrees(lm, other):
    prompts = [lm.tok_encode(prompt) for prompt in PROMPTS]
    other.max_length = max(map(len, prompts)) + 4
    found = differences(lm, other, prompts, dataclasses.replace(GREEDY, until=()))
    assert found and all(one.gap is None for one in found)
    requests = [request(number, prompt) for number, prompt in enumerate(PROMPTS)]
    assert "one of the two ends where the other goes on" in problem(lm, other, "boxes", requests)


def request(number: int, prompt: str):
    from lm_eval.api.instance import Instance

    return Instance("generate_until", {}, (prompt, {"until": [], "max_gen_toks": 12}), 0, ("boxes", number, 1))


# --------------------------------------------------------------------------------------------- in an evaluation


@pytest.fixture
def given(monkeypatch):
    """Lets an engine take vLLM's place in evaluations."""

    def give(engine: AnswerLM) -> None:
        monkeypatch.setattr(run, "python_with_vllm", lambda device: sys.executable)
        monkeypatch.setattr(run, "opened_vllm", lambda files, lm: contextlib.nullcontext(engine))

    return give


def test_an_evaluation_has_the_answers_of_the_engine_that_the_settings_name(folder, other, given, tmp_path):
    settings = Evaluation(tasks=(generating(tmp_path), "boxes"), limit=8)
    ours = evaluation.evaluate(folder, settings)
    given(other)
    theirs = evaluation.evaluate(folder, settings.model_copy(update={"backend": "vllm"}))
    assert theirs.items.column("prediction") == ours.items.column("prediction")
    assert theirs.metrics == pytest.approx(ours.metrics, abs=1e-4)


def test_an_evaluation_fails_where_the_engines_disagree_before_an_item_is_scored(folder, other, given, tmp_path):
    given(spoiled(other))
    heard: list[int] = []
    settings = Evaluation(tasks=(generating(tmp_path),), limit=8, backend="vllm")
    with pytest.raises(evaluation.WritersDisagree, match="8 of 8 items of 'writing'; one answer of"):
        evaluation.evaluate(folder, settings, on_items=lambda scored, in_all: heard.append(scored))
    assert heard == [0]


def generating(folder: Path) -> str:
    import json

    rows = [{"q": prompt, "a": "yes"} for prompt in PROMPTS]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "writing.yaml").write_text(
        f"task: writing\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/items.jsonl}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\n"
        'generation_kwargs: {until: ["."], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n'
    )
    return str(folder / "writing.yaml")


# -------------------------------------------------------------------------------------------------- vLLM's process

# Names of vLLM 0.33.0: vllm/entrypoints/llm.py (LLM; the last three go on to EngineArgs), vllm/sampling_params.py.
SURFACE = """
import os
__version__ = "0.33.0"
print("vLLM logs to standard output")

class SamplingParams:
    def __init__(self, n=1, presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0, temperature=1.0,
                 top_p=1.0, top_k=0, min_p=0.0, seed=None, stop=None, stop_token_ids=None, ignore_eos=False,
                 max_tokens=16, min_tokens=0, logprobs=None, detokenize=True, skip_special_tokens=True,
                 spaces_between_special_tokens=True, include_stop_str_in_output=False):
        self.__dict__.update(locals())

class _Completion:
    def __init__(self, token_ids):
        self.index, self.text, self.token_ids, self.finish_reason = 0, "", token_ids, "stop"

class _Request:
    def __init__(self, prompt_token_ids, token_ids):
        self.prompt_token_ids, self.outputs = prompt_token_ids, [_Completion(token_ids)]

class LLM:
    def __init__(self, model, *, tokenizer=None, trust_remote_code=False, tensor_parallel_size=1, dtype="auto", seed=0,
                 gpu_memory_utilization=0.92, enforce_eager=False, max_model_len=None, generation_config="auto",
                 disable_log_stats=True):
        if model == "missing":
            raise ValueError("no such model")
        self.most = max_model_len

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None, priority=None,
                 tokenization_kwargs=None, mm_processor_kwargs=None):
        assert len(prompts) == len(sampling_params) and use_tqdm is False
        if prompts[0]["prompt_token_ids"] == [13]:
            os._exit(3)
        return [_Request(one["prompt_token_ids"], one["prompt_token_ids"] + [params.max_tokens, params.seed or 0])
                for one, params in zip(prompts, sampling_params)]
"""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    (tmp_path / "vllm.py").write_text(SURFACE)
    return {**environment_for(os.environ, sys.executable, 0), "PYTHONPATH": str(tmp_path)}


@contextlib.contextmanager
def opened(environment, model: str = "a") -> Iterator[VllmWriter]:
    with opened_process(sys.executable, environment, engine_settings(model, "torch.bfloat16", 64, 0.5)) as process:
        yield VllmWriter(process, {2}, 64)


def test_vllm_is_asked_by_its_own_names_and_answers_in_the_order_of_the_prompts(environment):
    with opened(environment) as writer:
        asked = writer.write([[5, 6], [7], [5, 6]], ["1", "2", "1"], GREEDY.settled(None))
        assert asked == [[5, 6, 12, 0], [7, 12, 0], [5, 6, 12, 0]]
        sampled = dataclasses.replace(GREEDY, temperature=0.8).settled(None)
        [one, two, again] = writer.write([[5], [5], [5]], ["1 1", "1 2", "1 1"], sampled)
        assert one == again != two, "samples have the seeds of their items"
        assert writer.write([[9] * 60], ["1"], GREEDY.settled(None))[0][-2] == 4, "an answer ends with the context"


def test_a_failure_of_vllm_is_told_in_one_line(environment):
    said = r"vllm failed: ValueError: no such model .*leave evaluation.backend out"
    with pytest.raises(UserError, match=said), opened(environment, "missing"):
        pass
    with pytest.raises(WriterEnded, match="vllm failed: its process ended"), opened(environment) as writer:
        writer.write([[13]], ["1"], GREEDY.settled(None))
    del environment["PYTHONPATH"]
    with pytest.raises(UserError, match="ModuleNotFoundError: No module named 'vllm'"), opened(environment):
        pass


def test_a_failure_that_refers_to_the_log_is_told_with_the_cause_that_stands_there():
    log = "INFO loading\n(Worker pid=7) ERROR 11-28 [x.py:1] RuntimeError: Unsupported head_dim=16\nmore\nValueError: b"
    assert (
        explained("EngineDeadError: see above", log)
        == "EngineDeadError: see above; RuntimeError: Unsupported head_dim=16"
    )
    assert explained("ValueError: b", log) == "ValueError: b"
    assert explained("ValueError: c", "INFO loading") == "ValueError: c"
    assert explained("its process ended", "Killed\n") == "its process ended; Killed"
    assert explained("its process ended", "") == "its process ended; it said nothing"


def test_sampling_follows_the_task_and_greedy_decoding_asks_for_nothing_more():
    drawn = Decoding(40, ("\n", ""), 0.8, top_p=0.95, top_k=0).settled(None)
    found = sampling_parameters(drawn, "3 1", 100, {7, 2})
    assert {key: found[key] for key in ("stop", "stop_token_ids", "max_tokens", "top_k", "top_p", "min_p")} == {
        "stop": ["\n"],
        "stop_token_ids": [2, 7],
        "max_tokens": 40,
        "top_k": 0,
        "top_p": 0.95,
        "min_p": 0.0,
    }
    assert not {"seed", "top_p"} & {*sampling_parameters(GREEDY.settled(None), "3 1", 100, {7, 2})}


def test_vllms_process_sees_the_workers_gpu_and_nothing_of_its_group():
    given = {"CUDA_VISIBLE_DEVICES": "4,5", "RANK": "1", "MASTER_ADDR": "a", "PYTHONPATH": "p", "HOME": "h"}
    found = environment_for(given, "/other/python", 1)
    assert found["CUDA_VISIBLE_DEVICES"] == "5" and found["HOME"] == "h"
    assert not {"RANK", "MASTER_ADDR", "PYTHONPATH"} & {*found}


def test_vllm_on_a_cpu_takes_no_gpu_little_memory_and_no_cores_for_itself():
    found = environment_for({"CUDA_VISIBLE_DEVICES": "4"}, "/other/python", None)
    assert (found["CUDA_VISIBLE_DEVICES"], found["VLLM_CPU_KVCACHE_SPACE"]) == ("", "2")
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    settings = engine_settings("a", "torch.float32", 64, None)
    assert settings["enforce_eager"] and "gpu_memory_utilization" not in settings


def test_vllm_multiplies_numbers_of_32_bits_as_such_unless_the_environment_says_otherwise():
    assert environment_for({}, "/other/python", 0)["TRITON_F32_DEFAULT"] == "ieee"
    assert environment_for({"TRITON_F32_DEFAULT": "tf32"}, "/other/python", 0)["TRITON_F32_DEFAULT"] == "tf32"


def test_the_environment_adds_arguments_that_leave_the_answers_as_they_are_and_no_others():
    assert given_arguments({}) == {}
    assert given_arguments({ARGUMENTS: '{"enforce_eager": true}'}) == {"enforce_eager": True}
    with pytest.raises(UserError, match="does not take model, quantization; it takes a JSON object with any of"):
        given_arguments({ARGUMENTS: '{"quantization": "fp8", "model": "b"}'})
    with pytest.raises(UserError, match=r"does not take '\[1\]'"):
        given_arguments({ARGUMENTS: "[1]"})
    with pytest.raises(UserError, match="is no JSON: 'eager'"):
        given_arguments({ARGUMENTS: "eager"})


def test_without_a_gpu_or_vllm_the_backend_is_refused_with_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="on a GPU of CUDA, and the model is on 'mps'; leave it out"):
        python_with_vllm("mps")
    monkeypatch.delenv(PYTHON, raising=False)
    monkeypatch.setattr(vllm_writer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"vllm is not installed; run `python -m venv vllm && .* and set RAYCODELLM_V"):
        python_with_vllm("cuda:0")
    with pytest.raises(UserError, match="vllm/bin/pip install A_BUILD_OF_VLLM_FOR_CPUS` and set RAYCODELLM_V"):
        python_with_vllm("cpu")
    monkeypatch.setenv(PYTHON, str(tmp_path / "none"))
    with pytest.raises(UserError, match="RAYCODELLM_VLLM_PYTHON: there is no program"):
        python_with_vllm("cuda:0")


@pytest.mark.exhaustive
@pytest.mark.skipif(PYTHON not in os.environ, reason=f"{PYTHON} names no Python with vLLM")
def test_a_real_vllm_writes_the_answers_of_this_engine(tmp_path):
    folder = write_model(tmp_path / "model", num_heads=1)  # vLLM's attention takes heads of 32, and none of 16
    greedy = Evaluation(tasks=(generating(tmp_path),), limit=12)
    ours = evaluation.evaluate(folder, greedy)
    theirs = evaluation.evaluate(folder, greedy.model_copy(update={"backend": "vllm"}))
    assert theirs.items.column("prediction") == ours.items.column("prediction")
    assert theirs.metrics == pytest.approx(ours.metrics, abs=1e-4)
    lm = loaded(folder)
    prompts = [lm.tok_encode(prompt) for prompt in PROMPTS]
    seeds = [str(number) for number in range(len(prompts))]
    drawn = Decoding(40, ("\n",), 0.8, top_p=0.95, top_k=20).settled(None)
    with vllm_writer.opened_vllm(str(folder), lm) as writer:
        assert writer.write(prompts, seeds, drawn) == writer.write(prompts, seeds, drawn), "samples have their seeds"
        [longest] = writer.write(prompts[:1], seeds[:1], Decoding(10_000, ()).settled(None))
        assert len(longest) == lm.max_length - len(prompts[0]) or longest[-1] in lm.ends, "the context ends an answer"


@pytest.mark.exhaustive
@pytest.mark.skipif(PYTHON not in os.environ, reason=f"{PYTHON} names no Python with vLLM")
def test_a_model_that_a_real_vllm_does_not_take_is_told_with_the_cause(tmp_path):
    folder = write_model(tmp_path / "model")
    with pytest.raises((UserError, WriterEnded), match=r"vllm failed: .*head"):
        evaluation.evaluate(folder, Evaluation(tasks=(generating(tmp_path),), limit=2, backend="vllm"))
