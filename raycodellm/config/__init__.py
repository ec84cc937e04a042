"""The sweep file: every setting as a frozen, typed model; every refusal with the value found and what would work.

`load` reads the YAML file into a `SweepFile`, the raw tree with its search spaces. `resolve` puts one value in the
place of every search space and validates the result, a `Sweep`. Each `…_settings` module holds one section of the file.
Imports here stay light, so that a mistake is reported in well under a second.
"""

from raycodellm.config.budget_settings import Budget
from raycodellm.config.cleaning_settings import Cleaning, Decontaminate, NearDuplicates, Paths, Take
from raycodellm.config.credentials import refuse_credentials, without_credentials
from raycodellm.config.early_stopping_settings import EarlyStopping
from raycodellm.config.errors import Unreachable, UserError
from raycodellm.config.evaluation_settings import Evaluation
from raycodellm.config.judge_settings import Judge
from raycodellm.config.ladder_settings import Ladder
from raycodellm.config.ladder_sizes import Carried, size_name
from raycodellm.config.mixture_shapes import SHAPES, CodeRatioCurve, code_ratio_curve
from raycodellm.config.model_settings import MODEL_PRESETS, Model, Tokenizer, TrainTokenizer
from raycodellm.config.old_spellings import current_name
from raycodellm.config.scaling_settings import DeepSpeed, Scaling
from raycodellm.config.search_settings import Confirm, Constraint, Objective, Search
from raycodellm.config.source_settings import CODE_KINDS, FORMATS, INSTRUCT_KINDS, KINDS, HeldOut, Source
from raycodellm.config.spaces import Domain, Parameter
from raycodellm.config.stage_settings import (
    Averaging,
    Faults,
    LearningRate,
    Numerics,
    Optimizer,
    Phase,
    Stage,
)
from raycodellm.config.sweep_file import (
    SweepFile,
    load,
    parse,
    parse_known,
    resolve,
    resolved_tree,
    size_file,
    stages_keeping_optimizer,
    value_at,
)
from raycodellm.config.sweep_settings import Sweep
from raycodellm.config.tracking_settings import Tracking
from raycodellm.config.yaml_text import read_yaml, write_yaml

__all__ = [
    "CODE_KINDS",
    "FORMATS",
    "INSTRUCT_KINDS",
    "KINDS",
    "MODEL_PRESETS",
    "SHAPES",
    "Averaging",
    "Budget",
    "Carried",
    "Cleaning",
    "CodeRatioCurve",
    "Confirm",
    "Constraint",
    "Decontaminate",
    "DeepSpeed",
    "Domain",
    "EarlyStopping",
    "Evaluation",
    "Faults",
    "HeldOut",
    "Judge",
    "Ladder",
    "LearningRate",
    "Model",
    "NearDuplicates",
    "Numerics",
    "Objective",
    "Optimizer",
    "Parameter",
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
    "Tracking",
    "TrainTokenizer",
    "Unreachable",
    "UserError",
    "code_ratio_curve",
    "current_name",
    "load",
    "parse",
    "parse_known",
    "read_yaml",
    "refuse_credentials",
    "resolve",
    "resolved_tree",
    "size_file",
    "size_name",
    "stages_keeping_optimizer",
    "value_at",
    "without_credentials",
    "write_yaml",
]
