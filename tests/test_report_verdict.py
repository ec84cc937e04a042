"""The verdict in words, in `verdict.json`, on the page and on the terminal: the same everywhere."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from test_verdict import RATIOS, SWEEP, noisy, row, run_pending, search_rows, sweep_file

from raycodellm import cli, config, report, verdict
from raycodellm.config import SweepFile
from raycodellm.files import Folder
from raycodellm.records import CONFIRM_SEEDS, TrialResult, as_json
from raycodellm.report.markdown_text import plain
from raycodellm.report.tables import _task_cell
from raycodellm.statistics import Difference, Interval, Variance
from raycodellm.sweep.confirmation import confirmation_news
from raycodellm.tables.trials import params_of
from raycodellm.verdict.marks import marks
from raycodellm.verdict.sentence import remedy

TASKS = ("boxes", "logical_deduction")
CONFIRM = "confirm: {best: 2, seeds: [2, 4], margin: 0.02}"


def answered(file: SweepFile, rows: Sequence[dict]) -> str:
    return verdict.answer(file, verdict.findings(file, rows, {}))


def confirmed(effects: tuple[float, ...], search: str = CONFIRM, noise: float = 0.005) -> str:
    """The answer of a whole sweep whose arms have these effects."""
    file = sweep_file(search)
    return answered(file, run_pending(file, search_rows(), noisy(effects, noise)))


# ------------------------------------------------------------------------------------------------- words


def test_where_code_ratios_alone_differ_the_answer_says_whether_code_helps():
    helps = confirmed((0.0, 0.0, 0.0, -0.5))
    assert helps.startswith("Code in pretrain helps: pretrain.code_ratio 0.6 against 0 is better in mean/bpb by -0.50")
    assert re.search(r"\(-0\.\d{3} to -0\.\d{3}; p (< 0\.001|0\.\d+)\), seen with 2 fresh seeds\.", helps)
    assert "Beside it, pretrain.code_ratio 0.4 against 0 is" in helps
    assert confirmed((0.0, 0.0, 0.6, 0.5)).startswith(
        "Code in pretrain hurts: pretrain.code_ratio 0.6 against 0 is worse"
    )
    equal = confirmed((0.0,) * 4, CONFIRM.replace("0.02", "0.2"))
    assert equal.startswith("Code in pretrain makes no difference beyond 0.2: ") and "is equal within 0.2" in equal
    unknown = confirmed((0.0, 0.0, 0.0, -0.02), "confirm: {best: 1, seeds: [2]}", noise=0.05)
    assert unknown.startswith("Whether code in pretrain helps is not known at this budget: ")
    assert re.search(r"seen with 2 fresh seeds; (about \d+ seeds would tell|over 100 seeds would be needed)", unknown)


@pytest.mark.parametrize(
    ("seeds", "items", "said"),
    [
        (0.002, 0.0001, "; about 8 seeds would tell"),
        (0.0001, 0.01, "; 100 seeds would not tell over these items, about 9 times as many items would"),
        (0.5, 0.5, "; over 100 seeds would be needed for so small a difference"),
    ],
)
def test_what_is_not_known_names_the_seeds_or_the_items_that_would_tell(seeds: float, items: float, said: str):
    noise = Difference(-0.1, Variance(seeds, 6.0), Variance(items, 99.0), num_seeds=4, num_items=100)
    unknown = verdict.Verdict(
        1,
        {},
        "mean/bpb",
        Interval(3.0, 2.9, 3.1),
        (0, 1, 2, 3),
        100,
        Interval(-0.1, -0.3, 0.1),
        "not known",
        evidence=noise,
    )
    assert remedy(unknown) == said


@pytest.mark.parametrize(
    ("reference", "ratio", "said"),
    [(0.2, 0.6, "More code in pretrain helps"), (0.6, 0.2, "Less code in pretrain helps")],
)
def test_a_reference_with_code_is_said_to_have_less_or_more_of_it(reference, ratio, said):
    file = config.parse(SWEEP.replace("0.0}", f"{reference}}}").replace("SEARCH", "replicates: 2").replace("4,", "2,"))
    scores = {reference: 1.0, ratio: 0.5}
    rows = [
        TrialResult(
            n, "complete", n // 2, 7 + n % 2, {"pretrain.code_ratio": at}, {"mean/bpb": scores[at] + n % 2 / 99}
        )
        for n, at in enumerate([reference, reference, ratio, ratio])
    ]
    rows[3].metrics["mean/bpb"] += 0.001
    assert answered(file, [one.row() for one in rows]).startswith(f"{said}: pretrain.code_ratio {ratio:g} against")


def test_other_parameters_are_compared_by_their_names_and_values():
    text = SWEEP.replace("learning_rate: {peak: 3.0e-3}", "learning_rate: {peak: {search: {choice: [0.001, 0.003]}}}")
    text = text.replace("code_ratio: {search: {uniform: [0.0, 0.75]}}", "code_ratio: 0.2").replace(
        "pretrain.code_ratio: 0.0", "pretrain.learning_rate.peak: 0.001"
    )
    file = config.parse(text.replace("SEARCH", "replicates: 2").replace("trials: 4", "trials: 2"))
    rows = [
        TrialResult(n, "complete", n // 2, 7 + n % 2, {"pretrain.learning_rate.peak": peak}, {"mean/bpb": score}).row()
        for n, (peak, score) in enumerate([(0.001, 1.0), (0.001, 1.1), (0.003, 2.0), (0.003, 2.101)])
    ]
    said = answered(file, rows)
    assert said.startswith("pretrain.learning_rate.peak 0.003 against 0.001 is worse in mean/bpb by +1.0"), said


def test_a_sweep_with_one_seed_per_arm_has_no_winner_and_says_what_would_settle_it():
    file, rows = sweep_file("replicates: 1"), search_rows()
    assert verdict.findings(file, rows, {}).basis == "none" and answered(file, rows) == ""
    said = verdict.settled_by(file, rows, {})
    assert "search.replicates: 3" in said and "between arm 3 and arm 0, -0.300," in said
    deviation = float(re.search(r"standard deviation of less than ([\d.]+)\.", said)[1])
    assert 0.02 < deviation < 0.3
    assert "trains each arm" in verdict.settled_by(file, rows[:1], {})


def test_the_answer_gives_the_reason_where_nothing_can_be_known():
    file = sweep_file(CONFIRM)
    assert "after the search" in answered(file, search_rows()[:2])
    waiting = answered(file, search_rows())
    assert waiting == "There is no verdict yet. Look 1 of 2, at 2 fresh seeds per arm, waits for 6 trials."
    alone = answered(file, search_rows((1.0, None, None, None)))
    assert alone == "There is no verdict: the search has no arm with a score beside the reference."
    score = noisy((0.0,) * 4)
    broken = run_pending(file, search_rows(), lambda arm, place: None if arm == 0 else score(arm, place))
    without = "There is no verdict: the reference arm has no score"
    assert answered(file, broken) == f"{without} from fresh seeds to compare with."
    line = confirmation_news(file, verdict.Looks("search", reference=0), verdict.looks(file, broken, {}), broken)[1]
    unknown = "not known, since no fresh seed of the reference has a score"
    assert line.count(unknown) == 2 and line.endswith(f"{unknown}; no further look would tell")
    (nothing, *_) = verdict.findings(file, broken, {}).verdicts
    assert _task_cell(nothing, 0.7) == "0.700", "no mark beside a score of the search"
    lone = run_pending(file, search_rows(), lambda arm, place: score(arm, place) if arm == 0 else None)
    assert answered(file, lone) == "There is no verdict: no arm beside the reference has a score from fresh seeds."
    for seeds in (1, 2):  # without a second seed nothing else is said of arms
        of_arms = [row(4 + arm, arm, 8, 0.5) for arm in (1, 2, 3)][: 3 * (seeds - 1)]
        rows = search_rows((None, 0.9, 0.8, 0.7)) + of_arms + [row(7, 0, 8, None)][: seeds - 1]
        assert answered(sweep_file(f"replicates: {seeds}"), rows) == f"{without} to compare with."


def test_a_sweep_without_confirmation_compares_all_seeds_of_its_arms_with_the_reference():
    file, score = sweep_file("replicates: 3"), noisy((0.0, 0.0, 0.0, -0.5), 0.005)
    rows = [row(3 * arm + seed, arm, 7 + seed, score(arm, seed)) for arm in range(4) for seed in range(3)]
    found = verdict.findings(file, rows, {})
    words = {one.arm: one.word for one in found.verdicts if one.metric == "mean/bpb"}
    assert (found.basis, found.compared_with) == ("all seeds", 0) and words[3] == "better"
    assert "seen with 3 seeds." in answered(file, rows)
    unfinished = verdict.findings(file, rows[:-1], {})
    assert not any(one.is_final for one in unfinished.verdicts)
    assert verdict.answer(file, unfinished).startswith("So far, code in pretrain helps: ")


def test_with_several_objectives_an_arm_gets_seeds_until_each_of_them_is_known():
    file = sweep_file("objective: [{metric: mean/bpb, mode: min}, {metric: other, mode: max}], " + CONFIRM)
    score, other = noisy((0.0, 0.0, -0.4, -0.5), 0.002), noisy((0.0, 0.0, 0.3, 0.06), 0.05)
    rows = [{**one, "metrics.other": 1.0} for one in search_rows()]
    while pending := verdict.looks(file, rows, {}).pending:
        one = pending[0]
        fresh = row(len(rows), one.arm, 7 + CONFIRM_SEEDS + one.place, score(one.arm, one.place), "confirm")
        rows.append({**fresh, "metrics.other": 1.0 + other(one.arm, one.place)})
    found = {(one.arm, one.metric): one for one in verdict.looks(file, rows, {}).verdicts}
    assert found[3, "mean/bpb"].look == 0 and found[3, "mean/bpb"].word == "better"
    assert len(found[3, "other"].seeds) == 4 and found[3, "other"].look == 1


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        ("0.5", ("equal", "equal", "not known")),  # a number is in the unit of the first objective
        ("{acc: 0.5, boxes/bpb: 0.5}", ("not known", "equal", "equal")),
    ],
)
def test_arms_are_equal_only_in_metrics_that_have_a_margin(margin: str, expected: tuple[str, ...]):
    search = "objective: [{metric: mean/bpb, mode: min}, {metric: mean/acc, mode: max}], "
    file = sweep_file(search + f"confirm: {{best: 1, seeds: [2, 4], margin: {margin}}}")
    rows = [{**one, "metrics.mean/acc": 0.3} for one in search_rows()]
    while pending := verdict.looks(file, rows, {}).pending:
        one, number = pending[0], len(rows)
        fresh = row(
            number, one.arm, 7 + CONFIRM_SEEDS + one.place, noisy((0.0,) * 4, 0.001)(one.arm, one.place), "confirm"
        )
        rows.append({**fresh, "metrics.mean/acc": 0.3 + 0.001 * (number % 7)})
    words = {one.metric: one.word for one in verdict.findings(file, rows, {}).verdicts}
    assert (words["mean/bpb"], words["boxes/bpb"], words["mean/acc"]) == expected


# ------------------------------------------------------------------------------------------------- how often it errs


@pytest.fixture(scope="module")
def null_sweeps() -> list[tuple[list[dict], verdict.Findings]]:
    """Sweeps of six equal arms, one seed each; the best two and the reference get 2, then 4 fresh seeds."""
    file = config.parse(SWEEP.replace("trials: 4", "trials: 6").replace("SEARCH", "confirm: {best: 2, seeds: [2, 4]}"))
    chance, found = random.Random(1), []
    for _ in range(60):
        of_seed = [chance.gauss(0, 0.03) for _ in range(5)]
        place = [arm / 8 for arm in range(6)]

        def trial(number: int, arm: int, seed: int, shared: float, phase: str, place: list[float] = place) -> dict:
            metrics = {
                "mean/bpb": 1.0 + shared + chance.gauss(0, 0.02),
                "boxes/bpb": 1 + shared + chance.gauss(0, 0.02),
            }
            params = {"pretrain.code_ratio": place[arm]}
            return TrialResult(number, "complete", arm, seed, params, metrics, phase=phase).row()  # type: ignore[arg-type]

        rows = [trial(arm, arm, 7, of_seed[4], "search") for arm in range(6)]
        first = verdict.looks(file, rows, {})
        for arm in (0, *first.arms):
            rows += [trial(len(rows) + j, arm, 7 + CONFIRM_SEEDS + j, of_seed[j], "confirm") for j in range(4)]
        found.append((rows, verdict.findings(file, rows, {})))
    return found


def test_where_no_arm_differs_at_most_one_sweep_in_twenty_claims_a_difference(null_sweeps):
    claims = [any(one.word in ("better", "worse") for one in known.verdicts) for _, known in null_sweeps]
    assert np.mean(claims) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / len(claims))


def test_the_scores_of_the_search_look_too_good_and_the_verdict_rests_on_fresh_ones(null_sweeps):
    firsts = [(known, known.verdicts[0]) for _, known in null_sweeps]
    assert all(one.metric == "mean/bpb" and min(one.seeds) >= 7 + CONFIRM_SEEDS for _, one in firsts)
    selected = [one.selected_score - 1.0 for _, one in firsts]
    gaps = [one.difference.value for _, one in firsts]
    errors = [np.std(found) / math.sqrt(len(found)) for found in (selected, gaps)]
    assert np.mean(selected) < -3 * errors[0], "the best of six equal arms by one noisy score each"
    assert abs(np.mean(gaps)) < 3 * errors[1]


# ------------------------------------------------------------------------------------------------- pages


def write_run(storage: Folder, search: str = CONFIRM, num_ended: int | None = None) -> Folder:
    """A run of four arms with items; the more code, the better. `num_ended`: trials, the search's four included."""
    file, run, results, items = sweep_file(search), storage / "demo", [], {}
    run.write_bytes("sweep.yaml", yaml.safe_dump(config.resolved_tree(file), sort_keys=False).encode())

    def add(arm: int, seed: int, phase: str) -> None:
        own = np.random.default_rng([arm, seed])
        hard = np.random.default_rng(0).normal(2.0, 0.8, 80)
        bits = hard - RATIOS[arm] + np.random.default_rng(seed).normal(0, 0.02) + own.normal(0, 0.01, 80)
        number, tasks = len(results), np.repeat(TASKS, 40)
        columns = {"task": tasks, "item": np.tile(np.arange(40), 2), "correct": bits < 1.5, "bits_per_byte": bits}
        items[number] = pa.table({**columns, "chance": np.full(80, 0.25)})
        (run / "trials" / f"{number:04d}").write_table("items.parquet", items[number])
        metrics = {f"{task}/bpb": float(bits[tasks == task].mean()) for task in TASKS}
        metrics |= {"mean/bpb": float(bits.mean()), "boxes/items": 40.0}
        params = {"pretrain.code_ratio": RATIOS[arm]}
        results.append(TrialResult(number, "complete", arm, seed, params, metrics, phase=phase))  # type: ignore[arg-type]

    for arm in range(4):
        add(arm, 7, "search")
    while pending := verdict.looks(file, [one.row() for one in results], items).pending:
        if num_ended is not None and len(results) >= num_ended:
            break
        add(pending[0].arm, 7 + CONFIRM_SEEDS + pending[0].place, "confirm")
    run.write_table("trials.parquet", pa.Table.from_pylist([one.row() for one in results]))
    return run


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Folder:
    return Folder(str(tmp_path_factory.mktemp("storage")))


