"""The stage store: the chain of a trial's jobs, where each lies, and whether it is finished."""

from raycodellm.stage_store.chains import (
    EVALUATION_VERSION,
    Chain,
    Corpus,
    chain,
    check_epochs,
    compiled_schedule,
    contents_of,
    contents_of_file,
    finished_jobs,
    is_done,
    model_content,
    model_damage,
    older_stages,
    outcome_on_disk,
)

__all__ = [
    "EVALUATION_VERSION",
    "Chain",
    "Corpus",
    "chain",
    "check_epochs",
    "compiled_schedule",
    "contents_of",
    "contents_of_file",
    "finished_jobs",
    "is_done",
    "model_content",
    "model_damage",
    "older_stages",
    "outcome_on_disk",
]
