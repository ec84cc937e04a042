"""A report of thousands of trials: what its page leaves out, and that the page says so."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from raycodellm.report import figures
from raycodellm.report.figures import curves
from raycodellm.report.markdown import part_lines
from raycodellm.report.parts import Section, Tree
from raycodellm.report.shortened import MOST_ROWS, shortened
from raycodellm.tables import StageNode, Table


def test_a_long_table_and_a_long_tree_are_cut_and_say_of_how_many_rows() -> None:
    table = Table(("trial", "score"), [(f"{number:04d}", "1.5") for number in range(5_000)])
    below = [tuple(StageNode(f"instruct-{number}-{child}", "", ()) for child in "abc") for number in range(700)]
    tree = Tree(tuple(StageNode(f"pretrain-{number}", "", children) for number, children in enumerate(below)))
    short = Table(("a",), [("1",)])
    section = shortened(Section("All trials", [table, short, tree], "A note."))
    told, cut, kept, told_of_tree, cut_tree = section.parts
    assert told.startswith("The first 1,000 of 5,000 rows are shown") and "`trials.parquet`" in told
    assert list(cut.rows) == table.rows[:MOST_ROWS] and cut.header == table.header and kept is short
    assert told_of_tree.startswith("The first 1,000 of 2,800 stages are shown")
    lines = part_lines(cut_tree)
    assert len([line for line in lines if "pretrain-" in line or "instruct-" in line]) == MOST_ROWS
    assert any("instruct-249-c" in line for line in lines) and not any("pretrain-250" in line for line in lines)
    assert (section.title, section.note) == ("All trials", "A note.")


def test_where_the_page_has_no_room_for_all_curves_those_of_the_best_arms_are_kept() -> None:
    def records(num_arms: int) -> SimpleNamespace:
        curve = {"tokens": np.arange(200), "loss": np.linspace(4, 2, 200)}
        rows = [{"number": arm, "arm": arm, "stages": ["shared", f"own-{arm}"]} for arm in range(num_arms)]
        keys = {key for row in rows for key in row["stages"]}
        scores = [SimpleNamespace(arm=arm, params={"a": arm}, score=float(-arm)) for arm in reversed(range(num_arms))]
        return SimpleNamespace(
            rows=rows,
            file=SimpleNamespace(domains={}),
            scores=scores,
            all_curves=dict.fromkeys(keys, curve),
            stages=dict.fromkeys(keys, SimpleNamespace(name="pretrain")),
        )

    few, many = records(50), records(20_000)
    assert figures.num_arms_with_curves(few) == (50, 50)
    shown, known = figures.num_arms_with_curves(many)
    most = curves.MOST_VALUES // (2 * curves.FEWEST_POINTS)
    assert (shown, known) == (most - 1, 20_000), "with the stage that all share, as many stages as have room"
    many.sweep = few.sweep = SimpleNamespace(stages=[])
    data = figures.curve_data(many)
    assert len(data["stages"]) == most and data["arms"][0]["arm"] == 19_999
    assert len(data["arms"]) == shown and all(len(one["tokens"]) == 12 for one in data["stages"].values())
    assert len(figures.curve_data(few)["arms"]) == 50
