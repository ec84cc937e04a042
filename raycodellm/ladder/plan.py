"""Describes what a ladder would do, without starting anything: `raycodellm check`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raycodellm import check, memory_needs, model, preflight, report, search
from raycodellm.check import costs
from raycodellm.config import SweepFile
from raycodellm.files import Folder
from raycodellm.ladder.sizes import Size, sizes_of
from raycodellm.memory_needs import GIB
from raycodellm.tables import Table, cells, formats, table_lines


def describe(file: SweepFile, storage: Folder, request: check.Asked = check.NOTHING_ASKED) -> str:
    """The sizes in one table, then each size's own plan. Raises `UserError` for whatever `run` would refuse."""
    sizes, sweep = sizes_of(file), file.example()
    assert sweep.ladder is not None, "sizes_of has refused it"
    plans = [check.describe(size.file, storage, request) for size in sizes]
    speeds = measured_speeds(sizes, storage)
    hardware = costs.Hardware(request.device or sweep.scaling.device, sweep.scaling.gpus_per_worker > 0)
    total = sum(search.most_trials(size.file) for size in sizes)
    lines = [
        f"{sweep.name}: a ladder of {len(sizes)} sizes, {_arms_text(sizes)}, at most "
        f"{total} trials, {sweep.ladder.tokens_per_parameter:g} tokens per parameter, {_transfer_text(file)}",
        *table_lines(_table(sizes, speeds, hardware), indent="  "),
    ]
    if sweep.ladder.carry is not None:
        arms = f"the best {sweep.ladder.carry} confirmed arms of {sizes[0].preset}, and the reference"
        lines.append(f"  from {sizes[1].preset} on the arms are {arms}; what the plans below list are examples")
    paragraphs = ["\n".join(lines)]
    for size, plan in zip(sizes, plans, strict=True):
        paragraphs.append(f"---- {size.preset}: {size.parameters:,} parameters ----\n\n{plan}")
    return "\n\n".join(paragraphs)


def _arms_text(sizes: Sequence[Size]) -> str:
    """The number of arms, in words."""
    numbers = list(dict.fromkeys(search.num_arms(size.file) for size in sizes))
    return (
        f"{numbers[0]} arms each" if len(numbers) == 1 else f"{numbers[0]} arms at the smallest, {numbers[1]} at others"
    )


def _transfer_text(file: SweepFile) -> str:
    """How the learning rates follow from the size, in words."""
    ladder = file.example().ladder
    assert ladder is not None
    if ladder.learning_rate is not None:
        factors = ", ".join(f"{preset} × {ladder.learning_rate[preset]:g}" for preset in ladder.presets)
        return f"learning rates by the table ({factors})"
    if file.example().model.parametrization == "mup":
        return "learning rates the same at all sizes (model.parametrization: mup)"
    return "learning rates searched"


def _table(sizes: Sequence[Size], speeds: dict[str, float], hardware: costs.Hardware) -> Table:
    unit = "CPU core" if not hardware.on_gpus else hardware.name or costs.REFERENCE
    header = (
        *("size", "parameters", "tokens of an arm", "trials", "GiB per worker"),
        *("FLOPs, nothing shared", f"{unit} hours, nothing shared", "reckoned"),
    )
    return Table(header, [_row(size, speeds, hardware) for size in sizes], left=(0, 7))


def _row(size: Size, speeds: dict[str, float], hardware: costs.Hardware) -> tuple[str, ...]:
    num_certain, num_most = search.num_trials(size.file), search.most_trials(size.file)
    need = memory_needs.largest_need(size.file, preflight.vocab_size(size.file.example()))
    flops = arm_flops(size) * num_most
    timed_preset = size.preset if size.preset in speeds else next(iter(speeds), None)
    if timed_preset is not None:
        speed = speeds[timed_preset]
        basis = "as measured" if timed_preset == size.preset else f"at the speed of {timed_preset}"
    else:
        speed = hardware.flops_per_second(size.file.example().stages[0].numerics.precision)
        basis = f"at {speed:.2g} FLOP/s"
    return (
        size.preset,
        cells.whole(size.parameters),
        cells.count(size.tokens),
        f"{num_certain}" if num_certain == num_most else f"{num_certain}, at most {num_most}",
        f"{need.total / GIB:.3g}",
        f"{flops:.2e}",
        formats.rounded(flops / speed / 3600, 2),
        basis,
    )


def arm_flops(size: Size) -> float:
    """FLOPs that training an arm takes."""
    sweep = size.file.example()
    vocab_size = preflight.vocab_size(sweep)
    return math.fsum(
        stage.num_tokens * model.flops_per_token(sweep.model, vocab_size, stage.sequence_length)
        for stage in sweep.trained_stages
    )


def measured_speeds(sizes: Sequence[Size], storage: Folder) -> dict[str, float]:
    """Maps the presets whose stages have been trained in this storage to the FLOP/s that one device reached, the
    largest first."""
    speeds = {}
    for size in reversed(sizes):
        folder = storage / size.name
        if not folder.exists("sweep.yaml"):
            continue
        shared = report.read_records(folder, storage).sharing
        if shared.tokens_trained and shared.seconds_trained:
            speeds[size.preset] = arm_flops(size) / size.tokens * shared.tokens_trained / shared.seconds_trained
    return speeds
