"""Evaluation on one GPU: items per second against lm-eval's own loop, and the same items as on the CPU within rounding.

    python benchmarks/gpu/evaluate.py MODEL --out FILE                # a Hugging Face folder, as a stage leaves it
    python benchmarks/gpu/evaluate.py MODEL --device cpu --limit 40

Two kinds of tasks: the generated reasoning tasks by likelihood, and the same items as a task that generates the answer.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _lines import leave

from raycodellm import evaluation
from raycodellm.config import Evaluation

GENERATED = """
task: boxes_generated
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 16, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit", type=int, default=400, help="items per task")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", help="append the lines to this file as well")
    return parser.parse_args()


def generated_task(folder: Path, limit: int) -> str:
    """The path of a YAML task that asks for the answers of `boxes` as text."""
    (task,) = evaluation.load_tasks(("boxes",), 0).single.values()
    docs = list(task.test_docs())[:limit]
    rows = [
        {"prompt": task.doc_to_text(doc), "answer": task.doc_to_choice(doc)[task.doc_to_target(doc)]} for doc in docs
    ]
    data = folder / "boxes.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "boxes_generated.yaml"
    path.write_text(GENERATED.format(path=data))
    return str(path)


def ours(options: argparse.Namespace, tasks: tuple[str, ...], device: str) -> tuple[list[dict[str, Any]], float]:
    """Rows of items, and items per second."""
    settings = Evaluation(tasks=tasks, limit=options.limit, batch_size=options.batch_size)
    began = time.perf_counter()
    rows = evaluation.evaluate(options.model, settings, device=device).items.to_pylist()
    return rows, len(rows) / (time.perf_counter() - began)


def theirs(options: argparse.Namespace, tasks: tuple[str, ...]) -> tuple[dict[tuple[str, int], float], float]:
    """lm-eval's own loop: (task, item) -> right (1.0) or not, and items per second."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = evaluation.load_tasks(tasks, 0).single
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype="auto").to(options.device)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch_size, softmax_dtype="float32")
    with contextlib.redirect_stderr(io.StringIO()):
        found = lm_eval.evaluate(lm, dict(loaded), limit=options.limit, bootstrap_iters=0, log_samples=True)
    seconds = time.perf_counter() - began
    right = {
        (task, sample["doc_id"]): float(sample.get("acc", sample.get("exact_match", 0.0)))
        for task, samples in found["samples"].items()
        for sample in samples
    }
    return right, len(right) / seconds


def compared(options: argparse.Namespace, kind: str, tasks: tuple[str, ...]) -> dict[str, Any]:
    ours(options, tasks, options.device)  # loads libraries, kernels and tasks
    rows, rate = ours(options, tasks, options.device)
    right, their_rate = theirs(options, tasks)
    on_cpu, cpu_rate = ours(options, tasks, "cpu")
    pairs = list(zip(rows, on_cpu, strict=True))
    bits = [abs(a["bits_per_byte"] - b["bits_per_byte"]) for a, b in pairs if a["bits_per_byte"] is not None]
    mine = {(row["task"], row["item"]): float(row["correct"]) for row in rows if row["correct"] is not None}
    return {
        "kind": kind,
        "items": len(rows),
        "items_per_second": round(rate, 1),
        "lm_eval_items_per_second": round(their_rate, 1),
        "cpu_items_per_second": round(cpu_rate, 1),
        "same_as_lm_eval": sum(right.get(key) == value for key, value in mine.items()) / max(1, len(mine)),
        "same_prediction_as_cpu": sum(a["prediction"] == b["prediction"] for a, b in pairs) / len(pairs),
        "largest_difference_bits_per_byte": max(bits, default=None),
    }


def main() -> None:
    options = arguments()
    has_failed = False
    with tempfile.TemporaryDirectory() as temporary:
        for kind in ("likelihood", "generation"):
            try:
                is_likelihood = kind == "likelihood"
                tasks = (
                    ("boxes", "logical_deduction")
                    if is_likelihood
                    else (generated_task(Path(temporary), options.limit),)
                )
                found = compared(options, kind, tasks)
            except Exception as error:  # the other kind is worth having without this one
                has_failed = True
                found = {"kind": kind, "error": f"{type(error).__name__}: {str(error)[:300]}"}
            leave(found, options.out)
    sys.exit(has_failed)


if __name__ == "__main__":
    main()
