"""Every sweep file that comes with the project passes `raycodellm check` without a network or a GPU, and so does its
small form, the `raycodellm run` line in its head, on what such a machine has."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import pytest

from raycodellm import cli, config

FILES = sorted((Path(__file__).parents[1] / "sweeps").glob("*.yaml"))
COMMAND = ["raycodellm", "run"]


def small_forms(path: Path) -> list[list[str]]:
    """The options of each `raycodellm run` in the comments at the head of the file; a backslash continues a line."""
    head = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    lines = "\n".join(line.lstrip("# ") for line in head).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith(" ".join(COMMAND))]
    for words in commands:
        assert words[2] == f"sweeps/{path.name}", f"{path.name}: its head runs another file, {words[2]}"
    return [words[3:] for words in commands]


LARGE = ("code-by-stage", "kim2024-pairs", "ladder", "ma2024-mixing", "ma2024-stages", "petty2024", "proxies")
"""Files whose check takes up to a second, where those of the others take a tenth."""
CHECKED = [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LARGE else []) for path in FILES]
FORMS = [
    pytest.param(path, form, id=f"{path.stem}-{place}")
    for path in FILES
    for place, form in enumerate(small_forms(path))
]


@pytest.mark.parametrize("path", CHECKED)
def test_a_sweep_file_passes_check(path: Path, tmp_path, capsys, no_network) -> None:
    assert cli.main(["check", str(path), "--storage", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path.stem}: ")  # the sweep is named as its file is


@pytest.mark.parametrize(("path", "form"), FORMS)
def test_the_small_form_of_a_sweep_file_needs_no_network_and_no_gpu(path, form, tmp_path, capsys, no_network) -> None:
    overrides = tuple(value for word, value in itertools.pairwise(form) if word == "--set")
    assert set(form[0::2]) == {"--set"}, "a small form is one line of --set"
    file = config.load(path, overrides)
    used = file.example()
    assert not used.scaling.gpus_per_worker
    assert all(part.startswith("builtin:") for source in used.sources.values() for part in source.paths)
    assert cli.main(["check", str(path), "--storage", str(tmp_path), *form]) == 0
    assert "not known here" not in capsys.readouterr().out


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_sweep_file_for_large_machines_has_a_small_form(path: Path) -> None:
    if config.load(path).example().scaling.gpus_per_worker:
        assert small_forms(path), f"{path.name}: give its head a `{' '.join(COMMAND)} sweeps/{path.name} --set …`"


def test_there_is_a_quickstart() -> None:
    assert "quickstart" in [path.stem for path in FILES]
