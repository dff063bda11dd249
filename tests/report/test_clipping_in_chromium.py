"""Nothing of a page is cut off: every element shows what it holds or scrolls and is seen to, and every label of a
figure lies within it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorabench.record.archive import opened
from lorabench.report.page import write_report
from tests.report.chromium import pytestmark, show  # noqa: F401
from tests.report.stores import filled

STORED = (
    "quickstart",
    "facts",
    "planted",
    "paper/lora-rank-by-modules",
    "paper/lora-which-matrices",
    "paper/qlora-by-model-size",
    "paper/learning-rate-by-rank",
)
REPORTS = Path(__file__).parents[2] / "reports"
CUT = r"""
const found = [], wide = arguments[0];
for (const e of document.querySelectorAll('header, header *, nav, main, main *')) {
  if (e.closest('svg, .plot, .menu') || !e.clientWidth || e.scrollWidth <= e.clientWidth + 1) continue;
  const style = getComputedStyle(e), scrolls = ['auto', 'scroll'].includes(style.overflowX);
  if (wide || !scrolls || !e.classList.contains('more-right') || style.maskImage === 'none')
    found.push([e.tagName, e.className, e.scrollWidth - e.clientWidth, e.textContent.slice(0, 40)]);
}
for (const e of document.querySelectorAll('.scroll')) {
  if (e.scrollTop) found.push(['opens scrolled', e.className, e.scrollTop, e.textContent.slice(0, 40)]);
  if (e.scrollHeight > e.clientHeight + 2 && !e.classList.contains('more-below'))
    found.push(['goes on unseen', e.className, e.scrollHeight - e.clientHeight, e.textContent.slice(0, 40)]);
}
for (const box of document.querySelectorAll('.plot, .panel svg')) {
  const b = box.getBoundingClientRect();
  for (const t of box.querySelectorAll('text')) {
    const r = t.getBoundingClientRect();
    if (r.width && (r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 1 || r.bottom > b.bottom + 1))
      found.push(['label', box.id, t.textContent,
        [r.left - b.left, b.right - r.right, r.top - b.top, b.bottom - r.bottom].map(Math.round).join(' ')]);
  }
  const legend = box.querySelector('.legend'), title = box.querySelector('.xtitle');
  if (legend && title && title.getBoundingClientRect().bottom > legend.getBoundingClientRect().top + 2)
    found.push(['legend over title', box.id, 0, '']);
}
return found;
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every stored report, and one whose cells kept curves and spectra, with a tuned rate and results still to come."""
    folder = tmp_path_factory.mktemp("pages")
    made = {}
    for name in STORED:
        with opened(REPORTS / name) as store:
            made[name] = write_report(store, folder / f"{name.replace('/', '-')}.html")
    store = filled(folder / "own", change=lambda r: None if r.cell.seed == 1 and r.cell.method.rank == 16 else r)
    return made | {"own": write_report(store, folder / "own.html", other=store)}


@pytest.mark.parametrize("name", [*STORED, "own"])
def test_nothing_is_cut_off_on_a_wide_screen(browser: Any, pages: dict[str, Path], name: str) -> None:
    show(browser, pages[name], 1440)
    assert browser.execute_script(CUT, True) == []


@pytest.mark.parametrize("width", [1024, 390])
@pytest.mark.parametrize("name", ["quickstart", "own"])
def test_what_goes_on_beyond_the_edge_of_a_narrow_screen_fades_there(
    browser: Any,
    pages: dict[str, Path],
    name: str,
    width: int,
) -> None:
    show(browser, pages[name], width)
    assert browser.execute_script(CUT, False) == []


def test_the_choice_table_opens_at_its_top_and_follows_a_choice(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["paper/lora-rank-by-modules"], 1440)
    at = "return document.querySelector('.panel .scroll').scrollTop"
    assert browser.execute_script(at) == 0
    browser.execute_script(
        "const t = document.querySelector('[name=tolerated]'); t.value = 0; t.dispatchEvent(new Event('input', {"
        " bubbles: true }));"
    )
    inside = (
        "const t = document.querySelector('.panel .scroll').getBoundingClientRect(), r = document.querySelector('.panel"
        " .chosen').getBoundingClientRect(); return r.top >= t.top && r.bottom <= t.bottom + 1"
    )
    assert browser.execute_script(inside)
