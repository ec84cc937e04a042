"""Texts of `evaluation.texts` that no task measures."""

from __future__ import annotations

from collections.abc import Collection

from raycodellm.config import Evaluation, Unreachable, UserError
from raycodellm.config.text_domains import task_of
from raycodellm.evaluation.texts.held_out import text_content, texts_of


def unmeasured_texts(settings: Evaluation, tasks: Collection[str], *, elsewhere: bool = False) -> list[str]:
    """The domains whose text is given and measured by none of `tasks`, which are named without their groups. Raises
    UserError where such a text lies nowhere; `elsewhere`: a network that this machine does not reach may have it."""
    domains = [domain for domain in settings.texts.given() if task_of(domain) not in tasks]
    for domain, places in texts_of(settings):
        for path in (place for place in places if isinstance(place, str) and domain in domains):
            try:
                text_content(task_of(domain), ((domain, (path,)),))
            except UserError as error:
                if not (elsewhere and isinstance(error.__cause__, Unreachable)):
                    raise
    return domains
