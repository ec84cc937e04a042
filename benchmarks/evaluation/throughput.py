"""Evaluation against the `lm_eval` command: whole commands, same model, same items, in turns.

    python benchmarks/evaluation/throughput.py                       # a random `tiny`, some minutes on an idle core
    python benchmarks/evaluation/throughput.py --kinds generation --limit 200 --core 0

Four kinds of tasks on the items of two generated tasks, read from a file: `likelihood` of the one right answer,
`choices` among up to seven, `generation` of an answer that ends at a stop word or the greatest length, and the same
with all answers of `full_length`. Each command starts a process, imports, loads the model, reads the items, evaluates
and writes a row per item. Per-item results of both sides are compared: the chosen answer and the generated text must be
the same, and the likelihoods equal within rounding; else the script ends with 1.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "data"))
import _common  # noqa: E402

KINDS = ("likelihood", "choices", "generation", "full_length")
SOURCES = ("boxes", "logical_deduction")
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {output}
doc_to_text: "{{{{question}}}}"
{rest}
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
"""
AS_TEXT = 'doc_to_target: "{{answer}}"\n'
AS_CHOICE = "doc_to_choice: choices\ndoc_to_target: gold\n"
GENERATION = "generation_kwargs: {{until: {until}, max_gen_toks: {tokens}, do_sample: false}}\n"
STOP_WORDS = {"generation": [".", "\n", "g"], "full_length": []}
"""A random model writes no full stop. It writes the letter g soon or late, so that answers end at different lengths, as
those of a trained model do."""
TOLERANCE = 1e-4
"""Greatest relative difference of log-likelihoods that counts as rounding."""


