"""The settings reference says what the settings say."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycodellm.config.reference import Section, field_docstrings, reference, sections

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


@pytest.mark.parametrize("section", [*sections()], ids=lambda section: section.path or "sweep")
def test_every_setting_says_what_it_means(section: Section) -> None:
    missing = section.model.model_fields.keys() - field_docstrings(section.model).keys()
    assert not missing, f"{section.model.__name__}: give {', '.join(missing)} a docstring with unit and meaning"
    assert section.model.__doc__ and section.model.__doc__ != section.model.__mro__[1].__doc__


def test_the_page_of_settings_is_the_one_made_from_their_docstrings() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m raycodellm.config.reference > docs/settings.md"
    )
