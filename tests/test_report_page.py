"""The report's page in a browser: it draws its plots, sorts and filters its tables, asks no network for anything, and
shows as text what a sweep file or an error says. Needs Chromium and playwright."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from large_run import write_large_run
from test_report import write_run

from raycodellm import report
from raycodellm.files import Folder

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="needs Chromium (apt-get install chromium) and playwright (pip install -e '.[dev]')",
)
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PATIENCE = 300_000
"""Milliseconds that a browser may take, on a busy machine, for anything."""
HOSTILE = "<!--<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\"'{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=PATIENCE)
        yield started
        started.close()


class Page:
    """A report in a browser's tab, with what the browser complained of and asked for."""

    def __init__(self, browser, folder: Folder, size: dict[str, int], scheme: str = "light") -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.tab = browser.new_context(viewport=size, color_scheme=scheme).new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(f"file://{folder.local}/index.html")
        self.tab.wait_for_selector("html[data-ready=yes]")

    def requests_elsewhere(self) -> list[str]:
        return [url for url in self.requests[1:] if not url.startswith(("data:", "blob:"))]

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def column(self, section: str, place: int) -> list[str]:
        """The shown cells of a column of the section's table."""
        rows = f"#{section} tbody tr:not([hidden]) td:nth-child({place + 1})"
        return self.tab.eval_on_selector_all(rows, "cells => cells.map(cell => cell.textContent)")

    def scroll(self, place: int) -> None:
        """Scrolls to the place, also a page that loads itself again just then."""
        from playwright.sync_api import Error

        while True:
            with contextlib.suppress(Error):
                if self.tab.evaluate(f"scrollTo(0, {place}), scrollY") == place:
                    return

    def picture(self, name: str) -> None:
        """Keeps a picture where RAYCODELLM_TEST_PICTURES names a folder, for people to look at."""
        if folder := os.environ.get("RAYCODELLM_TEST_PICTURES"):
            self.tab.screenshot(path=f"{folder}/{name}.png", full_page=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    storage = Folder(str(tmp_path_factory.mktemp("storage")))
    return report.write_report(write_run(storage, replicates=2), storage)


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (WIDE, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_every_plot_is_drawn_without_complaint_request_or_overflow(browser, folder, size, scheme):
    page = Page(browser, folder, size, scheme)
    page.picture(f"report-{size['width']}-{scheme}")
    names = page.tab.eval_on_selector_all(".plot", "plots => plots.map(plot => plot.id)")
    empty = [name for name in names if page.tab.locator(f"#{name} .trace, #{name} .point").count() == 0]
    assert len(names) >= 7 and empty == []
    assert (page.complaints, page.requests_elsewhere(), page.overflow()) == ([], [], 0)
    paper = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    first = page.tab.locator(".plot").first.bounding_box()
    assert first["y"] < size["height"], "a plot is on the first screen"


@needs_browser
@pytest.mark.slow
def test_tables_are_sorted_by_number_filtered_and_folded_and_the_paper_turns_dark(browser, tmp_path):
    storage = Folder(str(tmp_path))
    run = write_run(storage)
    rows = run.read_table("trials.parquet").to_pylist()
    more = [{**rows[0], "number": 100 + n, "arm": 100 + n, "params.pretrain.code_ratio": 0.001 * n} for n in range(30)]
    run.write_table("trials.parquet", pa.Table.from_pylist([*rows, *more]))
    page = Page(browser, report.write_report(run, storage), WIDE)
    tab = page.tab
    assert len(page.column("ranking", 0)) == 20, "folded after 20 rows"
    tab.click("#ranking .more")
    assert len(page.column("ranking", 0)) == 38
    tab.click("#ranking th:nth-child(2) button")
    ratios = [float(cell) for cell in page.column("ranking", 1)]
    assert ratios == sorted(ratios) and "1e-05" not in str(ratios)
    tab.click("#ranking th:nth-child(2) button")
    assert [float(cell) for cell in page.column("ranking", 1)] == sorted(ratios, reverse=True)
    tab.fill("#ranking input", "increase 0.1")
    shown = tab.eval_on_selector_all("#ranking tbody tr:not([hidden])", "rows => rows.map(row => row.textContent)")
    assert 0 < len(shown) < 38 and all("increase" in row and "0.1" in row for row in shown)
    before = tab.evaluate("getComputedStyle(document.querySelector('#plot-scores0 .bg') ?? document.body).fill")
    tab.click("#theme")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    assert tab.evaluate("getComputedStyle(document.querySelector('#plot-scores0 .bg') ?? document.body).fill") != before
    tab.reload()
    tab.wait_for_selector("html[data-ready=yes]")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark", "the choice is kept"
    assert tab.input_value("#ranking input") == "increase 0.1", "and so are the filter and the order"
    assert page.complaints == []


@needs_browser
@pytest.mark.slow
def test_a_reader_chooses_the_arms_whose_curves_are_drawn(browser, folder):
    page = Page(browser, folder, WIDE)
    names = "#plot-loss0 .legendtext"
    before = page.tab.locator(names).count()
    page.tab.locator("#training-loss .chooser select").select_option(index=1)
    assert page.tab.locator(names).count() == before + 1
    assert page.tab.locator("#code-ratio-planned-and-real .chip").count() == before + 1, "all plots follow the choice"
    page.tab.locator("#training-loss .chip").first.click()
    assert page.tab.locator(names).count() == before
    page.tab.select_option("[data-curve=loss0]", label="python")
    assert page.complaints == []


@needs_browser
@pytest.mark.slow
def test_names_paths_and_errors_are_shown_as_text_and_never_run(browser, tmp_path):
    storage = Folder(str(tmp_path / "sto<b>rage&'"))
    run = write_run(storage)
    rows = run.read_table("trials.parquet").to_pylist()
    for row in rows:
        row["error"] = HOSTILE if row["state"] == "failed" else row["error"]
        row["params.pretrain.schedule"] = HOSTILE
        row["evaluation"] = HOSTILE
    run.write_table("trials.parquet", pa.Table.from_pylist(rows))
    run.write_json("timing.json", {HOSTILE: 3.0})
    page = Page(browser, report.write_report(run, storage), WIDE)
    assert page.tab.evaluate("window.hacked") is None and page.tab.locator("img").count() == 0
    assert (page.complaints, page.requests_elsewhere(), page.overflow()) == ([], [], 0)
    for section in ("ranking", "failed-trials", "where-the-time-went"):
        assert HOSTILE in page.tab.text_content(f"#{section}"), section
    assert HOSTILE in page.tab.text_content("#plot-order .legend") and HOSTILE in page.tab.text_content(".chooser")
    assert "sto<b>rage&'" in page.tab.text_content("header")


@needs_browser
@pytest.mark.slow
def test_a_page_that_is_kept_current_loads_itself_again_and_stays_where_it_was(browser, tmp_path):
    storage = Folder(str(tmp_path))
    run = write_run(storage)
    folder = report.write_pages(report.read_records(run, storage), reload_seconds=1)
    page = Page(browser, folder, PHONE)
    page.scroll(1500)
    report.write_pages(report.read_records(run, storage))  # the last one, of a sweep that has ended
    page.tab.wait_for_selector("html[data-ready=yes] head:not(:has(meta[http-equiv=refresh]))", state="attached")
    place = page.tab.evaluate("scrollY")  # the line that says that the page is kept current has gone from its head
    assert abs(place - 1500) < 100 and page.complaints == []


@pytest.mark.slow
def test_a_report_of_500_trials_is_written_in_10_s_into_5_mb(tmp_path, request):
    storage = Folder(str(tmp_path))
    run = write_large_run(storage)
    # Seconds of this process, which other processes of a busy machine do not lengthen.
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = report.write_report(run, storage)
    seconds = time.process_time() - began
    page = Path(folder.local, "index.html")
    megabytes = page.stat().st_size / 1e6
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    began = time.process_time()
    said = report.summary_text(run, storage)
    summary_seconds = time.process_time() - began
    print(f"report {seconds:.1f} s, {megabytes:.2f} MB, {memory:.0f} MB more memory; summary {summary_seconds:.1f} s")
    assert "arm" in said and megabytes < 5 and seconds < 10 and memory < 1000 and summary_seconds < 10
    if not needs_browser.args[0]:
        shown = Page(request.getfixturevalue("browser"), folder, WIDE)
        assert (shown.complaints, shown.overflow()) == ([], 0)
        assert len(shown.column("ranking", 0)) == 20
        shown.picture("report-500")
