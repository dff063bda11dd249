"""The report in a real browser: drawn, silent, without requests, and as narrow as a phone."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lorabench.report.page import write_report
from tests.report.stores import fill, filled, renamed, study_of

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b>bold</b></script><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
                 "disable-component-update", "disable-sync", "disable-dev-shm-usage", f"user-data-dir={profile}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(filled(folder), folder / "report.html")


def show(driver: Any, path: Path, width: int, dark: bool = False) -> None:
    driver.get_log("browser"), driver.get_log("performance")  # what came before is not this page's
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get(path.as_uri())
    deadline = time.monotonic() + 60
    undrawn = "return [...document.querySelectorAll('.plot')].filter(p => !p.querySelector('.main-svg :is(.trace, .hm)')).length"
    while driver.execute_script(undrawn) and time.monotonic() < deadline:
        time.sleep(0.2)


def screenshot(driver: Any, path: Path) -> None:
    import base64

    size = driver.execute_script("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(shot["data"]))


@pytest.mark.parametrize("width", [1440, 390])
def test_every_plot_is_drawn_without_error_request_or_overflow(browser: Any, report: Path, width: int) -> None:
    show(browser, report, width)
    plots = browser.execute_script("return [...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.main-svg :is(.trace, .hm)').length)")
    assert len(plots) == 12
    assert all(plots)
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert {u for u in urls if not u.startswith("data:")} == {report.as_uri()}
    page_width = browser.execute_script("return document.documentElement.scrollWidth")
    assert page_width <= width
    wider = browser.execute_script(
        "return [...document.querySelectorAll('.plot svg, p, li, h1, h2, h3, dd, figcaption')]"
        ".filter(e => e.getBoundingClientRect().right > window.innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wider == []


def test_figures_take_the_colours_of_a_dark_page(browser: Any, report: Path) -> None:
    fills = []
    for dark in (False, True):
        show(browser, report, 1440, dark)
        fills.append(browser.execute_script("return getComputedStyle(document.querySelector('.xtick text')).fill"))
    assert fills[0] != fills[1]


def test_a_hostile_name_is_shown_and_not_run(browser: Any, tmp_path: Path) -> None:
    from lorabench.spec import expand

    study = study_of(tmp_path)
    cells = expand(study)
    store = fill(tmp_path / "store", study, (*cells, *renamed(cells, HOSTILE)))
    show(browser, write_report(store, tmp_path / "report.html"), 1440)
    assert browser.title == "small: lorabench report"
    legend = browser.execute_script("return [...document.querySelectorAll('.legendtext')].map(t => t.textContent).join('\\n')")
    assert "<b>bold</b></script>" in legend
    assert browser.execute_script("return document.querySelectorAll('img, main b').length") == 0
    assert browser.get_log("browser") == []
