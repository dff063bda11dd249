"""Labels of a log axis, as plotly draws them in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorabench.report.drawing import Axis, Drawing, Line
from lorabench.report.figures import draw
from lorabench.report.style import palette
from tests.report.chromium import load, pytestmark, wait  # noqa: F401

DRAWN = """
return [...document.querySelectorAll('.js-plotly-plot')].map(plot => [
  [...plot.querySelectorAll('.ytick > text')].map(t => t.textContent.replaceAll('\u200b', '')),
  plot.querySelectorAll('path.ytick').length])
"""
CASES = {
    (1, 0.5, 0.1, 0.01, 0.0001): ["1", "10−1", "10−2", "10−3", "10−4"],
    (1, 0.3, 0.09): ["1", "10−1"],
    (1, 0.7, 0.3): ["1", "0.5"],
    (1, 0.2, 1e-19): ["1", "10−3", "10−6", "10−9", "10−12", "10−15", "10−18"],
}


@pytest.mark.slow
def test_powers_of_ten_have_labels_and_what_lies_between_them_marks(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with page.open("w", encoding="utf-8") as stream:
        for i, values in enumerate(CASES):
            line = Line("a", palette(1)[0], tuple(map(float, range(len(values)))), values)
            figure = draw(Drawing(Axis("index"), Axis("share of the largest", log=True), (line,)))
            stream.write(figure.to_html(full_html=False, include_plotlyjs=i == 0))
    load(browser, page)
    wait(lambda: len([drawn for drawn, _ in browser.execute_script(DRAWN) if drawn]) == len(CASES))
    for labels, (drawn, marks) in zip(CASES.values(), browser.execute_script(DRAWN), strict=True):
        assert sorted(drawn) == sorted(labels)
        assert marks > len(labels)
