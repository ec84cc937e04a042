"""Describes what a sweep would do, without starting anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raycodellm import evaluation, memory_needs, model, preflight, search, stage_store, tokens
from raycodellm.check import budgets, costs, early_stopping, evaluation_table, given_models, placement, tables
from raycodellm.check.plan import first_arms, fresh_seed, items_of, planned, sized
from raycodellm.check.prices import Prices
from raycodellm.check.prices import load as load_prices
from raycodellm.config import Scaling, Sweep, SweepFile, UserError
from raycodellm.files import Folder
from raycodellm.memory_needs import GIB
from raycodellm.records import HeldOutSource
from raycodellm.sweep import warm_start


@dataclass(frozen=True)
class Asked:
    """The requests of the command line beside the sweep file."""

    address: str | None = None
    """Address of a Ray cluster to join; None for that in RAY_ADDRESS, else this machine."""
    device: str | None = None
    """Name of the device that the sweep is reckoned for, wherever that is. None for `scaling.device` where this machine
    has no GPU, else for the devices here."""
    prices: str | None = None
    """None for no prices, "" for the package's, else the user's own file."""


NOTHING_ASKED = Asked()


def describe(file: SweepFile, storage: Folder, request: Asked = NOTHING_ASKED) -> str:
    """The arms, the stage tree, tokens and epochs, parameters, FLOPs, device hours, and whether a trial can be placed.

    Raises `UserError` for whatever `run` would refuse. A sweep that is reckoned for a device elsewhere may name data
    that only that place reaches.
    """
    sweep = file.example()
    request = _with_device(request, sweep.scaling)
    elsewhere = request.device is not None
    prices = None if request.prices is None else load_prices(request.prices)
    _check_device(sweep, request, prices)
    if not sweep.stages:
        return _without_training(file, storage, request)
    memory_fit = preflight.check_before_start(file, request.address, elsewhere=elsewhere)
    arms = first_arms(file)
    items = items_of(file, elsewhere=elsewhere)
    sizes = tokens.inspect(sweep, storage, items, elsewhere=elsewhere)
    corpora = sized(sizes)
    tokenizer_fingerprint = next(iter(sizes.values())).tokenizer_fingerprint
    contents = stage_store.contents_of_file(file, elsewhere=elsewhere)
    chains = planned(file, arms, corpora, storage, tokenizer_fingerprint, contents)
    fresh = fresh_seed(file, arms, chains, corpora, storage, tokenizer_fingerprint, contents)
    num_seeds = len(chains) // len(arms)
    slot_placement = placement.find(sweep.scaling, request.address, memory_fit, request.device)
    needed_gib = memory_fit.need.total / GIB if memory_fit.need else 0.0
    paragraphs = [
        "\n".join([*tables.arms(file, arms), *warm_start.read_prior(file, storage).lines]),
        "\n".join(tables.stages(chains, {name for name, size in sizes.items() if size.is_estimate}, num_seeds)),
        *(["\n".join(confirmation_lines)] if (confirmation_lines := tables.confirmation(file, fresh)) else []),
        *early_stopping.line(sweep, chains),
        "\n".join(tables.sources(sizes, corpora, chains)),
        *_cleaning(sweep, sizes),
        *_packing(sweep, sizes),
        "\n".join([_evaluation(file, chains[0].evaluation.held_out, elsewhere), *_fits(file, storage, sizes)]),
        *tokens.warnings_of(sweep, items),
        *tokens.file_warnings(sweep, sizes),
        *_cost(file, chains, fresh, num_seeds, slot_placement, prices, needed_gib),
        slot_placement.text,
    ]
    return "\n\n".join(paragraphs)


def _without_training(file: SweepFile, storage: Folder, request: Asked) -> str:
    """Describes a sweep with `stages: []`: its models, its pairs, and how much text they are evaluated on."""
    sweep, elsewhere = file.example(), request.device is not None
    fit = preflight.check_before_start(file, request.address, elsewhere=elsewhere)
    items = items_of(file, elsewhere=elsewhere)
    sizes = tokens.inspect(sweep, storage, items, elsewhere=elsewhere)
    held_out = stage_store.held_out_sources(sweep, sized(sizes), storage)
    slot_placement = placement.find(sweep.scaling, request.address, fit, request.device)
    on_gpus = sweep.scaling.gpus_per_worker > 0
    hardware = costs.Hardware(slot_placement.device if on_gpus else costs.CPU, on_gpus)
    paragraphs = [
        "\n".join(tables.arms(file, first_arms(file))),
        *given_models.paragraphs(file, hardware),
        *_cleaning(sweep, sizes),
        _evaluation(file, held_out, elsewhere),
        *tokens.warnings_of(sweep, items),
        slot_placement.text,
    ]
    return "\n\n".join(paragraphs)


def _evaluation(file: SweepFile, held_out: Sequence[HeldOutSource], elsewhere: bool) -> str:
    """The tasks, and the text of the sweep's sources that they measure."""
    text_lines = evaluation_table.text_and_code(file.example(), held_out)
    return "\n".join([*evaluation_table.tasks(file, elsewhere=elsewhere), *text_lines])


def _fits(file: SweepFile, storage: Folder, sizes: Mapping[str, tokens.SourceSize]) -> list[str]:
    """A line for each task of which perhaps no item fits into a model's context. Raises UserError for a task of which
    certainly no item fits. Empty if neither the tokenizer nor the fewest tokens that it can give are known here."""
    sweep = file.example()
    fingerprint = next(iter(sizes.values())).tokenizer_fingerprint
    tokenizer = tokens.tokenizer_at_hand(sweep.tokenizer_of_sources, storage / "tokenizers" / fingerprint)
    if tokenizer is not None:
        counter = evaluation.exact_counter(tokenizer)
    elif sweep.tokenizer_of_sources.train is not None:
        counter = evaluation.least_counter()
    else:
        return []
    unfit = evaluation.unfit_tasks(file, preflight.vocab_size(sweep), counter)
    return [f"  {line}" for line in evaluation.require_fit(unfit)]


