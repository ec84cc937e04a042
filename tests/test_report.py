"""The report: what it says of finished, failed, unfinished and empty runs, and how sure it says it is."""

from __future__ import annotations

import base64
import gzip
import math
import random
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import yaml

from raycodellm import config, report, search, verdict
from raycodellm.config import Objective, SweepFile, UserError
from raycodellm.files import Folder
from raycodellm.records import LedgerRow, StageRecord, TrialResult, as_json
from raycodellm.report import answer as words
from raycodellm.report import figures, markdown, opening, ranking, sections
from raycodellm.report.figures import groups
from raycodellm.report.figures.curves import thinned
from raycodellm.report.figures.scores import _is_right
from raycodellm.report.watch import LOOK_SECONDS, POLL_SECONDS, RELOAD_SECONDS, ReportWatch
from raycodellm.statistics import UNKNOWN, SeedNoise, quadratic_band
from raycodellm.sweep.token_count import TokenCount
from raycodellm.tables import StageUse, formats, sharing, sharing_sentence, stage_use
from raycodellm.verdict.measurements import measurements

SWEEP = """
name: demo
model: {preset: tiny}
tokenizer: {train: {vocab_size: 4096}}
sources:
  prose: {kind: text, path: "builtin:python-prose"}
  python: {kind: code, path: "builtin:python-code"}
  lessons: {kind: instruct_text, path: "builtin:tasks-instruct"}
stages:
  - name: pretrain
    tokens: 400_000
    sequence_length: 128
    batch_tokens: 4_096
    learning_rate: {peak: 3.0e-3}
    code_ratio: {search: {uniform: [0.0, 0.75]}}
    schedule: {search: {choice: [constant, increase, decrease]}}
  - name: instruct
    tokens: 50_000
    sequence_length: 128
    batch_tokens: 2_048
    learning_rate: {peak: 1.0e-3}
    weights: {lessons: 1.0}
    responses_only: true
evaluation: {tasks: [boxes, logical_deduction], limit: 120}
search: {trials: 9, objective: {metric: mean/bpb, mode: min}, replicates: REPLICATES}
"""
TASKS = ("boxes", "logical_deduction")


def sweep_file(text: str = SWEEP, replicates: int = 1) -> SweepFile:
    return config.parse(text.replace("REPLICATES", str(replicates)))


BPB = (Objective(metric="mean/bpb", mode="min"),)
ACC = (Objective(metric="mean/acc", mode="max"),)


def item_table(quality: float, seed: int, num_items: int = 120) -> pa.Table:
    """Items whose difficulty is the same for all models; a higher `quality` needs fewer bits."""
    hard, own = random.Random("items"), random.Random(seed)
    rows = []
    for task in TASKS:
        for item in range(num_items):
            difficulty = hard.gauss(2.0, 0.8)
            bits = difficulty - quality + own.gauss(0, 0.05)
            rows.append({"task": task, "item": item, "correct": bits < 1.5, "bits_per_byte": bits, "chance": 0.25})
    return pa.Table.from_pylist(rows)


def metrics_of(table: pa.Table) -> dict[str, float]:
    found = {}
    for name, column in (("acc", "correct"), ("bpb", "bits_per_byte")):
        means = []
        for task in TASKS:
            mask = np.array(table.column("task").to_pylist()) == task
            values = np.array(table.column(column).to_pylist(), dtype=float)[mask]
            half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
            means.append(values.mean())
            found |= {f"{task}/{name}": values.mean(), f"{task}/{name}_low": values.mean() - half}
            found |= {f"{task}/{name}_high": values.mean() + half, f"{task}/chance": 0.25, f"{task}/items": len(values)}
            found[f"{task}/too_long"] = 3
        found |= {f"mean/{name}": float(np.mean(means)), f"mean/{name}_low": np.mean(means) - 0.1}
        found[f"mean/{name}_high"] = np.mean(means) + 0.1
    return {**found, "mean/chance": 0.25}


def trial(
    number: int, arm: int, seed: int = 0, state: str = "complete", items: pa.Table | None = None, **more
) -> TrialResult:
    metrics = metrics_of(items) if items is not None and state == "complete" else {}
    return TrialResult(number=number, state=state, arm=arm, seed=seed, metrics=metrics, **more)


def arms(qualities: list[list[float]]) -> tuple[list[dict], dict[int, pa.Table]]:
    """Rows and items of arms with one replicate per quality."""
    rows, items = [], {}
    for arm, of_arm in enumerate(qualities):
        for seed, quality in enumerate(of_arm):
            number = len(rows)
            items[number] = item_table(quality, number)
            rows.append(trial(number, arm, seed, items=items[number]).row())
    return rows, items


