"""Tokens per second, MFU, memory and host waits of the training engine: no Ray, no data reading, made-up tokens.

    python benchmarks/gpu/engine.py                                      # one CUDA device: bf16, 125M and 0.9B, 2,048
    python benchmarks/gpu/engine.py --device cpu --models tiny --sequence-length 128 --batch-sequences 8 \
        --precision fp32 --steps 3                                       # a smoke test anywhere

Sides, each on the same batches with the same optimizer: the engine (DeepSpeed), the engine with compiled blocks, a
plain torch loop with the engine's loss, and one with transformers' own loss. One JSON line per side; a side that fails
leaves its error there, and the others go on. `--profile` looks at two more steps of the engine: how often the host
waits for the device, and which kernels take the time. MFU is 6 N + 12 layers x hidden x length FLOPs per token (PaLM,
appendix B) over the device's best.
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from _lines import leave

from raycodellm import engine as engines
from raycodellm import memory_needs
from raycodellm import model as models
from raycodellm.config import DeepSpeed, LearningRate, Model, Numerics, Scaling, Stage
from raycodellm.engine import Engine, World
from raycodellm.engine.devices import set_deterministic
from raycodellm.engine.loss import TrainedModel

MODELS: dict[str, tuple[Model, int]] = {
    "tiny": (Model(preset="tiny"), 4096),
    "nano": (Model(preset="nano"), 4096),
    "125m": (Model(preset="small"), 50_304),
    "470m": (Model(preset="470m"), 256_000),
    "0.9b": (
        Model(
            config={
                "model_type": "llama",
                "hidden_size": 2048,
                "intermediate_size": 5504,
                "num_hidden_layers": 16,
                "num_attention_heads": 16,
                "max_position_embeddings": 8192,
                "tie_word_embeddings": True,
            }
        ),
        50_304,
    ),
}
if not hasattr(transformers.PreTrainedModel, "activation_checkpointing_enable"):  # its name before transformers 5.20
    transformers.PreTrainedModel.activation_checkpointing_enable = (
        transformers.PreTrainedModel.gradient_checkpointing_enable
    )
SIDES = ("engine", "torch", "transformers", "compiled")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls in which the host waits for the device."""
KERNELS = {  # part of a kernel's name, in lower case -> what it is for; the first that fits
    "flash": "attention",
    "fmha": "attention",
    "attention": "attention",
    "gemm": "matrix products",
    "nvjet": "matrix products",
    "cutlass": "matrix products",
    "adam": "optimizer",
    "memcpy": "copies and fills",
    "memset": "copies and fills",
    "triton": "compiled elementwise",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=["125m", "0.9b"])
    parser.add_argument("--sequence-length", type=int, default=2048, help="tokens")
    parser.add_argument("--batch-sequences", type=int, default=32, help="per optimizer step")
    parser.add_argument("--micro-batch", default="auto", help="sequences per forward pass, or auto")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--zero", type=int, choices=range(4), default=1)
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--profile", action="store_true", help="two more steps of each engine side")
    parser.add_argument("--out", help="append the lines to this file as well")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--steps", type=int, default=10, help="timed, after two that are not")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    return parser.parse_args()


def stage_of(options: argparse.Namespace) -> Stage:
    tokens = options.batch_sequences * options.sequence_length
    return Stage(
        name="bench",
        tokens=tokens * 1000,
        sequence_length=options.sequence_length,
        batch_tokens=tokens,
        learning_rate=LearningRate(peak=1e-4),
        weights={"made-up": 1.0},
        numerics=Numerics(precision=options.precision, attention=options.attention),
    )


def scaling_of(options: argparse.Namespace, micro_batch: int | str, compiled: bool = False) -> Scaling:
    names = ("zero", "activation_checkpointing", "deterministic")
    given = {name: getattr(options, name) for name in names}
    return Scaling(deepspeed=DeepSpeed(micro_batch=micro_batch, compile=compiled, **given))


@functools.lru_cache(maxsize=1)
def built(name: str, attention: str) -> torch.nn.Module:
    """On the CPU; making a billion random weights takes ten seconds."""
    settings, vocab_size = MODELS[name]
    return models.build(settings, vocab_size, seed=0, attention=attention)


def made_up(options: argparse.Namespace, vocab_size: int, rows: int) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch_sequences, options.sequence_length)
    tokens = torch.randint(0, vocab_size, shape, generator=generator)
    parts = tokens.split(rows)
    source = np.zeros(options.batch_sequences, dtype=np.int16)
    return SimpleNamespace(micro_batches=[{"tokens": part, "labels": part} for part in parts], source=source)


def timed(step: Callable[[int], Any], options: argparse.Namespace) -> tuple[float, float]:
    """Seconds per step, the mean of `steps` after two to warm up, and seconds of those two."""
    began = time.perf_counter()
    for number in range(2):
        step(number)
    wait(options)
    warm = time.perf_counter()
    for number in range(options.steps):
        step(2 + number)
    wait(options)
    return (time.perf_counter() - warm) / options.steps, warm - began


def wait(options: argparse.Namespace) -> None:
    if options.device.startswith("cuda"):
        torch.cuda.synchronize(options.device)


def micro_batch_of(name: str, options: argparse.Namespace) -> int:
    if options.micro_batch != "auto":
        return int(options.micro_batch)

    def build() -> torch.nn.Module:
        return copy.deepcopy(built(name, options.attention))

    world = World(device=options.device)
    return engines.find_micro_batch(build, name, stage_of(options), scaling_of(options, "auto"), world)


