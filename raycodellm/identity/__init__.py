"""Identities: what a tokenizer, a token store, a stage and an evaluation are known by. `table` says what is in and why.

Two things that could differ in result never share an identity; what cannot change a result beyond rounding is left out,
so that work is shared. Files enter by their content, what lies on the hub by its commit.
"""

from raycodellm.identity.contents import Contents, pretrained_content
from raycodellm.identity.identities import (
    UsedSource,
    compiled_numbers,
    evaluation_identity,
    numeric_settings,
    root_identity,
    stage_identity,
    token_store_identity,
    tokenizer_identity,
)

__all__ = [
    "Contents",
    "UsedSource",
    "compiled_numbers",
    "evaluation_identity",
    "numeric_settings",
    "pretrained_content",
    "root_identity",
    "stage_identity",
    "token_store_identity",
    "tokenizer_identity",
]
