"""The benchmarks of training and start-up: what they compute from what was measured, without measuring."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "training"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_the_overheads_sweep_is_a_valid_one_and_its_ratio_is_of_equal_tokens() -> None:
    from raycodellm import config

    overhead = loaded("overhead")
    options = SimpleNamespace(preset="tiny", tokens=8192, batch_tokens=4096, sequence_length=128, reader="ray")
    assert config.parse(overhead._sweep(options), origin="overhead").example().stages[0].num_steps == 2
    side = {"platform": 2.0, "bare": 1.0, "hugging face": 4.0}
    rows = overhead._rows(1, [{"tokens": 1000, "seconds": side, "cpu_seconds": side}], options)
    assert [(row[2], row[4]) for row in rows] == [(500.0, 1.0), (1000.0, 0.5), (250.0, 2.0)]


def test_a_further_trials_seconds_add_up() -> None:
    startup = loaded("startup")
    stages = [{"first_step": 11.0, "last_step": 14.0}, {"first_step": 15.5, "last_step": 16.0}]
    row = {"suggested": 10.0, "stages": stages, "evaluated": (16.25, 18.25), "recorded": 18.5}
    found = startup._warm([{**row, "recorded": 1.0}, {**row, "recorded": 2.0}, row])
    parts = ("to_step", "between", "to_evaluation", "to_result")
    assert [found[name] for name in parts] == [[1.0], [1.5], [0.25], [0.25]]
    assert found["overhead"] == [sum(found[name][0] for name in parts)]


def test_the_usual_way_stays_short() -> None:
    source = (FOLDER / "_honest_tune.py").read_text()
    assert len(ast.unparse(ast.parse(source)).splitlines()) < 100


def test_the_search_for_a_rate_ends_where_both_neighbours_are_worse_and_a_parabola_lies_between() -> None:
    mup = loaded("mup")
    asked = []

    def loss_at(exponent: int) -> float:
        asked.append(exponent)
        return (exponent + 9.25) ** 2

    found = mup.search(loss_at, [-6])
    assert sorted(found) == [-10, -9, -8, -7, -6] and len(asked) == len(set(asked)) == 5
    assert mup.vertex(found) == pytest.approx(-9.25)
    assert mup.vertex({-9: 1.0, -8: 2.0}) is None  # the best rate may lie below
    assert mup.search(lambda exponent: float(exponent), [-11])[mup.GRID[0]] == mup.GRID[0]
    plateau = {-11: 4.0, -10: 3.0, -9: 2.0, -8: 1.0, -7: 5.3, -6: 5.2, -5: 5.3, -4: 5.4}
    assert sorted(mup.search(plateau.__getitem__, [-6])) == [-7, -6, -5]
    assert mup.search(plateau.__getitem__, [-6], reach=2)[-8] == 1.0
    assert min(mup.search(plateau.__getitem__, [-6, -8]).values()) == 1.0, "each start counts"


def test_a_rates_transfer_is_told_by_seed_and_a_single_seed_tells_nothing() -> None:
    mup = loaded("mup")
    shifts = {"standard": -2.0, "mup": 0.0}
    losses = {
        mup.Run(preset, way, e, seed): (e + 8 - (preset == "nano") * shifts[way] + 0.1 * seed * (preset == "nano")) ** 2
        for preset in ("tiny", "nano")
        for way in shifts
        for e in range(-12, -5)
        for seed in (0, 1)
    }
    row = mup._best_row(losses, "standard", "nano", (0, 1))
    assert row[3].startswith("0.241 (") and row[4].startswith("4.200 (")  # 2^-2.05; (4.0 + 4.4) / 2
    assert mup._best_row(losses, "mup", "nano", (0,))[3] == "1 (one seed)"