def by_engine(name: str, rows: int, options: argparse.Namespace, compiled: bool) -> dict[str, Any]:
    batch = made_up(options, MODELS[name][1], rows)
    engine = Engine.create(
        copy.deepcopy(built(name, options.attention)),
        stage_of(options),
        scaling_of(options, rows, compiled),
        World(device=options.device),
        num_sources=1,
        num_micro_batches=len(batch.micro_batches),
        seed=0,
    )
    losses: list[float] = []
    begun: list[Any] = []

    def step(number: int) -> None:
        """As a stage does: the numbers of a step are read when the next one has been begun."""
        begun.append(engine.begin_step(batch, number))
        if len(begun) > 1:
            read = begun.pop(0).result()
            losses.append(float(read.loss_sums.sum() / read.loss_tokens.sum()))

    try:
        seconds, warm_seconds = timed(step, options)
        found = result(name, rows, seconds, options) | {"warm_seconds": round(warm_seconds, 1), "losses": losses}
        if options.profile:
            found["profile"] = profiled(lambda: [step(number) for number in (90, 91)], options)
            found["waits_at"] = waits_at(lambda: [step(number) for number in (92, 93)], options)
    finally:
        engine.close()
    return found


def profiled(steps: Callable[[], Any], options: argparse.Namespace) -> dict[str, Any]:
    """Per step, of two: how often the host waited, milliseconds of the device by purpose, the longest kernels."""
    from torch.profiler import ProfilerActivity, profile

    cuda = options.device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        began = time.perf_counter()
        steps()
        wait(options)
        seconds = time.perf_counter() - began
    waits: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    for event in seen.events():
        if event.name in WAITS:
            waits[event.name] += 1
        if event.device_type == torch.autograd.DeviceType.CUDA and event.name != "Activity Buffer Request":
            kernels[event.name] += event.device_time
    purposes: Counter[str] = Counter()
    for name, microseconds in kernels.items():
        purpose = next((what for part, what in KERNELS.items() if part in name.lower()), "elementwise, loss, norms")
        purposes[purpose] += microseconds
    return {
        "host_waits": {name: count / 2 for name, count in waits.items()},
        "wall_ms": round(seconds / 2 * 1e3, 2),
        "device_ms": {name: round(value / 2e3, 2) for name, value in purposes.most_common()},
        "longest_kernels_ms": {name[:120]: round(value / 2e3, 2) for name, value in kernels.most_common(14)},
    }


def waits_at(steps: Callable[[], Any], options: argparse.Namespace) -> dict[str, float]:
    """Lines of Python that have the host wait for the device, with waits per step, of two."""
    if not options.device.startswith("cuda"):
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            steps()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = Counter("/".join(one.filename.split("/")[-3:]) + f":{one.lineno}" for one in caught)
    return {place: count / 2 for place, count in places.most_common(8)}


def by_torch(name: str, rows: int, options: argparse.Namespace, own_loss: bool) -> dict[str, Any]:
    """The same optimizer in a plain loop: float32 weights, 16 bits by autocast."""
    set_deterministic(options.deterministic)
    model = copy.deepcopy(built(name, options.attention))
    trained = (TrainedModel(model) if own_loss else model).to(options.device).train()
    adam = torch.optim.AdamW(trained.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batch = made_up(options, MODELS[name][1], rows)
    device = options.device.split(":")[0]
    num_counted = options.batch_sequences * (options.sequence_length - 1)

    def step(_: int) -> None:
        for part in batch.micro_batches:
            with torch.autocast(device, DTYPES[options.precision], enabled=options.precision != "fp32"):
                tokens = part["tokens"].to(options.device)
                if own_loss:
                    loss = trained(tokens, part["labels"])[0] / num_counted
                else:
                    loss = trained(input_ids=tokens, labels=tokens, use_cache=False).loss / len(batch.micro_batches)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)

    return result(name, rows, timed(step, options)[0], options)


def result(name: str, rows: int, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    settings, vocab_size = MODELS[name]
    rate = options.batch_sequences * options.sequence_length / seconds
    flops = models.flops_per_token(settings, vocab_size, options.sequence_length)
    peak = engines.peak_flops(options.device, options.precision)
    cuda = options.device.startswith("cuda")
    shape = models.shape(settings, vocab_size)
    need = memory_needs.worker_need(shape, stage_of(options), scaling_of(options, rows))
    return {
        "model": name,
        "parameters": models.num_parameters(settings, vocab_size),
        "device": torch.cuda.get_device_name(options.device) if cuda else f"cpu, {options.threads} threads",
        "precision": options.precision,
        "zero": options.zero,
        "activation_checkpointing": options.activation_checkpointing,
        "sequence_length": options.sequence_length,
        "micro_batch": rows,
        "seconds_per_step": round(seconds, 4),
        "tokens_per_second": round(rate, 1),
        "mfu": round(rate * flops / peak, 4),
        "peak_tflops": round(peak / 1e12, 3),
        "memory_gb": round(engines.memory_bytes(World(device=options.device)) / 1e9, 2),
        # As `check` reckons, which means to be a little low: what it refuses must not fit.
        "needed_gb": round(need.total / 1e9, 2),
    }


def one_side(name: str, side: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    cuda = options.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(options.device)
    try:
        if side in ("engine", "compiled"):
            found = by_engine(name, rows, options, compiled=side == "compiled")
        else:
            found = by_torch(name, rows, options, own_loss=side == "torch")
    except Exception as error:  # the other sides are worth having without this one
        found = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    return {"model": name, "side": side, **found}


def main() -> None:
    options = arguments()
    engines.init_process(World(device=options.device), num_threads=options.threads)
    has_failed = False
    for name in options.models:
        rows = micro_batch_of(name, options)
        for side in options.sides:
            line = one_side(name, side, rows, options)
            has_failed |= "error" in line
            leave(line, options.out)
    sys.exit(has_failed)


if __name__ == "__main__":
    main()
