"""Runs and checks sweeps from Python: what `import raycodellm` offers beside `raycodellm.open_run`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raycodellm.commands import STOPPED, SweepRequest
from raycodellm.commands import start as starting
from raycodellm.commands.request import DEFAULT_STORAGE
from raycodellm.commands.run import Ended
from raycodellm.config import UserError, refuse_credentials

if TYPE_CHECKING:
    from raycodellm.ladder import OpenedLadder
    from raycodellm.runs import OpenedRun

SweepLike = str | os.PathLike[str] | Mapping[str, Any]
"""A sweep file's path, or what a sweep file holds."""


def run(
    sweep: SweepLike,
    *,
    storage: str | os.PathLike[str] = DEFAULT_STORAGE,
    address: str | None = None,
    overrides: Sequence[str] = (),
    retry_failed: bool = False,
    size: str | None = None,
) -> OpenedRun | OpenedLadder:
    """Runs a sweep, or continues it exactly, as `raycodellm run` does; returns the run, or the ladder of a sweep file
    with one.

    `sweep`: a file's path, or its content as a dict. `overrides`: `key=value`, as after `--set`. `address`: of a Ray
    cluster; without one, RAY_ADDRESS or a cluster on this machine. `retry_failed`: runs failed trials again, from their
    finished stages. `size`: runs one size of a ladder alone. Progress is shown in the notebook's cell. To interrupt the
    kernel stops cleanly, and the next call continues.

    Trials that failed are in the returned run. Raises `UserError` for a wrong request, `RunFailed` where the run ended
    before its trials did, KeyboardInterrupt after a clean stop.
    """
    request = replace(_request(sweep, storage, address, overrides), retry_failed=retry_failed, size=size)
    _refuse_second_cluster(request)
    ended = starting.carry_out(request, print)
    if ended.code == STOPPED:
        raise KeyboardInterrupt
    if isinstance(ended, Ended):
        from raycodellm.runs import OpenedRun

        return OpenedRun(ended.run)

    from raycodellm.ladder import OpenedLadder

    return OpenedLadder(ended.ladder)


def check_sweep(
    sweep: SweepLike,
    *,
    storage: str | os.PathLike[str] = DEFAULT_STORAGE,
    address: str | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
    prices: str | None = None,
) -> str:
    """The plan of the sweep, as `raycodellm check` prints it: arms, stage tree, tokens, hours. Starts no training.

    `device`: reckons for this GPU, wherever that is. `prices`: "" adds the money by the package's prices, a path by a
    file of one's own. Raises `UserError` for a wrong request.
    """
    request = _request(sweep, storage, address, overrides)
    with request.opened(_warn) as file:
        from raycodellm import check  # only now: a wrong file is refused sooner than this imports

        request.storage.check_writable("--storage")
        options = check.Asked(request.address, device, prices)
        if file.example().ladder is not None:
            from raycodellm import ladder

            return ladder.describe(file, request.storage, options)
        return check.describe(file, request.storage, options)


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


def _request(
    sweep: SweepLike, storage: str | os.PathLike[str], address: str | None, overrides: Sequence[str]
) -> SweepRequest:
    # tqdm says so in every notebook without its widgets, when a library imports it.
    warnings.filterwarnings("ignore", message="IProgress not found")
    if isinstance(overrides, str):
        raise UserError(f"overrides: found the text {overrides!r}; give a list of 'key=value'")
    for value in (os.fspath(storage), *overrides):
        refuse_credentials(value)
    if isinstance(sweep, Mapping):
        return SweepRequest("sweep", tuple(overrides), os.fspath(storage), address, tree=dict(sweep))
    return SweepRequest(os.fspath(sweep), tuple(overrides), os.fspath(storage), address)


def _refuse_second_cluster(request: SweepRequest) -> None:
    """Raises `UserError` where this process is connected to a Ray cluster already: `run` connects and disconnects."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        with request.opened(_warn):  # a wrong sweep file is refused first
            raise UserError(
                "this process is connected to a Ray cluster already; call ray.shutdown() first, and give its address "
                "to run"
            )
