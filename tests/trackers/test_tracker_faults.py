"""A tracker that is absent, fails or hangs costs a user one sentence and no cell."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest

from lorabench.api import run
from lorabench.commands.main import main
from lorabench.runner import tracked_progress
from lorabench.runner.display import Lines
from tests.trackers.odd_tracker import Odd
from tests.trackers.test_trackers import STUDY


@pytest.mark.parametrize(
    ("how", "why"), [("fails", "ConnectionError: the server is gone"), ("hangs", "it has not answered within 1 s")]
)
def test_no_cell_is_lost_to_a_tracker(how: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracked_progress, "LAST_SECONDS", 1.0)
    (tmp_path / "three.yaml").write_text(STUDY.lstrip(), encoding="utf-8")
    said, shown = list[str](), io.StringIO()
    progress = tracked_progress.TrackedProgress(Lines(shown), Odd(how), "odd", said.append)
    results = run(tmp_path / "three.yaml", tmp_path / "out", executor="synthetic", progress=progress).results
    assert len(results) == 3
    assert shown.getvalue().count("finished in") == 2, "the display goes on, too"
    assert said == [f"odd has not all of this run ({why}); the results are whole in {tmp_path / 'out'}"]


@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow"])
def test_a_library_that_is_absent_is_named_with_its_extra_before_anything_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(name) is not None:
        monkeypatch.setitem(__import__("sys").modules, name, None)
    (tmp_path / "three.yaml").write_text(STUDY.lstrip(), encoding="utf-8")
    out = tmp_path / "out"
    code = main(["run", str(tmp_path / "three.yaml"), "--out", str(out), "--executor", "synthetic", "--log", name])
    said = capsys.readouterr().err
    assert code == 2
    assert f"pip install 'lorabench[{name}]'" in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_a_name_that_is_no_tracker_is_told_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text("{}")
    assert main(["export", "trackoi", str(tmp_path)]) == 2