def write_stage(
    storage: Folder, key: str, tokens: int, sources: dict[str, str], ratio: float, offset: float = 0.0
) -> None:
    name, _, identity = key.rpartition("-")
    shares = {s: (ratio if kind == "code" else 1 - ratio) if len(sources) > 1 else 1.0 for s, kind in sources.items()}
    ledger = [
        LedgerRow(s, k, int(tokens * shares[s]), int(tokens * shares[s]) + 128, int(tokens * 0.9), 9, 0.41)
        for s, k in sources.items()
    ]
    record = StageRecord(identity, name, 98, tokens, 5.1 + offset, 31.0, 31.0, "c0ffee", ledger=tuple(ledger))
    folder = storage / "stages" / key
    folder.write_json("stage.json", {"job": {"sources": []}, "record": as_json(record)})
    rows = []
    for step in range(1, 51):
        done = step / 50
        planned = ratio * (1.33 if done <= 0.25 else 1.06 if done <= 0.5 else 0.8)
        row = {"step": step, "tokens": int(tokens * done), "code_ratio_scheduled": planned}
        row |= {"code_ratio_window": planned + 0.01 * math.sin(step), "loss": 8 * math.exp(-2 * done) + 2 + offset}
        row |= {f"loss/{s}": float("nan") if not shares[s] else row["loss"] + 0.5 * n for n, s in enumerate(sources)}
        rows.append(row)
    folder.write_table("metrics.parquet", pa.Table.from_pylist(rows))
    folder.write_bytes("DONE", b"")


def write_run(storage: Folder, replicates: int = 1) -> Folder:
    """A run of nine arms: eight complete, one failed, one trial still running."""
    file = sweep_file(replicates=replicates)
    run = storage / "demo"
    run.write_bytes("sweep.yaml", yaml.safe_dump(config.resolved_tree(file), sort_keys=False).encode())
    rows, plain = [], {"prose": "text", "python": "code"}
    for arm in range(9):
        ratio = 0.08 * arm + 0.03
        schedule = ("constant", "increase", "decrease")[arm % 3]
        params = {"pretrain.code_ratio": ratio, "pretrain.schedule": schedule}
        for seed in range(replicates):
            number = len(rows)
            stages = (f"pretrain-{arm:08x}{seed:08x}", f"instruct-{arm + 100:08x}{seed:08x}")
            items = item_table(0.5 - 2 * (ratio - 0.35) ** 2 + 0.02 * seed, number)
            more = {"params": params, "stages": stages, "wall_seconds": 41.0, "device_seconds": 40.0 + number}
            if arm == 4:
                cause = "FloatingPointError: loss is NaN at step 17 of stage pretrain; lower the rate </script>"
                rows.append(trial(number, arm, seed, "failed", error=cause, **more))
                continue
            if arm == 8:
                rows.append(trial(number, arm, seed, "running", **more))
                continue
            write_stage(storage, stages[0], 401_408, plain, ratio, 0.02 * arm)
            write_stage(storage, stages[1], 51_200, {"lessons": "instruct_text"}, 0.0)
            (run / "trials" / f"{number:04d}").write_table("items.parquet", items)
            tokens = {"prose": int(401_408 * (1 - ratio)), "python": int(401_408 * ratio), "total": 452_608 + arm}
            rows.append(trial(number, arm, seed, items=items, tokens=tokens, **more))
    # One more trial with the chain of the first: its stages are shared.
    items = item_table(0.25, 99)
    (run / "trials" / f"{len(rows):04d}").write_table("items.parquet", items)
    first = rows[0]
    rows.append(
        trial(
            len(rows), 9, 0, items=items, params={**first.params, "pretrain.schedule": "increase"}, stages=first.stages
        )
    )
    run.write_table("trials.parquet", pa.Table.from_pandas(_frame(rows), preserve_index=False))
    timing = {"imports": 3.1, "ray start": 5.6, "tokens": 7.4, "trials": 214.0, "training (slot-seconds)": 391.0}
    run.write_json("timing.json", timing)
    return run


def _frame(rows):
    import pandas as pd

    return pd.DataFrame([row.row() for row in rows])


# ------------------------------------------------------------------------------------------------- ranking


@pytest.mark.parametrize(("objectives", "best"), [(BPB, 2), (ACC, 2)])
def test_the_best_arm_comes_first_whether_less_or_more_is_better(objectives, best):
    rows, items = arms([[0.2], [0.5], [0.9]])
    found = ranking(rows, objectives, items)
    assert [one.arm for one in found] == [best, 1, 0]
    assert found[0].score == pytest.approx(rows[best][f"metrics.{objectives[0].metric}"])
    assert all(one.chance == 0.25 for one in found)


@pytest.mark.parametrize("qualities", [[[0.5], [0.45]], [[0.9], [0.5], [0.1]], [[9.0], [0.1]]])
def test_with_one_seed_per_arm_arms_are_ranked_and_no_difference_is_called_real(qualities):
    rows, items = arms(qualities)
    for found in (ranking(rows, BPB, items), ranking(rows, BPB)):
        assert [one.arm for one in found] == [*range(len(qualities))]
        assert not any(one.separable or one.covers_seeds for one in found)
        assert all(math.isnan(one.difference.low) for one in found[1:])
        said = words.answer(found, BPB)
        assert said.startswith("First in rank: arm 0") and "no arm can be told apart from another" in said
        assert "95 % interval over the evaluation's items alone" in said
        assert not re.search(r"\b([Bb]est|better|separable)\b", said)
        assert "search.replicates: 3" in verdict.settled_by(sweep_file(), rows, items)
        assert words.interval_name(found) == "95 % interval, items only"
        assert re.fullmatch(r"[+−-]\d+\.\d{3}", words.difference(found[1])), "no interval that holds no seeds"


