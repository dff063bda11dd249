"""Spectra of many modules summed up: by layer, by module type, and over the model.

A group is taken as one block-diagonal matrix, whose singular values are those of all its modules together: its norm is
the root of the sum of squares, and its energy rank k(q) is how many directions of all modules hold a share q of the
group's energy. Ranks that compare modules of different sizes are means over the modules.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lorabench.record.spectrum import SHARES, Spectrum, energy_rank, places


@dataclass(frozen=True)
class Group:
    """What some modules learned; absent where nothing is known of the base."""

    name: str
    modules: int
    frobenius_norm: float
    relative_norm: float | None
    """||delta_w||_F / ||W||_F, both over the whole group"""
    stable_rank: float
    entropy_rank: float
    participation_ratio: float
    numerical_rank: float
    energy_rank: dict[str, float]
    """mean k(q) of a module, by q"""
    directions: dict[str, int]
    """k(q) of the group as one matrix, by q"""
    rank_utilisation: float | None
    amplification: float | None
    """median over modules"""
    intruders: float | None
    """mean count of those looked at"""
    intruder_energy: float | None
    repair_cosine: float | None
    repaired_share: float | None
    """of the energy of the quantization's error in the group"""
    best_share: float | None


@dataclass(frozen=True)
class SpectraSummary:
    """The groups of a model, layers by number, types in the model's order."""

    layers: tuple[Group, ...]
    types: tuple[Group, ...]
    model: Group


def summarise(spectra: Iterable[Spectrum]) -> SpectraSummary:
    """Of at least one module."""
    modules = tuple(spectra)
    at = places(s.module for s in modules)
    layers = sorted({layer for layer, _ in at.values() if layer is not None})
    types = list(dict.fromkeys(kind for _, kind in at.values()))
    return SpectraSummary(
        tuple(group(str(n), [s for s in modules if at[s.module][0] == n]) for n in layers),
        tuple(group(t, [s for s in modules if at[s.module][1] == t]) for t in types),
        group("all", modules),
    )


def group(name: str, members: Iterable[Spectrum]) -> Group:
    """One group of at least one module."""
    modules = tuple(members)
    together = np.sort(np.concatenate([s.singular_values for s in modules]))[::-1]
    missed = float(np.linalg.norm([s.missed for s in modules]))
    norm = float(np.hypot(np.linalg.norm(together), missed))
    bases = [s.alignment.base_norm for s in modules if s.alignment]
    repairs = [(s.repair, s.frobenius_norm) for s in modules if s.repair]
    error = sum(r.error_norm**2 for r, _ in repairs)

    def mean(of: Callable[[Spectrum], float]) -> float:
        return statistics.fmean(of(s) for s in modules)

    def some(
        of: Callable[[Spectrum], float | None], combine: Callable[[list[float]], float] = statistics.fmean
    ) -> float | None:
        values = [v for s in modules if (v := of(s)) is not None]
        return combine(values) if values else None

    towards = sum(r.cosine * r.error_norm * change for r, change in repairs)  # the scalar products add up
    changed = sum(change**2 for _, change in repairs)
    return Group(
        name=name,
        modules=len(modules),
        frobenius_norm=norm,
        relative_norm=norm / base if len(bases) == len(modules) and (base := float(np.linalg.norm(bases))) else None,
        stable_rank=mean(lambda s: s.stable_rank),
        entropy_rank=mean(lambda s: s.entropy_rank),
        participation_ratio=mean(lambda s: s.participation_ratio),
        numerical_rank=mean(lambda s: s.numerical_rank),
        energy_rank={f"{q:g}": statistics.fmean(s.energy_rank(q) for s in modules) for q in SHARES},
        directions={f"{q:g}": energy_rank(together, q, missed) for q in SHARES},
        rank_utilisation=some(lambda s: s.rank_utilisation),
        amplification=some(lambda s: s.amplification, statistics.median),
        intruders=some(lambda s: float(s.intruders.count) if s.intruders else None),
        intruder_energy=some(lambda s: s.intruders.energy_share if s.intruders else None),
        repair_cosine=towards / (error * changed) ** 0.5 if error and changed else None,
        repaired_share=sum(r.repaired_share * r.error_norm**2 for r, _ in repairs) / error if error else None,
        best_share=sum(r.best_share * r.error_norm**2 for r, _ in repairs) / error if error else None,
    )
