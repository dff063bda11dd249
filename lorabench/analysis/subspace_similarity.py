"""Whether two seeds, or two ranks, of a condition learn the same directions: phi(i, j) on both sides."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from lorabench.analysis.condition_spectra import directions, directions_by_seed
from lorabench.analysis.spectra import MeanSimilarity, rank_similarity, seed_similarity
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.truncations import DIRECTIONS, Directions


@dataclass(frozen=True)
class SeedSimilarity:
    """A condition's similarity between its seeds on both sides."""

    condition: str
    label: str
    right: MeanSimilarity
    left: MeanSimilarity


def compute_seed_similarity(study: StudyAnalysis) -> tuple[SeedSimilarity, ...]:
    """One for each condition that has directions of two seeds."""
    rows = []
    for s in study.summaries:
        cells = directions(study, s.condition)
        right, left = seed_similarity(cells, "right", DIRECTIONS), seed_similarity(cells, "left", DIRECTIONS)
        if right is not None and left is not None:
            rows.append(SeedSimilarity(s.condition, s.label.text, right, left))
    return tuple(rows)


_MOST_PAIRS = 8  # of ranks


@dataclass(frozen=True)
class RankSimilarity:
    """Two ranks of a family, compared seed by seed."""

    family: str
    low: int
    high: int
    right: MeanSimilarity
    left: MeanSimilarity


def compute_rank_similarity(study: StudyAnalysis) -> tuple[RankSimilarity, ...]:
    """Neighbouring ranks of each family whose cells kept their directions, at the seeds that both have; the first pairs
    if there are many."""
    families: dict[str, dict[int, str]] = {}
    for group, s in zip(study.groups, study.summaries, strict=True):
        if group.setting.method.rank is not None:
            families.setdefault(s.label.family, {})[group.setting.method.rank] = s.condition
    neighbours = [
        (family, low, high) for family, ranks in families.items() for low, high in itertools.pairwise(sorted(ranks))
    ]
    rows, by_condition = [], dict[str, dict[int, Mapping[str, Directions]]]()
    for family, low, high in neighbours[:_MOST_PAIRS]:
        both = [families[family][rank] for rank in (low, high)]
        by_condition = {
            c: by_condition.get(c) or directions_by_seed(study, c) for c in both
        }  # two conditions at a time: one file may fill 100 MB
        at_low, at_high = (by_condition[c] for c in both)
        pairs = [(at_low[seed], at_high[seed]) for seed in at_low if seed in at_high]
        right, left = (rank_similarity(pairs, side, DIRECTIONS) for side in ("right", "left"))
        if right and left:
            rows.append(RankSimilarity(family, low, high, right, left))
    return tuple(rows)
