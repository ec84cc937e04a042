"""Answers by vLLM on one GPU, by the package's own path: `evaluation.backend: vllm`.

    python benchmarks/gpu/vllm_answers.py MODEL --site FOLDER --out FILE       # a Hugging Face folder, as of a stage
    python benchmarks/gpu/vllm_answers.py "" --site FOLDER --out FILE          # a model with random weights instead
    python benchmarks/gpu/vllm_answers.py MODEL --backend transformers --device cpu --limit 8 --tokens 8    # no vLLM

FOLDER: vLLM and what it needs, as vllm_wheels.sh packs it, for this Python.

Two models: MODEL with the answers of a generated task, of few tokens; and one of about 100M parameters in bfloat16 with
random weights and MODEL's tokenizer, with long answers. Within one start of vLLM both engines write the same prompts in
turns, then the evaluation checks that they agree and scores. A way of running vLLM that fails is followed by the next
of `WAYS`; the end of vLLM's log stays with the failure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import stat
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _lines import leave
from evaluate import generated_task

from raycodellm import evaluation
from raycodellm.config import Evaluation
from raycodellm.evaluation import run
from raycodellm.evaluation.engine.decoding import Decoding
from raycodellm.evaluation.engine.language_model import load_model
from raycodellm.evaluation.engine.vllm_writer import ARGUMENTS, PYTHON

COMPILED: dict[str, Any] = {}
"""vLLM's own defaults: compiled, in CUDA graphs."""
EAGER: dict[str, Any] = {"enforce_eager": True}
PLAIN = EAGER | {"attention_config": {"backend": "TRITON_ATTN"}, "compilation_config": {"custom_ops": ["none"]}}
"""As little of vLLM's machine code as can be, in one process."""
WAYS = {"nano": {"eager": EAGER, "plain": PLAIN}, "100m": {"compiled": COMPILED, "eager": EAGER, "plain": PLAIN}}
"""Model -> way -> arguments of vLLM, in the order in which they are tried until one works."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder; empty: a model with random weights")
    parser.add_argument("--site", type=Path, help="folder with vLLM")
    parser.add_argument("--backend", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit", type=int, default=400, help="items of the task")
    parser.add_argument("--batch-size", type=int, default=256, help="of the package's own engine")
    parser.add_argument("--prompts", type=int, default=256, help="prompts with long answers")
    parser.add_argument("--tokens", type=int, default=256, help="of a long answer")
    parser.add_argument("--way-seconds", type=float, default=80.0, help="limit of each way of running vLLM")
    parser.add_argument("--seconds", type=float, default=150.0, help="limit of all; no further way begins after it")
    parser.add_argument("--out", help="append the lines to this file as well")
    return parser.parse_args()


class Launcher:
    """The program that the package starts as vLLM's Python: it puts vLLM's folder before this Python's packages, and
    keeps the log."""

    def __init__(self, folder: Path, site: Path) -> None:
        self._log, self._pid = folder / "vllm.log", folder / "pid"
        program = folder / "python-with-vllm"
        program.write_text(
            f'#!/bin/sh\necho $$ > "{self._pid}"\n'
            f'export PYTHONPATH="{site.resolve()}" VLLM_USE_FLASHINFER_SAMPLER=0\n'
            "export GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo CUDA_MODULE_LOADING=LAZY\n"
            f'exec "{sys.executable}" "$@" 2>> "{self._log}"\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        os.environ[PYTHON] = str(program)

    def forget(self) -> None:
        self._log.unlink(missing_ok=True)
        self._pid.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ends vLLM's processes, so that whoever waits for them hears of it."""
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int(self._pid.read_text()), signal.SIGKILL)

    def log(self, lines: int) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()[-lines:] if self._log.exists() else []

    def said(self, *words: str) -> list[str]:
        """The lines of the log that tell how vLLM runs."""
        return [line[-200:] for line in self.log(10_000) if any(word in line for word in words)][:8]


