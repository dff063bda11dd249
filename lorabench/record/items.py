"""What a metric is a mean of, item by item, beside a cell's result: so that two cells can be compared on the same
items.

    items.safetensors    <metric>.sums (n,) float64 and, where items weigh differently, <metric>.weights (n,) float64

    value = sum(sums) / sum(weights)

An item is a multiple-choice item of an lm-eval task (sum 0 or 1, weight 1) or a held-out sequence (sum of -log p in
nats, weight its predicted tokens). Items stand in the data's order, which cells of one task share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating[Any]]  # numpy's own name for any precision
FILE = "items.safetensors"


@dataclass(frozen=True)
class Items:
    """One metric, item by item."""

    sums: Vector
    """(n,)"""
    weights: Vector | None = None
    """(n,); absent where every item weighs 1"""

    @property
    def value(self) -> float:
        """The metric over all items."""
        return float(self.sums.sum() / (len(self.sums) if self.weights is None else self.weights.sum()))


def save_items(path: str | Path, items: Mapping[str, Items]) -> None:
    """Writes items.safetensors."""
    from safetensors.numpy import save_file

    arrays = {f"{name}.sums": i.sums for name, i in items.items()} | {
        f"{name}.weights": i.weights for name, i in items.items() if i.weights is not None
    }
    save_file({k: np.ascontiguousarray(v, dtype=np.float64) for k, v in arrays.items()}, path)


def load_items(path: str | Path) -> dict[str, Items]:
    """Every metric of the file; nothing where there is no file or it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (OSError, SafetensorError):
        return {}
    names = [k.removesuffix(".sums") for k in arrays if k.endswith(".sums")]
    items = {n: Items(arrays[f"{n}.sums"], arrays.get(f"{n}.weights")) for n in sorted(names)}
    return {
        n: i
        for n, i in items.items()
        if i.sums.ndim == 1 and len(i.sums) and (i.weights is None or i.weights.shape == i.sums.shape)
    }
