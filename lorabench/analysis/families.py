"""Which conditions make one curve over rank: those that differ in rank alone, and in an alpha that follows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

from lorabench.analysis.aggregate import ConditionSummary
from lorabench.analysis.conditions import Replicates
from lorabench.config.fingerprint import canonical_json


def families(
    groups: Sequence[Replicates], summaries: Mapping[str, ConditionSummary]
) -> tuple[tuple[Replicates, ...], ...]:
    """Conditions that differ in rank, and in an alpha that may follow it; one condition for each rank of a family."""
    similar: dict[str, list[Replicates]] = {}
    for g in groups:
        if g.setting.method.rank is not None:
            similar.setdefault(apart_from(g, "method.rank", "method.alpha"), []).append(g)
    parts = [part for members in similar.values() for part in _one_for_each_rank(members)]
    left: dict[str, list[Replicates]] = {}  # what else follows the rank (a learning rate) is in no label
    for part in parts:
        if len(part) == 1:
            left.setdefault(summaries[part[0].condition].label.family, []).extend(part)
    place = {g.condition: i for i, g in enumerate(groups)}
    curves = [*(p for p in parts if len(p) > 1), *left.values()]
    return tuple(tuple(p) for p in sorted(curves, key=lambda p: min(place[g.condition] for g in p)))


def apart_from(group: Replicates, *fields: str) -> str:
    """What a condition is but for these fields, as a key; model and data count by their bytes, too."""
    plain = deepcopy(group.declared)
    for field in fields:
        part, _, name = field.partition(".")
        if name:
            plain[part].pop(name, None)
        else:
            plain.pop(part, None)
    marks = group.setting.fingerprints
    return canonical_json([plain, marks.model, marks.data])


def _one_for_each_rank(members: list[Replicates]) -> list[list[Replicates]]:
    """All of them, or a part for each alpha, or for each alpha / rank where that makes fewer."""
    if len({g.setting.method.rank for g in members}) == len(members):
        return [members]
    splits: list[dict[float, list[Replicates]]] = [{}, {}]
    for g in members:
        rank, alpha = g.setting.method.rank or 1, g.setting.method.alpha or 0.0
        splits[0].setdefault(alpha, []).append(g)
        splits[1].setdefault(alpha / rank, []).append(g)
    return list(min(splits, key=len).values())


def common_name(names: Sequence[str]) -> str:
    """What the families of several labels have in common."""
    pieces = [piece for piece in names[0].split(", ") if all(piece in n.split(", ") for n in names)]
    return ", ".join(pieces) or names[0]