def test_arms_of_equal_seeds_differ_where_their_intervals_overlap():
    rows, items = arms([[0.30, 0.50, 0.70], [0.10, 0.30, 0.50]])
    best, other = ranking(rows, BPB, items)
    assert best.low < other.low < best.high, "what a seed does to both arms widens both intervals"
    assert other.separable and best.separable and best.covers_seeds, "and drops out of the difference"
    assert other.difference.value == pytest.approx(0.2, abs=0.01)
    assert words.answer([best, other], BPB).endswith("it is better than the other arm (95 %, over items and seeds).")
    assert words.answer([], BPB) == "No trial is complete, so there is nothing to rank."
    assert words.interval_name([best, other]) == "95 % interval"


def test_steps_that_were_skipped_are_told_with_their_stages_and_trials():
    stages = {name: SimpleNamespace(name="pretrain", num_steps=40, skipped_steps=n) for n, name in enumerate("abcdefg")}
    rows = [{"number": number} for number in range(8)]  # the last trial shares the stage of the one before
    records = SimpleNamespace(rows=rows, stages=stages, stage_keys=lambda number: ["abcdefgg"[number]])
    said = words._skipped_steps(records)
    assert said.startswith(
        "Steps were skipped, since a loss or gradient was not finite: 1 of 40 in pretrain of trial 0001"
    )
    assert "; 5 of 40 in pretrain of trial 0005 and in 1 more stage." in said
    records.rows = rows[:1]
    assert words._skipped_steps(records) == ""


def test_a_difference_that_changes_from_seed_to_seed_is_not_called_real():
    rows, items = arms([[0.30, 0.50, 0.70], [0.65, 0.45, 0.25]])
    best, other = ranking(rows, BPB, items)
    assert not other.separable and not best.separable and other.difference.low < 0
    assert "cannot be told apart from the other arm" in words.answer([best, other], BPB)
    assert words.difference(other).endswith(" ≈")


def test_other_seeds_of_other_arms_are_compared_as_independent():
    rows, items = arms([[0.30, 0.50, 0.70], [0.10, 0.30, 0.50]])
    for row in rows[3:]:
        row["seed"] += 10
    other = ranking(rows, BPB, items)[1]
    assert other.difference.value == pytest.approx(0.2, abs=0.01) and not other.separable


def test_the_interval_of_a_difference_is_that_of_seeds_and_of_paired_items():
    rows, items = arms([[0.50, 0.52, 0.48], [0.45, 0.42, 0.44]])
    other = ranking(rows, BPB, items)[1]
    scores = np.array([row["metrics.mean/bpb"] for row in rows]).reshape(2, 3)
    by_seed = scores[1] - scores[0]
    bits = np.array([items[n].column("bits_per_byte").to_pylist() for n in range(6)]).reshape(2, 3, 2, 120)
    gaps = (bits[1] - bits[0]).mean(axis=0)
    of_items = 1.97 * math.sqrt((gaps.var(ddof=1, axis=1) / 120).sum()) / 2
    of_seeds = 4.3027 * by_seed.std(ddof=1) / math.sqrt(3)
    assert other.difference.value == pytest.approx(by_seed.mean())
    assert other.difference.high - by_seed.mean() == pytest.approx(math.hypot(of_items, of_seeds), rel=0.01)


def test_equal_arms_are_not_separable_and_the_answer_says_so():
    rows, items = arms([[0.51, 0.49], [0.49, 0.51], [0.1, 0.1]])
    found = ranking(rows, BPB, items)
    assert not found[0].separable and not found[1].separable and found[2].separable
    assert "cannot be told apart from 1 of 2 other arms" in words.answer(found, BPB)


def test_a_mean_over_groups_has_the_interval_of_that_mean_and_not_of_its_members():
    rows, items = arms([[0.5, 0.5], [0.4, 0.4]])
    tasks = {"big": 10, "small": 110, "alone": 120}
    for number, table in items.items():
        members = [name for name, n in tasks.items() for _ in range(n)]
        places = [place for n in tasks.values() for place in range(n)]
        renamed = table.set_column(0, "task", pa.array(members)).set_column(1, "item", pa.array(places))
        named = {b"named_tasks": b'{"group": ["big", "small"], "alone": ["alone"]}'}
        items[number] = renamed.replace_schema_metadata(named)
    other = ranking(rows, BPB, items)[1]  # the score is the mean of two halves of the items, as it was
    bits = np.array([items[n].column("bits_per_byte").to_pylist() for n in range(4)]).reshape(2, 2, 2, 120)
    assert other.score == pytest.approx(bits[1].mean())
    spread = bits[1].mean(axis=0).var(ddof=1, axis=1)
    evidence = measurements("mean/bpb", rows[2:], items)
    assert [len(sample) for sample in evidence.samples[0]] == [120, 120]
    assert evidence.interval(SeedNoise(UNKNOWN, UNKNOWN)).high - other.score == pytest.approx(
        1.97 * math.sqrt((spread / 120).sum()) / 2, rel=0.01
    )
    assert other.separable


