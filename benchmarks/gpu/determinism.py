"""The cost of `scaling.deepspeed.deterministic`: tokens per second of the engine with and without it, in turns.

    python benchmarks/gpu/determinism.py                                      # one CUDA device
    python benchmarks/gpu/determinism.py --device cpu --models tiny --sequence-length 128 --batch-sequences 8 \
        --precision fp32 --steps 5

Takes the options of engine.py. Says also whether two runs of each kind end with the same loss to the last bit.
"""

from __future__ import annotations

import copy
import statistics

import torch
from _lines import leave
from engine import MODELS, arguments, built, made_up, scaling_of, stage_of, timed

from raycodellm import engine as engines
from raycodellm.engine import Engine, World

ROUNDS = 3


def once(name: str, options) -> tuple[float, float]:
    """(tokens per second, the last step's loss)."""
    rows = options.batch_sequences if options.micro_batch == "auto" else int(options.micro_batch)
    batch = made_up(options, MODELS[name][1], rows)
    engine = Engine.create(
        copy.deepcopy(built(name, options.attention)),
        stage_of(options),
        scaling_of(options, rows),
        World(device=options.device),
        num_sources=1,
        num_micro_batches=len(batch.micro_batches),
        seed=0,
    )
    losses: list[float] = []
    seconds, _ = timed(lambda step: losses.append(float(engine.train_step(batch, step).loss_sums.sum())), options)
    engine.close()
    return options.batch_sequences * options.sequence_length / seconds, losses[-1]


def main() -> None:
    options = arguments()
    engines.init_process(World(device=options.device), num_threads=options.threads)
    for name in options.models:
        speeds: dict[bool, list[float]] = {False: [], True: []}
        losses: dict[bool, set[float]] = {False: set(), True: set()}
        for _ in range(ROUNDS):
            for options.deterministic in (False, True):
                speed, loss = once(name, options)
                speeds[options.deterministic].append(speed)
                losses[options.deterministic].add(loss)
        free, fixed = (statistics.median(speeds[kind]) for kind in (False, True))
        outcome = {
            "model": name,
            "device": torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "cpu",
            "tokens_per_second": round(free, 1),
            "tokens_per_second_deterministic": round(fixed, 1),
            "cost": round(1.0 - fixed / free, 4),
            "same_bits": len(losses[False]) == 1,
            "same_bits_deterministic": len(losses[True]) == 1,
        }
        leave(outcome, options.out)


if __name__ == "__main__":
    main()
