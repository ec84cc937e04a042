"""Describes what a sweep without stages would do: which given models it evaluates, on how much text, and which pairs it
compares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raycodellm import evaluation, model, stage_store
from raycodellm.check import costs
from raycodellm.config import Model, SweepFile, UserError
from raycodellm.identity import Contents
from raycodellm.tables import Table, cells, formats, table_lines

BYTES_PER_TOKEN = 4
"""Bytes of English or code in a token of a large vocabulary: an order of magnitude, for FLOPs."""

NOT_REACHED = "hub, not reached from here"


@dataclass(frozen=True)
class GivenModel:
    """A given model, as far as this machine can look it up."""

    name: str
    origin: str
    """Whether it is a folder, or which commit of the hub."""
    num_parameters: int | None = None
    """None where the model is not known here, as the context is then."""
    context: int | None = None
    """Longest sequence, in tokens; None also for one without a bound."""


def look_up(file: SweepFile) -> list[GivenModel]:
    """The models of the search. Raises UserError for a folder without a model, and for a repository that the hub does
    not have; a model that only the hub knows while it cannot be reached is left unknown."""
    contents = stage_store.contents_of_file(file, elsewhere=True)
    return [_looked_up(name, contents) for name in file.pretrained_models()]


def _looked_up(name: str, contents: Contents) -> GivenModel:
    kind, *found = contents.models[name]
    if kind == "hub" and len(found) == 1:  # a name without a commit
        return GivenModel(name, NOT_REACHED)
    settings = Model(pretrained=contents.addresses[name])
    origin = f"hub, commit {found[-1][:7]}" if kind == "hub" else "folder"
    return GivenModel(name, origin, model.num_parameters(settings, 0), model.context_length(settings, 0))


def models(file: SweepFile, known: Sequence[GivenModel]) -> list[str]:
    """The table of models, the checks that were left out, and the pairs, as lines of text."""
    rows = [
        (one.name, cells.whole(one.num_parameters) if one.num_parameters else "?", str(one.context or "?"), one.origin)
        for one in known
    ]
    lines = ["models, evaluated as they are:"]
    lines += table_lines(Table(("model", "parameters", "context", "from"), rows, left=(0, 3)), indent="  ")
    not_reached = [one.name for one in known if one.origin == NOT_REACHED]
    if not_reached:
        lines.append(
            f"  left out for {len(not_reached)} models, which are not in the local cache while the hub cannot be "
            f"reached: whether they exist, and their size ({', '.join(not_reached)})"
        )
    pairs = file.pairs()
    given = "" if file.example().search.pairs else ", each with the first"
    lines.append(f"  {len(pairs)} pairs are compared{given}: {', '.join(f'{b} → {o}' for b, o in pairs)}")
    return lines


def cost(file: SweepFile, known: Sequence[GivenModel], hardware: costs.Hardware) -> list[str]:
    """Items, tokens and FLOPs of the evaluations, as lines of text. Loads the tasks, which takes seconds."""
    try:
        num_items, num_bytes = _items_of(file)
    except UserError as error:
        return [f"evaluating: how much text there is, is not known here: {error}"]
    num_tokens = num_bytes / BYTES_PER_TOKEN
    text = f"{num_items:,} items of about {formats.count(num_tokens)} tokens in all"
    lines = [f"evaluating: {len(known)} models × {text} (prompts and right answers, {BYTES_PER_TOKEN} bytes a token)"]
    sizes = [one.num_parameters for one in known if one.num_parameters is not None]
    if sizes:
        flops = 2 * num_tokens * math.fsum(sizes)
        hours = flops / hardware.flops_per_second("bf16") / 3600
        device = (hardware.name or costs.REFERENCE) if hardware.on_gpus else "CPU core"
        of = "" if len(sizes) == len(known) else f" for the {len(sizes)} models that are known here"
        lines.append(
            f"  {flops:.2e} FLOPs{of} (2 a parameter and token), about {hours:.2g} {device} hours; answers that a "
            "model writes token by token take longer"
        )
    else:
        per_billion = 2 * num_tokens * 1e9
        lines.append(f"  {per_billion:.2e} FLOPs per 10^9 parameters of a model (2 a parameter and token)")
    return lines


def _items_of(file: SweepFile) -> tuple[int, int]:
    """(items, bytes of their texts) of every task, as many as `evaluation.limit` lets be asked."""
    settings = file.example().evaluation
    texts = evaluation.items_of_sweep(file)
    asked = [text for of_task in texts.values() for text in of_task[: settings.limit]]
    return len(asked), sum(len(text.encode()) for text in asked)


def parts(file: SweepFile, hardware: costs.Hardware) -> Iterator[str]:
    """The paragraphs about models and cost."""
    known = look_up(file)
    yield "\n".join(models(file, known))
    yield "\n".join(cost(file, known, hardware))
