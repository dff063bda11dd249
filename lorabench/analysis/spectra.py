"""What conditions learned, from the files beside their cells: means over modules, then over seeds; numpy alone.

    phi(i, j) = ||U1[:, :i]^T U2[:, :j]||_F^2 / min(i, j)     Hu et al. 2021, arXiv:2106.09685, equation 4

with U1, U2 the singular vectors that two seeds learned for one module: 1 where the smaller subspace lies within the
larger, 0 where they are orthogonal, max(i, j) / n expected of independent uniform ones in n dimensions
(E (u^T v)^2 = 1/n for each of the i j pairs). The sum of its i j terms is that of the squared cosines of the principal
angles (Bjoerck and Golub 1973), so it does not depend on which bases are stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lorabench.analysis.aggregate import Statistic
from lorabench.analysis.intervals import half_of
from lorabench.errors import StoreError
from lorabench.record.spectrum import Spectrum, load_spectra, places
from lorabench.record.truncations import Directions, Truncation, load_directions, load_truncations
from lorabench.record.whole_files import stamp

Side = Literal["left", "right"]
Measure = Callable[[Spectrum], float | None]
Middle = Callable[[list[float]], float | np.floating]
Array = NDArray[np.float64]
SMALLEST = 1e-6  # of the largest singular value: below is float32 rounding
MOST_VALUES = 512  # of a decay; what a figure can show
_MOST_FILES = 2048  # files of spectra that stay read: 30 kB each for rank 16 in a model of 224 matrices


def spectra(path: Path) -> tuple[Spectrum, ...]:
    """The spectra of a file, read once however many sections ask; none where it is absent or cannot be read."""
    written = stamp(path)
    return _spectra(path, written) if written is not None else ()


def truncations(path: Path) -> tuple[Truncation, ...]:
    """The rows of truncation.csv, read once; none where it is absent or cannot be read."""
    written = stamp(path)
    return _truncations(path, written) if written is not None else ()


def directions(path: Path) -> Mapping[str, Directions]:
    """The singular vectors of a file; none where it is absent or cannot be read. Not kept: one file may fill 100 MB."""
    try:
        return load_directions(path) if path.is_file() else {}
    except StoreError:  # shown without rather than not at all
        return {}


@lru_cache(maxsize=_MOST_FILES)
def _spectra(path: Path, written: tuple[int, int]) -> tuple[Spectrum, ...]:
    try:
        return load_spectra(path)
    except StoreError:
        return ()


@lru_cache(maxsize=_MOST_FILES)
def _truncations(path: Path, written: tuple[int, int]) -> tuple[Truncation, ...]:
    try:
        return load_truncations(path)
    except StoreError:
        return ()


def over_seeds(values: Sequence[float]) -> Statistic | None:
    """Mean, sample standard deviation (n - 1) and half-width of the mean's 95 % interval (both absent for one) of a
    value for each seed; None for no value."""
    if not values:
        return None
    return Statistic(
        float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values), half_of(values)
    )


def measured(cells: Sequence[Sequence[Spectrum]], measure: Measure, middle: Middle = np.mean) -> Statistic | None:
    """A measure over the modules that have it, cell by cell (their mean, or median where it is a ratio that may be
    huge), then over the cells."""
    each = [[v for s in cell if (v := measure(s)) is not None] for cell in cells]
    return over_seeds([float(middle(values)) for values in each if values])


@dataclass(frozen=True)
class Fields:
    """One value for each layer and type of module; None where the model has no such module."""

    layers: tuple[int | None, ...]
    """rising; None, last, is for modules outside the layers"""
    types: tuple[str, ...]
    """in the model's order"""
    values: tuple[tuple[float | None, ...], ...]
    """a row for each type, a column for each layer"""


def fields(cells: Sequence[Sequence[Spectrum]], measure: Measure) -> Fields:
    """A measure of each module, averaged over cells."""
    values: dict[tuple[int | None, str], list[float]] = {}
    at = places(s.module for cell in cells for s in cell)
    for s in (s for cell in cells for s in cell):
        if (value := measure(s)) is not None:
            values.setdefault(at[s.module], []).append(float(value))
    layers = sorted({n for n, _ in values}, key=lambda n: (n is None, n or 0))
    types = tuple(dict.fromkeys(kind for n, kind in values if n is not None)) + tuple(
        kind for n, kind in values if n is None
    )
    rows = tuple(tuple(float(np.mean(v)) if (v := values.get((n, kind))) else None for n in layers) for kind in types)
    return Fields(tuple(layers), types, rows)


def decays(spectra: Sequence[Spectrum]) -> list[Array]:
    """Singular values over the largest, of every change that is not zero."""
    return [
        s.singular_values / s.singular_values[0] for s in spectra if len(s.singular_values) and s.singular_values[0] > 0
    ]


