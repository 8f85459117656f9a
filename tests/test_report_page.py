"""The report in a real Chromium: nothing fails, everything is drawn, and it fits every screen."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from playwright.sync_api import Browser, Page
from report_studies import NASTY, nasty, record, study, varied
from serving import wait_for
from system_packages import program

from tritonkit.bench.records import Study
from tritonkit.bench.report import html, write

PLOTS = ("plot-tradeoff", "plot-quantiles", "plot-breakdown", "plot-batches")
# How many of a canvas' pixels something was drawn on.
INKED = """id => {
  const canvas = document.getElementById(id);
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.filter((value, index) => index % 4 === 3 && value > 0).length;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(program("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(nasty(), path)
    return path


def opened(browser: Browser, path: Path, complaints: list[str], **options: Any) -> Page:
    """A page with the report; what the browser complains of is added to the list."""
    page = browser.new_page(**options)
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: complaints.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(path.as_uri())
    return page


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    complaints: list[str] = []
    started = opened(browser, report, complaints)
    yield started
    started.close()
    assert complaints == []


def column(page: Page, number: int) -> list[str]:
    return page.locator(f"#table-results tbody tr > :nth-child({number})").all_inner_texts()


def test_every_plot_is_drawn(page: Page) -> None:
    for plot in PLOTS:
        assert page.evaluate(INKED, plot) > 2000, f"{plot} is blank"


def test_every_point_has_its_row(page: Page) -> None:
    assert page.locator("#table-results tbody tr").count() == len(nasty().records)
    statuses = "\n".join(column(page, 14))
    for word in ("unstable", "overloaded", "client-limited", "failed", "unbuilt", "DYN02 too large"):
        assert word in statuses
    assert "at all" not in statuses, "an error's first line is enough"
    assert page.locator("#table-interference tbody tr").count() == 2
    assert page.locator("#table-effects tbody tr").count() >= 3


def test_names_are_text_and_nothing_else(page: Page, report: Path) -> None:
    assert page.title() == f"{NASTY} – tritonkit"  # noqa: RUF001 - a dash in a title
    assert page.locator("h1").inner_text() == NASTY
    assert page.locator("h1 b").count() == 0
    assert any(text.startswith(NASTY) for text in column(page, 1))
    assert "<script>alert" not in report.read_text()
    assert page.evaluate("JSON.parse(document.getElementById('data').textContent).name") == NASTY


def test_a_heading_sorts_there_and_back(page: Page) -> None:
    before = column(page, 3)
    heading = page.locator("#table-results thead th").nth(2)
    heading.locator("button").click()
    rising = [float(text) for text in column(page, 3) if re.fullmatch(r"[\d.]+", text)]
    assert rising == sorted(rising)
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").click()
    falling = [float(text) for text in column(page, 3) if re.fullmatch(r"[\d.]+", text)]
    assert falling == sorted(falling, reverse=True) != rising
    assert sorted(column(page, 3)) == sorted(before), "no row is lost"
    assert not re.fullmatch(r"[\d.]+", column(page, 3)[-1]), "points without figures stay at the end"


@pytest.mark.parametrize("name", ["results", "repeats", "effects", "interference"])
def test_csv_holds_every_figure(page: Page, name: str) -> None:
    with page.expect_download() as waiting:
        page.locator(f"button[data-csv={name}]").first.click()
    assert waiting.value.suggested_filename.endswith(f"-{name}.csv")
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text(encoding="utf-8"))))
    held = nasty()
    if name == "results":
        assert len(rows) == len(held.records)
        by_label = {row["label"]: row for row in rows}
        assert by_label["nasty"]["model"] == NASTY
        assert float(by_label["nasty"]["throughput_per_s"]) == 300
        assert by_label["failed"]["throughput_per_s"] == ""
        assert by_label["failed"]["error"] == "the server does not answer\nat all"
    elif name == "repeats":
        assert len(rows) == sum(len(each.repeats) for each in held.records)
    elif name == "interference":
        small = next(row for row in rows if row["model"] == "small")
        assert float(small["p99_over_alone"]) == pytest.approx(2)


