"""Reading, tokenising, shuffling and writing a large source: raycodellm, Hugging Face `datasets` and `datatrove`.

All three read the same JSONL files, use the same tokenizer (byte-level BPE, trained here), shuffle whole documents with
a seed and leave every document on disk, closed by the end-of-text token, two bytes per token; the numbers of documents
and tokens are compared. Each runs in processes of its own, one after the other; imports are not counted, starting
worker processes is. CPU seconds are those of all processes of a side, imports and Ray's own included: on a busy machine
they say more than the clock. The limit is `tokenizers` alone: one process per core, texts in memory, nothing written.

    python benchmarks/data/tokenise.py --megabytes 500
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _common

END_OF_TEXT = "<|endoftext|>"
NUM_FILES = 16
SEED = 0


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=500, help="of UTF-8 text, all files together")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="processes that each side may use")
    parser.add_argument("--text", help="folder of plain text (*.txt) to mix with the code of the installed packages")
    parser.add_argument("--repeat", type=int, default=1, help="times that each side runs; the fastest counts")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(watched(options.side, Path(options.folder), options.cores)))
        return
    folder = Path(options.folder or tempfile.mkdtemp(prefix="tokenise-"))
    try:
        _common.finish(measure(options, folder), options.out)
    finally:
        if not options.folder:
            shutil.rmtree(folder)


def measure(options: argparse.Namespace, folder: Path) -> str:
    num_bytes, num_documents = make_files(folder / "texts", options.megabytes * 1_000_000, options.text)
    train_tokenizer(folder)
    head = _common.header(
        "Tokenise, shuffle, write",
        "raycodellm",
        "tokenizers",
        "ray",
        "datasets",
        "datatrove",
        notes=[f"{num_bytes / 1e6:.0f} MB of text, {num_documents:,} documents, {options.cores} processes per side"],
    )
    runs: dict[str, dict[str, Any]] = {}
    for side in options.sides:
        for _ in range(options.repeat):
            figures = run_side(side, folder, options.cores)
            if side not in runs or figures["seconds"] < runs[side]["seconds"]:
                runs[side] = figures
    counts = {(run["documents"], run["tokens"]) for run in runs.values()}
    ours = runs.get("raycodellm", {"seconds": float("nan"), "cpu_seconds": float("nan")})
    rows = [
        [
            side,
            run["seconds"],
            num_bytes / 1e6 / run["seconds"],
            run["seconds"] / ours["seconds"],
            run["cpu_seconds"],
            run["cpu_seconds"] / ours["cpu_seconds"],
            run["peak_mib"],
        ]
        for side, run in runs.items()
    ]
    same = f"all wrote {counts}" if len(counts) == 1 else f"THE COUNTS DIFFER: {counts}"
    columns = ["side", "seconds", "MB/s", "× raycodellm", "CPU seconds", "× raycodellm", "peak memory (MiB)"]
    return f"{head}\n{_common.table(columns, rows)}\n(documents, tokens): {same}\n"


def run_side(side: str, folder: Path, cores: int) -> dict[str, Any]:
    """In a process of its own."""
    arguments = [__file__, "--side", side, "--folder", str(folder), "--cores", str(cores)]
    # One thread per process: each side has as many processes as it may use cores.
    environment = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    (figures,) = _common.in_processes([(arguments, environment)], timeout=3600)
    shutil.rmtree(folder / side, ignore_errors=True)
    return figures


def watched(side: str, folder: Path, cores: int) -> dict[str, Any]:
    """Runs the side here, and adds what all its processes used: CPU seconds, and memory at the most."""
    memory, processor = _common.Memory([os.getpid()]), Processor()
    figures = SIDES[side](folder, cores)
    return {**figures, "cpu_seconds": processor.seconds(), "peak_mib": memory.most()}


class Processor:
    """CPU seconds of this process and all below it, those that have ended counted as last seen."""

    def __init__(self) -> None:
        self._used: dict[int, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def seconds(self) -> float:
        self._done.set()
        self._thread.join()
        return sum(self._used.values())

    def _watch(self) -> None:
        import psutil

        own_process = psutil.Process()
        while not self._done.wait(0.25):
            self._used[own_process.pid] = sum(own_process.cpu_times()[:2])
            for process in own_process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._used[process.pid] = sum(process.cpu_times()[:2])


# -------------------------------------------------------------------------------------------------------- the data


def make_files(folder: Path, num_bytes: int, text: str | None) -> tuple[int, int]:
    """JSONL files of about `num_bytes`; made again only where they are missing. Returns (bytes, documents)."""
    size_file = folder / f"{num_bytes}.json"
    if size_file.exists():
        return tuple(json.loads(size_file.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    total = count = 0
    files = [(folder / f"part-{number:02d}.jsonl").open("w", encoding="utf-8") for number in range(NUM_FILES)]
    for number, document in enumerate(documents(text)):
        total += len(document.encode())
        count += 1
        line = json.dumps({"id": str(number), "text": document}, ensure_ascii=False)
        files[number % NUM_FILES].write(line + "\n")
        if total >= num_bytes:
            break
    for file in files:
        file.close()
    size_file.write_text(json.dumps([total, count]))
    return total, count


def documents(text: str | None) -> Iterator[str]:
    """Books and code, over and over; every time with other made-up words, so that no repetition is an exact one."""
    chance = random.Random(SEED)
    originals = [*passages(text, chance), *modules()]
    chance.shuffle(originals)
    yield from originals
    while True:
        for document in originals:
            words = document.split(" ")
            for index in range(chance.randrange(30), len(words), 60):
                words[index] += "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=3))
            yield " ".join(words)


def passages(text: str | None, chance: random.Random) -> Iterator[str]:
    for path in sorted(Path(text).glob("*.txt")) if text else ():
        paragraphs = path.read_text(encoding="utf-8").split("\n\n")
        while paragraphs:
            length = chance.choice([3, 10, 30, 100])
            yield "\n\n".join(paragraphs[:length])
            del paragraphs[:length]


def modules() -> Iterator[str]:
    for folder in ("stdlib", "purelib"):
        size = 0
        for path in sorted(Path(sysconfig.get_paths()[folder]).rglob("*.py")):
            try:
                code = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            # The sides differ in what they do with a text that spells out the special token.
            if 200 < len(code) < 1_000_000 and END_OF_TEXT not in code:
                size += len(code)
                yield code
            if size > 40_000_000:
                break


def train_tokenizer(folder: Path) -> None:
    from raycodellm.config import Tokenizer
    from raycodellm.files import Folder
    from raycodellm.tokens import build_tokenizer
    from raycodellm.tokens.tokenizer import finished_tokenizer

    target = Folder(str(folder / "tokenizer"))
    if finished_tokenizer(target) is None:
        sample = [text for path in sorted((folder / "texts").glob("*.jsonl"))[:1] for text in texts_of(path)]
        build_tokenizer(Tokenizer(train={"vocab_size": 32_000}), sample[:2000], target)


def texts_of(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def paths(folder: Path) -> list[str]:
    return [str(path) for path in sorted((folder / "texts").glob("*.jsonl"))]


# ------------------------------------------------------------------------------------------------------- the sides


def ours(folder: Path, cores: int) -> dict[str, Any]:
    import ray
    import ray.data

    from raycodellm.config import Source
    from raycodellm.corpora import source_fingerprint
    from raycodellm.files import Folder
    from raycodellm.tokens import prepare_store

    source = Source(kind="text", path=str(folder / "texts" / "*.jsonl"))
    ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False, configure_logging=False)
    started_at = time.perf_counter()
    inputs = source_fingerprint(source, SEED)
    target = Folder(str(folder / "raycodellm"))
    store = prepare_store("texts", source, inputs, Folder(str(folder / "tokenizer")), "print", SEED, target)
    seconds = time.perf_counter() - started_at
    ray.shutdown()
    return {"seconds": seconds, "documents": store.manifest.num_documents, "tokens": store.num_tokens}


def with_datasets(folder: Path, cores: int) -> dict[str, Any]:
    import datasets
    import numpy as np
    from tokenizers import Tokenizer

    datasets.disable_progress_bars()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    eos = tokenizer.token_to_id(END_OF_TEXT)

    def encode(batch: dict[str, list[str]]) -> dict[str, list]:
        encodings = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"input_ids": [np.array([*encoding.ids, eos], np.uint16) for encoding in encodings]}

    started_at = time.perf_counter()
    cache = str(folder / "datasets" / "cache")
    loaded = datasets.load_dataset(
        "json", data_files=paths(folder), split="train", cache_dir=cache, num_proc=min(cores, NUM_FILES)
    )
    encoded = loaded.map(
        encode,
        batched=True,
        num_proc=cores,
        remove_columns=loaded.column_names,
        features=datasets.Features({"input_ids": datasets.Sequence(datasets.Value("uint16"))}),
    )
    encoded.shuffle(seed=SEED).save_to_disk(str(folder / "datasets" / "saved"), num_proc=cores)
    seconds = time.perf_counter() - started_at
    saved = datasets.load_from_disk(str(folder / "datasets" / "saved"))
    num_tokens = sum(len(chunk.flatten()) for chunk in saved.data["input_ids"].chunks)
    return {"seconds": seconds, "documents": len(saved), "tokens": num_tokens}


def with_datatrove(folder: Path, cores: int) -> dict[str, Any]:
    os.environ.setdefault("DATATROVE_COLORIZE_LOGS", "0")
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger
    from loguru import logger

    logger.remove()
    target = folder / "datatrove"
    started_at = time.perf_counter()
    tokenise = LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(folder / "texts"), glob_pattern="*.jsonl"),
            DocumentTokenizer(
                output_folder=str(target / "parts"),
                tokenizer_name_or_path=str(folder / "tokenizer" / "tokenizer.json"),
                eos_token=END_OF_TEXT,
                batch_size=1000,
                seed=SEED,
            ),
        ],
        tasks=min(NUM_FILES, 4 * cores),
        workers=cores,
        logging_dir=str(target / "logs"),
        skip_completed=False,
    )
    tokenise.run()
    merge = LocalPipelineExecutor(
        pipeline=[
            DocumentTokenizerMerger(
                input_folder=str(target / "parts"),
                output_folder=str(target / "merged"),
                save_filename="texts",
                seed=SEED,
                progress=False,
            )
        ],
        tasks=1,
        logging_dir=str(target / "merge-logs"),
        skip_completed=False,
    )
    merge.run()
    seconds = time.perf_counter() - started_at
    files = list((target / "merged").iterdir())
    num_tokens = sum(path.stat().st_size for path in files if path.suffix == ".ds") // 2
    num_documents = sum(path.stat().st_size for path in files if path.name.endswith(".index")) // 8
    return {"seconds": seconds, "documents": num_documents, "tokens": num_tokens}


def limit(folder: Path, cores: int) -> dict[str, Any]:
    """`tokenizers` alone on all cores."""
    from multiprocessing import get_context

    context = get_context("fork")
    loaded, start = context.Barrier(cores + 1), context.Event()
    results = context.SimpleQueue()
    files = paths(folder)
    workers = [
        context.Process(target=encode_only, args=(files[rank::cores], folder, loaded, start, results))
        for rank in range(cores)
    ]
    for worker in workers:
        worker.start()
    loaded.wait()
    started_at = time.perf_counter()
    start.set()
    counts = [results.get() for _ in workers]
    seconds = time.perf_counter() - started_at
    for worker in workers:
        worker.join()
    return {"seconds": seconds, "documents": sum(n for n, _ in counts), "tokens": sum(n for _, n in counts)}


def encode_only(files: list[str], folder: Path, loaded: Any, start: Any, results: Any) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    texts = [text for path in files for text in texts_of(Path(path))]
    loaded.wait()
    start.wait()
    num_tokens = 0
    for first in range(0, len(texts), 100):
        encodings = tokenizer.encode_batch_fast(texts[first : first + 100], add_special_tokens=False)
        num_tokens += sum(len(encoding) + 1 for encoding in encodings)  # and the end-of-text token
    results.put((len(texts), num_tokens))


SIDES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "tokenizers alone": limit,
    "raycodellm": ours,
    "datasets": with_datasets,
    "datatrove": with_datatrove,
}

if __name__ == "__main__":
    sys.exit(main())
