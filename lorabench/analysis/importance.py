"""How much of what a metric varies by goes with each axis of a full grid: a functional analysis of variance, exact
where the grid is whole.

    y(c)   mean of a metric over the seeds that all conditions have         c = (c_1 ... c_k), a point of the grid
    f_U    = mean of y over the axes outside of U, minus f_W of every W below U
           (f of no axis is the mean of all)
    V_U    = mean over the grid of f_U^2,   V = sum of all V_U = variance of y over the grid
    share  = V_U / V
           Hutter, Hoos, Leyton-Brown 2014, ICML 32(1), equations 3 to 6; Sobol 1993

Theirs is of a forest fitted to scattered points; a whole grid needs no model. What the noise between seeds adds to V_U
is known (a two-way analysis of variance with seeds as blocks, Fisher 1925: a seed that shifts all conditions alike adds
nothing):

    s^2    = sum (y_cs - y_c - y_s + y)^2 / ((C - 1)(S - 1)),
           E[noise in V_U] = s^2 / S * df_U / C,
           df_U = product over U of (values - 1)
    F      = S C V_U / df_U / s^2                               on df_U and (C - 1)(S - 1) degrees of freedom

Limits: shares are of the values that were tried, evenly weighted; another grid gives others. A tuned learning rate is
chosen for each condition and is no axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from lorabench.analysis.conditions import Replicates
from lorabench.config.fingerprint import canonical_json, flattened
from lorabench.config.grid import base_of
from lorabench.config.plain_settings import agrees, get
from lorabench.config.study import Study

_SETTINGS = ("method", "quantization", "training", "evaluation")
Values = NDArray[np.float64]
NoImportance = Literal["no axis", "no reading", "no complete part", "no common seed"]
"""the grid has no axis with two values, no finished cell has the metric, no part of the grid with two values of an axis
has a result at every point, or its conditions share no seed"""


@dataclass(frozen=True)
class Effect:
    """What one axis explains alone, or several only together."""

    axes: tuple[str, ...]
    share: float
    """of the variance of the conditions' means, 0 to 1"""
    noise: float | None
    """the share that the noise between seeds is expected to have given it; None for one seed"""
    p_value: float | None
    """of an F test; None for one seed, or without any noise"""


@dataclass(frozen=True)
class Importance:
    """The decomposition of one grid in one metric."""

    metric: str
    within: str
    """the task or other thing that the grid is of; empty for a single one"""
    axes: Mapping[str, tuple[str, ...]]
    """the values of each axis that the grid is whole over"""
    left_out: Mapping[str, tuple[str, ...]]
    """values that lack a condition with a result, and axes with one value left"""
    conditions: int
    seeds: int
    """that all these conditions have"""
    std: float
    """of the conditions' means over the grid, in the metric's unit"""
    effects: tuple[Effect, ...]
    """by falling share; of all subsets of the axes"""


def importances(
    groups: Sequence[Replicates], data: pd.DataFrame, metric: str, study: Study
) -> tuple[tuple[Importance, ...], NoImportance | None]:
    """Of the study's grid, for each of its tasks (losses of two cannot be held against each other); and why there is
    none, None where there is one.

    `data` is record.wide(results) of the cells that conditions are made of.
    """
    grid, base = study.grid, flattened({k: v for k, v in base_of(study).items() if k in _SETTINGS})
    axes = {a: v for a, v in varied_axes(study).items() if not any(isinstance(x, Mapping) and "tune" in x for x in v)}
    if not axes:
        return (), "no axis"
    if metric not in data or not data[metric].notna().any():
        return (), "no reading"
    ready = data[data["outcome"] == "finished"]
    by_cell = {c: float(v) for c, v in zip(ready["cell"], ready[metric], strict=True) if v == v}
    tasks: dict[str, list[Replicates]] = {}
    for g in groups:
        if _of_base(g, base, grid):
            tasks.setdefault(canonical_json(g.declared["task"]), []).append(g)
    rows: list[Importance] = []
    why: NoImportance | None = None
    for i, members in enumerate(tasks.values()):
        whole = _of_grid(members, by_cell, axes)
        if not isinstance(whole, _Whole):
            why = why or whole
        else:
            rows.append(
                _importance(
                    metric, "" if len(tasks) == 1 else f"{members[0].declared['task']['name']} {i + 1}", axes, whole
                )
            )
    return tuple(rows), None if rows else why


def varied_axes(study: Study) -> dict[str, tuple[object, ...]]:
    """The axes of the grid that vary something else than the task."""
    return {a: tuple(v) for a, v in study.grid.items() if len(v) > 1 and a.partition(".")[0] != "task"}


def _of_base(group: Replicates, base: Mapping[str, object], grid: Mapping[str, object]) -> bool:
    """Whether a condition differs from the base setting in nothing but axes and what they leave unused: `include` may
    have put others beside the grid."""
    own = flattened({k: group.declared[k] for k in _SETTINGS if group.trains or k != "training"})
    free = [k for k, v in own.items() if v is not None and base.get(k) is not None and v != base[k]]
    return all(any(k == axis or k.startswith(f"{axis}.") for axis in grid) for k in free)


@dataclass(frozen=True)
class _Whole:
    """A grid that lacks nothing: values of each axis by place, and y by point and seed."""

    places: dict[str, tuple[int, ...]]
    y: Values
    """(values of axis 1, ..., values of axis k, seeds)"""


