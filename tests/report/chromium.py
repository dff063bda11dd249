"""What the tests of the page do with a real browser; `browser` itself is conftest.py's."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b>bold</b></script><script>document.title='owned'</script>"


def show(driver: Any, path: Path, width: int, dark: bool = False) -> None:
    driver.get_log("browser"), driver.get_log("performance")  # what came before is not this page's
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    emulate(driver, dark)
    load(driver, path)
    undrawn = (
        "return [...document.querySelectorAll('.plot')].filter(p => !p.querySelector('.main-svg :is(.trace,"
        " .hm)')).length"
    )
    wait(lambda: not driver.execute_script(undrawn))


def load(driver: Any, path: Path) -> None:
    """Not before the page is this file's: a navigation of the browser's own may end in between."""
    driver.get(path.as_uri())
    here = "return document.readyState === 'complete' ? location.href.split('#')[0] : ''"
    wait(lambda: driver.execute_script(here) == path.as_uri())


def wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done() and time.monotonic() < deadline:
        time.sleep(0.2)


def emulate(driver: Any, dark: bool = False, media: str = "") -> None:
    """Without motion, since a click hits nothing while the page glides."""
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
