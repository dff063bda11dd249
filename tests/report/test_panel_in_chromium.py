"""The panel of the recommendation in a real browser: its choice is Python's, by mouse, keyboard and on paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorabench.advice.selection import select
from lorabench.config import expand
from lorabench.record.metrics import metric
from lorabench.report.blocks import Panel
from lorabench.report.page import sections_page
from lorabench.report.recommendation_text import sentence
from lorabench.report.view import View, make_view
from lorabench.sections import recommendation
from tests.report.chromium import HOSTILE, emulate, pytestmark, show  # noqa: F401
from tests.report.stores import STUDY, fill, renamed, study_of


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[View, Path]:
    """Two models, four seeds."""
    folder = tmp_path_factory.mktemp("panel")
    text = STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3]")
    study = study_of(folder, text)
    cells = expand(study)
    store = fill(folder / "store", study, (*cells, *renamed(cells, "other")))
    view, path = make_view(store), folder / "page.html"
    path.write_text(page_of(view))
    return view, path


def page_of(view: View) -> str:
    """A page of this section alone; the whole report is tests/report/test_page_in_chromium.py's."""
    made = recommendation.section(view)
    assert made is not None
    return sections_page("small", "", (made,))


SET = """
const set = (name, value) => {
  const control = document.querySelector(`.panel [name=${name}]`);
  control.value = value;
  control.dispatchEvent(new Event(control.tagName === "SELECT" ? "change" : "input"));
};
"""


@pytest.mark.slow
def test_the_panels_choice_is_pythons_for_every_memory_and_tolerated_loss(
    browser: Any,
    stored: tuple[View, Path],
) -> None:
    view, path = stored
    show(browser, path, 1440)
    found = recommendation.compute(view)
    bounds = sorted({round(o.bound, 4) for r in found for o in r.options if o.bound})
    tolerances = [0, 0.02, *(b + s for b in bounds for s in (-1e-4, 1e-4)), 9]
    peaks = sorted({o.peak_bytes / 1e6 for r in found for o in r.options if o.peak_bytes})
    memories = ["", *(f"{p + s:.6f}" for p in peaks for s in (-0.001, 0.001)), "24000"]
    drawn = browser.execute_script(
        SET + "const [groups, tolerances, memories] = arguments;return groups.map((_, i) => {"
        " document.querySelector('.panel [name=group]').selectedIndex = i; return tolerances.map((t) =>"
        " memories.map((m) => {set('tolerated', t); set('size', m); return [document.querySelector('.panel .chosen"
        " th')?.textContent ?? null, document.querySelector('.panel .answer').textContent]; })); });",
        [r.name for r in found],
        tolerances,
        memories,
    )
    seen = set()
    for r, of_contest in zip(found, drawn, strict=True):
        for t, row in zip(tolerances, of_contest, strict=True):
            for m, (label, told) in zip(memories, row, strict=True):
                wanted = select(r.options, t, float(m) * 1e6 if m else None)
                assert label == (wanted and wanted.label), (t, m)
                assert (f": {label} (" in told) if label else "nothing is shown to be within" in told
                seen.add(label)
    assert len(seen) > 5
    assert browser.get_log("browser") == []


def test_a_card_and_a_size_of_the_study_set_the_memory(browser: Any, stored: tuple[View, Path]) -> None:
    view, path = stored
    show(browser, path, 1440)
    panel = next(b for b in recommendation.section(view).blocks if isinstance(b, Panel))  # type: ignore[union-attr]
    r = recommendation.compute(view)[0]
    for title, sizes in (("In this study", panel.sizes), ("Cards", panel.cards)):
        for i, (name, size) in enumerate(sizes):
            label, told = browser.execute_script(
                SET + f"set('tolerated', 9); set('card', '{title} {i}'); return [document.querySelector('.panel .chosen"
                " th').textContent, document.querySelector('.panel .answer').textContent]"
            )
            assert told.startswith(f"Within {name}: ")
            assert label == select(r.options, 9, size).label  # type: ignore[union-attr]
    assert (
        browser.execute_script(SET + "set('card', 'none'); return document.querySelector('.panel [name=size]').value")
        == ""
    )
    assert browser.execute_script("return document.querySelector('.panel .answer').textContent").startswith(
        "With no memory limit: "
    )


