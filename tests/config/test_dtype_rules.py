"""One rule of dtypes for the engine, predictions and emitters."""

from __future__ import annotations

import pytest
import torch

from lorabench.config import gpus
from lorabench.config.precision import autocast_dtype, compute_dtype, product_dtype, trainer_autocast, weights_dtype
from lorabench.config.settings import QuantizationSpec


def test_auto_weights_are_float32_where_they_are_trained_or_few():
    for device, bf16 in (("cuda", True), ("cuda", False), ("cpu", True)):
        assert weights_dtype("auto", "lora", device, bf16, lambda: True) == "bfloat16"
        assert weights_dtype("auto", "lora", device, bf16, lambda: False) == "float32"
        assert weights_dtype("auto", "full", device, bf16, lambda: True) == "float32"
        assert weights_dtype("float16", "lora", device, bf16, lambda: False) == "float16"


def test_on_a_cpu_without_bfloat16_auto_weights_are_float32_and_declared_ones_as_declared():
    for method in ("lora", "full", "base"):
        assert weights_dtype("auto", method, "cpu", False, lambda: True) == "float32"
        assert weights_dtype("bfloat16", method, "cpu", False, lambda: True) == "bfloat16"


def test_a_model_is_counted_only_where_the_answer_turns_on_its_size():
    def count():
        raise AssertionError("counted")

    assert weights_dtype("auto", "full", "cuda", True, count) == "float32"
    assert weights_dtype("bfloat16", "lora", "cuda", True, count) == "bfloat16"
    assert weights_dtype("auto", "lora", "cpu", False, count) == "float32"


@pytest.mark.parametrize(
    ("flags", "most", "quick"),
    [
        ("fpu avx512f avx512_bf16", "", True),
        ("fpu amx_bf16 amx_tile", "", True),
        ("fpu avx2 avx512f avx512_vnni", "", False),
        ("fpu avx512_bf16", "AVX512_CORE_BF16", True),
        ("fpu avx512_bf16", "avx512_core_vnni", False),
        ("fpu avx512_bf16", "AVX2", False),
        ("fpu avx512_bf16", "DEFAULT", True),
        ("fpu avx2", "AVX512_CORE_AMX", False),
    ],
)
def test_a_cpu_is_quick_in_bfloat16_where_it_has_instructions_that_onednn_may_use(monkeypatch, flags, most, quick):
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
    monkeypatch.setattr(gpus.Path, "read_text", lambda *_, **__: f"model name: X\nflags\t\t: {flags}\n")
    gpus._cpu_flags.cache_clear()
    try:
        assert gpus.cpu_has_bfloat16(lambda: not quick) == quick == gpus.find_gpu("cpu").bf16
    finally:
        gpus._cpu_flags.cache_clear()


def test_another_is_asked_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(gpus, "_cpu_flags", lambda: None)
    assert gpus.cpu_has_bfloat16(lambda: True) and not gpus.cpu_has_bfloat16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not gpus.cpu_has_bfloat16(lambda: True)


def test_it_is_what_torch_says_of_this_machine(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    torch_says = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    gpus._cpu_flags.cache_clear()
    assert gpus.cpu_has_bfloat16() == torch_says


@pytest.mark.parametrize(
    ("declared", "device", "bf16", "dtype"),
    [
        ("auto", "cuda", True, "bfloat16"),
        ("auto", "cuda", False, None),
        ("auto", "cpu", True, "bfloat16"),
        ("auto", "cpu", False, None),
        ("bfloat16", "cuda", False, "bfloat16"),
        ("none", "cuda", True, None),
    ],
)
def test_mixed_precision_is_automatic_where_a_device_computes_in_bfloat16(declared, device, bf16, dtype):
    assert autocast_dtype(declared, device, bf16, lambda: True) == dtype


def test_on_a_cpu_small_models_stay_in_float32():
    assert autocast_dtype("auto", "cpu", True, lambda: False) is None
    assert autocast_dtype("auto", "cuda", True, lambda: False) == "bfloat16"


@pytest.mark.parametrize(
    ("quantization", "autocast", "told", "taken"),
    [
        (QuantizationSpec(), "bfloat16", "bfloat16", "bfloat16"),
        (QuantizationSpec(), None, "float32", "float32"),
        (QuantizationSpec(name="nf4"), None, "float32", "float32"),
        (QuantizationSpec(name="nf4", compute_dtype="float16"), None, "float16", "float16"),
        (QuantizationSpec(name="nf4", compute_dtype="float16"), "bfloat16", "float16", "bfloat16"),
        (QuantizationSpec(name="int8"), "bfloat16", "bfloat16", "float16"),
        (QuantizationSpec(name="int8"), None, "float32", "float16"),
    ],
)
def test_what_layers_are_told_to_compute_in_and_what_products_are_taken_in(quantization, autocast, told, taken):
    """int8 layers take float16 whatever they are told; mixed precision overrides what 4-bit layers are told."""
    assert compute_dtype(quantization, autocast, "float32") == told
    assert product_dtype(quantization, autocast, "float32") == taken


def test_other_trainers_mix_in_what_the_card_computes_in():
    assert trainer_autocast("cuda", True, "bfloat16", False) == "bfloat16"
    assert trainer_autocast("cuda", False, "bfloat16", False) == "float16"
    assert trainer_autocast("cuda", False, "float32", True) == "float16"
    assert trainer_autocast("cuda", False, "bfloat16", True) is None, "torch cannot unscale gradients in bfloat16"
    assert trainer_autocast("cpu", True, "bfloat16", False) is None