def test_items_of_another_estimator_than_the_score_are_not_used():
    rows, items = arms([[0.5, 0.5]])
    rows[0]["metrics.mean/bpb"] += 0.01
    evidence = measurements("mean/bpb", rows, items)
    assert not evidence.samples[0] and evidence.samples[1]


def test_an_accuracy_that_is_no_better_than_guessing_is_said_to_be_so():
    rows, items = arms([[0.5], [0.1]])
    assert "guessing" not in words.answer(ranking(rows, BPB, items), BPB)
    rows[0] |= {"metrics.mean/acc": 0.27, "metrics.mean/acc_low": 0.23}
    assert "cannot be told from guessing (0.250)" in words.answer(ranking(rows, BPB, items), BPB)


def test_a_spread_between_seeds_widens_the_intervals_of_scores():
    steady, items = arms([[0.50, 0.50, 0.50], [0.45, 0.45, 0.45]])
    shaky, shaky_items = arms([[0.30, 0.50, 0.70], [0.25, 0.45, 0.65]])
    sure, unsure = ranking(steady, BPB, items), ranking(shaky, BPB, shaky_items)
    assert sure[0].score == pytest.approx(np.mean([steady[n]["metrics.mean/bpb"] for n in range(3)]))
    assert sure[0].seeds == (0, 1, 2) and sure[1].separable
    assert unsure[0].high - unsure[0].low > 1.5 * (sure[0].high - sure[0].low)


def test_a_failed_trial_is_never_a_score_but_keeps_its_cause():
    rows, items = arms([[0.2], [0.9]])
    rows[1] |= {"state": "failed", "error": "CUDA out of memory"}  # its metrics are still in the row
    found = ranking(rows, BPB, items)
    assert [(one.arm, one.score is None) for one in found] == [(0, False), (1, True)]
    assert found[1].errors == ("CUDA out of memory",)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_complete_trial_without_a_finite_objective_has_no_score(value):
    rows, items = arms([[0.2], [0.9]])
    rows[1]["metrics.mean/bpb"] = value
    found = ranking(rows, BPB, items)
    assert found[1].score is None and "no finite mean/bpb" in found[1].errors[0]


def test_an_arm_with_one_replicate_failed_is_scored_by_the_others():
    rows, items = arms([[0.5, 0.5], [0.4, 0.4]])
    rows[3] |= {"state": "failed", "error": "lost its node"}
    other = ranking(rows, BPB, items)[1]
    assert other.trials == (2,) and other.errors == ("lost its node",) and other.score == rows[2]["metrics.mean/bpb"]


def test_recorded_intervals_stand_in_for_metrics_that_are_no_mean_over_items():
    rows, items = arms([[0.5], [0.1]])
    for row, value in zip(rows, (0.8, 0.2), strict=True):
        row |= {
            "metrics.boxes/acc_deep": value,
            "metrics.boxes/acc_deep_low": value - 0.1,
            "metrics.boxes/acc_deep_high": value + 0.1,
        }
    objectives = (Objective(metric="boxes/acc_deep", mode="max"),)
    best = ranking(rows, objectives, items)[0]
    assert (best.low, best.high) == pytest.approx((0.7, 0.9))
    again = [{**row, "number": row["number"] + 2, "seed": 1} for row in rows]
    other = ranking([*rows, *again], objectives, items)[1]
    assert other.separable and other.difference.high == pytest.approx(-0.6 + 0.1 * math.sqrt(2), abs=0.01)


def test_the_pareto_front_holds_the_arms_that_no_other_beats():
    rows, items = arms([[0.9], [0.5], [0.1]])
    for row, cost in zip(rows, (3.0, 4.0, 1.0), strict=True):
        row["metrics.cost/total"] = cost
    found = ranking(rows, (*BPB, Objective(metric="cost/total", mode="min")), items)
    assert [(one.arm, one.pareto) for one in found] == [(0, True), (1, False), (2, True)]


# ------------------------------------------------------------------------------------------------- verdicts


def test_an_arm_is_better_or_worse_in_a_task_only_with_the_noise_of_seeds():
    rows, items = arms([[0.50, 0.52, 0.48], [0.49, 0.53, 0.47], [0.10, 0.13, 0.08]])
    found = verdict.findings(sweep_file(), rows, items)
    assert found.compared_with == 0 and {(one.arm, one.metric): one.word for one in found.verdicts} == {
        **{(1, f"{task}/bpb"): "not known" for task in (*TASKS, "mean")},
        **{(2, f"{task}/bpb"): "worse" for task in (*TASKS, "mean")},
    }
    single, items = arms([[0.5], [0.1]])
    assert verdict.findings(sweep_file(), single, items).verdicts == (), "one seed per arm gives no verdict"


def test_a_verdict_over_more_tasks_needs_a_larger_difference():
    rows, items = arms([[0.50, 0.52, 0.48], [0.40, 0.43, 0.38]])
    corrected = verdict.findings(sweep_file(), rows, items).verdicts
    mean = next(one.difference for one in corrected if one.metric == "mean/bpb")
    alone = ranking(rows, BPB, items)[1].difference
    assert mean.value == pytest.approx(alone.value) and mean.high - mean.low > 1.1 * (alone.high - alone.low)


