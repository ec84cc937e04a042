"""The arms that the smallest size of a ladder chooses for all other sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raycodellm import config, report, storage_files, sweep
from raycodellm.config import SweepFile, UserError
from raycodellm.files import Folder
from raycodellm.ladder.sizes import Size
from raycodellm.regression.yaml_points import enqueued_point
from raycodellm.runs import OpenedRun


def with_arms(file: SweepFile, size: Size, smallest: Size, storage: Folder) -> Size:
    """The size with its arms: the arms with which it began, or else those that the smallest size has confirmed as best.

    `file`: the ladder's. Raises `UserError` while the smallest size has not ended, or has confirmed no arm, and where
    the size began with another number of arms than `ladder.carry` asks for now.
    """
    if not size.is_open:
        return size
    folder = storage / size.name
    points: Sequence[Mapping[str, Any]]
    if folder.exists("sweep.yaml"):
        points = storage_files.read_sweep_file(folder).example().search.enqueue
        _require_same_number(file, size, len(points), smallest, storage)
    else:
        points = _best_arms(file, smallest, storage)
    carried = config.Carried(len(points), points)
    return replace(size, file=config.size_file(file, size.preset, size.parameters, carried), is_open=False)


def _require_same_number(file: SweepFile, size: Size, num_begun: int, smallest: Size, storage: Folder) -> None:
    carry = _num_carried(file)
    may_have_more = num_begun < carry and (storage / smallest.name).exists("sweep.yaml")
    if num_begun > carry or (may_have_more and len(_best_arms(file, smallest, storage)) > num_begun):
        raise UserError(
            f"ladder.carry: found {carry}, but {size.preset} began with the best {num_begun} of {smallest.preset}; "
            f"give {num_begun}, or give the ladder a new name"
        )


def _num_carried(file: SweepFile) -> int:
    ladder = file.example().ladder
    assert ladder is not None and ladder.carry is not None, "only such a ladder has sizes that are open"
    return ladder.carry


def _best_arms(file: SweepFile, smallest: Size, storage: Folder) -> list[dict[str, Any]]:
    """The best confirmed arms of the smallest size, without the reference, as points of `search.enqueue`."""
    folder = storage / smallest.name
    records = report.read_records(folder, storage) if folder.exists("sweep.yaml") else None
    if records is None or not records.findings.is_over:
        raise UserError(
            f"ladder.carry: the smallest size, {smallest.preset}, chooses the arms of the others and has not ended; "
            f"run it first, with --size {smallest.preset}"
        )
    confirmed = [
        score.arm for score in records.scores if score.is_confirmed and score.arm != records.findings.compared_with
    ]
    if not confirmed:
        raise UserError(f"ladder.carry: {smallest.preset} has confirmed no arm beside the reference; see {folder.uri}")
    results = OpenedRun(sweep.Run(smallest.file, storage)).results
    params = {result.arm: result.params for result in reversed(results)}
    return [enqueued_point(smallest.file, params[arm]) for arm in confirmed[: _num_carried(file)]]
