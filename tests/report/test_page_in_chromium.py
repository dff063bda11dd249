"""The report in a real browser: drawn, silent, without requests, as narrow as a phone; its tables, its data and its
print."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lorabench.report.blocks import Figure, Results, Section, Text
from lorabench.report.page import sections_page, table_page, write_report
from lorabench.report.table_model import Column, Table, TableRow, Value
from tests.report.stores import STUDY, fill, filled, renamed, study_of

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b>bold</b></script><script>document.title='owned'</script>"
ROWS = (("LoRA r=16", 2.5, 12.0), ("LoRA r=4 nf4", None, -3.5), ("LoRA r=4", 10.25, None), ("full", 0.0009, 1e9))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(filled(folder), folder / "report.html")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a narrow table and one that no screen is wide enough for."""
    path = tmp_path_factory.mktemp("tables") / "page.html"
    path.write_text(
        sections_page(
            "two", "Told.", (Section("One", (Results(table_of()),)), Section("Two", (Results(table_of(extra=30)),)))
        )
    )
    return path


def table_of(extra: int = 0, rows: tuple[tuple[str, float | None, float | None], ...] = ROWS) -> Table:
    columns = [
        Column("condition", "condition", align="left", importance=0),
        Column("loss", "loss", "nats", importance=1),
        Column("other", "other", importance=6),
    ]
    columns += [Column(f"extra{i}", f"extra column {i}", importance=8) for i in range(extra)]
    numbers = [(name, [None if v is None else Value(v) for v in (a, b, *range(extra))]) for name, a, b in rows]
    return Table(
        "two",
        tuple(columns),
        tuple(TableRow(name, ("0123456789ab",), (Value(name), *values)) for name, values in numbers),
    )


def show(driver: Any, path: Path, width: int, dark: bool = False) -> None:
    driver.get_log("browser"), driver.get_log("performance")  # what came before is not this page's
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    emulate(driver, dark)
    driver.get(path.as_uri())
    deadline = time.monotonic() + 60
    undrawn = (
        "return [...document.querySelectorAll('.plot')].filter(p => !p.querySelector('.main-svg :is(.trace,"
        " .hm)')).length"
    )
    while driver.execute_script(undrawn) and time.monotonic() < deadline:
        time.sleep(0.2)


def emulate(driver: Any, dark: bool = False, media: str = "") -> None:
    """Without motion, since a click hits nothing while the page glides."""
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def names(driver: Any, table: int = 0, column: int = 1) -> list[str]:
    """What stands in a column's rows that are shown, from the top."""
    return driver.execute_script(  # type: ignore[no-any-return]
        "return [...document.querySelectorAll('.results')[arguments[0]].tBodies[0].rows].filter(r => !r.hidden)"
        ".map(r => r.cells[arguments[1] - 1].firstChild.textContent)",
        table,
        column,
    )


def heads(driver: Any, table: int = 0) -> list[str]:
    found: list[str] = driver.execute_script(
        "return [...document.querySelectorAll('.results')[arguments[0]].querySelectorAll('thead th')]"
        ".filter(e => e.offsetWidth).map(e => e.innerText.split('\\n')[0])",
        table,
    )
    return found


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


def test_a_click_sorts_by_value_with_what_is_absent_last_and_a_third_restores_the_order(
    browser: Any, tables: Path
) -> None:
    show(browser, tables, 1440)
    loss = browser.find_elements("css selector", "thead th")[1]
    study = [row[0] for row in ROWS]
    seen = []
    for _ in range(3):
        loss.find_element("css selector", "button").click()
        seen.append((loss.get_attribute("aria-sort"), names(browser)))
    assert seen[0] == ("ascending", ["full", "LoRA r=16", "LoRA r=4", "LoRA r=4 nf4"])
    assert seen[1] == ("descending", ["LoRA r=4", "LoRA r=16", "full", "LoRA r=4 nf4"])
    assert seen[2] == (None, study)
    assert names(browser, table=1) == study  # the other table stays as it is
    browser.find_element("css selector", "thead button").click()
    assert names(browser) == ["full", "LoRA r=4", "LoRA r=4 nf4", "LoRA r=16"]  # as people count


