"""Win rates of a sweep: each arm against the reference arm, seed by seed, by a judge that may fail or move."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from driver_without_ray import ENDS, Cluster, Driver
from test_judge import Endpoint, served_model, serving

from raycodellm import config, evaluation, sweep, win_rates
from raycodellm.cli import main
from raycodellm.commands import win_rates as judging
from raycodellm.config import SweepFile, UserError
from raycodellm.evaluation import OPEN_INSTRUCTIONS, Stopped, TaskResult
from raycodellm.evaluation.results.task_results import write_result
from raycodellm.evaluation.scores.items_table import items_table
from raycodellm.evaluation.win_rate import endpoint as endpoints
from raycodellm.files import Folder
from raycodellm.win_rates import Progress, WinRates, arm_win_rates, plan, read_win_rates

pytestmark = pytest.mark.usefixtures("no_rivals")
NUM_PROMPTS, NUM_SWEEPS = 4, 60
ARMS = (
    "search.trials=2",
    "search.sampler=random",
    "search.replicates=2",
    "search.reference={pretrain.code_ratio: 0.0}",
    "search.objective={metric: boxes/bpb, mode: min}",
    "evaluation.tasks=[boxes]",
)

# ------------------------------------------------------------------------------------------------------ what is asked


def row(number: int, arm: int, seed: int, state: str = "complete", phase: str = "search") -> dict[str, Any]:
    ratio = {0: 0.0, 1: 0.25, 2: 0.5}[arm]
    names = {"number": number, "arm": arm, "seed": seed, "state": state, "phase": phase}
    return {**names, "params.pretrain.code_ratio": ratio, "params.pretrain.schedule": None if arm == 0 else "constant"}


@pytest.fixture(scope="module")
def file(sweep_text: str) -> SweepFile:
    return config.parse(sweep_text, overrides=(*ARMS, *judge_settings("http://localhost:1/v1")))


def judge_settings(url: str, **more: Any) -> tuple[str, ...]:
    settings = {"base_url": url, "model": "small", "num_prompts": NUM_PROMPTS, **more}
    return tuple(f"evaluation.judge.{key}={value}" for key, value in settings.items())


def test_arms_are_compared_with_the_reference_seed_by_seed(file) -> None:
    rows = [row(0, 0, 0), row(1, 0, 1), row(2, 1, 0), row(3, 1, 1), row(4, 2, 0, "pruned"), row(5, 2, 1, "failed")]
    found = plan(file, [*rows, row(6, 1, 7)])
    assert [(one.arm, one.seed, one.trial, one.reference_trial) for one in found.pairs] == [(1, 0, 2, 0), (1, 1, 3, 1)]
    left = found.left_out
    assert (left.failed, left.stopped_early, left.without_partner, left.arms_of_search) == (1, 1, 1, 0)


def test_fresh_seeds_alone_are_compared_where_there_are_any(file) -> None:
    searched = [row(0, 0, 0), row(1, 1, 0), row(2, 2, 0)]
    assert plan(file, searched).phase == "search" and len(plan(file, searched).pairs) == 2
    fresh = [row(3, 0, 1000, phase="confirm"), row(4, 1, 1000, phase="confirm")]
    found = plan(file, [*searched, *fresh])
    assert found.phase == "confirm" and [(one.trial, one.reference_trial) for one in found.pairs] == [(4, 3)]
    assert found.left_out.arms_of_search == 1


# ------------------------------------------------------------------------------------------------------- what is said


def judgements(scores: np.ndarray, arm: int = 1) -> list[dict[str, Any]]:
    """`scores`: by seed and instruction, each 0, 0.5 or 1; NaN for an instruction that was not judged."""
    said = {1.0: ("arm", "arm"), 0.5: ("arm", "reference"), 0.0: ("reference", "reference")}
    return [
        {
            **{"arm": arm, "seed": seed, "trial": 10 * arm + seed, "reference_trial": seed, "item": item},
            **dict(zip(("reference_first", "arm_first"), said.get(score, (None, None)), strict=True)),
            **{"score": None if math.isnan(score) else score, "is_judged": not math.isnan(score)},
            **{"characters": 30, "reference_characters": 20, "reference_first_key": "a", "arm_first_key": "b"},
        }
        for (seed, item), score in np.ndenumerate(scores)
    ]


def test_one_seed_tells_nothing_of_the_noise_between_seeds() -> None:
    (found,) = arm_win_rates(judgements(np.array([[1.0, 1.0, 1.0, 0.5]])))
    assert found.rate.value == 0.875 and math.isnan(found.rate.low) and found.p_corrected is None
    assert found.word == "not known" and found.over_items.low < 0.875 <= found.over_items.high


def test_answers_that_are_all_equal_tie_and_tell_nothing() -> None:
    rows = [{**row, "reference_first_key": None, "arm_first_key": None} for row in judgements(np.full((3, 4), 0.5))]
    (found,) = arm_win_rates(rows)
    assert found.word == "not known" and math.isnan(found.rate.low) and math.isnan(found.over_items.low)
    said = win_rates.lines(WinRates(Progress("small", 512, 0, "search", 0, 0, 0), rows))
    assert "arm 1 0.500 (interval not known)" in said[0] and "12 of 12 pairs of answers are equal" in said[1]


def test_an_arm_that_wins_with_each_seed_is_better_and_the_counts_stand_beside_it() -> None:
    scores = np.tile([1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 1.0, 1.0], (4, 5))
    scores[0, 0], scores[1, 1] = 0.0, 0.5
    (found,) = arm_win_rates(judgements(scores))
    assert found.word == "better" and 0.5 < found.rate.low < found.rate.value < found.rate.high <= 1.0
    counts = found.counts
    assert (counts.wins, counts.ties, counts.losses) == (118, 21, 21) and found.seeds == (0, 1, 2, 3)
    assert counts.longer_share == pytest.approx(118 / 139) and (counts.base_characters, counts.other_characters) == (
        20,
        30,
    )


def test_the_interval_holds_the_noise_of_seeds_and_what_was_not_judged_only_widens_it() -> None:
    rng = np.random.default_rng(0)
    by_seed = np.array([0.2, 0.8, 0.35, 0.75])[:, None]
    scores = (rng.random((4, 60)) < by_seed).astype(float)
    (found,) = arm_win_rates(judgements(scores))
    assert found.rate.high - found.rate.low > 2 * (found.over_items.high - found.over_items.low)
    scores[2, 5] = math.nan
    (with_hole,) = arm_win_rates(judgements(scores))
    assert with_hole.counts.not_judged == 1 and with_hole.rate.value == pytest.approx(found.rate.value, abs=0.01)
    assert with_hole.rate.high - with_hole.rate.low > 0.99 * (found.rate.high - found.rate.low)


def test_equal_arms_are_called_different_in_at_most_one_of_twenty_sweeps() -> None:
    rng, false = np.random.default_rng(1), 0
    for _ in range(NUM_SWEEPS):
        models = rng.normal(0.0, 0.15, (4, 3))  # arms, the reference among them, by seed
        items = rng.normal(0.0, 0.1, 40)
        wins = [
            (rng.random((3, 40)) < 0.5 + (models[arm] - models[0])[:, None] + items * (arm % 2)).astype(float)
            for arm in (1, 2, 3)
        ]
        found = arm_win_rates([one for arm, some in enumerate(wins, 1) for one in judgements(some, arm)])
        false += any(one.word != "not known" for one in found)
    assert false <= 0.05 * NUM_SWEEPS + 2 * math.sqrt(NUM_SWEEPS * 0.05 * 0.95)


# ---------------------------------------------------------------------------------------------------- against a judge


class AnsweringCluster(Cluster):
    """Writes answers of each trial's model, longer ones for later trials."""

    def _run(self, number: int, chain: Any, finished: dict[str, Any]) -> Any:
        job = chain.evaluation
        whole = {"doc_hash": "", "too_long": False, "attributes": "{}", "bits_per_byte": 1.5 + number / 10}
        boxes = TaskResult(
            items_table([{**whole, "task": "boxes", "item": 0}], {}),
            {f"boxes/bpb{end}": whole["bits_per_byte"] for end in ENDS},
            ("boxes",),
            1.0,
        )
        rows = [
            {
                **{**whole, "task": OPEN_INSTRUCTIONS, "item": item, "bits_per_byte": None},
                "prediction": f"trial {number} " + "word " * (1 + number + item),
                "attributes": json.dumps({"request": f"request {item}"}),
            }
            for item in range(NUM_PROMPTS)
        ]
        answers = TaskResult(items_table(rows, {}), {}, (OPEN_INSTRUCTIONS,), 1.0)
        for task, result in {"boxes": boxes, OPEN_INSTRUCTIONS: answers}.items():
            if task in job.keys:
                write_result(Folder(job.folder), job.keys[task], result)
        return super()._run(number, chain, finished)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as server:
        yield server


