"""Which levels of the suite `offline` a small model is above chance on, with and without training on such tasks.

Trains a preset on the tasks' training split (`tasks`), or on documentation and source of the installed Python (`text`),
with one process and no Ray, and evaluates it on the suite. The loss counts every token of a
document.

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from raycodellm import evaluation, model
from raycodellm.config import Evaluation, Model, Tokenizer
from raycodellm.corpora.python_library import library
from raycodellm.files import Folder
from raycodellm.tasks import PARTS, TASKS
from raycodellm.tokens.tokenizer import build_tokenizer, open_tokenizer

LENGTH = 512
"""Most tokens of a document: the context of the smallest preset."""
BATCH_TOKENS = 4096
"""Tokens per step, padding included."""
PEAK = 3e-3
"""Learning rate after the warm-up; falls to a tenth along a cosine."""


def texts(arm: str, seed: int, only: Sequence[str] = ()) -> Iterator[str]:
    """Endless documents of an arm; those of `tasks` of the tasks `only` alone, if any are named."""
    if arm == "tasks":
        tasks = [task for task in TASKS if not only or task.name in only]
        turns = zip(*(task.generate("train", seed) for task in tasks), strict=True)
        return ("".join(item.training_pair()) for turn in turns for item, _ in turn)
    rows = [row[1] for row in (*library().prose, *library().code)]
    rng = random.Random(seed)
    return (rows[index] for _ in itertools.count() for index in rng.sample(range(len(rows)), len(rows)))


def batches(tokenizer: Any, documents: Iterator[str], end: int) -> Iterator[tuple[Any, Any]]:
    """Tokens and targets, padded; a target of -100 does not count. Documents of one batch are about equally long."""
    while True:
        rows = [[end, *tokenizer.encode(text).ids, end][: LENGTH + 1] for text in itertools.islice(documents, 1024)]
        rows.sort(key=len)
        groups: list[list[list[int]]] = [[]]
        for row in rows:
            if groups[-1] and len(row) * (len(groups[-1]) + 1) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(row)
        random.Random(len(groups)).shuffle(groups)
        for group in groups:
            longest = max(map(len, group)) - 1
            tokens = [row[:-1] + [end] * (longest + 1 - len(row)) for row in group]
            targets = [row[1:] + [-100] * (longest + 1 - len(row)) for row in group]
            yield torch.tensor(tokens), torch.tensor(targets)


def train(options: argparse.Namespace, folder: Path) -> Path:
    """Trains the model, and gives its folder."""
    sample = [*itertools.islice(texts("tasks", -1), 4000), *itertools.islice(texts("text", -1), 400)]
    tokenizer_folder = Folder(str(folder))
    info = build_tokenizer(Tokenizer(train={"vocab_size": options.vocab_size}), sample, tokenizer_folder)
    tokenizer = open_tokenizer(tokenizer_folder)
    net = model.build(Model(preset=options.preset), info.vocab_size, options.seed, eos_id=info.eos_id)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1)
    net.train()
    data, started = batches(tokenizer, texts(options.arm, options.seed, options.only), info.eos_id), time.monotonic()
    num_tokens = step = 0
    while num_tokens < options.tokens:
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min(1, step / 100) * (0.55 + 0.45 * math.cos(math.pi * num_tokens / options.tokens))
        tokens, targets = next(data)
        loss = torch.nn.functional.cross_entropy(net(tokens).logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        num_tokens, step = num_tokens + tokens.numel(), step + 1
        if step % 100 == 1:
            print(f"{num_tokens:,} tokens: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
    net.save_pretrained(folder)
    return folder


def table(files: list[str]) -> str:
    """Accuracy and bits per byte of each level, mean over the seeds of an arm, as a Markdown table."""
    runs = [json.loads(Path(file).read_text()) for file in files]
    arms = sorted({run["arm"] for run in runs}, reverse=True)
    heads = [f"{name}, `{arm}`" for name in ("accuracy", "bits per byte") for arm in arms]
    lines = ["| task | level | chance | " + " | ".join(heads) + " |", "|---|---|---|" + "---|" * len(heads)]
    for task, parts in PARTS.items():
        for part in parts if all(f"{task}/acc" in run["metrics"] for run in runs) else ():
            cells = []
            for name in ("acc", "bpb"):
                for arm in arms:
                    values = [run["metrics"][f"{task}/{name}_{part}"] for run in runs if run["arm"] == arm]
                    cells.append(f"{statistics.fmean(values):.2f}")
            chance = statistics.fmean(run["chances"][f"{task}/{part}"] for run in runs)
            lines.append(f"| `{task}` | `{part}` | {chance:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chances(items: Any) -> dict[str, float]:
    """Accuracy of guessing, for each part of each task."""
    chances_by_part: dict[str, list[float]] = {}
    for row in items.to_pylist():
        part = json.loads(row["attributes"])["part"]
        for name_of_part in [part] if isinstance(part, str) else part:
            chances_by_part.setdefault(f"{row['task']}/{name_of_part}", []).append(row["chance"])
    return {name: statistics.fmean(values) for name, values in chances_by_part.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=["tasks", "text"], default="tasks")
    parser.add_argument("--only", nargs="+", default=[], help="trains and evaluates on these tasks alone")
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
    suites = () if options.only else ("offline",)
    settings = Evaluation(suites=suites, tasks=tuple(options.only), limit=options.limit)
    with tempfile.TemporaryDirectory(prefix="raycodellm-levels-") as temporary:
        trained = train(options, Path(temporary))
        result = evaluation.evaluate(trained, settings)
    document = {**vars(options), "metrics": result.metrics, "chances": chances(result.items)}
    Path(options.out).write_text(json.dumps(document))
    print(table([options.out]))


if __name__ == "__main__":
    main()
