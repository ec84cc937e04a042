"""An objective is a score that the evaluation gives, whichever kind of task it is of."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from raycodellm.config import Objective, UserError
from raycodellm.evaluation import objectives

INDEX = {
    "arc_easy": SimpleNamespace(cfg={"task": "arc_easy", "tag": ["ai2_arc"]}, tags={"ai2_arc"}),
    "arc_hard": SimpleNamespace(cfg={"task": "arc_hard"}, tags=set()),
    "ai2_arc": SimpleNamespace(cfg=None, tags={"arc_easy", "arc_hard"}),
    "mmlu": SimpleNamespace(cfg={"group": "mmlu", "task": ["mmlu_stem", {"task": "arc_hard"}]}, tags=set()),
    "mmlu_stem": SimpleNamespace(cfg={"group": "mmlu_stem", "task": ["mmlu"]}, tags=set()),
}


@pytest.fixture(autouse=True)
def small_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of lm-eval's, which takes seconds to read."""
    monkeypatch.setattr(objectives, "quiet", contextlib.nullcontext)
    monkeypatch.setattr(objectives, "_task_manager", lambda with_defaults: SimpleNamespace(task_index=INDEX))


@pytest.mark.parametrize(
    ("metric", "tasks", "given"),
    [
        ("mean/bpb", ("boxes",), True),
        ("mean/acc_high", ("boxes",), True),
        ("mean/items", ("boxes",), False),
        ("boxes/acc", ("boxes",), True),
        ("boxes/acc_nontrivial", ("boxes",), True),
        ("boxes/bpb_3_things", ("boxes",), False),
        ("logical_deduction/bpb_3_things", ("logical_deduction",), True),
        ("boxes/nothing", ("boxes",), False),
        ("boxes/", ("boxes",), False),
        ("boxes", ("boxes",), False),
        ("logical_deduction/acc", ("boxes",), False),
        ("arc_easy/acc", ("arc_easy",), True),
        ("arc_easy/acc_norm", ("arc_easy",), False),
        ("arc_hard/acc", ("arc_easy",), False),
        ("arc_easy/bpb", ("ai2_arc",), True),
        ("arc_hard/bpb", ("mmlu",), True),
        ("mmlu_stem/bpb", ("mmlu",), True),
        ("arc_easy/bpb", ("mmlu",), False),
    ],
)
def test_an_objective_is_a_score_that_its_tasks_give(metric: str, tasks: tuple[str, ...], given: bool) -> None:
    if given:
        objectives.check_objective(Objective(metric=metric, mode="min"), tasks)
        return
    with pytest.raises(UserError, match=r"search\.objective\.metric.*use for example .*mean/bpb"):
        objectives.check_objective(Objective(metric=metric, mode="min"), tasks)


def test_a_task_file_is_known_by_what_it_calls_itself(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("task: mine\ndoc_to_text: !function a.b\n")
    objectives.check_objective(Objective(metric="mine/acc_hard", mode="max"), (str(path),))
    with pytest.raises(UserError, match="other/acc"):
        objectives.check_objective(Objective(metric="other/acc", mode="max"), (str(path),))
