"""Keeps lm-eval silent, and its random numbers apart from the caller's."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides progress bars, log lines and warnings of lm-eval and transformers until the `with` ends."""
    import lm_eval.api.model
    import lm_eval.api.task
    import transformers

    modules = (lm_eval.api.model, lm_eval.api.task)
    bars = [module.tqdm for module in modules]
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers", "datasets")]
    levels = [logger.level for logger in loggers]
    loading_bars = transformers.utils.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    for module, bar in zip(modules, bars, strict=True):
        module.tqdm = functools.partial(_disabled_bar, bar)
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for module, bar in zip(modules, bars, strict=True):
            module.tqdm = bar
        if loading_bars:
            transformers.utils.logging.enable_progress_bar()


def _disabled_bar(bar: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """A progress bar that is not shown, whatever its caller says."""
    return bar(*arguments, **{**settings, "disable": True})


@contextlib.contextmanager
def compiled_templates() -> Iterator[None]:
    """Compiles each of the tasks' templates once until the `with` ends, where lm-eval does so for every item."""
    from lm_eval.utils import env

    env.from_string = functools.lru_cache(maxsize=256)(env.from_string)
    try:
        yield
    finally:
        del env.from_string  # so that the class's own `from_string` is seen again


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """Leaves the caller's generators as they were when tasks shuffle or sample within the `with`."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            seed_all()
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def seed_all() -> None:
    """Sets lm-eval's own default seeds."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(1234)
    torch.manual_seed(1234)