@pytest.fixture(scope="module")
def finished(storage: Folder) -> tuple[Folder, dict]:
    run = write_run(storage)
    text = report.write_report(run, storage).read_bytes("verdict.json").decode()
    return run, json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_page_markdown_terminal_and_verdict_json_show_the_same_verdicts(storage, finished):
    run, document = finished
    page, markdown = ((run / "report").read_bytes(name).decode() for name in ("index.html", "report.md"))
    said = report.summary_text(run, storage)
    assert said.splitlines()[-1] == document["answer"] and plain(document["answer"]) in markdown
    assert {one["verdict"] for one in document["verdicts"]} == {"better"} and document["phase"] == "done"
    for one in document["verdicts"]:
        gap = f"{one['difference_low']:+.3f} to {one['difference_high']:+.3f}"
        assert f"| {one['arm']} | {one['metric']} | {one['score']:.3f} |" in markdown and gap in page
        assert f"{one['score']:.3f} ▲" in said and f"{one['score']:.3f} ▲" in page
    assert "in the search (selected)" in said and "in the search (selected)" in page
    rows = marks(document).rows
    assert [line[0] for line in rows] == ["3", "2"] and all(cell.endswith("▲") for cell in rows[0][2:5])


def test_the_ranking_shows_fresh_scores_and_the_searchs_beside_them(storage, finished):
    run, document = finished
    scores = {one.arm: one for one in report.read_records(run, storage).scores}
    assert [*scores] == [3, 2, 0, 1], "the arm that was not confirmed stands last"
    assert scores[3].score == pytest.approx(document["verdicts"][0]["score"])
    assert scores[3].selected_score == pytest.approx(document["verdicts"][0]["selected_score"])
    assert scores[3].verdict == "better" and scores[1].verdict is None and scores[1].difference is None
    best = report.best_arm(report.read_records(run, storage).rows, sweep_file(CONFIRM).example().search.objectives)
    assert best.arm == 3 and best.is_confirmed and str(best).endswith("fresh seeds)")


