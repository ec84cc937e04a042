"""`raycodellm run`: one sweep, or size after size of a ladder, on one Ray cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raycodellm.commands.connection import ClusterConnection
from raycodellm.commands.request import DONE, FAILED, STOPPED, SweepRequest
from raycodellm.commands.run import Ended, RunFailed, carry_out_file
from raycodellm.config import SweepFile, UserError
from raycodellm.started import STARTED

if TYPE_CHECKING:
    from raycodellm.ladder import LadderFolder, Size

Complain = Callable[[str], None]


@dataclass(frozen=True)
class LadderEnded:
    """How the run of a ladder ended."""

    code: int
    """DONE; FAILED, if a trial failed or a size is unfinished; STOPPED by the user."""
    ladder: LadderFolder


def run(request: SweepRequest, complain: Complain) -> int:
    """Runs the trials that are left; returns the exit code. `complain` receives lines about paths and damaged files."""
    try:
        return carry_out(request, complain, began=STARTED).code
    except RunFailed:
        return FAILED


def carry_out(request: SweepRequest, complain: Complain, began: float | None = None) -> Ended | LadderEnded:
    """Runs the trials that are left, of a sweep or of a ladder's sizes. `began`: when the command began, monotonic
    seconds; now, if left out.

    Raises `RunFailed` where the run ended before its trials did.
    """
    began = time.monotonic() if began is None else began
    with request.opened(complain) as file:
        if file.example().ladder is not None:
            return _run_ladder(request, file, complain, began)
        if request.size is not None:
            raise UserError(f"--size {request.size}: {request.path} has no ladder; leave --size out")
        return carry_out_file(request, file, complain, began)


def _run_ladder(request: SweepRequest, file: SweepFile, complain: Complain, began: float) -> LadderEnded:
    from raycodellm import ladder

    sizes = ladder.sizes_of(file)
    pending = ladder.chosen(sizes, request.size)
    _check_all(pending, request)
    request.storage.prove_writable("--storage")
    folder = ladder.write_ladder(file, sizes, request.storage)
    code = DONE
    with _kept_connection() as connection:
        for index, size in enumerate(pending):
            size = ladder.with_arms(file, size, sizes[0], request.storage)
            print(f"size {index + 1} of {len(pending)}: {size.preset}, {size.parameters:,} parameters", flush=True)
            end = carry_out_file(request, size.file, complain, began, connection)
            began = time.monotonic()
            result = ladder.write_report(folder, complain)
            if end.code == STOPPED:
                return LadderEnded(STOPPED, folder)
            code = max(code, end.code)
            if index == 0:
                _check_tokens(pending[1:], request)
            if (num_left := _num_left(end)) > 0:
                print(f"size {size.preset} is unfinished, {num_left} trials left; no further size begins", flush=True)
                break
    print(ladder.summary_text(result))
    return LadderEnded(code, folder)


def _check_all(sizes: Sequence[Size], request: SweepRequest) -> None:
    """Raises `UserError` where a size that has not begun would be refused, before the first one begins."""
    from raycodellm import preflight

    for size in sizes:
        if not (request.storage / size.name).exists("sweep.yaml"):
            preflight.check_before_start(size.file, request.address)


def _check_tokens(sizes: Sequence[Size], request: SweepRequest) -> None:
    """Raises `UserError` where a size that has not begun needs more tokens than the sources have: as soon as the first
    size has made the token stores, and not hours later."""
    from raycodellm import check

    for size in sizes:
        if not (request.storage / size.name).exists("sweep.yaml"):
            try:
                check.require_enough_tokens(size.file, request.storage)
            except UserError as error:
                raise UserError(f"size {size.preset}: {error}") from error


def _num_left(end: Ended) -> int:
    """Trials of the size that have not ended: it stopped for its failures, or its budget."""
    from raycodellm.runs import OpenedRun

    status = OpenedRun(end.run).status
    return status.num_trials - status.num_ended


@contextlib.contextmanager
def _kept_connection() -> Iterator[ClusterConnection]:
    connection = ClusterConnection(is_kept=True)
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()
