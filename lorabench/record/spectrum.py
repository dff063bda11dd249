"""The singular values of one learned change of a weight matrix, their measures, and the file that keeps them beside a
cell.

With sigma_1 >= sigma_2 >= ... the singular values of delta_w, p_i = sigma_i / sum sigma and e_i = sigma_i^2 / sum
sigma^2:

    stable rank           sum sigma^2 / sigma_1^2                     Rudelson and Vershynin 2007, J. ACM 54.4 (there
                                                                      called numerical rank)
    entropy rank          exp(-sum p_i ln p_i)                        Roy and Vetterli 2007, EUSIPCO ("effective rank")
    participation ratio   1 / sum e_i^2                               Gao et al. 2017, bioRxiv 214262, of the energies
    energy rank k(q)      least k with e_1 + ... + e_k >= q
    nuclear rank k(q)     least k with p_1 + ... + p_k >= q           the same of plain values, as some tools count
    numerical rank        how many sigma_i are above what rounding of the stored numbers can make
    rank utilisation      entropy rank / the rank that the change can have

A change of zero (an adapter that was never trained), or one whose largest value rounding can make, has rank 0 by every
measure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorabench.errors import StoreError

SHARES = (0.5, 0.9, 0.95, 0.99)  # the q of k(q) that are shown
Values = NDArray[np.float64]


def stable_rank(values: Values, missed: float = 0.0) -> float:
    """sum sigma^2 / sigma_1^2; between 1 and the rank. `missed` is the root of the sum of sigma^2 that are not
    listed."""
    return float(np.sum(np.square(values / values[0])) + (missed / values[0]) ** 2) if _is_nonzero(values) else 0.0


def entropy_rank(values: Values) -> float:
    """exp of the Shannon entropy of sigma / sum sigma; between 1 and the rank."""
    if not _is_nonzero(values):
        return 0.0
    p = values / values.sum()
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p))))


def participation_ratio(values: Values) -> float:
    """(sum sigma^2)^2 / sum sigma^4; between 1 and the rank."""
    if not _is_nonzero(values):
        return 0.0
    squares = np.square(values / values[0])
    return float(squares.sum() ** 2 / np.square(squares).sum())


def energy_rank(values: Values, share: float, missed: float = 0.0) -> int:
    """Least k whose k largest sigma^2 hold a share of all; in 0 ... n, and n + 1 where those that are not listed are
    needed, too."""
    return _least_count(np.square(values / values[0]), share, (missed / values[0]) ** 2) if _is_nonzero(values) else 0


def nuclear_rank(values: Values, share: float) -> int:
    """The same of sigma instead of sigma^2."""
    return _least_count(values / values[0], share) if _is_nonzero(values) else 0


def _is_nonzero(values: Values) -> bool:
    return len(values) > 0 and bool(values[0] > 0)


def _least_count(parts: Values, share: float, rest: float = 0.0) -> int:
    sums = np.cumsum(parts)
    return (
        int(np.searchsorted(sums, share * (sums[-1] + rest) * (1 - 1e-12))) + 1
    )  # 1e-12: a share that is met exactly is met


@dataclass(frozen=True)
class Alignment:
    """How a change lies to the base weight W as it stands in its checkpoint (LoRA section 7.3 and Table 7, Hu et al.
    2021, arXiv:2106.09685)."""

    base_norm: float
    """||W||_F"""
    rank: int
    """k: how many singular vectors of the change were taken; all that it has, of a dense one the first few"""
    change_norm: float
    """norm of the change in them: sqrt of the sum of its first k sigma^2"""
    projected_norm: float
    """||U^T W V||_F, with U and V the singular vectors of the change"""
    projected_own: float
    """the same with W's own first singular vectors: the most that so many can hold"""
    projected_random: float
    """root mean square of random ones: ||W||_F sqrt(k^2 / (out in))"""


@dataclass(frozen=True)
class Intruders:
    """Left singular vectors of W + delta_w like none of W's (Shuttleworth et al. 2024, arXiv:2410.21228, Algorithm
    1)."""

    count: int
    looked_at: int
    """the first so many of W + delta_w were looked at"""
    threshold: float
    """best |cosine| with a left singular vector of W below which one counts"""
    energy_share: float
    """sigma^2 of those that count, of all of W + delta_w"""


