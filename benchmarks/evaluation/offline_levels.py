"""Which levels of the suite `offline` a small model is above chance on, with and without training on such tasks.

Trains a preset on the tasks' training split (`tasks`), or on documentation and source of the installed Python (`text`),
with one process and no Ray, and evaluates it on the suite. The loss counts every token of prompt and response.

    python benchmarks/evaluation/offline_levels.py --arm tasks --tokens 6_000_000 --seed 0 --out tasks-0.json
    python benchmarks/evaluation/offline_levels.py --table *.json       # one row per level, mean over seeds
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from raycodellm import evaluation, model
from raycodellm.config import Evaluation, Model, Tokenizer
from raycodellm.corpora.python_library import library
from raycodellm.files import Folder
from raycodellm.tasks import PARTS, training_examples
from raycodellm.tokens.tokenizer import build_tokenizer, open_tokenizer

LENGTH = 256
"""Tokens of a sequence; documents are packed one after the other."""
BATCH = 16
"""Sequences per step."""
PEAK = 3e-3
"""Learning rate after the warm-up; falls to a tenth along a cosine."""


def texts(arm: str, seed: int) -> Iterator[str]:
    """Endless documents of an arm."""
    if arm == "tasks":
        return (prompt + response for prompt, response in training_examples(seed))
    rows = [row[1] for row in (*library().prose, *library().code)]
    rng = random.Random(seed)
    return (rows[index] for _ in itertools.count() for index in rng.sample(range(len(rows)), len(rows)))


def sequences(tokenizer: Any, documents: Iterator[str], end: int) -> Iterator[list[int]]:
    held: list[int] = []
    for document in documents:
        held += [*tokenizer.encode(document).ids, end]
        while len(held) > LENGTH:
            yield held[: LENGTH + 1]
            held = held[LENGTH:]


def train(options: argparse.Namespace, folder: Path) -> Path:
    """Trains the model, and gives its folder."""
    sample = [*itertools.islice(texts("tasks", -1), 4000), *itertools.islice(texts("text", -1), 400)]
    place = Folder(str(folder))
    info = build_tokenizer(Tokenizer(train={"vocab_size": options.vocab_size}), sample, place)
    tokenizer = open_tokenizer(place)
    made = model.build(Model(preset=options.preset), info.vocab_size, options.seed, eos_id=info.eos_id)
    optimizer = torch.optim.AdamW(made.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1)
    num_steps = options.tokens // (LENGTH * BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, step / 100) * (0.55 + 0.45 * math.cos(math.pi * step / num_steps))
    )
    made.train()
    data, started = sequences(tokenizer, texts(options.arm, options.seed), info.eos_id), time.monotonic()
    for step in range(num_steps):
        rows = torch.tensor([next(data) for _ in range(BATCH)])
        logits = made(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {num_steps}: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
    made.save_pretrained(folder)
    return folder


def table(files: list[str]) -> str:
    """Accuracy and bits per byte of each level, mean over the seeds of an arm, as a Markdown table."""
    runs = [json.loads(Path(file).read_text()) for file in files]
    arms = sorted({run["arm"] for run in runs}, reverse=True)
    heads = [f"{name}, `{arm}`" for name in ("accuracy", "bits per byte") for arm in arms]
    lines = ["| task | level | chance | " + " | ".join(heads) + " |", "|---|---|---|" + "---|" * len(heads)]
    for task, parts in PARTS.items():
        for part in parts:
            cells = []
            for name in ("acc", "bpb"):
                for arm in arms:
                    found = [run["metrics"][f"{task}/{name}_{part}"] for run in runs if run["arm"] == arm]
                    cells.append(f"{statistics.fmean(found):.2f}")
            chance = statistics.fmean(run["chances"][f"{task}/{part}"] for run in runs)
            lines.append(f"| `{task}` | `{part}` | {chance:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chances(items: Any) -> dict[str, float]:
    """Accuracy of guessing, for each part of each task."""
    found: dict[str, list[float]] = {}
    for row in items.to_pylist():
        part = json.loads(row["attributes"])["part"]
        for one in [part] if isinstance(part, str) else part:
            found.setdefault(f"{row['task']}/{one}", []).append(row["chance"])
    return {name: statistics.fmean(some) for name, some in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=["tasks", "text"], default="tasks")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=6_000_000)
    parser.add_argument("--limit", type=int, default=600, help="evaluated items of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="levels.json")
    parser.add_argument("--table", nargs="+", help="prints the table of these results, and trains nothing")
    options = parser.parse_args()
    if options.table:
        print(table(options.table))
        return
    with tempfile.TemporaryDirectory(prefix="raycodellm-levels-") as temporary:
        trained = train(options, Path(temporary))
        result = evaluation.evaluate(trained, Evaluation(suites=("offline",), limit=options.limit))
    told = {**vars(options), "metrics": result.metrics, "chances": chances(result.items)}
    Path(options.out).write_text(json.dumps(told))
    print(table([options.out]))


if __name__ == "__main__":
    main()
