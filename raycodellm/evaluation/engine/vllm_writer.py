"""Lets vLLM write answers, in a process of its own; `vllm_process.py` describes the messages to that process."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from raycodellm.config import UserError
from raycodellm.evaluation.engine.decoding import Decoding

if TYPE_CHECKING:
    from raycodellm.evaluation.engine.language_model import AnswerLM

PYTHON = "RAYCODELLM_VLLM_PYTHON"
"""Environment variable with the path of a Python that has vLLM."""
ARGUMENTS = "RAYCODELLM_VLLM_ARGUMENTS"
"""Environment variable with more arguments of `vllm.LLM`, a JSON object; of `_ALLOWED_ARGUMENTS` alone."""
VERSION = "0.33.0"
"""vLLM's version that this file and `vllm_process.py` were written against; 0.32.0 ran on a CPU."""
_ALLOWED_ARGUMENTS = (
    "attention_config",
    "compilation_config",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "max_num_batched_tokens",
    "max_num_seqs",
)
"""Arguments that change speed and memory, and answers by rounding only."""
_PROGRAM = Path(__file__).with_name("vllm_process.py")
_SHARE = 0.85
"""Share of the GPU's free memory that vLLM may take; the rest is for likelihoods."""
_GROUP_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that tell a process of torch that it is one of several, as a slot's worker is."""
_END_SECONDS = 30.0
_ENDED = "its process ended"
_EXCEPTION = re.compile(r"\b\w+(?:Error|Exception): .+")


class WriterEnded(RuntimeError):
    """vLLM's process has failed, or is gone."""


def python_with_vllm(device: str) -> str:
    """The Python that runs vLLM. Raises UserError, with what to install, where there is none, and for a device that is
    neither a GPU of CUDA nor a CPU."""
    if not device.startswith(("cuda", "cpu")):
        raise UserError(
            f"evaluation.backend: vllm writes answers on a GPU of CUDA, and the model is on {device!r}; leave it out"
        )
    if python := os.environ.get(PYTHON):
        if not os.access(python, os.X_OK):
            raise UserError(f"{PYTHON}: there is no program {python!r}; give the path of a Python that has vLLM")
        return python
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    package = f"vllm=={VERSION}" if device.startswith("cuda") else "A_BUILD_OF_VLLM_FOR_CPUS"
    raise UserError(
        f"evaluation.backend: vllm is not installed; run `python -m venv vllm && vllm/bin/pip install {package}` "
        f"and set {PYTHON} to the path of vllm/bin/python"
    )


@contextlib.contextmanager
def opened_vllm(files: str, lm: AnswerLM) -> Iterator[VllmWriter]:
    """vLLM with the model of `lm`, loaded from the same files, until the `with` ends."""
    import torch

    if len(set((getattr(lm.model, "hf_device_map", None) or {}).values())) > 1:
        raise UserError("evaluation.backend: vllm writes answers of models that one GPU holds; leave the backend out")
    device = lm.model.device
    python = python_with_vllm(str(device))
    gpu, free_share = None, None
    if device.type == "cuda":
        gpu, (free_bytes, all_bytes) = device.index or 0, torch.cuda.mem_get_info(device)
        free_share = free_bytes / all_bytes
    settings = engine_settings(files, str(lm.model.dtype), lm.max_length, free_share) | given_arguments(os.environ)
    environment = environment_for(os.environ, python, gpu)
    with opened_process(python, environment, settings) as process:
        yield VllmWriter(process, lm.ends, lm.max_length)


def engine_settings(files: str, dtype: str, max_length: int, free_share: float | None) -> dict[str, Any]:
    """Arguments of `vllm.LLM`. `dtype`: such as `torch.float32`. `free_share`: share of the GPU's memory that is free;
    None on a CPU, where compiling takes longer than it saves."""
    for_device: dict[str, Any] = {"enforce_eager": True}
    if free_share is not None:
        for_device = {"gpu_memory_utilization": round(_SHARE * free_share, 3)}
    return {
        "model": files,
        "tokenizer": files,
        "dtype": dtype.removeprefix("torch."),
        "max_model_len": max_length,
        **for_device,
        "generation_config": "vllm",  # the sampling parameters say all, by the model's own settings too
        "trust_remote_code": False,
        "seed": 0,
    }


