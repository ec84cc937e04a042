"""The sweep file: every setting as a frozen, typed model; every refusal with the value found and what would work.

`load` turns the YAML file into a `SweepFile`: the raw tree with its search spaces. `resolve` puts one value into every
search space and validates the result, a `Sweep`. Imports here stay light: a mistake is reported in well under a second.
"""

from raycodellm.config.cleaning import Cleaning, Decontaminate, NearDuplicates, Paths, Take
from raycodellm.config.credentials import refuse_credentials, without_credentials
from raycodellm.config.errors import UserError
from raycodellm.config.settings import (
    CODE_KINDS,
    INSTRUCT_KINDS,
    KINDS,
    MIXTURE_SHAPES,
    MODEL_PRESETS,
    DeepSpeed,
    Evaluation,
    HeldOut,
    LearningRate,
    Model,
    Objective,
    Phase,
    Scaling,
    Search,
    Source,
    Stage,
    Sweep,
    Tokenizer,
    TrainTokenizer,
)
from raycodellm.config.sweep_file import (
    Domain,
    SweepFile,
    load,
    option_label,
    parse,
    parse_known,
    resolve,
    resolved_tree,
    stages_kept,
)

__all__ = [
    "CODE_KINDS",
    "INSTRUCT_KINDS",
    "KINDS",
    "MIXTURE_SHAPES",
    "MODEL_PRESETS",
    "Cleaning",
    "Decontaminate",
    "DeepSpeed",
    "Domain",
    "Evaluation",
    "HeldOut",
    "LearningRate",
    "Model",
    "NearDuplicates",
    "Objective",
    "Paths",
    "Phase",
    "Scaling",
    "Search",
    "Source",
    "Stage",
    "Sweep",
    "SweepFile",
    "Take",
    "Tokenizer",
    "TrainTokenizer",
    "UserError",
    "load",
    "option_label",
    "parse",
    "parse_known",
    "refuse_credentials",
    "resolve",
    "resolved_tree",
    "stages_kept",
    "without_credentials",
]