def mean_decay(decays: Sequence[Array]) -> Array:
    """Mean at each index over the matrices that have so many values, down to what rounding leaves; at most
    MOST_VALUES."""
    longest = min(max((len(d) for d in decays), default=0), MOST_VALUES)
    total, number = np.zeros(longest), np.zeros(longest)
    for decay in decays:
        shown = decay[:longest]
        total[: len(shown)] += shown
        number[: len(shown)] += 1
    mean = total / np.maximum(number, 1)
    return mean[: int(np.argmax(mean < SMALLEST))] if bool((mean < SMALLEST).any()) else mean


def type_decays(cells: Sequence[Sequence[Spectrum]]) -> dict[str, Array]:
    """The mean decay of each type of module, over layers and cells."""
    kinds: dict[str, list[Spectrum]] = {}
    at = places(s.module for cell in cells for s in cell)
    for s in (s for cell in cells for s in cell):
        kinds.setdefault(at[s.module][1], []).append(s)
    return {kind: mean for kind, members in kinds.items() if len(mean := mean_decay(decays(members)))}


def orthonormal(columns: NDArray[np.floating]) -> Array:
    """Orthonormal columns whose first k span what the first k stored ones do (float16 leaves them so to 1e-3); it stops
    before a zero column."""
    plain = np.asarray(columns, dtype=np.float64)
    lengths = np.linalg.norm(plain, axis=0)
    whole = np.isfinite(lengths) & (lengths > 0.5)  # stored columns have length 1, or are no direction at all
    keep = len(whole) if whole.all() else int(np.argmin(whole))
    return np.asarray(np.linalg.qr(plain[:, :keep]).Q)


def similarity(first: Array, second: Array) -> Array:
    """phi(i, j) for every i, j of orthonormal columns: entry [i - 1, j - 1]."""
    overlap = np.square(first.T @ second).cumsum(axis=0).cumsum(axis=1)
    i, j = np.indices(overlap.shape) + 1
    return np.asarray(overlap / np.minimum(i, j))


@dataclass(frozen=True)
class MeanSimilarity:
    """phi of one side, averaged over pairs of cells and modules."""

    side: Side
    phi: tuple[tuple[float, ...], ...]
    """[i - 1][j - 1]; symmetric between seeds, of which neither is the first"""
    random: float
    """1/n averaged over the modules: phi(k, k) of random subspaces is k times as much"""
    pairs: int
    """of cells"""

    @property
    def diagonal(self) -> tuple[float, ...]:
        """phi(k, k) for k = 1, 2, ..."""
        return tuple(row[i] for i, row in enumerate(self.phi) if i < len(row))


def seed_similarity(seeds: Sequence[Mapping[str, Directions]], side: Side, most: int) -> MeanSimilarity | None:
    """Over all pairs of seeds and the modules they share, up to `most` directions; None where no pair has any."""
    return _mean_similarity(
        itertools.combinations([_bases(s, side, most) for s in seeds], 2), side, most, symmetric=True
    )


def rank_similarity(
    pairs: Sequence[tuple[Mapping[str, Directions], Mapping[str, Directions]]], side: Side, most: int
) -> MeanSimilarity | None:
    """The same between two ranks, each pair from one seed: i counts directions of the first rank, j of the second (Hu
    et al. 2021, figure 3)."""
    return _mean_similarity(
        ((_bases(a, side, most), _bases(b, side, most)) for a, b in pairs), side, most, symmetric=False
    )


def _bases(cell: Mapping[str, Directions], side: Side, most: int) -> dict[str, Array]:
    return {name: q for name, d in cell.items() if (q := orthonormal(getattr(d, side)[:, :most])).shape[1]}


def _mean_similarity(
    pairs: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]], side: Side, most: int, *, symmetric: bool
) -> MeanSimilarity | None:
    """A module with fewer directions leaves the mean where it ends."""
    total, number = np.zeros((most, most)), np.zeros((most, most))
    sizes, counted = [], 0
    for one, other in pairs:
        shared = [name for name in one if name in other and one[name].shape[0] == other[name].shape[0]]
        counted += bool(shared)
        for name in shared:
            phi = similarity(one[name], other[name])
            if symmetric:
                k = min(phi.shape)
                phi = (phi[:k, :k] + phi[:k, :k].T) / 2
            rows, columns = phi.shape
            total[:rows, :columns] += phi
            number[:rows, :columns] += 1
            sizes.append(one[name].shape[0])
    if not sizes:
        return None
    rows, columns = int((number[:, 0] > 0).sum()), int((number[0] > 0).sum())
    mean = total[:rows, :columns] / number[:rows, :columns]
    return MeanSimilarity(
        side, tuple(tuple(float(v) for v in row) for row in mean), float(np.mean([1 / n for n in sizes])), counted
    )
