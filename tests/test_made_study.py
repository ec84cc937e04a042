"""The report of a finished study whose effects and noise between seeds are known says what is true of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from made_study import STUDY, TASKS, MadeStudy, Truth, made_study

from raycodellm import cli, config, report, verdict
from raycodellm.files import Folder
from raycodellm.records import TrialResult
from raycodellm.report.figures.forest import Line, Panel, forest
from raycodellm.report.pictures import picture
from raycodellm.statistics import Interval, deviation, deviation_ratio
from raycodellm.verdict import Verdict

CODE, SHAPE, COOLDOWN = "pretrain.code_ratio", "pretrain.schedule", "cooldown.code_ratio"


def helps_code_and_hurts_prose(params: Mapping[str, Any], task: str) -> float:
    """More code in pre-training: all tasks easier but one, code much easier, prose harder."""
    ratio = float(params[CODE])
    return {"mental_arithmetic": 0.8, "bpb_prose": 1.0, "bpb_code": -1.5}.get(task, -1.0) * ratio


@pytest.fixture(scope="module")
def study() -> MadeStudy:
    truth = Truth(helps_code_and_hurts_prose, lambda params: 0.02, task_noise=0.005, num_items=6)
    return made_study(truth, seeds=(2, 4), arms=(0, 3, 6))


@pytest.fixture(scope="module")
def page(study: MadeStudy, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The report's folder, with pictures."""
    storage = Folder(str(tmp_path_factory.mktemp("study")))
    run = study.write(storage)
    assert cli.main(["report", str(run), "--pictures", "svg"]) == 0
    return run / "report"


def section(page: Folder, title: str) -> str:
    """The text of a section of report.md."""
    return page.read_text("report.md").partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_look_tells_each_arm_with_its_interval_and_a_known_verdict_stays(study: MadeStudy, page: Folder):
    told = verdict.looks(study.file, study.rows, study.items).told
    assert len(told) == 2
    first, last = ({one.arm: one for one in look if one.metric == "offline/bpb"} for look in told)
    assert set(first) == set(range(1, 4))
    known = [arm for arm, one in first.items() if one.is_final]
    assert known and all(last[arm] == first[arm] for arm in known)
    for one in last.values():
        if not np.isnan(one.difference.low):
            true = np.mean([helps_code_and_hurts_prose(one.params, task) for task in TASKS])
            assert one.difference.low <= true <= one.difference.high
    shown = section(page, "Verdicts look by look")
    assert "| look 1 (2 seeds) | look 2 (4 seeds) |" in shown and "known since look 1 ▲" in shown


def test_tasks_in_which_a_better_arm_is_worse_are_named_with_their_corrected_intervals(study: MadeStudy, page: Folder):
    found = verdict.findings(study.file, study.rows, study.items)
    by_arm = {one.overall.arm: one for one in verdict.transfers(study.file, found.verdicts)}
    most = next(one.arm for one in study.results if one.params[CODE] == 0.75)
    assert by_arm[most].overall.word == "better"
    assert {one.metric for one in by_arm[most].against} == {"mental_arithmetic/bpb", "bpb_prose/bpb"}
    assert all(one.difference.low > 0 for one in by_arm[most].against)
    shown = section(page, "Tasks that go against the overall verdict")
    assert re.search(rf"\| {most} \| pretrain\.code_ratio 0\.75 \|.*\| bpb_prose/bpb \|.*\| worse \| against \|", shown)


