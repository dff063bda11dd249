"""The changes between two checkpoints, weight by weight."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lorabench.errors import ModelError
from lorabench.record.spectrum import by_layer
from lorabench.spectra.delta import Delta, of_weights
from lorabench.spectra.files import Weights


def changes(before: Weights, after: Weights) -> Iterator[Delta]:
    """Of every weight matrix that both have, in the model's order of layers; ModelError where they share none."""
    has_shared = False
    for module in sorted((n.removesuffix(".weight") for n in after.names() if n.endswith(".weight")), key=by_layer):
        delta = change(before, after, module)
        if delta is not None:
            has_shared = True
            yield delta
    if not has_shared:
        raise ModelError(
            f"{after.place} and {before.place} share no weight matrix of the same name and size; they must have the"
            " same architecture"
        )


def change(before: Weights, after: Weights, module: str) -> Delta | None:
    """The change (out, in) of one weight matrix; None where the two have no such matrix of one size."""
    name = after.find(module)
    old_name = before.find(module)
    if name is None or old_name is None or len(after.shape(name)) != 2 or before.shape(old_name) != after.shape(name):
        return None
    new, old = after.weight(module), before.weight(module)
    if new is None or old is None or not (new.is_floating_point() and old.is_floating_point()):
        return None
    where = "cuda" if torch.cuda.is_available() else "cpu"
    return of_weights(module, old.to(where), new.to(where))


def unlike(before: Weights, after: Weights) -> list[str]:
    """Weights of two dimensions or more that cannot be compared: of other sizes (a resized embedding), absent, or
    stacks of matrices."""
    shapes = {n: after.shape(n) for n in after.names() if n.endswith(".weight")}
    names_before = {n: before.find(n.removesuffix(".weight")) for n in shapes}
    return [
        n
        for n, shape in shapes.items()
        if len(shape) > 1 and (len(shape) > 2 or (b := names_before[n]) is None or before.shape(b) != shape)
    ]