@pytest.mark.slow
def test_where_no_arm_differs_at_most_one_sweep_in_twenty_gives_a_verdict_in_any_task():
    """Seeds move all arms together and each arm alone; all arms answer the same items."""
    chance, found = np.random.default_rng(0), []
    for _ in range(120):
        rows, items = [], {}
        hard, of_seed = chance.normal(2.0, 0.8, (2, 30)), chance.normal(0, 0.1, (3, 2))
        for arm in range(4):
            for seed in range(3):
                bits = hard + of_seed[seed][:, None] + chance.normal(0, 0.1, (2, 1)) + chance.normal(0, 0.3, (2, 30))
                metrics = {f"{task}/bpb": float(one.mean()) for task, one in zip(TASKS, bits, strict=True)}
                rows.append(
                    TrialResult(len(rows), "complete", arm, seed, metrics=metrics | {"mean/bpb": bits.mean()}).row()
                )
                tasks, numbers = np.repeat(TASKS, 30), np.tile(np.arange(30), 2)
                items[len(items)] = pa.table({"task": tasks, "item": numbers, "bits_per_byte": bits.ravel()})
        known = verdict.findings(sweep_file(), rows, items)
        found.append(any(one.word in ("better", "worse") for one in known.verdicts))
    assert 0 < np.mean(found) < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 120)


def test_tasks_without_the_objectives_metric_have_no_verdicts():
    rows, items = arms([[0.5], [0.1]])
    for row in rows:
        row["metrics.cost/total"] = 1.0
    file = sweep_file(SWEEP.replace("mean/bpb", "cost/total"))
    assert verdict.findings(file, rows, items).verdicts == ()


def test_a_shared_stage_is_counted_once_as_trained_and_each_time_as_asked_for():
    chains = [["a", "b"], ["a", "c"], ["a", "missing"], []]
    found = sharing(chains, {"a": StageUse(100, 10.0), "b": StageUse(10, 10.0), "c": StageUse(10, 10.0)})
    assert (found.tokens_asked, found.tokens_trained, found.tokens_saved) == (320, 120, 200)
    assert (found.seconds_trained, found.seconds_saved) == (30.0, 20.0)


def test_a_stage_that_another_sweep_trained_is_taken_over_and_neither_trained_nor_saved():
    record = StageRecord("0", "pretrain", 10, 100, 1.0, 5.0, 5.0, "0", trained_by="other")
    own = replace(record, num_tokens=40, device_seconds=2.0, trained_by="mine")
    branch = replace(own, trunk_tokens=30, trunk_seconds=1.5, trunk_by="other")
    uses = {key: stage_use(one, "mine") for key, one in {"a": record, "b": own, "c": branch}.items()}
    found = sharing([["a", "b"], ["a", "b"], ["a", "c"]], uses)
    assert (found.tokens_asked, found.tokens_trained, found.tokens_taken_over, found.tokens_saved) == (
        420,
        50,
        130,
        240,
    )
    assert (found.seconds_trained, found.seconds_taken_over, found.seconds_saved) == (2.5, 6.5, 12.0)
    assert "420 tokens asked for, 50 trained, 130 taken over from other sweeps, 240 saved" in sharing_sentence(found)
    count = TokenCount()
    for key, use in uses.items():
        count.finish(key, use)
    assert count.total == found.tokens_trained
    assert stage_use(replace(record, trained_by=""), "mine").tokens_here == 100, "older records name no sweep"


# ------------------------------------------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Folder, Folder]:
    storage = Folder(str(tmp_path_factory.mktemp("storage")))
    return write_run(storage), storage


def test_the_page_is_written_fast_and_needs_no_network(finished):
    began = time.process_time()
    folder = report.write_report(*finished)
    assert time.process_time() - began < 5.0
    page = folder.read_bytes("index.html").decode()
    assert set(re.findall(r"(?i)(?:https?:)?//(?:[a-z0-9-]+\.)+[a-z]{2,}", page)) == set()
    assert "https://" not in page and "http://" not in page
    assert page.count("</script>") == 3, "what a trial says ends no script"


def unpacked(page: str, name: str) -> str:
    """The compressed part of the page: its data, or Plotly."""
    letters = page.partition(f'<script type="text/plain" id="{name}">')[2].partition("</script>")[0]
    return gzip.decompress(base64.b64decode(letters)).decode()


def test_page_and_markdown_hold_ranking_ledger_tree_failures_time_and_settings(finished):
    folder = report.write_report(*finished)
    page, markdown = (folder.read_bytes(name).decode() for name in ("index.html", "report.md"))
    for said in (page, markdown):
        assert "First in rank so far: arm" in said and "95 % interval, items only" in said
        assert "Seed noise unknown: no winner" in said and "separable" not in said.partition("<script")[0]
        assert "guessing gives 0.250" in said
        assert "loss is NaN at step 17" in said
        assert "trained once for 2 trials" in said
        assert "planned tokens" in said and "+128" in said
        assert "ray start" in said and "5.6 s" in said
        assert "8 of 10" in said
        assert "preset: tiny" in said
    for figure in ("scores0", "ratio0", "loss0", "loss1", "order", "cost-tokens", "cost-hours"):
        assert f'id="plot-{figure}"' in page
    assert "&lt;/script&gt;" in page, "a cause is shown, not run"
    assert "| arm |" in markdown


