"""Two studies side by side: the same conditions elsewhere, on another machine, version, model or data.

A condition here and one there match where their declared settings agree in every field but those in which the
studies differ as wholes: fields with one value in each study, and not the same (the model, say, or the steps). Where
none matches so, learning rates are left out as well. Matches are compared in each metric, paired by seed; their p
values are one family (Holm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lorabench.analysis.compare import compare
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.pairing import ItemsOf, Pairing
from lorabench.analysis.verdict import Comparison
from lorabench.config.fingerprint import canonical_json
from lorabench.config.settings import ComparisonSpec
from lorabench.record.items import Items

_THERE = "there:"
_LEARNING_RATE = "training.learning_rate"


@dataclass(frozen=True)
class MatchedCondition:
    """A condition of this study and its match in the other; the comparison is this one minus the other's."""

    here: str
    there: str
    comparison: Comparison | None


@dataclass(frozen=True)
class Across:
    """Two studies matched."""

    changed: tuple[str, ...]
    """conditions here, with a match, whose weights or data have other bytes there, under the same names"""
    differ: tuple[tuple[str, str, str], ...]
    """fields in which the studies differ as wholes: name, value here, value there"""
    matches: tuple[MatchedCondition, ...]
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """What is needed of one study."""

    groups: Sequence[Replicates]
    data: pd.DataFrame
    items: ItemsOf


def across(here: Side, there: Side, metric: str, rules: ComparisonSpec) -> Across:
    """The matched conditions of two studies, compared in one metric."""
    left, right = (_settings(side.groups) for side in (here, there))
    differ = _whole_differences(left, right)
    apart = {name for name, _, _ in differ}
    pairs = _matched(left, right, apart)
    if not pairs:  # a tuned rate and a given one are the same question
        pairs = _matched(left, right, apart | {_LEARNING_RATE})
    comparisons = {
        c.condition: c
        for c in compare(_joined(here, there), {c: _THERE + o for c, o in pairs.items()}, (metric,), rules)
    }
    marks = [
        {g.condition: (g.setting.fingerprints.model, g.setting.fingerprints.data) for g in side.groups}
        for side in (here, there)
    ]
    changed = tuple(
        c
        for c, o in pairs.items()
        if marks[0][c] != marks[1][o] and "model.name" not in apart and not any(n.startswith("task.") for n in apart)
    )
    return Across(
        changed,
        differ,
        tuple(MatchedCondition(c, o, comparisons.get(c)) for c, o in pairs.items()),
        tuple(c for c in left if c not in pairs),
        tuple(c for c in right if c not in pairs.values()),
    )


def _settings(groups: Sequence[Replicates]) -> dict[str, dict[str, str]]:
    return {g.condition: _flat(g.declared) for g in groups}


def _matched(
    left: Mapping[str, Mapping[str, str]], right: Mapping[str, Mapping[str, str]], apart: set[str]
) -> dict[str, str]:
    keys = {_key(s, apart): c for c, s in right.items()}
    return {c: keys[k] for c, s in left.items() if (k := _key(s, apart)) in keys}


def _flat(plain: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    values: dict[str, str] = {}
    for key, value in plain.items():
        if isinstance(value, dict) and f"{prefix}{key}" != _LEARNING_RATE:  # a grid of rates is one value
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = canonical_json(value)
    return values


def _whole_differences(
    left: Mapping[str, Mapping[str, str]], right: Mapping[str, Mapping[str, str]]
) -> tuple[tuple[str, str, str], ...]:
    names = dict.fromkeys(n for side in (left, right) for s in side.values() for n in s)
    differences = []
    for name in names:
        # an untrained base has no steps and no rate: where a field does not apply it says nothing about the study
        a, b = (
            {s.get(name, "null") for s in side.values() if s.get("training.steps") != "0"} or {"null"}
            for side in (left, right)
        )
        if len(a) == len(b) == 1 and a != b:
            differences.append((name, next(iter(a)), next(iter(b))))
    return tuple(differences)


def _key(setting: Mapping[str, str], apart: set[str]) -> str:
    return canonical_json({k: v for k, v in setting.items() if k not in apart})


def _joined(here: Side, there: Side) -> Pairing:
    other = there.data.assign(cell=_THERE + there.data["cell"], condition=_THERE + there.data["condition"])

    def items(cell: str) -> Mapping[str, Items]:
        return there.items(cell.removeprefix(_THERE)) if cell.startswith(_THERE) else here.items(cell)

    return Pairing(pd.concat([here.data, other], ignore_index=True), items)
