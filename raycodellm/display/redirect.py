"""Keeps the terminal quiet: what libraries write goes to a log file; the display alone writes to the real output."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

from rich.console import Console


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[TextIO]:
    """Sends standard output and error of this process, and all Python logging, to `log`; yields the real output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        file: TextIO = stack.enter_context(open(log, "a", encoding="utf-8", buffering=1))
        real: TextIO
        if sys.stdout is sys.__stdout__:
            real = stack.enter_context(os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1))
        else:  # a notebook's cell, say, which is no file
            real = sys.stdout
            stack.enter_context(contextlib.redirect_stdout(file))
            stack.enter_context(contextlib.redirect_stderr(file))
        stack.enter_context(_logging_to(log))
        stack.enter_context(_descriptors_to(file.fileno()))
        yield real
        real.flush()


@contextlib.contextmanager
def _logging_to(log: Path) -> Iterator[None]:
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    handlers_and_level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        root.handlers[:], level = handlers_and_level
        root.setLevel(level)
        logging.captureWarnings(False)
        handler.close()


@contextlib.contextmanager
def _descriptors_to(target: int) -> Iterator[None]:
    """Descriptors 1 and 2, which this process's libraries and its children write to, lead to `target`."""
    saved = os.dup(1), os.dup(2)
    os.dup2(target, 1)
    os.dup2(target, 2)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the log's disk may be full; the terminal is given back
                stream.flush()
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def console(output: TextIO) -> Console:
    """A console that writes in a terminal's width, and to a file or a pipe in lines of any length."""
    # Rich draws in a notebook's cell by itself unless it is told not to.
    new_console = partial(Console, file=output, highlight=False, force_jupyter=False)
    return new_console() if output.isatty() else new_console(soft_wrap=True, width=PIPE_COLUMNS)


PIPE_COLUMNS = 200
"""Width of a table that is written to a file or a pipe."""


def is_notebook(output: TextIO) -> bool:
    """True for the output of a Jupyter kernel's cell, which shows more than lines."""
    return type(output).__module__.startswith("ipykernel.")