def test_an_arm_that_is_neither_better_nor_worse_but_differs_both_ways_is_told():
    file = config.parse(STUDY.read_text(encoding="utf-8"))

    def one(metric: str, word: str, difference: float) -> Verdict:
        gap = Interval(difference, difference - 0.01, difference + 0.01)
        return Verdict(3, {}, metric, gap, (0, 1), 8, gap, word)  # type: ignore[arg-type]

    mixed = [one("offline/bpb", "equal", 0.0), one("boxes/bpb", "better", -0.2), one("bpb_prose/bpb", "worse", 0.2)]
    (found,) = verdict.transfers(file, [*mixed, one("mean/bpb", "worse", 0.1)])
    assert [each.metric for each in found.against] == ["boxes/bpb", "bpb_prose/bpb"]
    assert verdict.transfers(file, mixed[:2]) == ()
    perhaps = [one("offline/bpb", "better", -0.2), one("boxes/bpb", "not known", 0.005)]
    (unsure,) = verdict.transfers(file, perhaps)
    assert not unsure.is_known and [each.metric for each in unsure.unsure] == ["boxes/bpb"]


def test_differences_stand_task_by_task_with_their_interval(page: Folder):
    shown = section(page, "Differences by task")
    header = next(line for line in shown.splitlines() if line.startswith("| arm "))
    assert header == f"| arm | differs in | offline | {' | '.join(TASKS)} | bpb_prose | bpb_code |"
    row = next(line for line in shown.splitlines() if "| pretrain.code_ratio 0.75 |" in line)
    assert row.count(" ± ") == 11 and row.count("▲") == 9 and row.count("▼") == 2


def test_noise_that_is_larger_at_one_code_ratio_is_told_with_its_factor_and_equal_noise_is_not():
    def scores(noise: float, arm: int, seeds: int = 8) -> dict[int, float]:
        return dict(enumerate(np.random.default_rng([3, arm]).normal(2.0, noise, seeds).tolist()))

    alike = [scores(0.02, arm) for arm in range(10)]
    ratio = deviation_ratio([scores(0.1, 20), scores(0.1, 21)], alike)
    assert ratio.low > 1.5 and ratio.low <= 5 <= ratio.high
    same = deviation_ratio(alike[:2], alike[2:])
    assert same.low < 1 < same.high
    few = deviation_ratio([scores(0.1, 20, 3)], [scores(0.02, 1, 3)])
    assert few.value > 1 and np.isnan(few.low)  # three seeds tell no ratio
    assert np.isnan(deviation_ratio([{0: 1.0}], alike).value)


def test_the_interval_of_a_ratio_holds_the_truth_also_where_arms_share_what_a_seed_does():
    rng, inside = np.random.default_rng(1), 0
    for _ in range(200):
        shared = rng.normal(0, 1.0, (2, 8))  # the arms of a group share their pre-training
        one, other = (
            [dict(enumerate((of_group + 0.3 * rng.normal(size=8)).tolist())) for _ in range(4)] for of_group in shared
        )
        found = deviation_ratio(one, other)
        inside += found.low <= 1 <= found.high
    assert inside >= 180


def test_a_deviation_has_the_interval_of_chi_squared():
    from raycodellm.statistics import Variance

    found = deviation(Variance(0.04, 7.0))
    # R: sqrt(7 * 0.04 / qchisq(c(0.975, 0.025), 7))
    assert found == pytest.approx((0.2, 0.132235, 0.407056), rel=1e-4)
    assert np.isnan(deviation(Variance(0.0, 0.0)).low)


def test_the_report_says_how_large_the_noise_is_and_that_its_dependence_is_not_known(study: MadeStudy, page: Folder):
    known = verdict.findings(study.file, study.rows, study.items)
    found = verdict.seed_spreads(study.file, study.rows, known.looks)
    assert found is not None and found.pooled.low <= 0.02 <= found.pooled.high and len(found.arms) == 4
    shown = section(page, "Noise between seeds")
    assert str(found) in shown and "is not known" in shown
    assert f"| 0 | reference | {found.arms[0].num_seeds} |" in shown


