"""What a cell learned, module by module: its delta's factors where it has them, else the dense difference.

    lora, rslora    scaling * B @ A
    pissa           scaling * (B @ A - B0 @ A0): the start is no zero delta, so it is taken off; rank 2 r
    dora            m * (W + scaling * B @ A) / ||W + scaling * B @ A|| - W, row by row
    full            W after - W before, the latter read again from its file
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from lorabench.spectra.decompose import dense_singular_values, factor_singular_values

Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]


def start_factors(model: Any) -> Factors:
    """Copies of A and B at the start, of the adapters that do not start at a zero delta (pissa); empty for others."""
    return {
        name: (a.detach().clone().cpu(), b.detach().clone().cpu())
        for name, layer in adapted_layers(model)
        if bool((b := layer.lora_B["default"].weight).any()) and (a := layer.lora_A["default"].weight) is not None
    }


def adapted_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(full name within the base, PEFT's layer) of every adapted module."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in getattr(module, "lora_A", {}):
            yield name.removeprefix("base_model.model."), module


@torch.no_grad()
def adapter_spectra(model: Any, start: Factors) -> dict[str, torch.Tensor]:
    """Module name to the descending singular values of its delta, of an adapted model."""
    spectra = {}
    for name, layer in adapted_layers(model):
        a, b, scaling = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"]
        if layer.use_dora.get("default", False):
            spectra[name] = dense_singular_values(_dora_delta(layer, a, b, scaling))
        elif name in start:
            a0, b0 = (t.to(a.device) for t in start[name])
            spectra[name] = factor_singular_values(torch.cat([a, a0]), torch.cat([b, -b0], dim=1), scaling)
        else:
            spectra[name] = factor_singular_values(a, b, scaling)
    return spectra


def _dora_delta(layer: Any, a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(layer.get_base_layer()).float()
    if getattr(layer, "fan_in_fan_out", False):
        weight = weight.T
    adapted = weight + scaling * (b.float() @ a.float())
    magnitude = layer.lora_magnitude_vector["default"].weight.float().flatten()
    return (magnitude / adapted.norm(dim=1))[:, None] * adapted - weight


@torch.no_grad()
def full_spectra(model: Any, names: tuple[str, ...], before: Any) -> dict[str, torch.Tensor]:
    """The same for full fine-tuning; `before(name)` gives a module's weight before training."""
    spectra = {}
    for name in names:
        weight = model.get_submodule(name).weight
        spectra[name] = dense_singular_values(weight.float() - before(name).to(weight.device).float())
    return spectra
