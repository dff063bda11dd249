"""Emitters hold to the rules of studies: what may be trained, and where precision is mixed."""

from __future__ import annotations

import pytest

from lorabench.advice.types import Candidate, Workload
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, float16_fault
from lorabench.emitters import _setting
from lorabench.emitters import peft as emitter
from lorabench.errors import LorabenchError
from lorabench.memory.validate import setting_from

MODEL = "lorabench/tiny-300k"


def candidate(method):
    return Candidate(MethodSpec(name=method), QuantizationSpec(), 1, 1, False, "adamw", 1e-4, "cosine", 0.05, 0.0, 1.0)


def test_full_fine_tuning_of_float16_weights_is_refused_in_the_same_words_by_a_prediction_and_by_an_emitter():
    for ask in (
        lambda: _setting.check("trl", Workload(ModelSpec(name=MODEL, dtype="float16"), 64, 1), candidate("full")),
        lambda: setting_from({"model": {"name": MODEL, "dtype": "float16"}, "method": "full"}),
    ):
        with pytest.raises(LorabenchError) as error:
            ask()
        assert str(error.value) == float16_fault("full")


def test_an_emitted_script_mixes_precision_where_the_gpu_itself_computes_in_bfloat16():
    script = emitter.emit(Workload(ModelSpec(name=MODEL), 64, 1), candidate("lora"))["train.py"]
    assert "is_bf16_supported(including_emulation=False)" in script


def test_int8_has_no_compute_dtype_in_a_prediction_as_in_a_study():
    setting = setting_from({"model": MODEL, "quantization": {"name": "int8", "compute_dtype": "float32"}})
    assert setting.quantization == QuantizationSpec(name="int8")