@dataclass(frozen=True)
class Repair:
    """What quantization did to a base weight, E = W_q - W, and whether the change undoes it."""

    error_norm: float
    """||E||_F"""
    cosine: float
    """<delta_w, -E> / (||delta_w||_F ||E||_F); 1: the change is the repair, 0: it has nothing to do with it"""
    repaired_share: float
    """1 - ||E + delta_w||_F^2 / ||E||_F^2; negative where the change leads further away from W than quantization did"""
    best_share: float
    """the most that a change of the adapter's rank could: sum of the first sigma^2 of E, of all"""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one module's change, descending; what is not known is None."""

    module: str
    singular_values: Values
    in_features: int | None = None
    out_features: int | None = None
    rank: int | None = None
    """the most that the change can have: of the adapter, or the smaller side"""
    noise: float = 0.0
    """sigma that rounding of the stored numbers can make: what is below counts for no numerical rank"""
    alignment: Alignment | None = None
    intruders: Intruders | None = None
    repair: Repair | None = None
    missed: float = 0.0
    """root of the sum of sigma^2 that are not listed (matrices too large for all of them): norm, stable rank and k(q)
    count them"""

    @property
    def frobenius_norm(self) -> float:
        """||delta_w||_F = sqrt(sum sigma^2)."""
        return float(np.hypot(np.linalg.norm(self.singular_values), self.missed))

    @property
    def relative_norm(self) -> float | None:
        """||delta_w||_F / ||W||_F."""
        return self.frobenius_norm / self.alignment.base_norm if self.alignment and self.alignment.base_norm else None

    @property
    def amplification(self) -> float | None:
        """||delta_w||_F / ||U^T W V||_F, the amplification factor of LoRA section 7.3, of a dense change both in its
        first directions; None for a zero change."""
        alignment = self.alignment
        return (
            alignment.change_norm / alignment.projected_norm
            if alignment and alignment.projected_norm and alignment.change_norm
            else None
        )

    @property
    def numerical_rank(self) -> int:
        """How many values are above rounding."""
        return int(np.sum(self.singular_values > self.noise))

    @property
    def measured(self) -> Values:
        """The values that measures are taken of: none where even the largest is within rounding."""
        return (
            self.singular_values
            if len(self.singular_values) and self.singular_values[0] > self.noise
            else self.singular_values[:0]
        )

    @property
    def stable_rank(self) -> float:
        """sum sigma^2 / sigma_1^2 (Rudelson and Vershynin 2007); 0 for a change of zero."""
        return stable_rank(self.measured, self.missed)

    @property
    def entropy_rank(self) -> float:
        """exp of the entropy of sigma / sum sigma (Roy and Vetterli 2007); 0 for a change of zero."""
        return entropy_rank(self.measured)

    @property
    def participation_ratio(self) -> float:
        """1 / sum e_i^2 of the energies (Gao et al. 2017); 0 for a change of zero."""
        return participation_ratio(self.measured)

    @property
    def rank_utilisation(self) -> float | None:
        """Entropy rank / rank, 0 ... 1."""
        return self.entropy_rank / self.rank if self.rank else None

    def energy_rank(self, share: float) -> int:
        """k(share)."""
        return energy_rank(self.measured, share, self.missed)

    def nuclear_rank(self, share: float) -> int:
        """k(share) of plain values."""
        return nuclear_rank(self.measured, share)


def place(module: str) -> tuple[int | None, str]:
    """(layer, type) of a module's full name: "model.layers.3.self_attn.q_proj" is (3, "self_attn.q_proj")."""
    parts = module.split(".")
    at = next((i for i, p in enumerate(parts[:-1]) if p.isdigit()), None)
    return (None, module) if at is None else (int(parts[at]), ".".join(parts[at + 1 :]))


def places(modules: Iterable[str]) -> dict[str, tuple[int | None, str]]:
    """(layer, type) of every name; where layers stand in several places (encoder and decoder), the type begins with the
    place."""
    names = list(modules)
    positions = {m: place(m) for m in names}
    fronts = {m: _front(m) for m in names if positions[m][0] is not None}
    if len(set(fronts.values())) < 2:
        return positions
    return {m: (layer, f"{fronts[m]}.{kind}" if m in fronts else kind) for m, (layer, kind) in positions.items()}


def _front(module: str) -> str:
    """What stands before the number of a module's layer."""
    parts = module.split(".")
    return ".".join(parts[: next(i for i, p in enumerate(parts) if p.isdigit())])


def by_layer(module: str) -> list[int | str]:
    """A key that sorts names as a model has them: layer 2 before layer 10."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", module)]


_FACTS = ("in_features", "out_features", "rank", "noise", "missed")
_PARTS = {"alignment": Alignment, "intruders": Intruders, "repair": Repair}


def save_spectra(path: str | Path, spectra: Iterable[Spectrum]) -> None:
    """Writes spectra.safetensors: a float32 vector a module, all else as JSON in the file's metadata."""
    from safetensors.numpy import save_file

    listed = list(spectra)
    facts = {
        s.module: (
            {f: getattr(s, f) for f in _FACTS} | {p: asdict(v) for p in _PARTS if (v := getattr(s, p)) is not None}
        )
        for s in listed
    }
    values = {s.module: np.ascontiguousarray(s.singular_values, dtype=np.float32) for s in listed}
    save_file(values, path, metadata={"schema": "1", "modules": json.dumps(facts)})


def load_spectra(path: str | Path) -> tuple[Spectrum, ...]:
    """Reads it, in the model's order of layers; StoreError where the file cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {}).get("modules", "{}"))
            spectra = [
                _spectrum(name, np.asarray(file.get_tensor(name), dtype=np.float64).ravel(), facts.get(name, {}))
                for name in file.keys()  # noqa: SIM118
            ]
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as e:
        raise StoreError(f"{path} cannot be read ({' '.join(str(e).split())[:200]}); run the cell again") from None
    return tuple(sorted((s for s in spectra if np.isfinite(s.singular_values).all()), key=lambda s: by_layer(s.module)))


def _spectrum(name: str, values: Values, facts: dict[str, Any]) -> Spectrum:
    parts = {p: kind(**facts[p]) for p, kind in _PARTS.items() if p in facts}
    return Spectrum(name, values, **{f: facts[f] for f in _FACTS if facts.get(f) is not None}, **parts)
