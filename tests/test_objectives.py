"""An objective is a score that the evaluation gives, whichever kind of task it is of."""

from __future__ import annotations

import pytest

from raycodellm.config import Objective, UserError
from raycodellm.evaluation.scores import objectives
from raycodellm.evaluation.tasks import index as task_index
from raycodellm.evaluation.tasks import names as task_names
from raycodellm.evaluation.tasks.trees import members_of

FILES = {
    "arc_easy.yaml": "task: arc_easy\ntag: ai2_arc\noutput_type: multiple_choice\nmetric_list: [{metric: acc_norm}]\n",
    "arc_hard.yaml": "include: arc_easy.yaml\ntask: arc_hard\n",
    "mmlu.yaml": "group: mmlu\ntask:\n  - mmlu_stem\n  - task: arc_hard\n",
    "mmlu_stem.yaml": '"group": "mmlu_stem"  # a cycle\n"task": ["mmlu"]\n',
    "broken.yaml": "task: [",
    "list.yaml": "- task\n",
}


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In the place of lm-eval's 14,000 files."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    found = task_names.tasks_below(folder)
    assert found.keys() == {"arc_easy", "arc_hard", "ai2_arc", "mmlu", "mmlu_stem"}
    assert found["ai2_arc"].tagged == ("arc_easy", "arc_hard")
    monkeypatch.setattr(task_names, "lm_eval_tasks", lambda: found)


@pytest.mark.usefixtures("few_tasks")
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
        ("arc_easy/acc_norm", ("arc_easy",), True),
        ("arc_easy/acc_norm_low", ("arc_easy",), True),
        ("arc_hard/acc_norm_items", ("mmlu",), True),
        ("arc_easy/acc_norm_hard", ("arc_easy",), False),
        ("arc_easy/exact_match", ("arc_easy",), False),
        ("ai2_arc/acc_norm", ("ai2_arc",), True),
        ("mmlu/acc_norm", ("mmlu",), True),
        ("boxes/acc_norm", ("boxes",), False),
        ("boxes/bpb_corpus", ("boxes",), True),
        ("boxes/not_run", ("boxes",), True),
        ("mean/bpb_corpus", ("boxes",), False),
        ("arc_hard/acc", ("arc_easy",), False),
        ("arc_easy/bpb", ("ai2_arc",), True),
        ("arc_hard/bpb", ("mmlu",), True),
        ("mmlu_stem/bpb", ("mmlu",), True),
        ("arc_easy/bpb", ("mmlu",), False),
    ],
)
def test_an_objective_is_a_score_that_its_tasks_give(metric: str, tasks: tuple[str, ...], given: bool) -> None:
    if given:
        objectives.check_objective(Objective(metric=metric, mode="min"), tasks, task_names.TaskNames(), {})
        return
    with pytest.raises(UserError, match=r"search\.objective\.metric.*use for example .*mean/bpb"):
        objectives.check_objective(Objective(metric=metric, mode="min"), tasks, task_names.TaskNames(), {})


def test_a_task_file_is_known_by_what_it_calls_itself(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("task: mine\ndoc_to_text: !function a.b\n")
    objectives.check_objective(Objective(metric="mine/acc_hard", mode="max"), (str(path),), task_names.TaskNames(), {})
    with pytest.raises(UserError, match="other/acc"):
        objectives.check_objective(Objective(metric="other/acc", mode="max"), (str(path),), task_names.TaskNames(), {})


@pytest.mark.parametrize(
    ("listed", "metric", "given"),
    [
        ("process_results: !function a.b\nmetric_list:\n  - {metric: pass@1, aggregation: mean}\n", "pass@1", True),
        ("process_results: !function a.b\nmetric_list:\n  - {metric: pass@1, aggregation: mean}\n", "pass@10", False),
        ("metric_list:\n  - {metric: !function a.pass_at_k, aggregation: mean}\n", "pass@10", True),
        ("class: !function a.Task\n", "anything", True),
        ("metric_list: [{metric: em}]\nfilter_list: [{name: strict}, {name: loose}]\n", "em,loose", True),
        ("metric_list: [{metric: em}]\nfilter_list: [{name: strict}, {name: loose}]\n", "em,strict", False),
        ("output_type: loglikelihood\n", "perplexity", True),
    ],
)
def test_a_score_of_the_metric_list_is_an_objective(tmp_path, listed: str, metric: str, given: bool) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"task: mine\n{listed}")
    objective = Objective(metric=f"mine/{metric}", mode="max")
    if given:
        objectives.check_objective(objective, (str(path),), task_names.TaskNames(), {})
        return
    with pytest.raises(UserError, match=f"mine/{metric}"):
        objectives.check_objective(objective, (str(path),), task_names.TaskNames(), {})


@pytest.mark.slow
def test_the_names_read_from_lm_evals_files_are_those_of_its_own_index() -> None:
    from lm_eval.tasks import TaskManager

    index = TaskManager().task_index
    theirs = {name: (one.yaml_path, () if one.yaml_path else tuple(sorted(one.tags))) for name, one in index.items()}
    assert {name: (one.file, one.tagged) for name, one in task_names.lm_eval_tasks().items()} == theirs
    # The index of a few named tasks, groups and tags holds the same for them and for all that they stand for.
    for name in ("arc_easy", "glue", "mmlu", "leaderboard", "minerva_math"):
        members = task_index.with_members([name], task_names.TaskNames().find)
        few = task_index.task_manager((name,)).task_index
        assert members and {one: few[one] for one in members} == {one: index[one] for one in members}
        assert len(few) < 100 + len(task_names.own_tasks())


def test_the_members_of_groups_that_a_group_spells_out_are_its_members_too() -> None:
    inner = {"group": "inner", "task": ["deep", {"task": "deeper", "num_fewshot": 1}]}
    assert list(members_of({"group": "outer", "task": ["plain", inner]})) == ["plain", "inner", "deep", "deeper"]
    assert not list(members_of({"task": "a task's own name"}))
