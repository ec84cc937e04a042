"""Scores models on reasoning tasks through lm-eval, with a row for every item. The only door to `lm_eval`."""

from raycodellm.evaluation.code.here import isolation_here, sampling_content, tasks_running_code, units_running_code
from raycodellm.evaluation.data.sources import DataSource, data_commits, find_data
from raycodellm.evaluation.engine.agreement import WritersDisagree
from raycodellm.evaluation.engine.language_model import model_files
from raycodellm.evaluation.engine.vllm_writer import WriterEnded
from raycodellm.evaluation.fit import exact_counter, least_counter, require_fit, unfit_tasks
from raycodellm.evaluation.results.composition import EvaluationResult, compose, kept_evaluation, kept_items
from raycodellm.evaluation.results.task_results import KeptResults, Results, TaskResult
from raycodellm.evaluation.results.trial_items import read_trial_items, scored_items
from raycodellm.evaluation.run import NotWritten, evaluate
from raycodellm.evaluation.scores.averages import missing_averages
from raycodellm.evaluation.scores.items_table import ITEMS_SCHEMA, Items, named_tasks, samples
from raycodellm.evaluation.scores.metrics import AVERAGED, COUNTS, MEAN, METRICS, Metric, tasks_not_scored
from raycodellm.evaluation.scores.objectives import check_evaluation
from raycodellm.evaluation.task_scoring import NothingFits
from raycodellm.evaluation.tasks.content import (
    data_files_of,
    included_files,
    lm_eval_version,
    local_files,
    task_content,
    task_contents,
)
from raycodellm.evaluation.tasks.examples import overruled_lines
from raycodellm.evaluation.tasks.loading import check_tasks, load_tasks, preload
from raycodellm.evaluation.tasks.names import Places
from raycodellm.evaluation.tasks.suites import (
    Suite,
    SuiteTask,
    asked_averages,
    asked_tasks,
    check_variants,
    left_out_tasks,
    suite,
    suite_names,
    task_facts,
)
from raycodellm.evaluation.tasks.units import asked_units
from raycodellm.evaluation.texts.contamination import NotRead, contaminated_items, stage_of
from raycodellm.evaluation.texts.held_out import held_out_content, text_files
from raycodellm.evaluation.texts.items import evaluated_tasks, item_texts, items_of_sweep
from raycodellm.evaluation.texts.unmeasured import unmeasured_texts
from raycodellm.evaluation.win_rate.asking import GivenUp, ask_each
from raycodellm.evaluation.win_rate.comparison import (
    AnswerPair,
    Answers,
    Comparison,
    answers_in,
    judged,
    judged_pair,
    paired,
    unasked,
    win_rate_lines,
)
from raycodellm.evaluation.win_rate.endpoint import Judge, JudgeFailed, Said, address_of, key_of
from raycodellm.evaluation.win_rate.judge import WIN_RATE, JudgedPair, WinRate, win_rate
from raycodellm.evaluation.win_rate.kept_verdicts import KeptVerdicts, question_key
from raycodellm.evaluation.win_rate.open_instructions import OPEN_INSTRUCTIONS, Asking, requests_of
from raycodellm.evaluation.workers import Stopped

__all__ = [
    "AVERAGED",
    "COUNTS",
    "ITEMS_SCHEMA",
    "MEAN",
    "METRICS",
    "OPEN_INSTRUCTIONS",
    "WIN_RATE",
    "AnswerPair",
    "Answers",
    "Asking",
    "Comparison",
    "DataSource",
    "EvaluationResult",
    "GivenUp",
    "Items",
    "Judge",
    "JudgeFailed",
    "JudgedPair",
    "KeptResults",
    "KeptVerdicts",
    "Metric",
    "NotRead",
    "NotWritten",
    "NothingFits",
    "Places",
    "Results",
    "Said",
    "Stopped",
    "Suite",
    "SuiteTask",
    "TaskResult",
    "WinRate",
    "WriterEnded",
    "WritersDisagree",
    "address_of",
    "answers_in",
    "ask_each",
    "asked_averages",
    "asked_tasks",
    "asked_units",
    "check_evaluation",
    "check_tasks",
    "check_variants",
    "compose",
    "contaminated_items",
    "data_commits",
    "data_files_of",
    "evaluate",
    "evaluated_tasks",
    "exact_counter",
    "find_data",
    "held_out_content",
    "included_files",
    "isolation_here",
    "item_texts",
    "items_of_sweep",
    "judged",
    "judged_pair",
    "kept_evaluation",
    "kept_items",
    "key_of",
    "least_counter",
    "left_out_tasks",
    "lm_eval_version",
    "load_tasks",
    "local_files",
    "missing_averages",
    "model_files",
    "named_tasks",
    "overruled_lines",
    "paired",
    "preload",
    "question_key",
    "read_trial_items",
    "requests_of",
    "require_fit",
    "samples",
    "sampling_content",
    "scored_items",
    "stage_of",
    "suite",
    "suite_names",
    "task_content",
    "task_contents",
    "task_facts",
    "tasks_not_scored",
    "tasks_running_code",
    "text_files",
    "unasked",
    "unfit_tasks",
    "units_running_code",
    "unmeasured_texts",
    "win_rate",
    "win_rate_lines",
]
