"""Parameters that are adapted in place of modules: the stacks of experts, which PEFT reaches by `target_parameters`.

transformers 5 keeps the experts of a layer as one parameter (experts, rows, columns). PEFT's ParamWrapper gives such a
stack a pair of factors that holds each expert's own, A (experts * rank, in) and B (out, rank * experts): an expert's
change is of the rank that is asked for, and the pair has experts * rank * (in + out) parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorabench.config.settings import EXPERTS
from lorabench.errors import ModelError, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def expert_stacks(model: PreTrainedModel) -> dict[str, tuple[int, int, int]]:
    """Full name to (experts, rows, columns) of a bare model's stacks; the model may be on the meta device."""
    from torch.nn.modules.conv import _ConvNd

    return {
        f"{place}.{name}": (parameter.shape[0], parameter.shape[1], parameter.shape[2])
        for place, module in model.named_modules()
        if not isinstance(module, _ConvNd)  # a kernel (out, in, width) is no stack
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3
    }


def resolve_parameters(
    model: PreTrainedModel, target_parameters: str | tuple[str, ...] | None
) -> dict[str, tuple[int, int, int]]:
    """The stacks that target_parameters means, with their shapes; ModelError where it means none."""
    if target_parameters is None:
        return {}
    stacks = expert_stacks(model)
    if not stacks:
        raise ModelError(
            f"a {model.config.model_type} model keeps no experts as stacks of matrices, so target_parameters has"
            " nothing to adapt; allowed: null, with target_modules alone"
        )
    if target_parameters == EXPERTS:
        return stacks
    suffixes = sorted({name.rpartition(".")[2] for name in stacks})
    for name in target_parameters:
        if not any(full == name or full.endswith("." + name) for full in stacks):
            raise ModelError(unknown("target parameter", name, [EXPERTS, *suffixes]))
    return {
        full: shape
        for full, shape in stacks.items()
        if any(full == name or full.endswith("." + name) for name in target_parameters)
    }


def peft_parameters(stacks: dict[str, tuple[int, int, int]]) -> list[str] | None:
    """The names by which PEFT finds these stacks in every layer: what follows the layer's number; None for none."""
    names = set()
    for full in stacks:
        parts = full.split(".")
        numbered = [i for i, part in enumerate(parts) if part.isdigit()]
        names.add(".".join(parts[numbered[0] + 1 if numbered else 0 :]))
    return sorted(names) or None


def stack_fault(stacks: dict[str, tuple[int, int, int]], rank: int) -> str | None:
    """Of a rank above the smallest side of a stack's matrices; None where it is possible on all."""
    if not stacks:
        return None
    name = min(stacks, key=lambda n: min(stacks[n][1:]))
    _, rows, columns = stacks[name]
    if rank <= min(rows, columns):
        return None
    return (
        f"rank {rank} is above the smaller side of {name} ({rows} x {columns}); at most {min(rows, columns)} is allowed"
    )
