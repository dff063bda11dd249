"""What a synthetic cell learned: singular values and directions from a known surface.

For layer l and rank r (full fine-tuning: 64, the smaller side), with n the length of a side, and u
and v as in synthetic.py:

    sigma_i               = (1 + 0.1 u) i ** -(FALL[type] + 0.05 l + 0.5 / r + ERROR[quantization] + 0.02 v(cell id))
    directions            = sqrt(SHARED) C + sqrt(1 - SHARED) S(seed)      C orthogonal to S, so that between seeds
                            E phi(k, k) = SHARED ** 2 + (1 - SHARED) ** 2 k / (n - 8)
    ||W||                 = BASE_NORM; ||U^T W V|| is the geometric mean of what random directions and W's own hold
    ||E|| / ||W||         = ERROR[quantization]; cosine with the change REPAIR_COSINE
    intruders             = max(0, 3 - l) of 10 for adapters, none for full fine-tuning
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from lorabench.config.study import Cell
from lorabench.record.spectrum import Alignment, Intruders, Repair, Spectrum, place
from lorabench.record.truncations import DIRECTIONS, Directions

HIDDEN, LAYERS = 64, 4
SHARED, BASE_NORM, REPAIR_COSINE = 0.6, 20.0, 0.05
ERROR = {"int8": 0.01, "nf4": 0.09, "fp4": 0.12}
SIDES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "mlp.down_proj": (HIDDEN, 4 * HIDDEN)}  # (out, in)
FALL = {"self_attn.q_proj": 0.7, "mlp.down_proj": 0.4}


def uniform(key: str) -> float:
    """A number in [-1, 1] that its key fixes."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**63 - 1


def modules() -> dict[str, tuple[int, int]]:
    return {f"model.layers.{i}.{part}": sides for i in range(LAYERS) for part, sides in SIDES.items()}


def spectra(cell: Cell) -> tuple[Spectrum, ...]:
    """Singular values that fall as a power of their index, faster in deeper layers and with lower ranks; and all that
    is measured beside them."""
    return tuple(_spectrum(cell, name, out, inner) for name, (out, inner) in modules().items())


def _spectrum(cell: Cell, name: str, out: int, inner: int) -> Spectrum:
    rank, layer = min(cell.method.rank or HIDDEN, HIDDEN), place(name)[0] or 0
    fall = (
        FALL[place(name)[1]]
        + 0.05 * layer
        + 0.5 / rank
        + ERROR.get(cell.quantization.name, 0.0)
        + 0.02 * uniform(cell.id)
    )
    values = (1 + 0.1 * uniform(cell.id + name)) * np.arange(1, rank + 1, dtype=np.float64) ** -fall
    k = rank if cell.method.rank is not None else DIRECTIONS
    random, own = BASE_NORM * k / math.sqrt(out * inner), BASE_NORM * (k / HIDDEN) ** 0.25
    count = max(0, 3 - layer) if cell.method.rank is not None else 0
    error, size = ERROR.get(cell.quantization.name, 0.0) * BASE_NORM, float(np.linalg.norm(values))
    repaired = (2 * REPAIR_COSINE * size * error - size**2) / error**2 if error else 0.0
    return Spectrum(
        name,
        values,
        inner,
        out,
        rank,
        1e-7,
        alignment=Alignment(BASE_NORM, k, float(np.linalg.norm(values[:k])), math.sqrt(random * own), own, random),
        intruders=Intruders(count, 10, 0.6, 0.02 * count),
        repair=Repair(error, REPAIR_COSINE, repaired, min(1.0, 1.5 * rank / HIDDEN)) if error else None,
    )


def directions(cell: Cell) -> dict[str, Directions]:
    """A part that all seeds share and a part of the seed's own, orthogonal to it."""
    k = min(cell.method.rank or HIDDEN, DIRECTIONS)
    return {
        name: Directions(_basis(cell, name, "left", out, k), _basis(cell, name, "right", inner, k))
        for name, (out, inner) in modules().items()
    }


def _basis(cell: Cell, name: str, side: str, length: int, k: int) -> np.ndarray:
    common = np.linalg.qr(normal(f"{name} {side}", length, DIRECTIONS)).Q
    free = normal(f"{name} {side} {cell.id}", length, k)
    own = np.linalg.qr(free - common @ (common.T @ free)).Q
    return np.asarray(math.sqrt(SHARED) * common[:, :k] + math.sqrt(1 - SHARED) * own)


def normal(key: str, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])).standard_normal(
        (rows, columns)
    )
