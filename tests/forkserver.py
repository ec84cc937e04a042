"""New processes that have already imported what training needs: each is forked from one that did so once."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

PRELOADED = [
    "pytest",
    "pandas",
    "pyarrow.parquet",
    "deepspeed.runtime.engine",
    "transformers.models.llama.modeling_llama",
    "raycodellm.stage",
]


def context() -> ForkServerContext:
    forkserver_context = multiprocessing.get_context("forkserver")
    forkserver_context.set_forkserver_preload(PRELOADED)
    return forkserver_context
