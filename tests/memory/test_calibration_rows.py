"""A calibration's rows are measured trainings: on this CPU they hold what was predicted, and a fault is a row."""

import json
import subprocess
import sys

import pytest
import torch

from lorabench.memory import calibration_rows as rows
from lorabench.memory.random_model import random_model
from lorabench.memory.step_profile import predict_step
from lorabench.record.card_calibration import CalibrationRow

CPU = torch.device("cpu")
TINY = {"model": "lorabench/tiny-300k", "rank": 4, "batch_size": 2, "sequence_length": 32}


def tiny(trainer="lorabench", quantization="none", **more):
    return CalibrationRow(**{"trainer": trainer, "quantization": quantization, **TINY, **more})


@pytest.mark.parametrize(
    "row",
    [
        tiny(),
        tiny(quantization="nf4", gradient_checkpointing=True),
        tiny(quantization="int8"),
        tiny("transformers"),
        tiny("transformers", "nf4", gradient_checkpointing=True),
    ],
    ids=str,
)
def test_a_row_holds_what_was_predicted_for_it(row):
    found = rows.measured(rows.predicted(row, CPU), CPU)
    assert found.fault is None
    assert found.ratio == pytest.approx(1, rel=0.005)
    assert (found.step_seconds is not None) == (row.trainer == "lorabench")
    assert found.reserved_bytes is None  # nothing is reserved on a CPU


def test_work_is_that_of_the_traced_step():
    step = predict_step(rows.setting_of_row(tiny(), CPU))
    assert rows.predicted(tiny(), CPU).work == (step.flops, step.moved_bytes, step.kernels)


def test_whatever_goes_wrong_is_the_rows_fault():
    found = rows.measured(tiny(quantization="int3"), CPU)
    assert found.measured_bytes is None
    assert found.fault.startswith("ValidationError: ") and "\n" not in found.fault


def test_rows_of_a_gpu_are_small_presets_of_every_quantization_with_and_without_checkpoints():
    found = rows.calibration_rows("cuda")
    assert {r.quantization for r in found} == {"none", "nf4", "int8"}
    assert {r.gradient_checkpointing for r in found} == {True, False}
    assert sum(r.trainer == "transformers" for r in found) == 2
    card = torch.device("cpu")  # what is predicted needs no card
    assert max(predict_step(rows.setting_of_row(r, card)).peak_bytes for r in found[:1]) < 8e9


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_random_weights_take_the_storage_of_loaded_ones(quantization):
    from lorabench.engine.measure import held_tensors

    setting = rows.setting_of_row(tiny(quantization=quantization), CPU)
    random = random_model(setting, CPU)
    loaded = rows.adapted_base(setting, rows._base(setting, CPU))

    def stored(model):
        return {(p.dtype, p.shape) for p in model.parameters()}, sum(
            {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held_tensors(model)}.values()
        )

    assert stored(random)[0] == stored(loaded)[0]
    assert stored(random)[1] == pytest.approx(stored(loaded)[1], rel=1e-3)


def test_the_process_answers_a_line_for_a_line_whatever_libraries_print():
    asked = [tiny("transformers"), tiny(quantization="int3")]
    run = subprocess.run(
        [sys.executable, "-m", "lorabench.memory.calibration_rows", "cpu"],
        input="".join(row.model_dump_json() + "\n" for row in asked),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == 2
    assert CalibrationRow.model_validate(answers[0]["row"]).measured_bytes > 0
    assert CalibrationRow.model_validate(answers[1]["row"]).fault
