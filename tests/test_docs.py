"""The pages for contributors name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from commands_in_docs import calls, check_raycodellm

from raycodellm.config import Source

ROOT = Path(__file__).parents[1]
PLACES = (ROOT, ROOT / "raycodellm", ROOT / "tests", ROOT / "docs")


PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(one.relative_to(ROOT)) for one in ROOT.glob("docs/**/*.md"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.M):
        shown = re.sub(r"\]\([^)]*\)", "]", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(next(one for one in (slug, *(f"{slug}-{n}" for n in range(1, 99))) if one not in found))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_files_that_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = [name for name in re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|sh))`", text) if "deepspeed/" not in name]
    links = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for name in named:
        assert any((place / name).exists() or any(place.glob(f"raycodellm/**/{name}")) for place in PLACES), (
            f"{page}: {name} does not exist"
        )
    for link, _, anchor in links:
        target = (ROOT / page).parent / link if link else ROOT / page
        assert target.exists(), f"{page}: the link to {link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{page}: {target.name} has no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_calls_raycodellm_with_options_that_it_has(page: str) -> None:
    for words in calls(ROOT / page, "raycodellm"):
        check_raycodellm(words)


def test_the_sources_that_the_page_of_data_begins_with_are_taken_as_they_stand() -> None:
    block = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    sources = {name: Source.model_validate(fields) for name, fields in yaml.safe_load(block)["sources"].items()}
    assert [(one.kind, one.format) for one in sources.values()][-2:] == [
        ("code_adjacent", "commits"),
        ("instruct_text", None),
    ]
