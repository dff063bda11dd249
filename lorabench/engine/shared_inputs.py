"""Layers that read one tensor, as query, key and value do, computed by one call for all of them.

Which they are is seen in one pass over a few tokens, whatever the architecture; what a model does otherwise later on
(another order, other rows, a layer that is left out) is computed layer by layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

Compute = Callable[[Sequence[Any], torch.Tensor], Sequence[torch.Tensor] | None]
"""the outputs of layers for their input; None where each layer has to compute its own"""

Frozen = tuple[torch.Tensor | None, torch.Tensor | None]
"""a layer's weight (out, in) and bias; None for a weight that the layer has to be asked for its product with"""


def by_input(model: torch.nn.Module, layers: Sequence[Any], ids: torch.Tensor) -> list[list[Any]]:
    """The layers that one pass calls exactly once, those beside each other that get the same tensor.

    ids: (rows, tokens), a few that the model may see.
    """
    if not layers:
        return []
    calls: list[tuple[Any, torch.Tensor]] = []
    hooks = [layer.register_forward_pre_hook(lambda called, x: calls.append((called, x[0]))) for layer in layers]
    try:
        # as it is: bitsandbytes lays 4-bit weights out for inference where a model is set to evaluate
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(input_ids=ids)
    finally:
        for hook in hooks:
            hook.remove()
    groups: list[list[Any]] = []
    before: torch.Tensor | None = None
    counts = Counter(id(layer) for layer, _ in calls)
    for layer, x in calls:
        if counts[id(layer)] > 1:
            continue
        if x is before:
            groups[-1].append(layer)
        else:
            groups.append([layer])
        before = x
    return groups


@contextmanager
def computed_together(groups: Sequence[Sequence[Any]], compute: Compute) -> Iterator[int]:
    """The layers of each group are computed by one call within; yields how many are beside others."""
    made = [_Group(group, compute) for group in groups]
    try:
        for group in made:
            for place, layer in enumerate(group.layers):
                layer.forward = partial(group.forward, place)
        yield sum(len(group) for group in groups if len(group) > 1)
    finally:
        for group in made:
            for layer in group.layers:
                del layer.forward


def frozen_matrix(layer: Any) -> Frozen:
    """What a frozen layer multiplies by, where that is a matrix as it stands."""
    from transformers.pytorch_utils import Conv1D

    if type(layer) not in (torch.nn.Linear, Conv1D) or layer.weight.requires_grad:
        return None, None
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight, layer.bias


def product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(tokens, out) of rows (tokens, in) and a weight (out, in) of one dtype."""
    return rows @ weight.T if bias is None else torch.addmm(bias.to(rows.dtype), rows, weight.T)


class _Group:
    """Layers that read one input; the first call with it computes all, the others take what is theirs."""

    def __init__(self, layers: Sequence[Any], compute: Compute) -> None:
        self.layers, self._compute = layers, compute
        self._input: torch.Tensor | None = None
        self._outputs: dict[int, torch.Tensor] = {}

    def forward(self, place: int, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The output of the layer at a place."""
        if self._input is not x or place not in self._outputs:
            if args or kwargs or (outputs := self._compute(self.layers, x)) is None:
                layer = self.layers[place]
                return type(layer).forward(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
            self._input, self._outputs = x, dict(enumerate(outputs))
        output = self._outputs.pop(place)
        if not self._outputs:
            self._input = None
        return output
