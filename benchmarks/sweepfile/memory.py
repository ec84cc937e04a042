"""Compares the memory that `raycodellm check` says a worker needs with the most that a worker took, on one CPU.

    python benchmarks/sweepfile/memory.py

Each model trains two steps in a process of its own, without Ray. The measured number is the peak of resident memory,
less the memory before the model was built, when libraries were imported and the process group was made.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

CASES = (
    ("nano", 4096, 256, 8, {}),
    ("nano", 4096, 1024, 4, {}),
    ("nano", 4096, 1024, 4, {"activation_checkpointing": True}),
    ("nano", 4096, 1024, 4, {"micro_batch": 1}),
    ("nano", 4096, 256, 8, {"zero": 0}),
)


def _measured(case: tuple) -> tuple[float, float]:
    """(estimated bytes, measured bytes) of one case."""
    import numpy as np
    import torch

    from raycodellm import engine, memory_needs, model
    from raycodellm.config import Model, Scaling, Stage

    preset, vocab_size, length, rows, settings = case
    scaling = Scaling(deepspeed=settings)
    sizes = {"tokens": 10**6, "sequence_length": length, "batch_tokens": rows * length}
    stage = Stage.model_validate({"name": "s", **sizes, "learning_rate": {"peak": 1e-3}, "weights": {"a": 1.0}})
    world = engine.World()
    engine.init_process(world)
    model.preload()
    rss_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts = settings.get("micro_batch", rows)
    training_engine = engine.Engine.create(
        model.build(Model(preset=preset), vocab_size, 0),
        *(stage, scaling, world),
        num_sources=1,
        num_micro_batches=rows // parts,
        seed=0,
    )
    tokens = torch.randint(0, vocab_size, (rows, length))
    batches = [{"tokens": part, "labels": part} for part in tokens.split(parts)]
    for step in range(2):
        training_engine.train_step(SimpleNamespace(micro_batches=batches, source=np.zeros(rows, np.int16)), step)
    took = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss_before) * 1024
    need = memory_needs.worker_need(model.shape(Model(preset=preset), vocab_size), stage, scaling)
    return need.total, took


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| model | sequences × tokens of a step | deepspeed | said, MiB | measured, MiB | measured / said |")
    print("| ----- | ---------------------------: | --------- | --------: | ------------: | --------------: |")
    for case in CASES:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            estimated_bytes, measured_bytes = process.submit(_measured, case).result()
        preset, _, length, rows, settings = case
        cells = (
            preset,
            f"{rows} × {length:,}",
            str(settings or "as it is"),
            f"{estimated_bytes / 2**20:,.0f}",
            f"{measured_bytes / 2**20:,.0f}",
        )
        print(f"| {' | '.join(cells)} | {measured_bytes / estimated_bytes:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