@pytest.mark.parametrize("num_missing", [0, 1])
def test_an_arm_has_one_score_and_one_interval_wherever_it_is_shown(num_missing):
    file = sweep_file(CONFIRM)
    rows = run_pending(file, search_rows(), noisy((0.0, 0.0, 0.0, -0.9)))
    rows = rows[: len(rows) - num_missing]
    known = verdict.findings(file, rows, {})
    found = verdict.document(file, known, "", len(rows))
    objectives = file.example().search.objectives
    shown = {one.arm: one for one in report.ranking(rows, objectives, {}, known.verdicts, known.looks)}
    told = [one for one in found["verdicts"] if one["metric"] == objectives[0].metric]
    assert [one["seeds"] for one in told] == ([2, 4] if not num_missing else [2, 2])
    for one in told:
        ranked = shown[one["arm"]]
        assert (ranked.score, ranked.low, ranked.high) == (one["score"], one["low"], one["high"])
        assert len(ranked.seeds) == one["seeds"]
    (reference,) = [one for one in found["scores_compared_with"] if one["metric"] == objectives[0].metric]
    assert [shown[0].score, shown[0].low, shown[0].high] == [reference[name] for name in ("score", "low", "high")]
    best = report.best_arm(rows, objectives, known.looks)
    assert best is not None and (best.arm, best.low, best.high) == (3, shown[3].low, shown[3].high)
    if not num_missing:
        assert told[0]["high"] - told[0]["low"] < 0.1, "the noise of all seeds, of which the first look had two per arm"