def _with_device(request: Asked, scaling: Scaling) -> Asked:
    """The request, with the sweep file's device if nothing else says on which device the sweep would run."""
    is_told = request.device or placement.joins(request.address) or not scaling.gpus_per_worker
    return request if is_told or memory_needs.gpu_bytes() else replace(request, device=scaling.device)


def _check_device(sweep: Sweep, request: Asked, prices: Prices | None) -> None:
    """Raises `UserError` for a device that the sweep does not use, and for prices of a device that nothing names."""
    on_gpus = sweep.scaling.gpus_per_worker > 0
    if prices is not None and not sweep.stages:
        raise UserError("--prices: reckons training, and with stages: [] nothing is trained; leave it out")
    if request.device is not None and not on_gpus:
        raise UserError(
            f"--device {request.device}: scaling.gpus_per_worker is 0, so the sweep trains on CPUs; leave --device "
            "out, or add --set scaling.gpus_per_worker=1"
        )
    if prices is not None and on_gpus and request.device is None and not placement.joins(request.address):
        raise _no_device(prices)


def _no_device(prices: Prices) -> UserError:
    return UserError(
        "--prices: nothing tells on which device the sweep would run; join its cluster with --address, or name the "
        f"device with --device, one of: {', '.join(prices.devices)}"
    )


def left_out(manifest: tokens.Manifest) -> list[str]:
    """One line per reason: the records that are not in the token store and, for text, their share of the bytes."""
    num_bytes = manifest.num_bytes + sum(manifest.skipped_bytes.values())
    lines = []
    for reason, count in sorted(manifest.skipped.items(), key=lambda item: -item[1]):
        size = manifest.skipped_bytes.get(reason)
        lines.append(
            f"left out: {count:,} {reason}" + (f", {100 * size / num_bytes:.1f} % of the text" if size else "")
        )
    return lines


def _cleaning(sweep: Sweep, sizes: Mapping[str, tokens.SourceSize]) -> list[str]:
    """The records left out of finished token stores, and the sources that are still to be cleaned."""
    lines = []
    for name, size in sizes.items():
        source = sweep.complete_source(name)
        if size.store is not None:
            lines += [f"  {name:16s} {line}" for line in left_out(size.store.manifest)]
        elif size.is_known and (source.take or (source.cleaning and source.cleaning.active_settings())):
            lines.append(f"  {name:16s} not cleaned yet: its tokens above are those before cleaning")
    return ["\n".join(["cleaning:", *lines])] if lines else []


def _packing(sweep: Sweep, sizes: Mapping[str, tokens.SourceSize]) -> list[str]:
    """The tokens of finished token stores that each stage's packing drops, pads and splits."""
    lines = [
        f"  {name:16s} {report}"
        for name, size in sizes.items()
        if size.store is not None
        for report in tokens.packing_reports(sweep, name, size.store)
    ]
    return ["\n".join(["packing (one epoch of the finished token stores):", *lines])] if lines else []


def _cost(
    file: SweepFile,
    chains: Sequence[stage_store.Chain],
    fresh: Sequence[stage_store.Chain],
    num_seeds: int,
    slot_placement: placement.Placement,
    prices: Prices | None,
    needed_gib: float,
) -> list[str]:
    """Parameters, FLOPs and device hours; with `prices`, money. `needed_gib`: memory that one worker needs."""
    sweep, num_trials = file.example(), search.num_trials(file)
    vocab_size, on_gpus = preflight.vocab_size(sweep), sweep.scaling.gpus_per_worker > 0
    name = slot_placement.device if on_gpus else costs.CPU
    if prices is not None and name is None:
        raise _no_device(prices)
    device = prices.device(name) if prices is not None and name is not None else None
    if device is not None and name is not None:
        costs.refuse_small_memory(name, device, needed_gib, sweep.scaling)
    hardware = costs.Hardware(name, on_gpus, device.tflops if device else None)
    hours = costs.device_hours(chains, num_seeds, vocab_size, hardware, num_trials)
    confirm = sweep.search.confirm
    confirming = costs.confirming(fresh, confirm.seeds[-1], vocab_size, hardware) if confirm is not None else 0.0
    lines = [
        _model_line(sweep, vocab_size),
        costs.training_line(costs.unique_jobs(chains), vocab_size, hours, hardware, num_trials / len(chains)),
        *([costs.confirmation_line(confirming, hardware)] if confirming else []),
        *(["cost: --prices shows it in money"] if prices is None else []),
    ]
    money = (
        costs.money_lines(hours, device, prices, sweep.scaling, slot_placement.slots, confirming)
        if device is not None and prices
        else []
    )
    limits = budgets.lines(file, chains, fresh, hours.sweep, confirming, slot_placement.slots)
    return ["\n".join(lines), *("\n".join(block) for block in (money, limits) if block)]


def _model_line(sweep: Sweep, vocab_size: int) -> str:
    context = model.context_length(sweep.model, vocab_size)
    parts = [
        f"model: {model.num_parameters(sweep.model, vocab_size):,} parameters",
        f"context {context or 'unbounded'} tokens",
    ]
    if scales := model.scales(sweep.model):
        rates = sorted({f"{scale.rate:.3g}" for scale in scales.values()}, key=float)
        parts.append(f"mup: matrices of the blocks learn at {' to '.join(rates[:: len(rates) - 1 or 1])} of the rate")
    return ", ".join(parts)