def test_the_keyboard_reaches_the_report_and_sorts(browser: Any, tables: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    show(browser, tables, 1440)
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.execute_script(
        "return [document.activeElement.hash, document.activeElement.getBoundingClientRect().left >= 0]"
    ) == ["#main", True]
    browser.execute_script("document.querySelector('.scroll').focus()")
    ActionChains(browser).send_keys(Keys.TAB, Keys.TAB, Keys.ENTER).perform()
    assert browser.find_elements("css selector", "thead th")[1].get_attribute("aria-sort") == "ascending"
    assert names(browser)[0] == "full"
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    assert names(browser)[0] == "LoRA r=4"
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_filter_keeps_rows_with_all_words_and_counts_them(browser: Any, tables: Path) -> None:
    show(browser, tables, 1440)
    count, field = (browser.find_elements("css selector", s)[0] for s in (".tools output", "input[type=search]"))
    assert count.text == "4 conditions"
    field.send_keys("NF4 lora")
    assert (names(browser), count.text) == (["LoRA r=4 nf4"], "1 of 4 conditions")
    field.send_keys(" 0.0009")
    assert (names(browser), count.text) == ([], "0 of 4 conditions")
    field.clear()
    field.send_keys("-3.5")  # a hyphen for the minus sign
    assert names(browser) == ["LoRA r=4 nf4"]
    assert len(names(browser, table=1)) == 4


def test_columns_that_matter_less_start_hidden_where_they_do_not_fit_and_can_be_chosen(
    browser: Any, tables: Path
) -> None:
    show(browser, tables, 1440)
    assert heads(browser) == ["condition", "loss", "other"]
    assert heads(browser, 1) == ["condition", "loss", "other"]
    menu = browser.find_elements("css selector", ".tools details")[1]
    assert menu.text == "Columns (3 of 33)"
    menu.find_element("css selector", "summary").click()
    choices = menu.find_elements("css selector", "input")
    assert len(choices) == 32  # the first column stays
    choices[0].click()
    assert heads(browser, 1) == ["condition", "other"]
    shown = (
        "return [...document.querySelectorAll('.results')[1].rows].map(r => [...r.cells].filter(c =>"
        " c.offsetWidth).length)"
    )
    assert browser.execute_script(shown) == [2] * 5
    menu.find_element("css selector", "button").click()
    assert browser.execute_script(shown) == [33] * 5
    assert heads(browser) == ["condition", "loss", "other"]


@pytest.mark.parametrize("script", [True, False])
def test_without_script_the_table_is_whole_and_has_no_controls(browser: Any, tmp_path: Path, script: bool) -> None:
    path = (
        tmp_path / "page.html"
    )  # once the exporter's page, which forbids scripts, once the report with scripts switched off
    path.write_text(
        table_page(table_of(extra=30))
        if script
        else sections_page("x", "", (Section("One", (Results(table_of(extra=30)),)),))
    )
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    try:
        show(browser, path, 390)
        assert len([e for e in browser.find_elements("css selector", "th, td") if e.is_displayed()]) == 33 * 5
        assert browser.find_elements("css selector", "button, input, .tools") == []
        assert browser.get_log("browser") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_thousand_cells_stay_usable(browser: Any, tmp_path: Path) -> None:
    rows = tuple((f"LoRA r={i % 64} nf4 lr={i}", i * 0.37 % 7, None if i % 9 else float(i)) for i in range(333))
    path = tmp_path / "page.html"
    path.write_text(sections_page("big", "", (Section("One", (Results(table_of(extra=9, rows=rows)),)),)))
    show(browser, path, 1440)
    spent = browser.execute_script(
        "const timed = (act) => { const t = performance.now(); act(); document.body.offsetHeight; return"
        " performance.now() - t; };const field = document.querySelector('input[type=search]'), words = ['', 'r=16 nf4',"
        " '', 'r=16 nf4'];const type = (text) => { field.value = text; field.dispatchEvent(new Event('input')); };const"
        " sorts = [0, 1, 2, 3].map(() => timed(() => document.querySelectorAll('thead button')[1].click()));return"
        " [Math.min(...sorts), Math.min(...words.map((text) => timed(() => type(text))))]"
    )
    assert len(names(browser)) == sum("r=16" in row[0] for row in rows)
    assert max(spent) < 300  # 110 ms and 10 ms on two idle cores
    assert path.stat().st_size < 1_000_000


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