def run_of(sweep_text: str, storage: Path, url: str, **more: Any) -> sweep.Run:
    file = config.parse(sweep_text, overrides=(*ARMS, *judge_settings(url, **more)))
    return sweep.Run(file, Folder(str(storage)))


def drive(file: SweepFile, storage: Path, cluster: Cluster, said: list[str]) -> None:
    """Runs the trials that are left."""
    opened = sweep.open_run(file, Folder(str(storage)), said.append)
    with sweep.lock(opened, said.append) as run, pytest.MonkeyPatch.context() as patch:
        left = sweep.Confirmation(run).standing(run.results_at_start).num_trials
        left -= sweep.tell_written_results(run, said.append)
        sweep.fix_contents(run, left)
        now = itertools.count(0.0, 10.0)
        driver = Driver(run, cluster, patch, lambda: next(now))
        for number in range(left):
            driver.end(str(number), driver.carry_out(driver.suggest(str(number))))
        sweep.write_table(run, said.append)


@pytest.fixture(scope="module")
def swept(sweep_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a sweep whose trials have ended: two arms with two seeds each, and answers of their models."""
    storage = tmp_path_factory.mktemp("swept")
    drive(run_of(sweep_text, storage, "http://localhost:1/v1").file, storage, AnsweringCluster(), [])
    return storage


@pytest.fixture
def storage(swept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept, tmp_path / "storage"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "WAITS_SECONDS", (0.0, 0.0))


def judged(run: sweep.Run, said: list[str] | None = None) -> judging.Judged:
    said = [] if said is None else said
    return judging.judge(run, said.append, lambda what: None, lambda: False)


def test_each_question_is_asked_once_whatever_run_asks_and_wherever_the_judge_is(
    sweep_text,
    storage,
    endpoint,
) -> None:
    run = run_of(sweep_text, storage, endpoint.url)
    assert judged(run) == judging.Judged(True, True)
    num_asked = len(endpoint.asked)
    assert num_asked == 2 * 2 * NUM_PROMPTS, "two seeds, both orders"
    assert judged(run) == judging.Judged(True, False) and len(endpoint.asked) == num_asked
    moved = run_of(sweep_text, storage, f"{endpoint.url}/")
    (run.folder / "win-rate").delete("progress.json")
    assert judged(moved).is_complete and len(endpoint.asked) == num_asked
    assert judged(run_of(sweep_text, storage, endpoint.url, model="other")).is_complete
    assert len(endpoint.asked) == 2 * num_asked, "another judge says something else"


def test_an_arm_whose_answers_are_refused_hides_no_other_arm(sweep_text, storage, endpoint) -> None:
    """They are too long for the judge, say. Where any has an answer, all others of the arm are asked, too."""
    run = run_of(sweep_text, storage, endpoint.url, concurrency=1)
    rows = [row(0, 0, 0), row(1, 1, 0), row(2, 2, 0)]

    def items_of(number: int) -> pa.Table:
        whole = {"doc_hash": "", "too_long": False, "bits_per_byte": None, "task": OPEN_INSTRUCTIONS}
        of = [
            {
                **whole,
                "item": item,
                "prediction": "w" * (1 + number),
                "attributes": json.dumps({"request": f"r {item}"}),
            }
            for item in range(12)
        ]
        return items_table(of, {})

    endpoint.first = [(400, {}, b"too long")] * 20
    found = win_rates.judge_trials(run.file, rows, run.folder, items_of)
    assert "too long" in found.progress.why and found.progress.num_missing == 24
    assert [one.arm for one in arm_win_rates(found.judgements)] == [2] and len(endpoint.asked) <= 20 + 1 + 24
    endpoint.first = [(200, {}, b""), *[(400, {}, b"too long")] * 23]
    found = win_rates.judge_trials(run.file, rows, run.folder, items_of)
    assert found.progress.why == "" and found.progress.num_missing == 23


def test_verdicts_of_two_models_under_one_name_are_said(sweep_text, storage, endpoint) -> None:
    run = run_of(sweep_text, storage, endpoint.url, concurrency=1)
    reply = {"model": "new", "choices": [{"message": {"content": "Verdict: 1"}}]}
    endpoint.first = [(200, {}, json.dumps(one).encode()) for one in (reply, {**reply, "model": "old"}, reply)]
    assert judged(run).is_complete
    found = read_win_rates(run.folder, print)
    assert found.progress.models == ("new", "old")
    assert "win rates: the endpoint answered by 2 models, new, old: this is no one judge" in win_rates.lines(found)


def test_a_fault_of_the_endpoint_is_asked_again_and_is_never_a_loss(sweep_text, storage, endpoint) -> None:
    run = run_of(sweep_text, storage, endpoint.url, concurrency=1)
    broken = [(500, {}, b"broken")] * 3  # of one question, its whole patience
    endpoint.first = [(429, {"Retry-After": "0"}, b"slowly"), (200, {}, b"garbage"), *broken[:1], *broken]
    # 429 and garbage pass by themselves; then two questions lose their patience, and both count as not judged
    said: list[str] = []
    assert judged(run, said).is_complete
    found = read_win_rates(run.folder, said.append)
    (rate,) = arm_win_rates(found.judgements)
    assert found.progress.num_missing == 2 and rate.counts.not_judged == 1, "both orders of one instruction"
    assert (rate.counts.wins, rate.rate.value) == (2 * NUM_PROMPTS - 1, 1.0)
    num_asked = len(endpoint.asked)
    assert judged(run).is_new and len(endpoint.asked) == num_asked + 2
    assert read_win_rates(run.folder, said.append).progress.num_missing == 0 and not said


@pytest.mark.slow
def test_an_endpoint_that_is_down_costs_no_trial_and_another_run_asks_for_the_rest_alone(
    sweep_text,
    storage,
    endpoint,
    capsys,
) -> None:
    file = storage / "sweep.yaml"
    file.write_text(sweep_text)
    trials = (storage / "pairs").parent / config.parse(sweep_text).example().name / "trials.parquet"
    before = pq.read_table(trials)
    endpoint.first = [*[(200, {}, b"")] * 5, *[(503, {}, b"down")] * 99]
    overrides = [f"--set={one}" for one in (*ARMS, *judge_settings(endpoint.url, concurrency=1))]
    command = ["run", str(file), "--storage", str(storage), *overrides]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "win rates: 11 of 16 questions to the judge have no answer" in said and "HTTP 503: down" in said
    assert pq.read_table(trials).equals(before) and set(before["state"].to_pylist()) == {"complete"}
    endpoint.first = []
    num_asked = len(endpoint.asked)
    assert main(command) == 0
    assert len(endpoint.asked) == num_asked + 11 and "have no answer" not in capsys.readouterr().out
    assert main(["status", str(trials.parent)]) == 0
    assert "win rates over arm 0 by small: arm 1 " in capsys.readouterr().out
    report = (trials.parent / "report" / "report.md").read_text()
    assert "## Win rates" in report and "| reference's |" in report.replace("  ", " ")
    document = json.loads((trials.parent / "report" / "win-rate.json").read_text())
    assert document["num_missing"] == 0 and [one["arm"] for one in document["arms"]] == [1]
    assert main(command) == 0 and len(endpoint.asked) == num_asked + 11, "running a finished sweep asks nothing"


def test_a_stop_is_heard_while_the_judge_is_silent(sweep_text, storage, endpoint) -> None:
    run = run_of(sweep_text, storage, endpoint.url, concurrency=2)
    endpoint.answers_after.clear()
    with pytest.raises(Stopped):
        judging.judge(run, print, lambda what: None, lambda: len(endpoint.asked) == 2)
    assert endpoint.num_answered == 0
    endpoint.answers_after.set()
    assert judged(run).is_complete


def test_what_was_said_before_a_stop_is_not_asked_again(sweep_text, storage, endpoint, monkeypatch) -> None:
    run = run_of(sweep_text, storage, endpoint.url, concurrency=1)
    monkeypatch.setattr(judging, "_TELL_SECONDS", 0.0)
    endpoint.num_at_once = 5  # the sixth question is on its way when the stop is heard
    endpoint.answers_after.clear()
    told: list[str] = []
    with pytest.raises(Stopped):
        judging.judge(run, print, told.append, lambda: sum("are answered" in one for one in told) >= 5)
    endpoint.answers_after.set()
    assert judged(run).is_complete
    questions = [body["messages"][0]["content"] for _, _, body in endpoint.asked]
    assert len(set(questions)) == 16 and len(questions) <= 18, "but those that were on their way"


@pytest.mark.parametrize("name", ["verdicts", "judgements.parquet", "progress.json"])
def test_a_damaged_file_costs_what_it_held(sweep_text, storage, endpoint, name) -> None:
    run = run_of(sweep_text, storage, endpoint.url)
    assert judged(run).is_complete
    whole = read_win_rates(run.folder, print)
    place = storage / "small" / "win-rate" / name
    for file in place.iterdir() if place.is_dir() else [place]:
        file.write_bytes(file.read_bytes()[:20])
    num_asked, said = len(endpoint.asked), []
    if name == "verdicts":
        (run.folder / "win-rate").delete("progress.json")
    else:
        assert read_win_rates(run.folder, said.append) is None and name in said[0]
    assert judged(run).is_complete and read_win_rates(run.folder, print) == whole
    assert len(endpoint.asked) == num_asked * (2 if name == "verdicts" else 1)


def test_the_key_stands_in_no_file_and_a_missing_one_is_said(
    sweep_text,
    storage,
    endpoint,
    monkeypatch,
    caplog,
) -> None:
    run = run_of(sweep_text, storage, endpoint.url, key_variable="JUDGE_KEY")
    assert "JUDGE_KEY is not set" in judging.missing_key(run.sweep.evaluation.judge)
    assert not judged(run).is_complete and not endpoint.asked
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    endpoint.first = [(401, {}, b"wrong key")]
    said: list[str] = []
    assert not judged(run).is_complete
    assert judged(run, said).is_complete and endpoint.asked[-1][1]["Authorization"] == "Bearer s3cret"
    files = [one for one in storage.rglob("*") if one.is_file()]
    assert not any(b"s3cret" in one.read_bytes() for one in files) and "s3cret" not in caplog.text + str(said)


def test_a_judge_added_to_a_sweep_lets_each_model_answer_and_its_answers_then_stay(
    sweep_text, tmp_path, endpoint
) -> None:
    cluster, said = AnsweringCluster(), []
    drive(config.parse(sweep_text, overrides=ARMS), tmp_path, cluster, said)
    trained = dict(cluster.num_trained)
    run = run_of(sweep_text, tmp_path, endpoint.url)
    drive(run.file, tmp_path, cluster, said)
    assert said == ["evaluation: open_instructions added; the 4 trials that had ended are evaluated on what they lack"]
    assert cluster.num_trained == trained and judged(run) == judging.Judged(True, True)
    for changed in ("num_prompts=2", "answer_tokens=9", "prompts=asked.jsonl"):
        other = config.parse(
            sweep_text, overrides=(*ARMS, *judge_settings(endpoint.url), f"evaluation.judge.{changed}")
        )
        with pytest.raises(UserError, match=rf"evaluation\.judge\.{changed.partition('=')[0]}: this run began with"):
            sweep.open_run(other, Folder(str(tmp_path)))
    sweep.open_run(run_of(sweep_text, tmp_path, "http://elsewhere/v1", model="other", concurrency=9).file, run.storage)


@pytest.mark.exhaustive
def test_a_served_model_judges_a_sweep(sweep_text, storage, tmp_path) -> None:
    with served_model(tmp_path) as (url, name):
        run = run_of(sweep_text, storage, url, model=name, verdict_tokens=16)
        assert judged(run) == judging.Judged(True, True)
    found = read_win_rates(run.folder, print)
    assert found.progress.num_missing == 0 and len(found.judgements) == 2 * NUM_PROMPTS
    assert all(row["is_judged"] for row in found.judgements)


# ------------------------------------------------------------------------------------------------------ the sweep file


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("search.objective={metric: open_instructions/characters, mode: max}",), "no trial has one of its own"),
        (("search.objective={metric: win-rate, mode: max}",), "no trial has one of its own"),
        (("search.reference=null",), "names none"),
        (("evaluation.judge.key_variable=sk-secret",), "is no name of an environment variable"),
        (("evaluation.judge.base_url=localhost",), "give the address of an endpoint"),
        (("evaluation.judge.base_url='http://my host/v1'",), "give the address of an endpoint"),
        (("evaluation.judge.base_url=http://host:port/v1",), "give the address of an endpoint"),
        (("evaluation.judge.base_url=http://host:port/v1?key=x",), "judge.base_url: holds more than an address"),
        (("evaluation.judge.timeout_seconds=1e12",), "less than or equal to 86400"),
        (("evaluation.judge={base_url: 'http://h/v1'}",), "model: is missing; the judge's name at its endpoint"),
        (("evaluation.judge.answer_tokens={search: {choice: [1, 2]}}",), "cannot be searched"),
    ],
)
def test_a_judge_that_cannot_work_is_refused_in_one_line(sweep_text, overrides, said) -> None:
    with pytest.raises(UserError, match=said) as refused:
        evaluation.check_evaluation(
            config.parse(sweep_text, overrides=(*ARMS, *judge_settings("http://localhost:1/v1"), *overrides))
        )
    assert "sk-secret" not in str(refused.value)


def test_check_says_how_much_is_asked_and_asks_nothing(sweep_text, endpoint) -> None:
    from raycodellm.check import evaluation_table

    file = config.parse(sweep_text, overrides=(*ARMS, *judge_settings(endpoint.url)))
    said = "\n".join(evaluation_table.tasks(file))
    assert "judge small: at most 16 questions, both orders of 8 pairs of answers to 4 instructions" in said
    assert f"{endpoint.url}/chat/completions was not asked now" in said
    assert not endpoint.asked and "open_instructions" in said
