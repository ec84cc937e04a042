"""A page in Markdown shows names as they are, whatever signs they hold, and reads well without a renderer."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycodellm.report.markdown import part_lines
from raycodellm.report.markdown_text import plain
from raycodellm.tables import Table

markdown_it = pytest.importorskip("markdown_it")
NASTY = st.text(st.sampled_from("`*|[]()<>&;_~$\\!#+-=.1 ab\n"), max_size=24)


def rendered(text: str) -> str:
    render: Any = markdown_it.MarkdownIt("gfm-like", {"html": True, "linkify": False}).render
    return render(text)


def words(page: str) -> str:
    """The text of a page, with code between backticks again."""
    page = re.sub(r"</?code>", "`", page)
    assert not re.search(r"<(?!/?(p|table|thead|tbody|tr|th|td|hr)\b)", page), page
    return html.unescape(re.sub(r"<[^>]*>", "", page)).strip()


def collapsed(text: str) -> str:
    return " ".join(text.split())


@given(NASTY)
def test_a_text_is_shown_as_it_is(text):
    assert collapsed(words(rendered(plain(text)))) == collapsed(text)


@given(NASTY, NASTY)
def test_a_name_ends_no_cell_and_no_row_of_a_table(name, other):
    lines = part_lines(Table(("name", "value"), [(f"x{name}", f"y{other}"), ("last", "row")]))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", rendered("\n".join(lines)), re.DOTALL)
    shown = [collapsed(words(cell)) for cell in cells]
    assert shown == [collapsed(f"x{name}"), collapsed(f"y{other}"), "last", "row"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pretrain.code_ratio 0.75 against 0 is better (-0.319 to -0.050; p < 0.001)", None),
        ("run `raycodellm run FILE` again", None),
        ("a.b/c_d & e > f, 95 % ± 0.1 ▲", None),
        ("x | y", r"x \| y"),
        ("an odd ` backtick", r"an odd \` backtick"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("two\nlines", "two lines"),
        ("C:\\data\\*.txt", r"C:\data\\\*.txt"),
        ("# no heading", r"\# no heading"),
        ("1. no list", r"1\. no list"),
        ("-0.185", None),
        ("1.740", None),
    ],
)
def test_signs_are_escaped_only_where_they_have_an_effect(text, shown):
    assert plain(text) == (text if shown is None else shown)
