"""The tables of the report in a real browser: sorted, filtered, with columns to choose, and whole without a script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorabench.report.blocks import Results, Section
from lorabench.report.page import sections_page, table_page
from lorabench.report.table_model import Column, Table, TableRow, Value
from tests.report.chromium import pytestmark, show  # noqa: F401

ROWS = (("LoRA r=16", 2.5, 12.0), ("LoRA r=4 nf4", None, -3.5), ("LoRA r=4", 10.25, None), ("full", 0.0009, 1e9))


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


@pytest.mark.parametrize("width", [1400, 390])
def test_a_table_that_is_shown_whole_has_no_vertical_scroll_bar(browser: Any, tables: Path, width: int) -> None:
    show(browser, tables, width)
    script = "return [...document.querySelectorAll('.scroll')].map(e => e.scrollHeight - e.clientHeight)"
    assert browser.execute_script(script) == [0, 0]
    browser.find_element("css selector", ".tools input[type='search']").send_keys("full")  # the last row is another
    assert names(browser) == ["full"]
    assert browser.execute_script(script) == [0, 0]


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


COUNTED = """
const read = Object.getOwnPropertyDescriptor(Node.prototype, "textContent");
let reads = 0;
Object.defineProperty(Node.prototype, "textContent", { ...read, get() { reads += 1; return read.get.call(this); } });
const changes = new MutationObserver(() => {});
changes.observe(document.querySelector("table"), { attributes: true, childList: true, subtree: true });
const counted = (act) => {
  reads = 0; changes.takeRecords(); act();
  return [reads, changes.takeRecords().reduce((n, r) => n + (r.addedNodes.length + r.removedNodes.length || 1), 0)];
};
const field = document.querySelector("input[type=search]"), head = document.querySelectorAll("thead button")[1];
const type = (text) => counted(() => { field.value = text; field.dispatchEvent(new Event("input")); });
return [counted(() => head.click()), counted(() => head.click()), type("r=16 nf4"), type(""), type("r=16 nf4")];
"""


def test_the_work_of_a_sort_and_a_filter_grows_with_the_rows_alone(browser: Any, tmp_path: Path) -> None:
    """A thousand cells stay usable: a sort moves a row once, a filter hides or shows it once, neither reads cells."""
    rows = tuple((f"LoRA r={i % 64} nf4 lr={i}", i * 0.37 % 7, None if i % 9 else float(i)) for i in range(333))
    path = tmp_path / "page.html"
    path.write_text(sections_page("big", "", (Section("One", (Results(table_of(extra=9, rows=rows)),)),)))
    show(browser, path, 1440)
    for reads, changes in browser.execute_script(COUNTED):
        assert reads <= 1  # of the field's own words
        assert 0 < changes <= 2 * len(rows) + 20  # taken out and put in; the heads' marks
    assert len(names(browser)) == sum("r=16" in row[0] for row in rows)
    assert path.stat().st_size < 1_000_000
