"""A cell that cannot go on has a result that names its fault, and keeps what was read before."""

import numpy as np
import pytest
import torch

from lorabench.engine.cell import run_cell
from lorabench.engine.measure import is_out_of_memory
from tests.engine.conftest import cell_of


def test_out_of_memory_is_known_by_what_the_libraries_really_raise():
    def error_of(make):
        try:
            make()
        except (RuntimeError, MemoryError) as e:
            return e
        return None

    assert is_out_of_memory(error_of(lambda: torch.empty(2**50)))
    assert is_out_of_memory(error_of(lambda: np.empty(2**50)))
    assert not is_out_of_memory(error_of(lambda: torch.zeros(2) @ torch.zeros(3)))


def test_a_cell_that_cannot_get_its_memory_ends_as_out_of_memory(folder, monkeypatch):
    real = torch.Tensor.backward

    def greedy(self, *args, **kwargs):
        torch.empty(2**50)  # what an activation that does not fit raises
        real(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", greedy)
    result = run_cell(cell_of(), folder)
    assert result.outcome == "out_of_memory"
    assert "memory" in result.error.message


@pytest.mark.slow  # lm-eval reads its 14,000 tasks to say that one is not among them
def test_a_fault_is_recorded_as_failed_with_its_sentence(folder):
    cell = cell_of("evaluation.lm_eval=[no-such-task]")
    result = run_cell(cell, folder)
    assert result.outcome == "failed"
    assert "no-such-task" in result.error.message or "no-such-task" in result.error.kind


def test_a_fault_after_the_evaluation_loses_no_reading(folder, monkeypatch):
    def broken(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lorabench.engine.cell_evaluate.adapter_deltas", broken)
    result = run_cell(cell_of(), folder)
    assert result.outcome == "finished"
    assert result.value("eval_loss") is not None
    assert not (folder / "spectra.safetensors").exists()