def _of_grid(
    groups: Sequence[Replicates], by_cell: Mapping[str, float], axes: Mapping[str, Sequence[object]]
) -> _Whole | NoImportance:
    """A whole part of the grid, as leaving out values one by one finds it, not always the largest; the reason where
    none is left."""
    members: dict[tuple[int, ...], Replicates] = {}
    known: dict[tuple[str, str], list[int]] = {}  # places on an axis, by a condition's value there
    for g in groups:
        at = []
        for axis, wanted in axes.items():
            key = axis, canonical_json(get(g.declared, axis))
            if key not in known:  # as often as there are values, not conditions
                known[key] = [i for i, v in enumerate(wanted) if agrees(g.declared, {axis: v})]
            at.append(known[key])
        for point in itertools.product(*at):
            members.setdefault(point, g)  # the grid's own comes first
    seeds_of: dict[tuple[int, ...], dict[int, float]] = {}
    for point, g in members.items():
        if values := {c.seed: by_cell[i] for c, i in zip(g.cells, g.ids, strict=True) if i in by_cell}:
            seeds_of[point] = values
    places = _whole_part([len(v) for v in axes.values()], seeds_of.keys())
    varied = {a: k for a, k in zip(axes, places, strict=True) if len(k) > 1}
    if not varied:
        return "no complete part"
    points = list(itertools.product(*places))
    seeds = sorted(set.intersection(*(set(seeds_of[p]) for p in points)))
    if not seeds:
        return "no common seed"
    y = np.array([[seeds_of[p][s] for s in seeds] for p in points]).reshape(
        *(len(k) for k in varied.values()), len(seeds)
    )
    return _Whole(dict(zip(axes, places, strict=True)), y)


def _whole_part(sizes: Sequence[int], present: Collection[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Places of each axis whose product is all present: the value with the largest share of gaps goes first, of several
    the last. Greedy: a larger whole part may exist."""
    places = [list(range(n)) for n in sizes]
    while True:
        gaps = [p for p in itertools.product(*places) if p not in present]
        if not gaps:
            return [tuple(k) for k in places]
        total = math.prod(map(len, places))
        share = {
            (axis, v): sum(p[axis] == v for p in gaps) * len(places[axis]) / total
            for axis, k in enumerate(places)
            for v in k
        }
        axis, value = max(share, key=lambda at: (share[at], len(places[at[0]]), at))
        places[axis].remove(value)
        if not places[axis]:
            return [() for _ in sizes]


def _importance(metric: str, within: str, axes: Mapping[str, Sequence[object]], whole: _Whole) -> Importance:
    varied = [a for a, k in whole.places.items() if len(k) > 1]
    seeds = whole.y.shape[-1]
    means = whole.y.mean(axis=-1)
    variance = float(means.var())
    noise = _noise(whole.y)
    freedom = (means.size - 1) * (seeds - 1)
    effects = []
    for places, v in variances(means).items():
        df = math.prod(means.shape[i] - 1 for i in places)
        share = v / variance if variance else 0.0
        expected = None if noise is None or not variance else noise / seeds * df / means.size / variance
        p = float(stats.f.sf(seeds * means.size * v / df / noise, df, freedom)) if noise else None
        effects.append(Effect(tuple(varied[i] for i in places), share, expected, p))
    effects.sort(key=lambda e: (-e.share, len(e.axes)))
    return Importance(
        metric,
        within,
        axes={a: tuple(_name(axes[a][i]) for i in whole.places[a]) for a in varied},
        left_out={
            a: tuple(_name(axes[a][i]) for i in range(len(axes[a])) if a not in varied or i not in whole.places[a])
            for a in axes
            if len(whole.places[a]) < len(axes[a])
        },
        conditions=means.size,
        seeds=seeds,
        std=math.sqrt(variance),
        effects=tuple(effects),
    )


def variances(means: Values) -> dict[tuple[int, ...], float]:
    """V_U of every set of axes but the empty one, of a whole grid of means: their sum is the grid's variance."""
    parts: dict[tuple[int, ...], Values] = {(): means.mean(keepdims=True).reshape((1,) * means.ndim)}
    for n in range(1, means.ndim + 1):
        for axes in itertools.combinations(range(means.ndim), n):
            outside = tuple(i for i in range(means.ndim) if i not in axes)
            marginal: Values = means.mean(axis=outside, keepdims=True) if outside else means
            below = [parts[s] for k in range(n) for s in itertools.combinations(axes, k)]
            parts[axes] = marginal - sum(below, np.zeros((1,) * means.ndim))
    return {axes: float(np.square(f).mean()) for axes, f in parts.items() if axes}


def _noise(y: Values) -> float | None:
    """s^2 of conditions by seeds, without what a seed does to all alike; None for one seed."""
    flat = y.reshape(-1, y.shape[-1])
    if flat.shape[1] < 2:
        return None
    rest = flat - flat.mean(axis=1, keepdims=True) - flat.mean(axis=0, keepdims=True) + flat.mean()
    return float(np.square(rest).sum() / ((flat.shape[0] - 1) * (flat.shape[1] - 1)))


def _name(value: object) -> str:
    """A value of an axis as a word."""
    if isinstance(value, Mapping):
        rest = ", ".join(f"{k}={_name(v)}" for k, v in value.items() if k != "name")
        return " ".join(part for part in (str(value.get("name", "")), f"({rest})" if rest else "") if part)
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else "none" if value is None else str(value)
