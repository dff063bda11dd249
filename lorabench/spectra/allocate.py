"""How many ranks each module gets of a budget: the same everywhere, or where the energy is.

A rank of a module of (out, in) costs out + in parameters and its i-th brings sigma_i^2. Taken by falling sigma_i^2 /
(out + in) this is the greedy answer of the knapsack with divisible weights, and exact up to the last rank that still
fits (Dantzig 1957).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lorabench.errors import LorabenchError
from lorabench.record.spectrum import Values


@dataclass(frozen=True, eq=False)
class ModuleCandidate:
    """One module: what its ranks bring and cost."""

    values: Values
    """singular values, descending"""
    cost: int
    """in + out features: parameters of one rank"""
    rest: float = 0.0
    """energy of further values that are not listed"""

    @property
    def energy(self) -> float:
        """Sum of all sigma^2."""
        return float(np.square(self.values).sum()) + self.rest


@dataclass(frozen=True)
class Allotment:
    """Ranks by module; 0 leaves a module out."""

    ranks: Mapping[str, int]
    parameters: int
    kept_energy: float
    """sum of the kept sigma^2, of all; 1 for a change of zero"""


def uniform(modules: Mapping[str, ModuleCandidate], rank: int) -> Allotment:
    """The same rank for every module, as far as it has so many."""
    return _allotment(modules, {name: min(rank, len(c.values)) for name, c in modules.items()})


def by_energy(modules: Mapping[str, ModuleCandidate], budget: int, least: int = 0) -> Allotment:
    """As much energy as a budget of parameters holds; every module has `least` ranks, whatever they bring."""
    ranks = {name: min(least, len(c.values)) for name, c in modules.items()}
    remaining = budget - sum(modules[n].cost * r for n, r in ranks.items())
    for name in _order(modules, ranks):
        if (cost := modules[name].cost) <= remaining and ranks[name] < len(modules[name].values):
            ranks[name] += 1
            remaining -= cost
    return _allotment(modules, ranks)


def least_uniform(modules: Mapping[str, ModuleCandidate], share: float) -> Allotment:
    """The smallest common rank that keeps a share of the energy of all modules together."""
    most = max((len(c.values) for c in modules.values()), default=0)
    for rank in range(1, most + 1):
        allotment = uniform(modules, rank)
        if allotment.kept_energy >= share * (1 - 1e-12):
            return allotment
    return uniform(modules, most)


def least_by_energy(modules: Mapping[str, ModuleCandidate], share: float, least: int = 0) -> Allotment:
    """About the fewest parameters, spread by energy, that keep a share of it: what greedy takes until the share is
    reached."""
    total = sum(c.energy for c in modules.values())
    ranks = {name: min(least, len(c.values)) for name, c in modules.items()}
    kept_energy = sum(float(np.square(modules[n].values[:r]).sum()) for n, r in ranks.items())
    for name in _order(modules, ranks):
        if kept_energy >= share * total * (1 - 1e-12):
            break
        kept_energy += float(modules[name].values[ranks[name]] ** 2)
        ranks[name] += 1
    return _allotment(modules, ranks)


def _order(modules: Mapping[str, ModuleCandidate], ranks: Mapping[str, int]) -> Sequence[str]:
    """Module names, one for each rank worth having beyond those that are given, by falling energy per parameter."""
    heap = [
        (-float(c.values[i] ** 2) / c.cost, name, i)
        for name, c in modules.items()
        if (i := ranks[name]) < len(c.values) and c.values[i] > 0
    ]
    heapq.heapify(heap)
    order = []
    while heap:
        _, name, i = heapq.heappop(heap)
        order.append(name)
        values, cost = modules[name].values, modules[name].cost
        if i + 1 < len(values) and values[i + 1] > 0:
            heapq.heappush(heap, (-float(values[i + 1] ** 2) / cost, name, i + 1))
    return order


def _allotment(modules: Mapping[str, ModuleCandidate], ranks: dict[str, int]) -> Allotment:
    if not modules:
        raise LorabenchError("there is no adapted module to give a rank to")
    kept_energy = sum(float(np.square(c.values[: ranks[n]]).sum()) for n, c in modules.items())
    total = sum(c.energy for c in modules.values())
    return Allotment(ranks, sum(c.cost * ranks[n] for n, c in modules.items()), kept_energy / total if total else 1.0)
