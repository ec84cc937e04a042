"""The tables of docs/benchmarks.md from what run.sh left: python benchmarks/gpu/tables.py OUT > tables.md."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import _common

SIDE = {
    "engine": "engine",
    "compiled": "engine, blocks and loss compiled",
    "torch": "plain torch loop, autocast, the engine's loss",
    "transformers": "plain torch loop, autocast, transformers' loss",
}


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")] if path.exists() else []


def shown(value: Any, digits: int = 3) -> str:
    if value is None:
        return "–"
    return (
        f"{value:,.{digits}f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )


def variant(row: dict[str, Any]) -> str:
    """How a row of the engine differs from bf16 and ZeRO 1."""
    parts = [row["precision"]] if row.get("precision", "bf16") not in ("bf16", "fp32") else []
    parts += [f"ZeRO {row['zero']}"] if row.get("zero", 1) != 1 else []
    parts += ["activation checkpointing"] if row.get("activation_checkpointing") else []
    return "".join(f", {part}" for part in parts)


def engine_tables(rows: list[dict[str, Any]]) -> str:
    speed, waits, times = [], [], []
    for row in rows:
        name = (row["model"], SIDE.get(row["side"], row["side"]) + variant(row))
        if "error" in row:
            speed.append((*name, *["–"] * 6, row["error"].split(".")[0][:60]))
            continue
        percent = f"{100 * row['mfu']:.1f} %"
        memory = (shown(row["memory_gb"], 1), shown(row.get("needed_gb"), 1))
        numbers = (shown(row["tokens_per_second"], 0), percent, *memory)
        speed.append((*name, str(row["micro_batch"]), shown(row["seconds_per_step"]), *numbers, ""))
        if "profile" in row:
            seen = row["profile"]
            counts = ", ".join(f"{call} {count:g}" for call, count in seen["host_waits"].items())
            waits.append((*name, counts, ", ".join(f"{at} {n:g}" for at, n in row.get("waits_at", {}).items())))
            times.append((*name, shown(seen["wall_ms"], 0), *(shown(seen["device_ms"].get(part), 0) for part in PARTS)))
    columns = ["model", "side", "rows per pass", "s per step", "tokens/s", "MFU", "GB", "GB by `check`", ""]
    text = _common.table(columns, speed)
    if times:
        text += "\nMilliseconds of the device per step, by purpose:\n\n"
        text += _common.table(["model", "side", "wall", *PARTS], times)
        text += (
            "\nCalls per step in which the host waits, the profiler's own among them, and the lines they come from:\n\n"
        )
        text += _common.table(["model", "side", "calls", "lines"], waits)
    return text


PARTS = (
    "matrix products",
    "attention",
    "compiled elementwise",
    "elementwise, loss, norms",
    "optimizer",
    "copies and fills",
)


def sweep_tables(rows: list[dict[str, Any]]) -> str:
    runs, stages, notes = [], [], []
    for row in rows:
        part = row["part"]
        if "exit_code" not in row:
            runs.append((part, "–", "–", "–", row["error"][:80]))
            continue
        states = ", ".join(f"{trial['number']}: {trial['state']}" for trial in row["trials"])
        runs.append(
            (part, str(row["exit_code"]), shown(row["wall_seconds"], 1), shown(row["first_step_seconds"], 1), states)
        )
        for stage in row["stages"]:
            rate, mfu = shown(stage["tokens_per_second"]), stage["mfu"]
            percent = "–" if mfu is None else f"{100 * mfu:.1f} %"
            wait = stage["data_wait_share"]
            waited = "–" if wait is None else f"{100 * wait:.1f} %"
            numbers = (rate, percent, waited, shown(stage["memory_gb"], 1), shown(stage["wall_seconds"], 1))
            stages.append((part, shown(stage["batch_tokens"]), shown(stage["micro_batch"]), *numbers))
        notes += [f"* {part}, trial {t['number']}: {t['error'][:400]}" for t in row["trials"] if t.get("error")]
        if part == "killed":
            notes.append(
                f"* killed: resumed at step {row.get('resumed_at')}; same order of data: {row.get('same_order')}; same "
                f"ledger: {row.get('same_ledger')}; final loss without and with: {row.get('final_loss')}"
            )
        if "tokens_per_second_together" in row:
            notes.append(f"* {part}: {row['tokens_per_second_together']:,} tokens/s, all slots together")
        if "seconds_together" in row:
            notes.append(f"* shared: both slots trained at once for {row['seconds_together']} s")
    text = _common.table(["part", "exit code", "s in all", "first step after, s", "trials"], runs)
    columns = ["part", "tokens a step", "rows per pass", "tokens/s", "MFU", "wait for data", "GB", "s"]
    text += "\nStages; medians over rows of metrics, of the wait for data the mean:\n\n" + _common.table(
        columns, stages
    )
    text += "\n" + "\n".join(notes) + "\n"
    for row in rows:
        if row.get("status"):
            text += f"\n```\n{row['status'].rstrip()}\n```\n"
    return text


def evaluation_table(rows: list[dict[str, Any]]) -> str:
    names = ("items_per_second", "lm_eval_items_per_second", "cpu_items_per_second")
    shares = ("same_as_lm_eval", "same_prediction_as_cpu")
    made = [
        (row["kind"], *["–"] * 6, row["error"][:80])
        if "error" in row
        else (
            *(row["kind"], shown(row["items"])),
            *(shown(row[name], 0) for name in names),
            *(f"{100 * row[name]:.1f} %" for name in shares),
            f"{row['largest_difference_bits_per_byte']:.1e}",
        )
        for row in rows
    ]
    columns = [
        "kind",
        "items",
        "items/s",
        "lm-eval's loop",
        "on the CPU",
        "scored as lm-eval",
        "answered as on the CPU",
    ]
    return _common.table([*columns, "largest difference, bits/byte"], made)


def vllm_table(rows: list[dict[str, Any]]) -> str:
    made = []
    for row in rows:
        if "error" in row:
            made.append((row["model"], row["way"], *["–"] * 9, row["error"][:80]))
        for kind in ("greedy", "samples"):
            if one := row.get(kind):
                rates = [f"{engine}_{unit}_per_second" for unit in ("items", "tokens") for engine in ("vllm", "own")]
                made.append(
                    (
                        *(row["model"], row["way"], row["dtype"], kind, shown(one["prompts"])),
                        *(shown(one[rate], 0) for rate in rates),
                        f"{100 * one['same_answers']:.1f} %",
                        str(row.get("agrees", "–")),
                        f"{row['start_seconds']:.0f}",
                    )
                )
    columns = ["model", "way", "numbers", "answers", "prompts", "vLLM, items/s", "own engine", "vLLM, tokens/s"]
    notes = [f"* {row['model']}, {row['way']}: {row['disagreement']}" for row in rows if "disagreement" in row]
    ends = ["own engine", "same answers", "check agrees", "start of vLLM, s"]
    return "\n".join([_common.table([*columns, *ends], made), *notes])


def determinism_table(rows: list[dict[str, Any]]) -> str:
    made = [
        (
            row["model"],
            shown(row["tokens_per_second"], 0),
            shown(row["tokens_per_second_deterministic"], 0),
            f"{100 * row['cost']:.1f} %",
            str(row["same_bits"]),
            str(row["same_bits_deterministic"]),
        )
        for row in rows
    ]
    return _common.table(["model", "tokens/s", "deterministic", "cost", "same bits", "same bits, deterministic"], made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--commit", default=_common.commit(), help="that was run")
    options = parser.parse_args()
    versions = (options.out / "versions.txt").read_text().splitlines()
    steps = [line.split("\t") for line in (options.out / "steps.tsv").read_text().splitlines()]
    print("## The whole path on one GPU\n")
    print("* command: `bash benchmarks/gpu/run.sh WHEELS OUT`")
    print(f"* commit {options.commit}; {', '.join(line for line in versions if len(line) < 80)}")
    print("* " + "; ".join(f"{name} {seconds} s" + (f", exit {code}" * (code != "0")) for name, seconds, code in steps))
    for title, name, table in (
        ("Engine alone", "engine.jsonl", engine_tables),
        ("Sweeps through Ray", "sweep.jsonl", sweep_tables),
        ("Evaluation", "evaluate.jsonl", evaluation_table),
        ("Determinism", "determinism.jsonl", determinism_table),
        ("Answers by vLLM", "vllm.jsonl", vllm_table),
    ):
        found = lines(options.out, name)
        if found:
            print(f"\n### {title}\n\n{table(found)}")


if __name__ == "__main__":
    main()
