"""Tokens per second and MFU of the training engine alone: no Ray, no data reading, made-up tokens, one device.

    python benchmarks/training/gpu.py                                    # one CUDA device: bf16, 125M and 0.9B, 2,048
    python benchmarks/training/gpu.py --device cpu --models tiny --sequence-length 128 --batch-sequences 8 \
        --precision fp32 --steps 3                                       # a smoke test anywhere

Each model is trained by the engine (DeepSpeed, the chosen ZeRO stage) and by a plain torch loop with the same loss and
optimizer, so that what DeepSpeed costs shows. Without DeepSpeed only the plain loop runs. One JSON line per run.
MFU is 6 N + 12 layers x hidden x length FLOPs per token (PaLM, appendix B) over the device's best.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from raycodellm import engine as engines
from raycodellm import model as models
from raycodellm.config import DeepSpeed, LearningRate, Model, Scaling, Stage
from raycodellm.engine import Engine, World
from raycodellm.engine.devices import set_deterministic
from raycodellm.engine.loss import TrainedModel

MODELS: dict[str, tuple[Model, int]] = {
    "tiny": (Model(preset="tiny"), 4096),
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
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=["125m", "0.9b"])
    parser.add_argument("--sequence-length", type=int, default=2048, help="tokens")
    parser.add_argument("--batch-sequences", type=int, default=64, help="per optimizer step")
    parser.add_argument("--micro-batch", default="auto", help="sequences per forward pass, or auto")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--zero", type=int, choices=range(4), default=1)
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--compile", action="store_true")
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
        precision=options.precision,
        attention=options.attention,
    )


def scaling_of(options: argparse.Namespace, micro_batch: int | str) -> Scaling:
    names = ("zero", "compile", "activation_checkpointing", "deterministic")
    return Scaling(deepspeed=DeepSpeed(micro_batch=micro_batch, **{name: getattr(options, name) for name in names}))


def made_up(options: argparse.Namespace, vocab_size: int, rows: int) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch_sequences, options.sequence_length)
    tokens = torch.randint(0, vocab_size, shape, generator=generator)
    parts = tokens.split(rows)
    source = np.zeros(options.batch_sequences, dtype=np.int16)
    return SimpleNamespace(micro_batches=[{"tokens": part, "labels": part} for part in parts], source=source)


def timed(step: Callable[[int], Any], options: argparse.Namespace) -> float:
    """Seconds per step, the mean of `steps` after two to warm up."""
    for number in range(2):
        step(number)
    wait(options)
    began = time.perf_counter()
    for number in range(options.steps):
        step(2 + number)
    wait(options)
    return (time.perf_counter() - began) / options.steps


def wait(options: argparse.Namespace) -> None:
    if options.device.startswith("cuda"):
        torch.cuda.synchronize(options.device)


def by_engine(name: str, options: argparse.Namespace) -> dict[str, Any]:
    settings, vocab_size = MODELS[name]
    stage, world = stage_of(options), World(device=options.device)
    engines.init_process(world, num_threads=options.threads)

    def build() -> torch.nn.Module:
        return models.build(settings, vocab_size, seed=0, attention=options.attention)

    rows = options.micro_batch
    if rows == "auto":
        rows = engines.find_micro_batch(build, name, stage, scaling_of(options, "auto"), world)
    batch = made_up(options, vocab_size, int(rows))
    engine = Engine.create(
        build(),
        stage,
        scaling_of(options, int(rows)),
        world,
        num_sources=1,
        num_micro_batches=len(batch.micro_batches),
        seed=0,
    )
    seconds = timed(lambda number: engine.train_step(batch, number), options)
    outcome = result(name, f"engine, ZeRO {options.zero}", int(rows), seconds, options)
    engine.close()
    return outcome


def by_torch(name: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """The same loss and optimizer in a plain loop: float32 weights, 16 bits by autocast."""
    settings, vocab_size = MODELS[name]
    set_deterministic(options.deterministic)
    trained = TrainedModel(models.build(settings, vocab_size, seed=0, attention=options.attention))
    trained = trained.to(options.device).train()
    if options.compile:
        trained.model.base_model.compile()
    adam = torch.optim.AdamW(trained.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batch = made_up(options, vocab_size, rows)
    device = options.device.split(":")[0]

    def step(_: int) -> None:
        for part in batch.micro_batches:
            with torch.autocast(device, DTYPES[options.precision], enabled=options.precision != "fp32"):
                total, _ = trained(part["tokens"].to(options.device), part["labels"])
            (total / (options.batch_sequences * (options.sequence_length - 1))).backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)

    return result(name, "plain torch, autocast", rows, timed(step, options), options)


def result(name: str, how: str, rows: int, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    settings, vocab_size = MODELS[name]
    rate = options.batch_sequences * options.sequence_length / seconds
    flops = models.flops_per_token(settings, vocab_size, options.sequence_length)
    peak = engines.peak_flops(options.device, options.precision)
    cuda = options.device.startswith("cuda")
    return {
        "model": name,
        "parameters": models.num_parameters(settings, vocab_size),
        "how": how,
        "device": torch.cuda.get_device_name(options.device) if cuda else f"cpu, {options.threads} threads",
        "precision": options.precision,
        "sequence_length": options.sequence_length,
        "micro_batch": rows,
        "seconds_per_step": round(seconds, 4),
        "tokens_per_second": round(rate, 1),
        "mfu": round(rate * flops / peak, 4),
        "peak_tflops": round(peak / 1e12, 3),
        "memory_gb": round(engines.memory_bytes(World(device=options.device)) / 1e9, 2),
    }


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    for name in options.models:
        rows = 1 if options.micro_batch == "auto" else int(options.micro_batch)
        if importlib.util.find_spec("deepspeed") is not None:
            made = by_engine(name, options)
            rows = made["micro_batch"]
            print(json.dumps(made), flush=True)
        else:
            print(json.dumps({"model": name, "note": "DeepSpeed cannot be imported: the plain loop alone"}), flush=True)
        print(json.dumps(by_torch(name, rows, options)), flush=True)


if __name__ == "__main__":
    main()
