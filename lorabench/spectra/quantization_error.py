"""What quantization alone does to each base weight, without training.

relative error     ||W_q - W||_F / ||W||_F
maximum error      max |W_q - W| / max |W|
signal to noise    20 log10(||W||_F / ||W_q - W||_F)                                    [dB]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from lorabench.errors import ModelError
from lorabench.record.spectrum import Alignment, Repair, Spectrum
from lorabench.spectra.alignment import EXACT, repair
from lorabench.spectra.analyse import Quantize, directions_of
from lorabench.spectra.decompose import decompose_dense, randomised
from lorabench.spectra.files import Weights
from lorabench.spectra.source import Learned

LEADING = 64  # singular values of an error's matrix beyond EXACT


@dataclass(frozen=True, eq=False)
class QuantizationError:
    """The error of one weight in one form."""

    module: str
    form: str
    """name of the quantization, with "dq" where its constants are quantized, too"""
    relative_error: float
    maximum_error: float
    signal_to_noise: float | None
    """decibels; None where there is no error"""
    spectrum: Spectrum
    """of W_q - W; beyond a side of 1,024 its first 64 values, and the rest as one sum"""
    repair: Repair | None = None
    """whether what was learned undoes it"""


@torch.no_grad()
def quantization_errors(
    weights: Weights, modules: Iterable[str], forms: Mapping[str, Quantize], learned: Learned | None = None
) -> Iterator[QuantizationError]:
    """Of every module in every form; ModelError where the checkpoint has none of the modules' weights."""
    has_weight = False
    for module in modules:
        weight = weights.weight(module)
        if weight is None:
            continue
        has_weight = True
        delta = learned.delta(module) if learned is not None else None
        for form, quantize in forms.items():
            loaded, back = quantize(weight)
            weight_repair = (
                repair(delta.decompose(), directions_of(delta, delta.spectrum()), loaded, back)
                if delta is not None
                else None
            )
            yield _error(module, form, loaded, back, weight_repair)
    if not has_weight:
        raise ModelError(
            f"{weights.place} has no weight of any linear layer of the model; give a checkpoint that transformers can"
            " load as it is"
        )


def _error(
    module: str, form: str, loaded: torch.Tensor, back: torch.Tensor, weight_repair: Repair | None
) -> QuantizationError:
    weight = loaded.double()
    error = back.double() - weight
    norm, size = float(torch.linalg.vector_norm(error)), float(torch.linalg.vector_norm(weight))
    decomposition = decompose_dense(error) if min(error.shape) <= EXACT else randomised(error, LEADING)
    alignment = Alignment(size, 0, 0.0, 0.0, 0.0, 0.0)
    return QuantizationError(
        module,
        form,
        relative_error=norm / size if size else 0.0,
        maximum_error=float(error.abs().max() / weight.abs().max()) if size else 0.0,
        signal_to_noise=20 * math.log10(size / norm) if norm and size else None,
        spectrum=Spectrum(
            module,
            decomposition.values.numpy(),
            weight.shape[1],
            weight.shape[0],
            min(weight.shape),
            missed=decomposition.missed,
            alignment=alignment,
        ),
        repair=weight_repair,
    )
