"""Every sweep file that comes with the project passes `raycodellm check`."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycodellm import cli

FILES = sorted((Path(__file__).parents[1] / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_sweep_file_passes_check(path: Path, tmp_path, capsys) -> None:
    assert cli.main(["check", str(path), "--storage", str(tmp_path)]) == 0
    assert "stage tree" in capsys.readouterr().out


def test_there_is_a_quickstart() -> None:
    assert "quickstart" in [path.stem for path in FILES]
