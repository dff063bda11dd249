"""Errors of quantized weights by hand, in order of their precision, and with what a cell learned."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from lorabench import plugins
from lorabench.commands.main import main
from lorabench.errors import LorabenchError
from lorabench.spectra.files import Weights
from lorabench.spectra.quantization_error import quantization_errors
from lorabench.workflows import spectrum


def nowhere(prefix):
    raise LorabenchError(f"no cell {prefix}")


@pytest.fixture(scope="module")
def errors():
    return spectrum.quantization_error("lorabench/tiny-300k", ["int8", "fp4", "nf4"], find=nowhere).errors


def test_each_form_of_every_linear_layer_is_there(errors):
    assert {e.form for e in errors} == {"int8", "fp4", "fp4 dq", "nf4", "nf4 dq"}
    assert len(errors) == 5 * 28


def test_finer_forms_err_less(errors):
    mean = {f: sum(e.relative_error for e in errors if e.form == f) for f in ("int8", "nf4", "fp4")}
    assert mean["int8"] < mean["nf4"] < mean["fp4"]
    for e in errors:
        assert e.signal_to_noise == pytest.approx(-20 * math.log10(e.relative_error))
        assert e.spectrum.frobenius_norm == pytest.approx(e.relative_error * e.spectrum.alignment.base_norm, rel=1e-6)


def test_nf4_of_normal_weights_errs_as_its_levels_say(tmp_path):
    """The mean squared error of nearest levels for normal values in blocks of 64, computed here from QLoRA's table of
    levels alone."""
    torch.manual_seed(0)
    weight = torch.randn(256, 256)
    save_file({"m.weight": weight}, tmp_path / "model.safetensors")
    turn = plugins.load("quantizations", "nf4").roundtrip
    (found,) = quantization_errors(Weights(tmp_path), ["m"], {"nf4": lambda w: (w, turn(w, False))})
    levels = torch.tensor(
        [
            -1.0,
            -0.6961928,
            -0.52507305,
            -0.39491749,
            -0.28444138,
            -0.18477343,
            -0.09105004,
            0.0,
            0.0795803,
            0.1609302,
            0.24611230,
            0.33791524,
            0.44070983,
            0.56261700,
            0.72295684,
            1.0,
        ]
    )  # appendix E
    blocks = weight.reshape(-1, 64)
    scaled = blocks / blocks.abs().amax(dim=1, keepdim=True)
    nearest = levels[(scaled[..., None] - levels).abs().argmin(dim=-1)] * blocks.abs().amax(dim=1, keepdim=True)
    assert found.relative_error == pytest.approx(float((nearest - blocks).norm() / blocks.norm()), rel=1e-4)
    assert found.maximum_error == pytest.approx(float((nearest - blocks).abs().max() / blocks.abs().max()), rel=1e-4)


def test_a_model_without_its_weights_and_an_unknown_form_are_told():
    with pytest.raises(LorabenchError, match="unknown quantization 'nf5'; did you mean 'nf4'"):
        spectrum.quantization_error("lorabench/tiny-300k", ["nf5"], find=nowhere)
    with pytest.raises(LorabenchError, match="nothing cannot be loaded: it is not a shipped model, not a directory"):
        spectrum.quantization_error("meta-llama/nothing", ["nf4"], find=nowhere)


def test_a_large_error_has_the_stable_rank_of_all_its_values(monkeypatch, errors):
    monkeypatch.setattr("lorabench.spectra.quantization_error.EXACT", 8)
    monkeypatch.setattr("lorabench.spectra.quantization_error.LEADING", 4)
    few = spectrum.quantization_error("lorabench/tiny-300k", ["fp4"], find=nowhere).errors
    for e, exact in zip(few, [e for e in errors if e.form.startswith("fp4")], strict=True):
        assert len(e.spectrum.singular_values) == 4
        assert e.spectrum.stable_rank == pytest.approx(exact.spectrum.stable_rank, rel=2e-2)
        assert e.spectrum.frobenius_norm == pytest.approx(exact.spectrum.frobenius_norm, rel=1e-6)


def test_the_result_is_a_table_and_the_json_of_the_command(capsys):
    result = spectrum.quantization_error("lorabench/tiny-300k", ["int8"], find=nowhere)
    assert len(result.frame()) == len(result.errors) == 28
    assert {"module", "quantization", "relative_error", "signal_to_noise_db"} <= set(result.frame())
    assert main(["quantization-error", "lorabench/tiny-300k", "--quantization", "int8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result.to_dict()
