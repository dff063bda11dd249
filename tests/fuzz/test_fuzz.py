"""Nearly right inputs end well or in one sentence: no traceback, no hang, nothing written elsewhere, run or sent.

The same few inputs each time here, thousands in the slow tests, and as many as one likes of others by
`python -m benchmarks.fuzz`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.hunt import hunt
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_does_harm(name: str, tmp_path: Path) -> None:
    assert hunt(name, tmp_path / "in", TARGETS[name].quick) >= TARGETS[name].quick // 2


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_of_many_does_harm(name: str, tmp_path: Path) -> None:
    assert hunt(name, tmp_path / "in", 20 * TARGETS[name].quick, number=1) > 0
