"""Malformed sources end as a token store with right counts or as a clear error: some of `benchmarks/data/fuzz.py`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "data" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("raycodellm_fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.skipif(sys.platform == "win32", reason="runs its cases in forked processes")
@pytest.mark.parametrize(
    ("cases", "seed"),
    [
        pytest.param(45, 7, marks=pytest.mark.slow),
        pytest.param(1000, 8, marks=[pytest.mark.exhaustive, pytest.mark.timeout(3600)]),
    ],
)
def test_malformed_sources_end_as_a_store_or_a_clear_error(fuzz, tmp_path, cases, seed):
    """Run apart, since a process that already has threads must not fork."""
    import subprocess

    command = [sys.executable, SCRIPT, "--cases", str(cases), "--seed", str(seed), "--workers", "2"]
    command += ["--output", tmp_path / "found"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    header, *rows = (tmp_path / "found.csv").read_text().splitlines()
    assert header.startswith("case,format,wrong,outcome") and len(rows) >= cases
    assert f"| all | {cases} |" in (tmp_path / "found.md").read_text()


def test_a_case_is_the_same_for_the_same_seed(fuzz, tmp_path):
    for number in (3, 20, 64):
        made = [fuzz._malformed.make(number, 1, tmp_path / name / str(number)) for name in ("a", "b")]
        assert made[0].wrong == made[1].wrong and made[0].rows == made[1].rows
        files = [[path.read_bytes() for path in case.files if path.is_file()] for case in made]
        assert files[0] == files[1]


def test_a_lost_record_is_a_bug(fuzz, tmp_path):
    case = fuzz._malformed.make(0, 0, tmp_path / "a")
    case.rows = 10

    class Found:
        num_documents = 8
        skipped = {"null": 1}  # noqa: RUF012

    assert "silent loss: of 10 records 9" in fuzz._wrong_count(case, Found, 8, 0)
    Found.skipped = {"null": 1, "unreadable file": 1}
    assert fuzz._wrong_count(case, Found, 8, 0) is None
    assert "8 documents kept of 9 read" in fuzz._wrong_count(case, Found, 9, 0)
