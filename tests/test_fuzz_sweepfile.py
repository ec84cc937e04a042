"""Malformed sweep files end in a plan or in one line: some of `benchmarks/sweepfile/fuzz.py`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from raycodellm.config import Sweep

FOLDER = Path(__file__).parents[1] / "benchmarks" / "sweepfile"


@pytest.fixture(scope="module")
def fuzz():
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("raycodellm_fuzz_sweepfile", FOLDER / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(FOLDER))
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("cases", [80, pytest.param(5000, marks=pytest.mark.exhaustive)])
def test_no_malformed_sweep_file_ends_in_a_traceback_or_takes_long(fuzz, monkeypatch, cases):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fuzz.planned(fuzz._mutations.CONDITIONAL)
    found = [fuzz.run(number, seed=1) for number in range(cases)]
    wrong = [one for one in found if one.outcome not in ("accepted", "refused")]
    assert not wrong, wrong[0].detail
    assert len({one.outcome for one in found}) == 2


def test_a_case_is_the_same_for_the_same_seed(fuzz):
    assert fuzz._mutations.make(7, 3) == fuzz._mutations.make(7, 3) != fuzz._mutations.make(8, 3)


def test_the_file_that_the_cases_are_made_of_sets_every_field(fuzz):
    tree = yaml.safe_load(fuzz._mutations.EVERY_FIELD)
    said = {key for key in _keys(tree)}
    missing = [name for name in _fields(Sweep, set()) if name not in said]
    # The old places of stage settings, and what stands for one of these.
    assert set(missing) <= {"config", "pretrained", "top"}


def _keys(tree):
    for key, inner in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield key
        yield from _keys(inner)


def _fields(annotation, seen):
    """Names of all fields of the models in `annotation`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        for name, one in annotation.model_fields.items():
            yield name
            yield from _fields(one.annotation, seen)
    for inside in getattr(annotation, "__args__", ()):
        yield from _fields(inside, seen)