def test_verdict_json_has_the_keys_of_the_page_that_describes_it(finished):
    page = (Path(__file__).parents[1] / "docs" / "report.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (`.*?) \| (.*) \|$", page.partition("## verdict.json")[2], flags=re.MULTILINE))
    assert set(finished[1]) == {key for cell in rows for key in re.findall(r"`(\w+)`", cell)}
    described = rows["`verdicts`"].replace("(`better`, `worse`, `equal`, `not known`)", "")
    assert list(finished[1]["verdicts"][0]) == re.findall(r"`(\w+)`", described)


def test_a_look_that_lacks_trials_gives_no_verdict(tmp_path):
    storage = Folder(str(tmp_path))
    run = write_run(storage, num_ended=4 + 5)
    document = report.write_report(run, storage).read_json("verdict.json")
    assert (document["phase"], document["pending"], document["verdicts"]) == ("confirm", 1, [])
    assert "There is no verdict yet. Look 1 of 2, at 2 fresh seeds per arm, waits for a trial." in document["answer"]
    assert report.read_records(run, storage).num_trials == 10


def test_status_tells_the_verdict_of_a_confirmation_as_the_trials_stand(storage, finished, capsys):
    run, document = finished
    for number, one in enumerate(report.read_records(run, storage).rows):
        result = TrialResult(
            number, one["state"], one["arm"], one["seed"], params_of(one), metrics_of(one), phase=one["phase"]
        )
        (run / "trials" / f"{number:04d}").write_json("result.json", as_json(result))
    assert cli.main(["status", run.uri, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["verdict"]
    assert found == {**document, "sources": None}
    assert cli.main(["status", run.uri]) == 0
    said = capsys.readouterr().out
    assert " ".join(document["answer"].split()) in " ".join(said.split()) and "▲" in said


def metrics_of(row: dict) -> dict[str, float]:
    return {name.removeprefix("metrics."): value for name, value in row.items() if name.startswith("metrics.")}


def test_an_arm_whose_fresh_trials_all_failed_is_not_known(tmp_path):
    score = noisy((0.0, 0.0, 0.0, -0.5))
    file = sweep_file(CONFIRM)
    rows = run_pending(file, search_rows(), lambda arm, place: None if arm == 3 else score(arm, place))
    known = verdict.findings(file, rows, {})
    found = verdict.document(file, known, verdict.answer(file, known), len(rows))
    (one,) = [one for one in found["verdicts"] if one["arm"] == 3]
    assert (one["verdict"], one["score"], one["difference"], one["seeds"]) == ("not known", None, None, 0)
    assert one["selected_score"] == 0.7 and "pretrain.code_ratio 0.4 against 0" in found["answer"]
    scores = {one.arm: one for one in report.ranking(rows, file.example().search.objectives, {}, known.verdicts)}
    assert not scores[3].is_confirmed and scores[3].difference is None and scores[3].verdict == "not known"
    assert scores[2].errors == ()


def test_a_run_of_a_version_that_knew_no_phase_is_reported_as_before(tmp_path):
    storage = Folder(str(tmp_path))
    run = write_run(storage, "replicates: 1")
    table = run.read_table("trials.parquet", {})
    run.write_table("trials.parquet", table.drop_columns(["phase"]))
    document = report.write_report(run, storage).read_json("verdict.json")
    assert (document["basis"], document["verdicts"], document["seeds_of_noise"]) == ("none", [], 0)
    assert "Seed noise unknown: no winner." in report.summary_text(run, storage)
