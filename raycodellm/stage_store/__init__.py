"""The stage store: the chain of a trial's jobs, where each job's folder lies, and which jobs are finished.

A stage is known by what determines its weights (`identity`), never by workers, devices, storage or the names of trials.
So an equal prefix of two trials' chains is the same stages, trained once.
"""

from raycodellm.stage_store.chains import Chain, Materials, chain, compiled_schedule
from raycodellm.stage_store.contents import contents_of, contents_of_file, contents_of_tasks
from raycodellm.stage_store.epochs import check_epochs
from raycodellm.stage_store.evaluations import evaluation_job
from raycodellm.stage_store.finished_jobs import evaluation_outcome, finished_outcome, finished_outcomes
from raycodellm.stage_store.older_stages import RECIPE, last_recipe, report_older_stages
from raycodellm.stage_store.rungs import reached_rungs, stopped_record
from raycodellm.stage_store.slices import Corpus, held_out_sources
from raycodellm.stage_store.trial_chains import Siblings, has_trunks, trial_chain, trunk_folders
from raycodellm.stage_store.trunks import TRUNKS, branch_step, taken_steps

__all__ = [
    "RECIPE",
    "TRUNKS",
    "Chain",
    "Corpus",
    "Materials",
    "Siblings",
    "branch_step",
    "chain",
    "check_epochs",
    "compiled_schedule",
    "contents_of",
    "contents_of_file",
    "contents_of_tasks",
    "evaluation_job",
    "evaluation_outcome",
    "finished_outcome",
    "finished_outcomes",
    "has_trunks",
    "held_out_sources",
    "last_recipe",
    "reached_rungs",
    "report_older_stages",
    "stopped_record",
    "taken_steps",
    "trial_chain",
    "trunk_folders",
]