@contextlib.contextmanager
def limited(launcher: Launcher | None, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, launcher.stop if launcher else lambda: None)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def turns(lm: Any, writer: Any, prompts: list[list[int]], decoding: Decoding, rounds: int) -> dict[str, Any]:
    """Rates of both engines, writing the same prompts in turns after one round that is not timed."""
    seeds = [f"{place} 0" for place in range(len(prompts))]
    seconds: dict[str, list[float]] = {"vllm": [], "transformers": []}
    answers: dict[str, list[list[int]]] = {}
    for turn in range(rounds + 1):
        for name, engine in (("vllm", writer), ("transformers", lm)):
            few = slice(None) if turn else slice(max(1, len(prompts) // 8) if name == "transformers" else None)
            began = time.perf_counter()
            answers[name] = engine.write(prompts[few], seeds[few], decoding)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    tokens = {name: sum(map(len, each)) for name, each in answers.items()}
    texts = [[lm.text(one, decoding) for one in answers[name]] for name in ("vllm", "transformers")]
    return {
        "prompts": len(prompts),
        "vllm_items_per_second": round(len(prompts) / middle["vllm"], 1),
        "own_items_per_second": round(len(prompts) / middle["transformers"], 1),
        "vllm_tokens_per_second": round(tokens["vllm"] / middle["vllm"], 1),
        "own_tokens_per_second": round(tokens["transformers"] / middle["transformers"], 1),
        "speedup": round(middle["transformers"] / middle["vllm"], 2),
        "seconds": {name: [round(one, 3) for one in each] for name, each in seconds.items()},
        "same_answers": round(sum(a == b for a, b in zip(*texts, strict=True)) / len(prompts), 4),
    }


@contextlib.contextmanager
def measured(backend: str, found: dict[str, Any], measure: Callable[[Any, Any], None]) -> Iterator[None]:
    """Until the `with` ends, an evaluation with vLLM notes the seconds of its start, and lets `measure` use both
    engines before it goes on. With `transformers` a second copy of the model is in vLLM's place."""
    real, refuses = run.opened_vllm, run.python_with_vllm

    @contextlib.contextmanager
    def opened(files: str, lm: Any) -> Iterator[Any]:
        began = time.perf_counter()
        same = contextlib.nullcontext(load_model(files, lm.batch_size, str(lm.model.device)))
        with same if backend == "transformers" else real(files, lm) as writer:
            found["start_seconds"] = round(time.perf_counter() - began, 2)
            measure(lm, writer)
            yield writer

    run.opened_vllm = opened
    if backend == "transformers":
        run.python_with_vllm = lambda device: sys.executable
    try:
        yield
    finally:
        run.opened_vllm, run.python_with_vllm = real, refuses


def nano(options: argparse.Namespace, folder: Path, found: dict[str, Any]) -> None:
    """A stage's model with short answers: greedy ones, samples, and the whole evaluation."""
    task = generated_task(folder, options.limit)
    rows = [json.loads(line) for line in (folder / "boxes.jsonl").read_text().splitlines()]
    greedy = Decoding(max_tokens=16, until=(".",))
    drawn = Decoding(max_tokens=16, until=(".",), temperature=0.8, top_p=0.95)

    def measure(lm: Any, writer: Any) -> None:
        prompts = [lm.tok_encode(row["prompt"]) for row in rows]
        found["dtype"] = str(lm.model.dtype).removeprefix("torch.")
        found["greedy"] = turns(lm, writer, prompts, greedy.settled(None), 3)
        found["samples"] = turns(lm, writer, prompts, drawn.settled(None), 1)

    scored(options, options.model, task, found, measure)
    found["is_trained"] = options.is_trained
    theirs = found.pop("rows")
    settings = Evaluation(tasks=(task,), limit=options.limit, batch_size=options.batch_size)
    ours = evaluation.evaluate(options.model, settings, device=options.device).items.to_pylist()
    pairs = list(zip(ours, theirs, strict=bool(theirs)))
    found["same_predictions"] = sum(a["prediction"] == b["prediction"] for a, b in pairs) / max(1, len(pairs))


def hundred(options: argparse.Namespace, folder: Path, found: dict[str, Any]) -> None:
    """A model of about 100M parameters with random weights and long answers, in bfloat16."""
    model = random_model(folder / "100m", Path(options.model), small=options.device == "cpu")
    task = generated_task(folder, 16)
    text = " ".join(json.loads(line)["prompt"] for line in (folder / "boxes.jsonl").read_text().splitlines())
    decoding = Decoding(max_tokens=options.tokens, until=())

    def measure(lm: Any, writer: Any) -> None:
        tokens = lm.tok_encode(text)
        prompts = [(tokens[place:] + tokens)[: 64 + place % 128] for place in range(options.prompts)]
        found["dtype"] = str(lm.model.dtype).removeprefix("torch.")
        found["greedy"] = turns(lm, writer, prompts, decoding.settled(None), 1)

    scored(options, str(model), task, found, measure)
    found.pop("rows")


def scored(
    options: argparse.Namespace,
    model: str,
    task: str,
    found: dict[str, Any],
    measure: Callable[[Any, Any], None],
) -> None:
    """The evaluation with vLLM; a disagreement of the engines is a result, not a failure of the way."""
    settings = Evaluation(tasks=(task,), limit=options.limit, batch_size=options.batch_size, backend="vllm")
    began = time.perf_counter()
    found["rows"] = []
    with measured(options.backend, found, measure):
        try:
            found["rows"] = evaluation.evaluate(model, settings, device=options.device).items.to_pylist()
            found["agrees"] = True
        except evaluation.WritersDisagree as error:
            found["agrees"], found["disagreement"] = False, str(error)
    found["all_seconds"] = round(time.perf_counter() - began, 2)


def random_model(folder: Path, like: Path, small: bool) -> Path:
    """A Llama of about 100M parameters in bfloat16 with the tokenizer of `like`, and a context of 2,048 tokens."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(like)
    end = transformers.AutoConfig.from_pretrained(like).eos_token_id
    width, layers, heads, groups = (128, 2, 2, 2) if small else (768, 12, 12, 4)
    llama(folder, len(tokenizer), end, 2048, width, layers, heads, groups, torch.bfloat16)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (like / name).exists():
            shutil.copy(like / name, folder / name)
    return folder


def random_nano(folder: Path) -> Path:
    """A Llama of 1M parameters in float32 with a tokenizer of its own, and a context of 512 tokens."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    text = ("box apple pear moves from to the is in what where holds nothing each of them " * 9).split(" ")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet)
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", bos_token="<end>")
    tokenizer.save_pretrained(folder)
    llama(folder, len(tokenizer), 0, 512, 128, 4, 4, 4, torch.float32)
    return folder


def llama(
    folder: Path,
    tokens: int,
    end: int,
    context: int,
    width: int,
    layers: int,
    heads: int,
    groups: int,
    dtype: torch.dtype,
) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=7 * width // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=context,
        eos_token_id=end,
        bos_token_id=end,
        pad_token_id=end,
        initializer_range=0.06,  # else all tokens are nearly as likely, and rounding chooses
    )
    transformers.LlamaForCausalLM(config).to(dtype).save_pretrained(folder)


def main() -> None:
    options = arguments()
    end = time.monotonic() + options.seconds
    parts = {"nano": nano, "100m": hundred}
    options.is_trained = bool(options.model)
    if not options.model:
        options.model = str(random_nano(Path(tempfile.mkdtemp())))
    for name, part in parts.items():
        for way, given in WAYS[name].items():
            left = end - time.monotonic()
            if left < 20:
                leave({"model": name, "way": way, "error": "no time left"}, options.out)
                break
            if tried(options, name, way, given, part, min(options.way_seconds, left)):
                break


def tried(
    options: argparse.Namespace, name: str, way: str, given: dict[str, Any], part: Callable[..., None], seconds: float
) -> bool:
    """True if this way of running vLLM worked. Leaves its result, or its failure with the end of vLLM's log."""
    found: dict[str, Any] = {"model": name, "way": way}
    os.environ |= {ARGUMENTS: json.dumps(given), "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(way != "plain"))}
    with tempfile.TemporaryDirectory() as temporary:
        launcher = Launcher(Path(temporary), options.site) if options.backend == "vllm" else None
        try:
            with limited(launcher, seconds):
                part(options, Path(temporary), found)
        except Exception as error:  # the next way may work
            found.pop("rows", None)
            found["error"] = f"{type(error).__name__}: {str(error)[:500]}"
            found["log"] = launcher.log(30) if launcher else []
        if launcher:
            found["said"] = launcher.said("attention backend", "FlashAttention version", "init engine", "KV cache size")
    leave(found, options.out)
    return "error" not in found


if __name__ == "__main__":
    main()
