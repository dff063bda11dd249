"""The synthetic executor draws what it says it draws."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from lorabench.config import Cell, expand
from lorabench.engine.events import Event
from lorabench.record.items import load_items
from tests.report.stores import STUDY, study_of
from tests.synthetic import GAP, expected, open_worker


def cells(folder: Path, text: str = STUDY) -> tuple[Cell, ...]:
    return expand(study_of(folder, text))


def test_readings_files_and_events(tmp_path: Path) -> None:
    cell, events = cells(tmp_path)[0], list[Event]()
    result = open_worker(threads=1).run(cell, tmp_path / "out", events.append)
    assert result.outcome == "finished"
    drawn = {r.metric: r.value for r in result.readings}
    items = load_items(tmp_path / "out" / "items.safetensors")
    accuracy = "python-docs-cloze/acc"
    assert drawn == expected(cell) | {accuracy: items[accuracy].value}
    assert abs(drawn[accuracy] - expected(cell)[accuracy]) < 0.15, "200 items, four standard errors"
    assert items["eval_loss"].value == pytest.approx(drawn["eval_loss"])
    curve = pd.read_csv(tmp_path / "out" / "curve.csv")
    assert list(curve.columns) == ["step", "loss", "learning_rate", "grad_norm", "seconds"]
    assert len(curve) == 40
    for values in load_file(tmp_path / "out" / "spectra.safetensors").values():
        assert len(values) == 1
        assert values.dtype == "float32"
    assert [e.phase for e in events if e.phase != "train"] == ["load", "evaluate", "decompose"]
    assert sum(e.phase == "train" for e in events) == 40


def test_the_surface_is_the_documented_one(tmp_path: Path) -> None:
    by_name = {
        (c.method.name, c.method.rank, c.quantization.name, c.seed): expected(c)["eval_loss"] for c in cells(tmp_path)
    }
    assert by_name["lora", 4, "none", 0] - by_name["full", None, "none", 0] == pytest.approx(
        GAP / math.sqrt(5), abs=0.021
    )
    assert by_name["base", None, "none", 0] == pytest.approx(3.2)


def test_it_repeats_itself(tmp_path: Path) -> None:
    cell = cells(tmp_path)[2]
    assert open_worker().run(cell, tmp_path / "a", lambda e: None) == open_worker().run(
        cell, tmp_path / "b", lambda e: None
    )
    assert (tmp_path / "a" / "curve.csv").read_bytes() == (tmp_path / "b" / "curve.csv").read_bytes()


def test_an_absurd_rate_diverges_and_a_huge_batch_does_not_fit(tmp_path: Path) -> None:
    cell = cells(tmp_path)[0]
    wild = cell.model_copy(update={"training": cell.training.model_copy(update={"learning_rate": 2.0})})
    result = open_worker().run(wild, tmp_path / "a", lambda e: None)
    assert result.outcome == "diverged"
    assert result.error is not None
    assert result.error.step == 12
    assert result.value("eval_loss") is None
    wide = cell.model_copy(update={"training": cell.training.model_copy(update={"batch_size": 4096})})
    assert open_worker().run(wide, tmp_path / "b", lambda e: None).outcome == "out_of_memory"


def test_a_rank_above_every_matrix_is_a_problem(tmp_path: Path) -> None:
    cell = cells(tmp_path)[0]
    huge = cell.model_copy(update={"method": cell.method.model_copy(update={"rank": 5000})})
    assert open_worker().check([cell]) == ()
    assert [p.field for p in open_worker().check([cell, huge])] == ["method.rank"]


def test_epochs_come_to_steps_in_curve_result_and_cost(tmp_path: Path) -> None:
    """1,000 invented rows in batches of 8 are 125 steps an epoch."""
    text = STUDY.replace("steps: 40", "epochs: 1") + "\n"
    assert "epochs: 1" in text
    one, two = (cells(tmp_path, text.replace("epochs: 1", f"epochs: {n}"))[0] for n in (0.5, 2))
    each = math.ceil(1000 / one.training.batch_size)
    for cell, steps in ((one, math.ceil(each / 2)), (two, 2 * each)):
        result = open_worker().run(cell, tmp_path / cell.id, lambda event: None)
        assert len(pd.read_csv(tmp_path / cell.id / "curve.csv")) == steps
        assert result.steps == steps
    assert expected(two)["train_seconds"] / expected(one)["train_seconds"] == pytest.approx(
        2 * each / math.ceil(each / 2)
    )