class Run(NamedTuple):
    """One whole command."""

    wall: float
    """Seconds."""
    cpu: float
    """CPU seconds of the process and its children."""
    answers: dict[int, tuple[Any, float | None]]
    """Maps items to the answer (choice, text, or whether the right answer is the likeliest), and to the right
    answer's log-likelihood where the task gives one."""


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="raycodellm-throughput-") as temporary:
        folder = Path(options.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        model = Path(options.model) if options.model else _random_model(folder / "model")
        _write_tasks(folder, options)
        rows, faults = [], []
        for kind in options.kinds:
            runs: dict[str, list[Run]] = {"ours": [], "lm_eval": []}
            for _ in range(options.rounds):
                runs["ours"].append(_ours(folder, model, kind, options))
                runs["lm_eval"].append(_theirs(folder, model, kind, options))
            same, difference = _compared(runs["ours"][0], runs["lm_eval"][0])
            if same < 1 or difference > TOLERANCE:
                faults.append(f"{kind}: {same:.2%} of the items are the same, likelihoods within {difference:.1e}")
            rows.append([kind, len(runs["ours"][0].answers), *_times(runs), f"{same:.2%}", f"{difference:.1e}"])
    notes = [f"model: {options.model or 'tiny with random weights'}; medians of {options.rounds} rounds, in turns"]
    notes += [f"batch size {options.batch_size}, device {options.device}, {options.threads} thread(s)"]
    text = _common.header(
        "Evaluation against the lm_eval command", "raycodellm", "lm-eval", "transformers", "torch", notes=notes
    )
    columns = ["kind", "items", "s", "lm_eval s", "times", "CPU s", "lm_eval CPU s", "times", "same items"]
    _common.finish(text + "\n" + _common.table([*columns, "likelihoods within"], rows), options.out)
    print("\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


def _options() -> Any:
    parser = _common.parser(__doc__)
    parser.add_argument("--model", help="a model folder; a random tiny one when left out")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--limit", type=int, default=2000, help="items of each kind")
    parser.add_argument("--tokens", type=int, default=32, help="greatest length of a generated answer")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--core", type=int, help="bind both sides to this core, where other work shares the machine")
    return parser.parse_args()


def _times(runs: dict[str, list[Run]]) -> list[float]:
    figures: list[float] = []
    for clock in ("wall", "cpu"):
        ours, theirs = (statistics.median(getattr(run, clock) for run in runs[side]) for side in ("ours", "lm_eval"))
        figures += [ours, theirs, theirs / ours]
    return figures


# -------------------------------------------------------------------------------------------------- model and tasks


def _random_model(folder: Path) -> Path:
    """The preset `tiny` with random weights, and a tokenizer trained on the standard library's source. The weights are
    larger than those that training begins with, so that a rounding error does not decide between answers."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from raycodellm import model
    from raycodellm.config import Model
    from raycodellm.tasks import training_examples

    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    texts = [prompt + answer for prompt, answer in training_examples(0, 300)]
    tokenizer.train_from_iterator([*texts, *(path.read_text(errors="replace") for path in sources)], trainer)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(model.model_config(Model(preset="tiny"), 4096))
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.mul_(6)
    network.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end).save_pretrained(
        folder
    )
    return folder


def _write_tasks(folder: Path, options: Any) -> None:
    """Writes the items, and a task of each kind, into the folder `tasks`."""
    from raycodellm.tasks import TASKS

    (folder / "tasks").mkdir(exist_ok=True)
    data = folder / "tasks" / "items.jsonl"
    items = [item for task in TASKS if task.name in SOURCES for item in task.evaluated_items[: options.limit // 2]]
    rows = [{**item.row(), "answer": item.answer} for item in items]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = {
        "likelihood": ("loglikelihood", "acc", AS_TEXT),
        "choices": ("multiple_choice", "acc", AS_CHOICE),
        **{
            kind: (
                "generate_until",
                "exact_match",
                AS_TEXT + GENERATION.format(until=json.dumps(until), tokens=options.tokens),
            )
            for kind, until in STOP_WORDS.items()
        },
    }
    for kind, (output, metric, settings) in kinds.items():
        text = TASK.format(name=f"throughput_{kind}", data=data, output=output, metric=metric, rest=settings)
        (folder / "tasks" / f"{kind}.yaml").write_text(text)


# ---------------------------------------------------------------------------------------------------------- two sides


def _measured(command: list[str], folder: Path, options: Any) -> tuple[float, float]:
    """Wall and CPU seconds of a command. Raises RuntimeError with its last words where it fails."""
    if options.core is not None:
        command = ["taskset", "-c", str(options.core), *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(options.threads)}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    started_at = time.perf_counter()
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(folder / 'log.txt').read_text()[-2000:]}")
    return time.perf_counter() - started_at, usage.ru_utime + usage.ru_stime


def _ours(folder: Path, model: Path, kind: str, options: Any) -> Run:
    output = _empty(folder / "ours")
    command = [sys.executable, "-m", "raycodellm.cli", "eval", str(model), "--include", str(folder / "tasks")]
    command += ["--tasks", f"throughput_{kind}", "--output", str(output)]
    command += ["--batch-size", str(options.batch_size), "--device", options.device]
    wall, cpu = _measured(command, folder, options)
    rows = pq.read_table(next(output.rglob("items.parquet"))).to_pylist()
    answers = {}
    for row in rows:
        nats = -row["bits_per_byte"] * row["num_bytes"] * math.log(2)
        answer = row["correct"] if kind == "likelihood" else row["prediction"]
        answers[row["item"]] = answer, None if kind in STOP_WORDS else nats
    return Run(wall, cpu, answers)


def _theirs(folder: Path, model: Path, kind: str, options: Any) -> Run:
    output = _empty(folder / "theirs")
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={model}"]
    command += ["--include_path", str(folder / "tasks"), "--tasks", f"throughput_{kind}"]
    command += ["--batch_size", str(options.batch_size), "--device", options.device]
    command += ["--output_path", str(output), "--log_samples"]
    wall, cpu = _measured(command, folder, options)
    answers = {}
    for path in output.rglob("samples_*.jsonl"):
        for sample in map(json.loads, path.read_text().splitlines()):
            answers[sample["doc_id"]] = _their_answer(kind, sample)
    return Run(wall, cpu, answers)


def _their_answer(kind: str, sample: dict[str, Any]) -> tuple[Any, float | None]:
    responses = sample["filtered_resps"]
    if kind in STOP_WORDS:
        return responses[0], None
    if kind == "likelihood":
        return bool(sample["acc"]), float(responses[0][0])
    likelihoods = [float(response[0]) for response in responses]
    choices = sample["doc"]["choices"]
    return choices[likelihoods.index(max(likelihoods))], likelihoods[sample["doc"]["gold"]]


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _compared(ours: Run, theirs: Run) -> tuple[float, float]:
    """Share of items with the same answer, and the greatest relative difference of likelihoods."""
    keys = ours.answers.keys() | theirs.answers.keys()
    pairs = [(ours.answers.get(key, (None, None)), theirs.answers.get(key, (None, None))) for key in keys]
    same = statistics.fmean(our_answer[0] == their_answer[0] for our_answer, their_answer in pairs)
    differences = [
        abs(our_answer[1] - their_answer[1]) / abs(their_answer[1])
        for our_answer, their_answer in pairs
        if our_answer[1] is not None and their_answer[1] is not None
    ]
    return same, max(differences, default=0.0)


if __name__ == "__main__":
    sys.exit(main())