def test_the_panel_starts_at_the_studys_margin_with_pythons_choice_and_marks_rows_in_words(
    browser: Any,
    stored: tuple[View, Path],
) -> None:
    view, path = stored
    show(browser, path, 1440)
    r = recommendation.compute(view)[0]
    words = browser.execute_script(
        "return [...document.querySelectorAll('.panel tbody tr')].map(r => [r.cells[0].textContent,"
        " r.cells[1].textContent])"
    )
    assert r.chosen is not None
    assert dict(words)[r.chosen.label] == "chosen"
    assert {word for _, word in words} <= {
        "chosen",
        "good enough, not the smallest",
        "not shown to be good enough",
        "a higher rank is not shown to be good enough",
    }
    assert browser.execute_script("return document.querySelector('.panel [name=tolerated]').value") == "0.02"
    words = browser.execute_script(
        SET + "set('size', '0.001'); return [...document.querySelectorAll('.panel tbody tr')].map(r =>"
        " r.cells[1].textContent)"
    )
    assert set(words) == {"does not fit"}
    assert (
        browser.execute_script("return document.querySelector('.panel .answer').getAttribute('aria-live')") == "polite"
    )
    unlabelled = (
        "return [...document.querySelectorAll('.panel :is(input, select)')].filter(e => !e.ariaLabel &&"
        " !e.labels.length).length"
    )
    assert browser.execute_script(unlabelled) == 0


def test_the_keyboard_moves_the_tolerated_loss(browser: Any, stored: tuple[View, Path]) -> None:
    from selenium.webdriver import ActionChains, Keys

    show(browser, stored[1], 1440)
    browser.execute_script("document.querySelector('.panel [name=range]').focus()")
    ActionChains(browser).send_keys(Keys.END).perform()
    amount = float(browser.execute_script("return document.querySelector('.panel [name=tolerated]').value"))
    assert amount > 0.02
    told = browser.execute_script("return document.querySelector('.panel .answer').textContent")
    assert f"by more than {amount:g} nats" in told
    ActionChains(browser).send_keys(Keys.HOME, Keys.TAB, "0", Keys.ARROW_LEFT, Keys.BACKSPACE).perform()
    assert browser.execute_script("return document.activeElement.name") == "tolerated"


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_the_panel_fits_its_page_and_asks_for_nothing(
    browser: Any,
    stored: tuple[View, Path],
    width: int,
    dark: bool,
) -> None:
    path = stored[1]
    show(browser, path, width, dark)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wider = (
        "return [...document.querySelectorAll('.panel :is(svg, .controls *, .answer, .scroll, figcaption)')]"
        ".filter(e => e.getBoundingClientRect().right > window.innerWidth + 1).length"
    )
    assert browser.execute_script(wider) == 0
    assert browser.execute_script("return document.querySelectorAll('.panel svg circle').length") > 6
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert {u for u in urls if not u.startswith("data:")} == {path.as_uri()}


def test_on_paper_the_panel_is_its_sentence_its_plane_and_its_rows(browser: Any, stored: tuple[View, Path]) -> None:
    show(browser, stored[1], 1440)
    emulate(browser, media="print")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 695, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    )
    shown = (
        "return ['.controls', '.answer', '.plane svg', '.scroll'].map(s => document.querySelector('.panel ' +"
        " s).getBoundingClientRect()).map(r => [r.width > 0, r.right <= 695])"
    )
    assert browser.execute_script(shown) == [[False, True], [True, True], [True, True], [True, True]]


def test_hostile_names_are_text_in_the_panel(browser: Any, tmp_path: Path) -> None:
    study = study_of(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0]"))
    cells = expand(study)
    path = tmp_path / "page.html"
    path.write_text(page_of(make_view(fill(tmp_path / "s", study, (*cells, *renamed(cells, HOSTILE))))))
    show(browser, path, 390)
    assert browser.title == "small: lorabench report"
    assert browser.execute_script("return document.querySelectorAll('.panel :is(img, b)').length") == 0
    options = browser.execute_script(
        "return [...document.querySelectorAll('.panel [name=group] option')].map(o => o.textContent)"
    )
    assert any("<b>bold</b></script>" in o for o in options)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.get_log("browser") == []


def test_without_a_script_the_sentence_stands_and_there_is_nothing_to_operate(
    browser: Any,
    stored: tuple[View, Path],
) -> None:
    view, path = stored
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, path, 390)
        shown = browser.find_element("css selector", "main").text
        assert all(sentence(r, metric("eval_loss")) in shown for r in recommendation.compute(view))
        assert "switched off" in browser.find_element("css selector", ".panel").text
        assert browser.find_elements("css selector", "input, select, .panel svg") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