HOSTILE = "<!--<script>alert(1)</script> ![x](http://example.org/x.png) | `a` *b*"


def test_nothing_in_a_runs_records_opens_or_ends_an_element_of_the_page_or_markup_in_the_text(tmp_path):
    storage = Folder(str(tmp_path))
    run = write_run(storage)
    rows = run.read_table("trials.parquet").to_pylist()
    for row in rows:
        row["error"] = HOSTILE if row["state"] == "failed" else row["error"]
        row["params.pretrain.schedule"] = HOSTILE
    run.write_table("trials.parquet", pa.Table.from_pylist(rows))
    folder = report.write_report(run, storage)
    page, markdown = (folder.read_bytes(name).decode() for name in ("index.html", "report.md"))
    assert "&lt;!--&lt;script>" in unpacked(page, "data"), "shown in the legend as it is"
    assert "<!--" not in page and "alert(1)</script>" not in page and page.count("</script>") == 3
    text = markdown.partition("```yaml")[0]
    shown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table").render(text)
    assert "alert(1)" in shown and not re.search(r"<(script|img|a)\b|<!--", shown)
    cells = {line.replace(r"\|", "").count("|") for line in text.splitlines() if line[:1] == "|" and "alert" in line}
    assert cells <= {line.count("|") for line in text.splitlines() if line.startswith("|:")}


def test_settings_cannot_leave_their_code_block():
    said = markdown.part_lines(sections.Code("name: x\n# ```` <b>\n"))
    assert said == ["`````yaml", "name: x\n# ```` <b>", "`````"]


def test_the_report_names_what_each_source_was_made_of(tmp_path):
    storage = Folder(str(tmp_path))
    run = write_run(storage)
    manifest = {"kind": "text", "num_documents": 4_321, "num_tokens": 98_765, "source_fingerprint": "0123abcd"}
    for name, more in (("prose", {"content_digest": "e4c94366e722d594"}), ("files", {})):
        (storage / "tokens" / name).write_json("manifest.json", {**manifest, **more})
    key = next(key for key in report.read_records(run, storage).stages if key.startswith("pretrain"))
    folder = storage / "stages" / key
    sources = [{"name": name, "store": (storage / "tokens" / name).uri} for name in ("prose", "files")]
    folder.write_json("stage.json", {**folder.read_json("stage.json"), "job": {"sources": sources}})
    text = report.write_report(run, storage).read_bytes("report.md").decode()
    assert "| prose | text | builtin:python-prose | 4,321 | 98,765 | e4c94366e722d594 |" in text
    assert "| files | text |  | 4,321 | 98,765 | 0123abcd |" in text


def test_planned_and_real_code_ratio_are_both_drawn_for_the_best_arm_of_each_schedule(finished):
    records = report.read_records(*finished)
    assert [one.stage for one in figures.curve_figures(records, figures.RATIO)] == ["pretrain"], (
        "the other has one source"
    )
    data = figures.curve_data(records)
    schedules = {one.params["pretrain.schedule"] for one in records.scores if one.arm in data["chosen"]}
    assert len(data["chosen"]) == 3 and schedules == {"constant", "increase", "decrease"}
    stages = [data["stages"][key] for one in data["arms"] for _, *keys in one["trials"] for key in keys[:1]]
    assert all({"planned", "real", "loss", "loss/prose"} <= set(stage) for stage in stages)


def test_the_summary_names_the_best_its_uncertainty_the_savings_and_the_report(finished):
    report.write_report(*finished)
    said = report.summary_text(*finished)
    assert "First in rank so far: arm" in said and "95 % interval, items only" in said and "chance" in said
    assert [line for line in said.splitlines() if "search.replicates" in line and "unknown" in line]
    assert "saved by shared stages" in said and "452 k" not in said.split("tokens:")[0]
    assert "/report/index.html\n" in said
    assert said.splitlines()[-1].startswith("Seed noise unknown: no winner."), "the answer stands last"


def test_a_run_without_trials_says_what_is_missing(tmp_path):
    storage = Folder(str(tmp_path))
    run = storage / "demo"
    run.write_bytes("sweep.yaml", SWEEP.replace("REPLICATES", "1").encode())
    folder = report.write_report(run, storage)
    for name in ("index.html", "report.md"):
        assert "No trial is complete yet" in folder.read_bytes(name).decode()
    assert "There are no trials yet" in report.summary_text(run, storage)
    grid = SWEEP.replace("{uniform: [0.0, 0.75]}", "{choice: [0.0, 0.75]}").replace("trials: 9", "sampler: grid")
    run.write_bytes("sweep.yaml", grid.replace("REPLICATES", "1").encode())
    (asked,) = opening.opening(report.read_records(run, storage))
    assert asked.text.startswith("Which pretrain.code_ratio and pretrain.schedule give the best")
    assert " 4 arms of the preset tiny" in asked.text, "without code the schedules are one arm"


