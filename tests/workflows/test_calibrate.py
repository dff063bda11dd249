"""Calibrating this CPU, for real: what was measured is stored, corrects predictions, and no row costs another."""

import os
import signal
from contextlib import closing
from threading import Timer

import pytest
import torch

from lorabench.errors import LorabenchError
from lorabench.memory import calibration_rows as rows
from lorabench.record.card_calibration import CalibrationRow, calibrated_card, installed_versions, read_calibration
from lorabench.workflows.calibrate import MeasuringProcess, calibrate

CPU = torch.device("cpu")
SHORT = """
lorabench    lorabench/tiny-300k none 4 2 32
lorabench    lorabench/tiny-300k nf4  4 2 32 checkpointed
transformers lorabench/tiny-300k none 4 2 32
"""


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(rows, "ON_CPU", SHORT)


def row(**changes):
    return rows.calibration_rows("cpu")[0].model_copy(update=changes)


@pytest.mark.slow
def test_this_cpu_is_measured_stored_and_read_again(short, tmp_path):
    told = []
    found, path = calibrate("cpu", tmp_path / "cpu.json", told.append)
    assert path == tmp_path / "cpu.json" and told == list(found.rows)
    assert read_calibration(path).model_copy(update={"summary": None}) == found
    assert (found.card, found.packages, found.cores) == ("cpu", installed_versions(), torch.get_num_threads())
    assert found.context_bytes is None and found.workspace_bytes is None  # of a GPU alone
    assert [r.fault for r in found.rows] == [None, None, None]
    assert [r.ratio for r in found.rows] == pytest.approx([1, 1, 1], rel=0.005)
    measured = calibrated_card("cpu", tmp_path).measured
    assert measured.words == f"calibrated on this card {found.date}: 2 rows, 1.00 to 1.00"
    assert measured.errors == pytest.approx((1, 1), rel=0.01)
    assert [step[3] for step in measured.steps] == [r.step_seconds for r in found.rows[:2]]


@pytest.mark.slow
def test_every_row_of_a_cpu_holds_what_was_predicted(tmp_path):
    found, _ = calibrate("cpu", tmp_path / "cpu.json")
    assert len(found.rows) == 8
    assert [r.ratio for r in found.rows] == pytest.approx([1] * 8, rel=0.005)


@pytest.mark.slow
def test_a_process_that_dies_costs_one_row(short):
    with closing(MeasuringProcess(CPU)) as process:
        Timer(0.5, os.kill, (process._process.pid, signal.SIGKILL)).start()  # its imports take longer
        died = process.measure(row())
        assert died.measured_bytes is None
        assert died.fault.startswith("the process that measures was killed by signal 9")
        assert process.measure(row()).measured_bytes > 0
    assert process._process.poll() is not None


def test_where_nothing_can_be_measured_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "ON_CPU", "lorabench lorabench/tiny-300k none 4 2 32")

    def failing(self, one):
        return one.model_copy(update={"fault": "RuntimeError: no kernel"})

    monkeypatch.setattr(MeasuringProcess, "measure", failing)
    with pytest.raises(LorabenchError, match=r"none of 1 row could be measured \(RuntimeError: no kernel\)"):
        calibrate("cpu", tmp_path / "cpu.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with cards allows their numbers")
@pytest.mark.parametrize("gpu", ["0", "3", " 12 "])
def test_a_card_that_is_not_there_is_one_sentence(gpu):
    with pytest.raises(LorabenchError, match=r"there is no gpu .* \(no CUDA card is visible here\); allowed: cpu"):
        calibrate(gpu)


@pytest.mark.parametrize("gpu", ["rtx4090", "-1", "1.5", "", "cuda:0"])
def test_a_card_is_named_by_its_number(gpu):
    with pytest.raises(LorabenchError, match="is not a number; calibrate measures a card of this machine"):
        calibrate(gpu)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_measured_with_its_context(tmp_path):
    found, _ = calibrate("0", tmp_path / "card.json")
    assert found.card == torch.cuda.get_device_name(0)
    assert 100e6 < found.context_bytes < 2e9
    assert all(isinstance(r, CalibrationRow) and r.fault is None for r in found.rows)
    assert found.ratios[0] > 0.9 and found.ratios[-1] < 1.1
