"""Weights that neither bitsandbytes nor LoRA reaches: above all the experts of mixtures.

transformers keeps the experts of a layer as stacks (experts, rows, columns), which are parameters of their own and no
linear layers. bitsandbytes quantizes linear layers alone (transformers' replace_with_bnb_linear), and PEFT's
target_modules adapt linear layers alone; its target_parameters adapt the stacks (engine.parameter_targets). So an "nf4"
Mixtral keeps 45 of its 47 billion parameters in 16 bits, and trains none of them unless they are named.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from lorabench.engine.adapt import is_adapter
from lorabench.record.unreached import Unreached

if TYPE_CHECKING:
    from transformers import PreTrainedModel


WORTH_TELLING = 0.01  # share of the model's parameters: routers and short convolutions are below it


def has_experts(config: Any) -> bool:
    """Whether a model's configuration names several experts, each of which computes the rows that it is chosen for."""
    return any((getattr(config, n, None) or 0) > 1 for n in ("num_experts", "num_local_experts", "n_routed_experts"))


def unreached(model: PreTrainedModel) -> Unreached | None:
    """The matrices and stacks of a bare model that no linear layer and no embedding holds; None where they are below 1
    % of it.

    The model may be on the meta device. Biases, norms and other vectors are not counted.
    """
    parameters = [
        (f"{place}.{name}" if place else name, parameter)
        for place, module in model.named_modules()
        if not _is_reached(module)
        for name, parameter in module.named_parameters(recurse=False)
    ]
    matrices = {name: parameter for name, parameter in parameters if parameter.dim() > 1 and not is_adapter(name)}
    count, whole = sum(p.numel() for p in matrices.values()), sum(_logical(p) for p in model.parameters())
    if count < WORTH_TELLING * whole:
        return None
    by_size = sorted(matrices, key=lambda n: -matrices[n].numel())
    names = dict.fromkeys(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in by_size)
    size = sum(p.numel() * p.element_size() for p in matrices.values())
    return Unreached(names=tuple(names), parameters=count, of=whole, bytes=size)


def _is_reached(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | torch.nn.Embedding | Conv1D)


def _logical(parameter: torch.Tensor) -> int:
    from lorabench.engine.quantized_weights import logical_numel

    return logical_numel(parameter)