def test_a_plot_has_its_table(page: Page) -> None:
    for name in ("quantiles", "breakdown", "batches"):
        page.locator(f"details[data-table={name}] > summary").click()
        place = page.locator(f"details[data-table={name}] table")
        place.wait_for()
        assert place.locator("tbody tr").count() >= 5
    loads = page.locator("details[data-table=quantiles] tbody tr > :first-child").all_inner_texts()
    page.locator("#series").select_option(index=2)
    other = page.locator("details[data-table=quantiles] thead th").all_inner_texts()
    assert loads[0] == "1 concurrent"
    assert "p99.9_us" in other


def test_choices_redraw(page: Page) -> None:
    image = "document.getElementById('plot-tradeoff').toDataURL()"
    before = page.evaluate(image)
    page.locator("#latency").select_option("p50")
    other = page.evaluate(image)
    page.locator("#logarithmic").check()
    assert len({before, other, page.evaluate(image)}) == 3


@pytest.mark.parametrize("width", [320, 375, 768])
def test_a_narrow_screen_scrolls_tables_and_never_the_page(browser: Browser, report: Path, width: int) -> None:
    complaints: list[str] = []
    page = opened(browser, report, complaints, viewport={"width": width, "height": 800}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    place = page.locator(".scroll").first
    assert place.evaluate("each => each.scrollWidth > each.clientWidth")
    place.evaluate("each => each.scrollTo(10000, 0)")
    assert page.locator("#table-results thead th").last.is_visible()
    page.close()
    assert complaints == []


def test_dark_mode_and_print_have_their_own_colours(browser: Browser, report: Path) -> None:
    complaints: list[str] = []
    page = opened(browser, report, complaints, color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    plot = "document.getElementById('plot-tradeoff').toDataURL()"
    light = page.evaluate(ground), page.evaluate(plot), page.screenshot()
    page.emulate_media(color_scheme="dark")
    wait_for(lambda: page.evaluate(plot) != light[1])
    assert page.evaluate(ground) != light[0]
    assert page.screenshot() != light[2]
    page.emulate_media(media="print")
    assert page.evaluate(ground) == "rgb(255, 255, 255)", "ink on paper, whatever the screen was"
    assert page.locator("button").first.is_hidden()
    page.close()
    assert complaints == []


def test_without_scripts_the_figures_are_there(browser: Browser, report: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(report.as_uri())
    assert page.locator("#table-results tbody tr").count() == len(nasty().records)
    assert page.locator(".summary li").count() > 5
    page.close()


def test_it_can_be_read_aloud(page: Page) -> None:
    assert page.locator("canvas:not([role=img][aria-label])").count() == 0
    assert page.locator(".scroll:not([tabindex][role=region][aria-label])").count() == 0
    assert page.locator("#table-results thead th:not([scope=col])").count() == 0
    unlabelled = "[...document.querySelectorAll('select, input')].filter(each => !each.labels.length).length"
    assert page.evaluate(unlabelled) == 0
    assert page.locator("html").get_attribute("lang") == "en"


def test_a_study_of_nothing_is_a_page_too(browser: Browser, tmp_path: Path) -> None:
    complaints: list[str] = []
    write(Study("empty", {"planned": ["a", "b"], "state": "interrupted"}, ()), tmp_path / "report.html")
    page = opened(browser, tmp_path / "report.html", complaints)
    assert "2 of 2 points were not measured: interrupted" in page.locator(".summary").inner_text()
    page.close()
    assert complaints == []


def test_two_hundred_points_stay_below_a_megabyte(browser: Browser, tmp_path: Path) -> None:
    records = [
        record("digits", concurrency, [100.0 + concurrency] * 3, configuration={"models.digits.instance_group": group},
               label=f"g{group}-c{concurrency}")
        for group in range(10)
        for concurrency in range(1, 21)
    ]  # fmt: skip
    text = html(study(records))
    assert len(text.encode()) < 1_000_000
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    complaints: list[str] = []
    page = opened(browser, tmp_path / "report.html", complaints)
    assert page.evaluate(INKED, "plot-tradeoff") > 2000
    page.close()
    assert complaints == []


def test_only_our_own_scripts_may_run(browser: Browser, tmp_path: Path) -> None:
    # As if a name had got through unescaped: the page's policy is the second lock.
    text = html(study(varied()[:2])).replace("</main>", "<script>document.title = 'broken in'</script></main>")
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    complaints: list[str] = []
    page = opened(browser, tmp_path / "report.html", complaints)
    assert page.title() != "broken in"
    assert any("Content Security Policy" in complaint for complaint in complaints)
    assert page.evaluate(INKED, "plot-tradeoff") > 2000
    page.close()
