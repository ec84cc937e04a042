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
from raycodellm.pairs import short_names
from raycodellm.tables import Table, formats, table_lines

BYTES_PER_TOKEN = 4
"""Bytes of English or code in a token of a large vocabulary: an order of magnitude, for FLOPs."""

MOST_PAIRS = 8
"""Pairs that are listed."""
NOT_REACHED = "hub, not reached from here"


@dataclass(frozen=True)
class GivenModel:
    """A given model, as far as this machine can look it up."""

    name: str
    """Value of `model.pretrained`."""
    origin: str
    """`folder`, or the hub with the commit, or `NOT_REACHED`."""
    num_parameters: int | None = None
    """None where the model is not known here, as the context is then."""
    context: int | None = None
    """Longest sequence, in tokens; None also for one without a bound."""


def look_up(file: SweepFile) -> list[GivenModel]:
    """The models of the search. Raises UserError for a folder without a model, and for a repository that the hub does
    not have; a model that only the hub knows while it cannot be reached is left unknown."""
    contents = stage_store.contents_of_file(file, elsewhere=True)
    return [_given_model(name, contents) for name in file.pretrained_models()]


def _given_model(name: str, contents: Contents) -> GivenModel:
    kind, *details = contents.models[name]
    if kind == "hub" and len(details) == 1:  # a name without a commit
        return GivenModel(name, NOT_REACHED)
    settings = Model(pretrained=contents.addresses[name])
    origin = f"hub, commit {details[-1][:7]}" if kind == "hub" else "folder"
    return GivenModel(name, origin, model.num_parameters(settings, 0), model.context_length(settings, 0))


def models(file: SweepFile, given_models: Sequence[GivenModel]) -> list[str]:
    """The table of models, the checks that were left out, and the pairs, as lines of text."""
    rows = [
        (given_model.name, _count(given_model.num_parameters), _count(given_model.context), given_model.origin)
        for given_model in given_models
    ]
    lines = ["models, evaluated as they are:"]
    lines += table_lines(Table(("model", "parameters", "context", "from"), rows, left=(0, 3)), indent="  ")
    if unknown := sum(given_model.origin == NOT_REACHED for given_model in given_models):
        lines.append(
            f"  left out for {unknown} models, which are not in the local cache while the hub cannot be reached: "
            "whether they exist, and their size"
        )
    pairs = file.pairs()
    names = short_names([given_model.name for given_model in given_models])
    pair_names = [f"{names[base]} → {names[compared]}" for base, compared in pairs[:MOST_PAIRS]]
    more = f", and {len(pairs) - MOST_PAIRS} more" if len(pairs) > MOST_PAIRS else ""
    if pairs:
        lines.append(f"  compared in pairs: {', '.join(pair_names)}{more}")
    return lines


def _count(number: int | None) -> str:
    return formats.NOTHING if number is None else f"{number:,}"


def cost(file: SweepFile, given_models: Sequence[GivenModel], hardware: costs.Hardware) -> list[str]:
    """Items, tokens and FLOPs of the evaluations, as lines of text. Loads the tasks, which takes seconds."""
    try:
        num_items, num_bytes = _count_items_and_bytes(file)
    except UserError as error:
        return [f"evaluating: how much text there is, is not known here: {error}"]
    num_tokens = num_bytes / BYTES_PER_TOKEN
    text = f"{num_items:,} items, about {formats.count(num_tokens)} tokens of different prompts and right answers"
    lines = [
        f"evaluating: {len(given_models)} models × {text}, without examples in prompts ({BYTES_PER_TOKEN} bytes a "
        "token)"
    ]
    sizes = [given_model.num_parameters for given_model in given_models if given_model.num_parameters is not None]
    if sizes:
        flops = 2 * num_tokens * math.fsum(sizes)
        hours = flops / hardware.flops_per_second("bf16") / 3600
        device = (hardware.name or costs.REFERENCE) if hardware.on_gpus else "CPU core"
        scope = "" if len(sizes) == len(given_models) else f" for the {len(sizes)} models that are known here"
        lines.append(
            f"  {flops:.2e} FLOPs{scope} (2 a parameter and token), about {hours:.2g} {device} hours; answers that a "
            "model writes token by token take longer"
        )
    else:
        per_billion = 2 * num_tokens * 1e9
        lines.append(f"  {per_billion:.2e} FLOPs per 10^9 parameters of a model (2 a parameter and token)")
    return lines


def _count_items_and_bytes(file: SweepFile) -> tuple[int, int]:
    """(items, bytes of their different texts) of every task, as many as `evaluation.limit` lets be asked. Equal prompts
    are read and answered once, and so are the examples with which all prompts begin, which do not count here."""
    limit = file.example().evaluation.limit
    texts_by_task = [texts[:limit] for texts in evaluation.items_of_sweep(file).values()]
    return sum(map(len, texts_by_task)), sum(len(text.encode()) for texts in texts_by_task for text in set(texts))


def paragraphs(file: SweepFile, hardware: costs.Hardware) -> Iterator[str]:
    """The paragraphs about models and cost."""
    given_models = look_up(file)
    yield "\n".join(models(file, given_models))
    yield "\n".join(cost(file, given_models, hardware))
