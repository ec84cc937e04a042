"""The pages for contributors name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = (ROOT, ROOT / "raycodellm", ROOT / "tests", ROOT / "docs")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_a_page_names_files_that_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = [name for name in re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|sh))`", text) if "deepspeed/" not in name]
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for name in named:
        assert any((place / name).exists() or any(place.glob(f"raycodellm/**/{name}")) for place in PLACES), (
            f"{page}: {name} does not exist"
        )
    for link in filter(None, links):
        assert ((ROOT / page).parent / link).exists(), f"{page}: the link to {link} leads nowhere"
