"""Which levels of the suite `offline` a small model is above chance on, with and without training on such tasks.

Trains a preset on the tasks' training split (`tasks`), or on documentation and source of the installed Python (`text`),
with one process and no Ray, and evaluates it on the suite. Of an example the loss counts the answer alone.

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

LENGTH = 512
"""Most tokens of a document: the context of the smallest preset."""
BATCH_TOKENS = 4096
"""Tokens per step, padding included."""
PEAK = 3e-3
"""Learning rate after the warm-up; falls to a tenth along a cosine."""


def texts(arm: str, seed: int) -> Iterator[tuple[str, str]]:
    """Endless documents of an arm: what is shown, and what counts in the loss."""
    if arm == "tasks":
        return training_examples(seed)
    rows = [row[1] for row in (*library().prose, *library().code)]
    rng = random.Random(seed)
    return (("", rows[index]) for _ in itertools.count() for index in rng.sample(range(len(rows)), len(rows)))


def batches(tokenizer: Any, documents: Iterator[tuple[str, str]], end: int) -> Iterator[tuple[Any, Any]]:
    """Tokens and targets, padded; a target of -100 does not count. Documents of one batch are about equally long."""
    while True:
        rows = []
        for shown, counted in itertools.islice(documents, 1024):
            prompt, whole = len(tokenizer.encode(shown).ids), tokenizer.encode(shown + counted).ids
            row = [end, *whole, end][: LENGTH + 1]
            rows.append((row, [-100] * prompt + row[prompt + 1 :]))
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[Any]] = [[]]
        for row in rows:
            if groups[-1] and len(row[0]) * (len(groups[-1]) + 1) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(row)
        random.Random(len(rows[-1][0])).shuffle(groups)
        for group in groups:
            longest = max(len(row) for row, _ in group) - 1
            tokens = [row[:-1] + [end] * (longest + 1 - len(row)) for row, _ in group]
            targets = [target + [-100] * (longest - len(target)) for _, target in group]
            yield torch.tensor(tokens), torch.tensor(targets)


def train(options: argparse.Namespace, folder: Path) -> Path:
    """Trains the model, and gives its folder."""
    sample = [*itertools.islice(texts("tasks", -1), 4000), *itertools.islice(texts("text", -1), 400)]
    place = Folder(str(folder))
    settings = Tokenizer(train={"vocab_size": options.vocab_size})
    info = build_tokenizer(settings, [shown + counted for shown, counted in sample], place)
    tokenizer = open_tokenizer(place)
    made = model.build(Model(preset=options.preset), info.vocab_size, options.seed, eos_id=info.eos_id)
    optimizer = torch.optim.AdamW(made.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1)
    made.train()
    data, started = batches(tokenizer, texts(options.arm, options.seed), info.eos_id), time.monotonic()
    num_tokens = step = 0
    while num_tokens < options.tokens:
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min(1, step / 100) * (0.55 + 0.45 * math.cos(math.pi * num_tokens / options.tokens))
        tokens, targets = next(data)
        counts = targets != -100
        # The logits of the counted positions alone: a third of the time where most of a document is its prompt.
        logits = made.lm_head(made.model(tokens).last_hidden_state[counts])
        loss = torch.nn.functional.cross_entropy(logits, targets[counts])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        num_tokens, step = num_tokens + tokens.numel(), step + 1
        if step % 100 == 1:
            print(f"{num_tokens:,} tokens: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
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
