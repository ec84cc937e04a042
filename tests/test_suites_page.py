"""docs/evaluation.md lists what the suites' files say."""

from __future__ import annotations

from pathlib import Path

from raycodellm import evaluation
from raycodellm.evaluation.tasks import suites_page

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"


def test_the_page_of_suites_is_current_and_keeps_what_is_written_by_hand() -> None:
    text = PAGE.read_text(encoding="utf-8")
    written = suites_page.by_hand(text)
    command = "run: python -m raycodellm.evaluation.tasks.suites_page docs/evaluation.md"
    assert text == suites_page.page(written), command
    assert "## Data" in written


def test_each_suite_has_its_table_with_licences_and_averages() -> None:
    text = suites_page.page("")
    for name in evaluation.suite_names():
        assert f"\n### `{name}`\n" in text
    assert "| `storycloze_2018` |" in text and "(on request only)" in text
    assert "* `knowledge/em` is the unweighted mean over triviaqa, nq_open." in text


def test_what_all_tasks_of_a_suite_have_in_common_is_said_once() -> None:
    text = suites_page.page("")
    babi = text.partition("### `babi`")[2].partition("###")[0]
    assert babi.count("CC BY 3.0") == 1 and "* Licence of all of them: CC BY 3.0." in babi
    assert "| task | items | chance | majority |\n" in babi and "| `babi_qa20` | 1,000 | 0.143 | 0.18 |" in babi