def test_an_answer_without_items_does_not_say_that_it_rests_on_items(tmp_path):
    storage = Folder(str(tmp_path))
    run = storage / "demo"
    run.write_bytes("sweep.yaml", SWEEP.replace("REPLICATES", "2").replace("mean/bpb", "bpb/prose").encode())

    def rests_on(**further: float) -> str:
        rows = []
        for number in range(4):
            metrics = {"bpb/prose": 2.0 + 0.1 * (number // 2) + 0.01 * (number % 2)}
            metrics |= {f"bpb/prose_{name}": value for name, value in further.items()}
            rows.append(TrialResult(number, "complete", number // 2, number % 2, {}, metrics))
        run.write_table("trials.parquet", pa.Table.from_pandas(_frame(rows), preserve_index=False))
        return opening.rests_on(report.read_records(run, storage))

    rests = rests_on()
    assert rests.startswith("2 seeds per arm. Differences have 95 % intervals over seeds, which hold at once")
    assert "(1 arm, 1 metric)" in rests
    assert rests_on(low=1.9, high=2.2).startswith("2 seeds per arm and the items. Differences have 95 % intervals over")


def test_a_run_with_only_failed_and_waiting_trials_shows_their_causes(tmp_path):
    storage = Folder(str(tmp_path))
    run = storage / "demo"
    run.write_bytes("sweep.yaml", SWEEP.replace("REPLICATES", "1").encode())
    rows = [trial(0, 0, state="failed", error="no GPU"), trial(1, 1, state="waiting", stages=("pretrain-00",))]
    run.write_table("trials.parquet", pa.Table.from_pandas(_frame(rows), preserve_index=False))
    page = report.write_report(run, storage).read_bytes("report.md").decode()
    assert "no GPU" in page and "1 failed, 8 to go" in page


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no sweep\.yaml"):
        report.write_report(Folder(str(tmp_path / "nothing")), Folder(str(tmp_path)))


def test_missing_items_are_said_and_do_not_stop_the_report(tmp_path):
    storage = Folder(str(tmp_path))
    run = write_run(storage)
    (run / "trials" / "0000").delete("items.parquet")
    report.write_report(run, storage)
    assert "No table of items for trial 0000" in report.summary_text(run, storage)


@pytest.mark.slow
def test_replicates_are_reported_as_one_arm(tmp_path):
    storage = Folder(str(tmp_path))
    records = report.read_records(write_run(storage, replicates=2), storage)
    assert all(len(one.seeds) == 2 for one in records.scores if one.score is not None and one.arm != 9)
    assert words.answer(records.scores, BPB).startswith("Best so far: arm")
    assert "≈ marks" in report.write_report(records.run, storage).read_bytes("report.md").decode()
    assert "search.replicates" not in report.summary_text(records.run, storage)


# ------------------------------------------------------------------------------------------------- plots


def test_a_stage_whose_mixture_is_given_by_weights_is_placed_by_the_code_ratio_it_was_trained_with(tmp_path):
    storage = Folder(str(tmp_path))
    run = write_run(storage)
    searched = SWEEP.partition("peak: 3.0e-3}\n")[2].partition("  - name: instruct")[0]
    weights = "    weights: {search: {choice: [{prose: 0.9, python: 0.1}, {prose: 0.5, python: 0.5}]}}\n"
    text = SWEEP.replace("REPLICATES", "1").replace(searched, weights)
    assert text.count("weights") == 2
    run.write_bytes("sweep.yaml", text.encode())
    (drawn,) = figures.scores(report.read_records(run, storage))
    assert drawn.layout["xaxis"]["title"]["text"] == "code ratio trained in stage pretrain (share of tokens)"
    places = [x for trace in drawn.data if trace["mode"] == "markers" for x in trace["x"]]
    assert min(places) == pytest.approx(0.03, abs=0.01) and max(places) == pytest.approx(0.59, abs=0.01)


@pytest.mark.slow
def test_points_grow_with_their_seeds_and_a_band_joins_the_intervals_of_few_arms(tmp_path):
    storage = Folder(str(tmp_path))
    records = report.read_records(write_run(storage, replicates=2), storage)
    (drawn,) = figures.scores(records)
    markers = [trace for trace in drawn.data if trace["mode"] == "markers"]
    sizes = {
        arm: size for trace in markers for arm, size in zip(trace["points"][1], trace["marker"]["size"], strict=True)
    }
    assert sizes[0] > sizes[9] > 0, "two seeds against one"
    assert any(trace.get("fill") for trace in drawn.data) and "join the arms' scores and intervals" in drawn.caption


def test_the_label_of_the_best_arm_stands_on_the_side_that_has_room_on_a_logarithmic_axis_too():
    places = {0: 1e-5, 1: 4e-3, 2: 1e-2, 3: 1e-4}
    for layout, right in (({"type": "log"}, {1, 2}), ({"range": [0, 1e-2]}, {2}), ({"type": "category"}, set())):
        axis = groups.Axis("peak", places, layout)
        assert {arm for arm, place in places.items() if _is_right(axis, place)} == right


def test_several_objectives_are_drawn_against_each_other_with_their_front(tmp_path):
    storage = Folder(str(tmp_path))
    run = write_run(storage)
    both = "objective: [{metric: mean/bpb, mode: min}, {metric: mean/acc, mode: max}]"
    text = SWEEP.replace("REPLICATES", "1").replace("objective: {metric: mean/bpb, mode: min}", both)
    run.write_bytes("sweep.yaml", text.encode())
    records = report.read_records(run, storage)
    (drawn,) = figures.pareto(records)
    named = [trace for trace in drawn.data if trace.get("name", "").startswith("Pareto front")]
    front = {arm for trace in named for arm in trace["points"][1]}
    assert front == {one.arm for one in records.scores if one.pareto} and len(front) < 8
    assert "Pareto front" in report.write_report(run, storage).read_bytes("report.md").decode()


def test_a_parabola_is_found_with_its_band():
    places = np.linspace(0, 1, 30)
    noise = np.random.default_rng(0).normal(0, 0.05, (400, 30))
    truth = 2 - places + 1.5 * places**2
    hits = []
    for one in noise:
        (found,) = quadratic_band(places.tolist(), (truth + one).tolist(), [1.0] * 30, [0.4])
        hits.append(found.low < 2 - 0.4 + 1.5 * 0.16 < found.high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.03)
    assert quadratic_band([0.1, 0.2, 0.3, 0.4, 0.5], [1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5, [0.2]) == []
    assert quadratic_band([0.1, 0.2] * 4, [1.0, 2.0] * 4, [1.0] * 8, [0.2]) == []


def test_thinned_curves_keep_their_ends_their_gaps_and_what_is_measured_now_and_then():
    tokens = [*range(0, 1000, 10)]
    measured = [0.5 if place in (0, 49, 99) else math.nan for place in range(100)]
    found = thinned({"tokens": np.array(tokens), "loss": np.array(tokens) * 1.0, "bpb/prose": np.array(measured)}, 11)
    assert found["tokens"][0] == 0 and found["tokens"][-1] == 990 and len(found["tokens"]) == 11
    assert found["loss"] == found["tokens"] and found["bpb/prose"] == [[0, 490, 990], [0.5, 0.5, 0.5]]
    assert "bpb/python" not in thinned({"tokens": np.array(tokens), "bpb/python": np.full(100, math.nan)}, 11)


def test_importance_names_the_parameter_that_decides_and_waits_for_enough_arms():
    file = config.parse(SWEEP.replace("REPLICATES", "1").replace("trials: 9", "trials: 40"))
    points = search.preview(file, 40)
    scores = [abs(point["pretrain.code_ratio"] - 0.3) for point in points]
    found = search.importances(file, points, scores, "min")
    assert set(found) == {"PED-ANOVA", "fANOVA"}
    for shares in found.values():
        assert next(iter(shares)) == "pretrain.code_ratio" and sum(shares.values()) == pytest.approx(1)
    assert search.importances(file, points[:10], scores[:10], "min") == {}
    assert search.importances(file, points, [0.25] * len(points), "max") == {}, "equal scores: nothing to explain"


# ------------------------------------------------------------------------------------------------- watching


class Sweep:
    """A sweep whose trials end at given seconds, and the clock of who watches it."""

    def __init__(self, ends: list[float]) -> None:
        self.ends, self.now, self.stamps, self.reads = ends, 0.0, 0, 0
        self.written: list[tuple[int, int | None]] = []

    def stamp(self) -> int:
        self.stamps += 1
        return self.num_ended()

    def num_ended(self) -> int:
        return sum(end <= self.now for end in self.ends)

    def read(self) -> tuple[int, bool]:
        self.reads += 1
        return self.num_ended(), self.num_ended() == len(self.ends)

    def write(self, reload_seconds: int | None) -> None:
        self.written.append((self.num_ended(), reload_seconds))
        self.now += 1.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_watched_report_is_written_for_each_result_and_costs_one_request_per_look_while_nothing_comes():
    sweep = Sweep([100.0, 101.0, 1000.0])
    ReportWatch(sweep.stamp, sweep.read, sweep.write, lambda: sweep.now, sweep.sleep).until_ended()
    assert [one for one, _ in sweep.written] == [0, 2, 3]
    assert [reload is None for _, reload in sweep.written] == [False, False, True], "the last page is at rest"
    assert sweep.stamps > 0.8 * 1000 / POLL_SECONDS and sweep.reads < 3 + 1000 / LOOK_SECONDS


def test_a_watched_report_that_took_long_to_write_waits_no_longer_than_an_open_page_does():
    sweep = Sweep([50.0])
    sweep.write = lambda reload_seconds: (sweep.written.append((0, reload_seconds)), sweep.sleep(40.0))
    ReportWatch(sweep.stamp, sweep.read, sweep.write, lambda: sweep.now, sweep.sleep).until_ended()
    assert len(sweep.written) == 2 and sweep.now <= 40 + RELOAD_SECONDS + 40


@pytest.mark.parametrize(
    ("number", "said"),
    [(412, "412"), (41_200, "41.2 k"), (4_120_000, "4.12 M"), (999_960, "1.00 M"), (1.2e9, "1.20 B"), (0, "0")],
)
def test_counts_have_three_digits_and_values_that_are_whole_numbers_all_of_theirs(number, said):
    assert formats.value(1_234_567) == "1234567"
    assert formats.count(number) == said


@pytest.mark.parametrize(("number", "said"), [(0.04, "0.0 s"), (59, "59 s"), (192, "3 min 12 s"), (5400, "1 h 30 min")])
def test_durations_are_written_as_people_say_them(number, said):
    assert formats.seconds(number) == said
