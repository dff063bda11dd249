"""The report in a real browser: drawn, silent, without requests, as narrow as a phone; its data and its print."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from lorabench.report.blocks import Figure, Section, Text
from lorabench.report.page import sections_page, write_report
from tests.report.chromium import HOSTILE, emulate, pytestmark, show  # noqa: F401
from tests.report.stores import STUDY, fill, filled, renamed, study_of


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(filled(folder), folder / "report.html")


def downloaded(driver: Any, folder: Path, button: Any) -> tuple[str, list[list[str]]]:
    """Name and rows of what a button gives."""
    folder.mkdir()
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    button.click()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not any(p.suffix == ".csv" and p.stat().st_size for p in folder.iterdir()):
        time.sleep(0.05)  # Chromium reserves the name with an empty file
    (path,) = folder.glob("*.csv")
    return path.name, list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))


def figures_in(path: Path) -> dict[str, Any]:
    found = re.search(r'id="figures">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def button_of(driver: Any, name: str) -> Any:
    return driver.find_element("xpath", f"//figure[div[@id='figure-{name}']]//button[text()='CSV']")


@pytest.mark.parametrize("width", [1440, 390])
def test_every_plot_is_drawn_without_error_request_or_overflow(browser: Any, report: Path, width: int) -> None:
    show(browser, report, width)
    plots = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.main-svg :is(.trace,"
        " .hm)').length)"
    )
    assert len(plots) == len(figures_in(report)) > 0
    assert all(plots)
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert {u for u in urls if not u.startswith("data:")} == {report.as_uri()}
    page_width = browser.execute_script("return document.documentElement.scrollWidth")
    assert page_width <= width
    wider = browser.execute_script(
        "return [...document.querySelectorAll('.plot svg, p, li, h1, h2, h3, dd, figcaption, figure, .tools > *, .head"
        " > *')].filter(e => e.getBoundingClientRect().right > window.innerWidth + 1).map(e => e.outerHTML.slice(0,"
        " 80))"
    )
    assert wider == []
    first = browser.execute_script("return document.querySelector('main h2 ~ p').getBoundingClientRect().bottom")
    assert first < 900  # the first screen


def test_figures_take_the_colours_of_a_dark_page(browser: Any, report: Path) -> None:
    show(browser, report, 1440)
    fills = []
    for dark in (False, True):
        emulate(browser, dark)
        time.sleep(0.5)
        fills.append(browser.execute_script("return getComputedStyle(document.querySelector('.xtick text')).fill"))
    assert fills == ["rgb(28, 32, 36)", "rgb(232, 234, 237)"]


def test_a_hostile_name_is_shown_and_not_run(browser: Any, tmp_path: Path) -> None:
    from lorabench.config import expand

    study = study_of(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0]"))
    cells = expand(study)
    store = fill(tmp_path / "store", study, (*cells, *renamed(cells, HOSTILE)))
    show(browser, write_report(store, tmp_path / "report.html"), 1440)
    assert browser.title == "small: lorabench report"
    legend = browser.execute_script(
        "return [...document.querySelectorAll('.legendtext')].map(t => t.textContent).join('\\n')"
    )
    assert "<b>bold</b></script>" in legend
    assert browser.execute_script("return document.querySelectorAll('img, main b').length") == 0
    assert browser.get_log("browser") == []
    _, rows = downloaded(browser, tmp_path / "csv", button_of(browser, "training-curves"))
    assert any("</script><script>" in row[0] for row in rows)


def test_a_figures_data_is_downloaded_as_shown(browser: Any, report: Path, tmp_path: Path) -> None:
    show(browser, report, 1440)
    figure = figures_in(report)["rank-0"]
    name, (head, *rows) = downloaded(browser, tmp_path / "a", button_of(browser, "rank-0"))
    assert name == "small-rank-0.csv"
    assert head[:4] == [
        "series",
        figure["layout"]["xaxis"]["title"]["text"],
        figure["layout"]["yaxis"]["title"]["text"],
        "error",
    ]
    first = figure["data"][0]
    points = zip(first["x"], first["y"], first["error_y"]["array"], strict=True)
    assert [(r[0], *map(float, r[1:4])) for r in rows[: len(first["x"])]] == [(first["name"], *p) for p in points]

    chosen = figures_in(report)["energy-rank"]["layout"]["updatemenus"][0]["buttons"][1]
    choice = browser.find_element("xpath", "//figure[div[@id='figure-energy-rank']]//select")
    choice.find_elements("css selector", "option")[1].click()
    plane = chosen["args"][0]
    _, (head, *rows) = downloaded(browser, tmp_path / "b", button_of(browser, "energy-rank"))
    assert head == ["series", "module type", "layer", "k(0.9)"]
    assert len(rows) == len(plane["x"][0]) * len(plane["y"][0])
    assert rows[1] == [plane["name"][0], plane["y"][0][0], plane["x"][0][1], f"{plane['z'][0][0][1]:g}"]
    drawn = browser.execute_script("return document.querySelector('#figure-energy-rank').data[0].name")
    assert drawn == plane["name"][0]


def test_any_trace_becomes_long_rows_that_no_spreadsheet_runs(browser: Any, tmp_path: Path) -> None:
    import numpy as np
    import plotly.graph_objects as go

    plot = go.Figure(
        [
            go.Bar(name='=cmd|"x", &lt;b&gt;', x=["@a", "-1"], y=np.array([1.5, np.nan])),
            go.Scatter(
                name="typed",
                x=np.arange(2, dtype="float32"),
                y=np.array([0.1, 2e-9]),
                error_x={"array": [1, 2], "arrayminus": [3, 4]},
            ),
            go.Scatter(name="hidden", x=[1], y=[1], visible=False),
        ]
    )
    plot.update_layout(xaxis_title="x, μ", yaxis_title="share<br>of all")
    heat = go.Figure(go.Heatmap(z=np.array([[1.0, 2.0], [3.0, 4.0]]), x=["a", "b"], y=["r", "s"]))
    figures = [Figure(name, p, name, "Caption.", ("One.",)) for name, p in (("odd", plot), ("heat", heat))]
    path = tmp_path / "page.html"
    path.write_text(sections_page("a/../b: c", "", (Section("One", (Text("t"), *figures)),)))
    show(browser, path, 1440)
    name, rows = downloaded(browser, tmp_path / "a", button_of(browser, "odd"))
    assert name == "a-..-b-c-odd.csv"
    assert rows == [
        ["series", "x, μ", "share of all", "x error", "x error minus"],
        ['\'=cmd|"x", <b>', "'@a", "1.5", "", ""],
        ['\'=cmd|"x", <b>', "'-1", "", "", ""],
        ["typed", "0", "0.1", "1", "3"],
        ["typed", "1", "2e-9", "2", "4"],
    ]
    _, rows = downloaded(browser, tmp_path / "b", button_of(browser, "heat"))
    assert rows == [["row", "column", "value"], ["r", "a", "1"], ["r", "b", "2"], ["s", "a", "3"], ["s", "b", "4"]]


def test_print_gives_pages_with_dark_letters_and_figures_that_fit(browser: Any, report: Path) -> None:
    show(browser, report, 1440, dark=True)
    browser.execute_script(
        "window.addEventListener('beforeprint', () => { window.printed = [...document.querySelectorAll('.plot')].map(p"
        " => [p.querySelector('.main-svg').width.baseVal.value, getComputedStyle(p.querySelector('.xtick"
        " text')).fill]); })"
    )
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 1
    assert {tuple(p) for p in browser.execute_script("return window.printed")} == {(680, "rgb(28, 32, 36)")}
    after = browser.execute_script("return getComputedStyle(document.querySelector('.xtick text')).fill")
    assert after == "rgb(232, 234, 237)"  # the screen's colours are back
    emulate(browser, dark=True, media="print")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 695, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    )
    style = browser.execute_script("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    assert style == ["rgb(28, 32, 36)", "rgb(255, 255, 255)"]
    assert browser.execute_script(
        "return [...document.querySelectorAll('nav, .tools, .head > button')].every(e => !e.offsetWidth)"
    )
    assert browser.execute_script(
        "return [...document.querySelectorAll('.results :is(th, td)')].every(e => e.offsetWidth)"
    )
    assert (
        browser.execute_script(
            "return Math.max(...[...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right))"
        )
        <= 695
    )
