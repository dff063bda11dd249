"""The served report in a browser: a new one takes the old one's place, scrolled as that was."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lorabench.report import server as module
from lorabench.report.server import open_server
from tests import synthetic
from tests.report.chromium import pytestmark as needs_chromium
from tests.report.test_server import SMALL, filled

pytestmark = [pytest.mark.slow, needs_chromium]


def until(true: Any) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


INSIDE = "return document.getElementById('report').contentDocument.body?.innerText ?? ''"
LOADED = "return document.getElementById('report').contentDocument.readyState"
SCROLLED = "return document.getElementById('report').contentWindow.scrollY"


def scroll(browser: Any, to: int) -> None:
    page = "document.getElementById('report').contentWindow"
    browser.execute_script(f"{page}.scrollTo({{ top: {to}, behavior: 'instant' }})")
    until(lambda: browser.execute_script(SCROLLED) == to)


def test_a_cell_that_ends_is_seen_without_a_click(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARE", 1.0)
    asked: list[float] = []
    made = module.LiveReport.page

    def slowly(live: module.LiveReport) -> bytes:
        asked.append(time.monotonic())
        time.sleep(2 * (len(asked) > 1))
        return made(live)

    monkeypatch.setattr(module.LiveReport, "page", slowly)
    seen: list[object] = []
    store = filled(tmp_path, SMALL, lambda r: seen.append(r) or r if len(seen) < 3 else None)
    total = len(store.plan())
    with open_server(store, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.get(f"http://127.0.0.1:{server.server_address[1]}/")
        until(lambda: f"3 of {total} cells have finished" in browser.execute_script(INSIDE))
        until(lambda: f"3 of {total} cells have ended" in browser.find_element("id", "state").text)
        until(lambda: browser.execute_script(LOADED) == "complete")
        before = len(asked)
        scroll(browser, 500)
        cell = next(c for c in store.plan() if store.get(c.id) is None)
        store.put(synthetic.open_worker().run(cell, store.partial(cell.id), lambda event: None))
        until(lambda: len(asked) > before)
        scroll(browser, 700)  # the old one, on while the new one is on its way
        until(lambda: f"4 of {total} cells have finished" in browser.execute_script(INSIDE))
        until(lambda: browser.execute_script(SCROLLED) == 700)
        assert not [m for m in browser.get_log("browser") if m["level"] == "SEVERE"]
        server.shutdown()
    until(lambda: "lorabench serve has ended" in browser.find_element("id", "state").text)
