"""Conditions against their reference, paired by seed.

    d_s = value(condition, seed s) - value(reference, seed s);   difference = mean d
    95 % interval: difference +- t(0.975, n-1) * std(d) / sqrt(n);   p from the paired t test

Only seeds that finished on both sides count. A condition without a pair (an untrained base has no seed)
has no Comparison. One pair has no interval and no p; nor have differences that do not vary at all: a
spread of zero over a few seeds comes from rounding (accuracy over 200 items), not from certainty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from lorabench.analysis.conditions import Replicates
from lorabench.errors import LorabenchError
from lorabench.spec.grid import agrees
from lorabench.spec.identity import canonical_json, reference_for
from lorabench.spec.study import Study

CONFIDENCE = 0.95
_FULL = {"method": {"name": "full"}}
_SAME = 1e-12  # spread below this share of the values is float rounding


@dataclass(frozen=True)
class Comparison:
    """How far a condition lies from its reference in one metric."""

    metric: str
    condition: str
    reference: str
    pairs: int
    """seeds that finished on both sides"""
    difference: float
    """mean of condition - reference"""
    low: float | None
    high: float | None
    """95 % t interval of the difference"""
    p_value: float | None
    """paired t test, not corrected for multiplicity"""

    @property
    def decisive(self) -> bool:
        """Whether the interval excludes zero; never with a single pair."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def references(study: Study, groups: Sequence[Replicates]) -> dict[str, str]:
    """Condition id to the id of the condition it is compared with; the references themselves are left out."""
    rule = study.reference if study.reference is not None else _FULL
    plain = {g.condition: g.setting.model_dump(mode="json", exclude={"seed", "fingerprints"}) for g in groups}
    chosen = [p for p in plain.values() if agrees(p, rule)]
    by_setting = {canonical_json(p): c for c, p in plain.items() if agrees(p, rule)}
    found: dict[str, str] = {}
    for condition, setting in plain.items():
        if not chosen or condition in by_setting.values():
            continue
        try:
            found[condition] = by_setting[canonical_json(reference_for(setting, chosen))]
        except LorabenchError:  # several conditions fit the default equally well: then there is none
            continue
    return found


def compare(data: pd.DataFrame, wanted: Mapping[str, str], metrics: Sequence[str]) -> tuple[Comparison, ...]:
    """A Comparison for each condition and metric that has a pair; `data` is record.wide(results)."""
    finished = data[(data["outcome"] == "finished") & data["seed"].notna()]
    made = []
    for metric in metrics:
        by_seed = _by_seed(finished, metric)
        for condition, reference in wanted.items():
            ours, theirs = by_seed.get(condition, {}), by_seed.get(reference, {})
            seeds = [s for s in ours if s in theirs]
            if seeds:
                pairs = np.array([(ours[s], theirs[s]) for s in seeds])
                made.append(_paired(metric, condition, reference, pairs[:, 0], pairs[:, 1]))
    return tuple(made)


def _by_seed(finished: pd.DataFrame, metric: str) -> dict[str, dict[int, float]]:
    present = finished[finished[metric].notna()]
    found: dict[str, dict[int, float]] = {}
    for condition, seed, value in zip(present["condition"], present["seed"], present[metric].astype("float64"), strict=True):
        found.setdefault(condition, {})[int(seed)] = float(value)
    return found


def _paired(metric: str, condition: str, reference: str, ours: np.ndarray, theirs: np.ndarray) -> Comparison:
    each = ours - theirs
    n, mean = len(each), float(np.mean(each))
    spread = float(np.std(each, ddof=1)) if n > 1 else 0.0
    if spread <= _SAME * float(np.max(np.abs([ours, theirs]))):
        return Comparison(metric, condition, reference, n, mean, None, None, None)
    # scipy.special's own t distribution: scipy.stats takes ~1 ms a call, and a study makes thousands
    error = spread / math.sqrt(n)
    half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    p_value = 2 * float(special.stdtr(n - 1, -abs(mean) / error))
    return Comparison(metric, condition, reference, n, mean, mean - half, mean + half, p_value)
