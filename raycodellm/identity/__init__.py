"""Identities: the hashes by which a tokenizer, a token store, a stage and an evaluation are known.

Two things that could differ in result never share an identity. Settings that change a result by rounding alone are left
out, so that work is shared. Files enter by their content, models and tokenizers of the hub by their commit.
`settings_table` says which setting enters which identity, and why.
"""

from raycodellm.identity.contents import Contents, address_of, evaluated_content, pretrained_content
from raycodellm.identity.identities import (
    UsedSource,
    compiled_numbers,
    evaluation_identity,
    given_model_identity,
    numeric_settings,
    root_identity,
    stage_identity,
    task_identity,
    token_store_identity,
    tokenizer_identity,
    trunk_identity,
)

__all__ = [
    "Contents",
    "UsedSource",
    "address_of",
    "compiled_numbers",
    "evaluated_content",
    "evaluation_identity",
    "given_model_identity",
    "numeric_settings",
    "pretrained_content",
    "root_identity",
    "stage_identity",
    "task_identity",
    "token_store_identity",
    "tokenizer_identity",
    "trunk_identity",
]