def test_the_answer_on_noise_names_the_code_ratio_where_it_is_larger_and_the_factor():
    file = config.parse(STUDY.read_text(encoding="utf-8"))
    rows = []
    for arm, ratio in enumerate((0.0, 0.15, 0.3, 0.5, 0.75)):
        rng = np.random.default_rng([6, arm])
        for seed in range(12):
            score = 2.0 + rng.normal(0, 0.2 if ratio == 0.75 else 0.01)
            rows.append(TrialResult(len(rows), "complete", arm, seed, {CODE: ratio}, {"offline/bpb": score}).row())
    found = verdict.seed_spreads(file, rows)
    assert found is not None
    assert re.search(
        r"It differs between code ratios: .*larger at pretrain\.code_ratio 0\.75, \d+\.\d\d times", str(found)
    )
    ends = next(one for one in found.ratios if one.is_of_ends)
    assert ends.word == "larger" and ends.ratio.low <= 0.1416 / 0.01 <= ends.ratio.high
    few = str(verdict.seed_spreads(file, [row for row in rows if row["seed"] < 2]))
    assert "that takes 4 seeds per group." in few and "differs between code ratios is not known" in few
    assert verdict.seed_spreads(file, [row for row in rows if row["seed"] < 1]) is None


def test_tokens_and_hours_saved_by_the_stage_tree_are_those_of_the_stages(study: MadeStudy, page: Folder):
    records = report.read_records(page.parent, page.parent.parent)
    asked = sum(sum(study.records[key].num_tokens for key in one.stages) for one in study.results)
    trained = sum(one.num_tokens for one in study.records.values())
    assert (records.sharing.tokens_asked, records.sharing.tokens_trained) == (asked, trained) and asked > trained
    spent = sum(one.device_seconds for one in study.records.values())
    assert records.sharing.seconds_trained == pytest.approx(spent)
    assert "saved by shared stages" in section(page, "Stage tree")


def test_pictures_stand_beside_the_page_that_shows_them_and_are_equal_when_drawn_again(page: Folder):
    text = page.read_text("report.md")
    shown = re.findall(r"!\[[^]]+\]\((pictures/[a-z0-9-]+\.svg)\)", text)
    assert {"pictures/looks0.svg", "pictures/effects.svg", "pictures/seedspread.svg"} <= set(shown)
    for name in shown:
        assert page.read_text(name).startswith("<?xml")
    assert "mental_arithmetic" in page.read_text("pictures/effects.svg")  # letters stay letters
    line = Line("5: a < b", Interval(0.1, 0.0, 0.2), "worse")
    (figure,) = forest("looks0", [Panel("one & only", [line])], "$", 1, "")
    assert picture(figure) == picture(figure) and b"5: a &lt; b" in picture(figure)


def test_pictures_are_drawn_once_a_sweep_has_ended(page: Folder, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["report", str(page.parent), "--pictures", "svg", "--watch"]) == 2
    assert "without --watch" in capsys.readouterr().err


def test_verdict_json_has_looks_noise_and_tasks_that_go_another_way(page: Folder):
    document = json.loads(page.read_text("verdict.json"))
    assert [len(look) > 0 for look in document["told"]] == [True, True]
    assert document["seed_noise"]["deviation"] > 0 and len(document["seed_noise"]["arms"]) == 4
    assert {one["metric"] for one in document["transfers"]} >= {"bpb_prose/bpb"}


def test_a_report_says_what_was_asked_what_its_answer_rests_on_and_what_would_tell_more(page: Folder):
    lines = page.read_text("report.md").splitlines()
    asked, rests, after = (
        next(line for line in lines if line.startswith(f"{name}: ")) for name in ("Asked", "Rests on", "Next")
    )
    assert "change offline/bpb (bits per byte, lower is better) against the reference (" in asked
    assert "4 arms of the preset tiny, 3.00 M tokens in pretrain" in asked
    assert "2 fresh seeds per arm" in rests or "2 to 4 fresh seeds per arm" in rests
    assert "intervals over seeds and items, which hold at once for all comparisons (3 arms, 12 metrics, " in rests
    assert "Arms are compared with the reference, not with each other." in rests
    assert "pretrain.code_ratio 0.75 is the largest that was tried" in after
    html = page.read_text("index.html")
    assert "<dt>Asked</dt>" in html and "<dt>Next</dt>" in html