def given_arguments(environment: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `vllm.LLM` that the environment adds. Raises UserError for others than
    `_ALLOWED_ARGUMENTS`."""
    text = environment.get(ARGUMENTS) or "{}"
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise UserError(f'{ARGUMENTS} is no JSON: {text!r}; write {{"enforce_eager": true}}') from error
    if not isinstance(arguments, dict) or (other_names := sorted({*arguments} - {*_ALLOWED_ARGUMENTS})):
        refused = ", ".join(other_names) if isinstance(arguments, dict) else repr(text)
        raise UserError(
            f"{ARGUMENTS} does not take {refused}; it takes a JSON object with any of {', '.join(_ALLOWED_ARGUMENTS)}"
        )
    return arguments


def sampling_parameters(decoding: Decoding, seed: str, room: int, ends: Iterable[int]) -> dict[str, Any]:
    """Arguments of `vllm.SamplingParams`. `room`: tokens that the model's context has left. `ends`: tokens that end
    texts."""
    parameters: dict[str, Any] = {
        "max_tokens": min(decoding.max_tokens, room),
        "stop": [word for word in decoding.until if word],
        "stop_token_ids": sorted(ends),
        "skip_special_tokens": False,  # a stop word may be the text of a special token
        "repetition_penalty": decoding.repetition_penalty,
        "temperature": decoding.temperature,
    }
    if decoding.temperature:
        number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4]) >> 1
        parameters |= {"top_k": decoding.top_k, "top_p": decoding.top_p, "min_p": decoding.min_p, "seed": number}
    return parameters


def environment_for(environment: Mapping[str, str], python: str, gpu: int | None) -> dict[str, str]:
    """The environment of vLLM's process: the worker's GPU alone, or its CPU, and nothing of the worker's group."""
    variables = {name: value for name, value in environment.items() if name not in _GROUP_VARIABLES}
    if gpu is None:
        variables["CUDA_VISIBLE_DEVICES"] = ""
        variables.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; else 92 % of the machine's memory
        variables.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else each slot's vLLM takes the same cores
    else:
        visible = [gpu_name for gpu_name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu_name]
        variables["CUDA_VISIBLE_DEVICES"] = visible[gpu] if gpu < len(visible) else str(gpu)
    variables |= {"VLLM_NO_USAGE_STATS": "1"}
    variables.setdefault("TRITON_F32_DEFAULT", "ieee")  # else attention over 32-bit numbers multiplies in TF32
    variables.setdefault("VLLM_HOST_IP", "127.0.0.1")  # its processes are all here
    if python != sys.executable:  # this Python's packages are for this Python
        variables.pop("PYTHONPATH", None)
        variables.pop("PYTHONHOME", None)
    return variables


class _Process:
    """vLLM's process, which answers a line of JSON with a line of JSON."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        self._process, self._log = process, log

    def ask(self, value: Any) -> dict[str, Any]:
        """The answer to a line. Raises WriterEnded where the process has failed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        start = os.fstat(self._log.fileno()).st_size
        with contextlib.suppress(BrokenPipeError):  # the answer, or its absence, tells why
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line.endswith("\n") else {"error": _ENDED}
        if "error" in answer:
            raise WriterEnded(f"evaluation.backend: vllm failed: {explained(answer['error'], self._log_since(start))}")
        return answer

    def _log_since(self, start: int) -> str:
        """The log from the byte `start` on. Leaves the file's position, at which the process writes, as it is."""
        file = self._log.fileno()
        return os.pread(file, os.fstat(file).st_size - start, start).decode("utf-8", errors="replace")


def explained(error: str, log: str) -> str:
    """The error with its cause. The processes that vLLM starts log their errors, and the error of vLLM's first process
    refers to the log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    causes = [match[0] for line in lines if (match := _EXCEPTION.search(line))]
    if not causes and error == _ENDED:
        causes = lines[-1:] or ["it said nothing"]
    return error if not causes or error in causes else f"{error}; {causes[0]}"


@contextlib.contextmanager
def opened_process(python: str, environment: Mapping[str, str], settings: Mapping[str, Any]) -> Iterator[_Process]:
    """vLLM's process, when it has loaded the model, until the `with` ends. Raises UserError where the model, or vLLM,
    cannot be loaded."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [python, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=dict(environment),
            start_new_session=True,  # its own processes end with it
        )
        try:
            vllm_process = _Process(process, log)
            try:
                vllm_process.ask(dict(settings))
            except WriterEnded as error:
                raise UserError(f"{error} ({python}); leave evaluation.backend out, or mend this") from error
            yield vllm_process
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the process by closing its input; kills it, and the processes that it started, if they go on."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # a line that nobody reads any more
                pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class VllmWriter:
    """A `Writer` that asks vLLM."""

    name = "vllm"

    def __init__(self, process: _Process, ends: Iterable[int], max_length: int) -> None:
        """`ends`: tokens that end texts. `max_length`: tokens of the model's context."""
        self._process, self._ends, self._max_length = process, tuple(ends), max_length

    def write(self, prompts: Sequence[Sequence[int]], seeds: Sequence[str], decoding: Decoding) -> list[list[int]]:
        keys = [
            (tuple(prompt), seed if decoding.temperature else "") for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        distinct_keys = [*dict.fromkeys(keys)]
        params = [
            sampling_parameters(decoding, seed, self._max_length - len(prompt), self._ends)
            for prompt, seed in distinct_keys
        ]
        answer = self._process.ask({"prompts": [list(prompt) for prompt, _ in distinct_keys], "params": params})
        tokens_by_key = dict(zip(distinct_keys, answer["tokens"], strict=True))
        return [list(tokens_by_key[key]) for key in keys]
