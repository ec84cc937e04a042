"""The models: presets, any transformers configuration, or a pretrained folder.

torch and transformers take seconds to import, so `check` learns all it needs of a preset by arithmetic.
"""

from raycodellm.model.building import (
    DamagedModel,
    build,
    preload,
    quiet_transformers,
    require_undamaged,
    sequences_are_whole,
)
from raycodellm.model.configuration import context_length, context_length_of, model_config
from raycodellm.model.parametrization import Scale, layer_of, parametrization_content, rate_factors, scales
from raycodellm.model.presets import PRESETS, Preset
from raycodellm.model.sizes import (
    MOST_BLOCKS,
    Shape,
    flops_per_token,
    flops_per_token_of,
    num_parameters,
    on_meta,
    shape,
)

__all__ = [
    "MOST_BLOCKS",
    "PRESETS",
    "DamagedModel",
    "Preset",
    "Scale",
    "Shape",
    "build",
    "context_length",
    "context_length_of",
    "flops_per_token",
    "flops_per_token_of",
    "layer_of",
    "model_config",
    "num_parameters",
    "on_meta",
    "parametrization_content",
    "preload",
    "quiet_transformers",
    "rate_factors",
    "require_undamaged",
    "scales",
    "sequences_are_whole",
    "shape",
]
