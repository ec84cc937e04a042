"""The text whose bits per byte are measured, by domain, and the sources of a sweep that give such text."""

from __future__ import annotations

from raycodellm.config.errors import UserError
from raycodellm.config.evaluation_settings import DOMAINS
from raycodellm.config.sweep_settings import Sweep

KIND_OF_DOMAIN = {**{domain: domain for domain in DOMAINS}, "prose": "text", "chinese": None}
"""Maps each domain to the kind of the sources that give such text; None where no kind says so."""
HELD_OUT = "held_out"
"""Value of `evaluation.texts.<domain>` for documents of the sweep's own sources that no stage trains on."""
SUITE = "bpb"
"""The suite that measures text of every domain."""


def task_of(domain: str) -> str:
    """Name of the task that measures text of the domain."""
    return f"bpb_{domain}"


def sources_of(sweep: Sweep, domain: str) -> tuple[str, ...]:
    """Names of the sources that give text of the domain, in the order of the file."""
    kind = KIND_OF_DOMAIN[domain]
    return tuple(name for name, source in sweep.sources.items() if source.kind == kind)


def with_held_out_texts(sweep: Sweep) -> Sweep:
    """The sweep with documents of its own sources as the text of each measured domain that the file gives no text of.

    Raises UserError for a domain that shall be measured on the sweep's sources and has none, and for a source that is
    neither measured nor, in a sweep without stages, trained on.
    """
    settings, given_texts = sweep.evaluation, sweep.evaluation.texts.given()
    for domain, text in given_texts.items():
        if text == HELD_OUT and not sources_of(sweep, domain):
            kind = KIND_OF_DOMAIN[domain]
            want = f"no source is of kind {kind}; add one, or give" if kind else "no kind of source says so; give"
            raise UserError(f"evaluation.texts.{domain}: {HELD_OUT}, but {want} a path of text files")
    domains = [domain for domain in DOMAINS if SUITE in settings.suites or task_of(domain) in settings.tasks]
    own_texts = {domain: HELD_OUT for domain in domains if domain not in given_texts and sources_of(sweep, domain)}
    if own_texts:
        texts = settings.texts.model_copy(update=own_texts)
        sweep = sweep.model_copy(update={"evaluation": settings.model_copy(update={"texts": texts})})
    unused = None if sweep.stages else next((name for name in sweep.sources if not is_held_out(sweep, name)), None)
    if unused is not None:
        raise UserError(
            f"sources.{unused}: nothing is trained (stages: []), and no text of it is measured; remove it, or measure "
            f"it with evaluation.suites: [{SUITE}]"
        )
    return sweep


def measured_domains(sweep: Sweep) -> tuple[str, ...]:
    """The domains that are measured on held-out documents of the sweep's own sources."""
    return tuple(domain for domain, text in sweep.evaluation.texts.given().items() if text == HELD_OUT)


def is_held_out(sweep: Sweep, source: str) -> bool:
    """True if the evaluation measures documents of the source, which no stage may then train on."""
    return any(source in sources_of(sweep, domain) for domain in measured_domains(sweep))
