"""whether a low rank and a high one learn the same directions"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from lorabench import formatting
from lorabench.analysis.spectra import MeanSimilarity, rank_similarity
from lorabench.record.truncations import DIRECTIONS, Directions
from lorabench.report import spectra
from lorabench.report.blocks import Figure, Points, Section
from lorabench.report.heatmaps import HeatMap, Plane, draw_heat
from lorabench.report.view import View

ORDER = 77
TITLE = "Similarity between ranks"
_AT_MOST = 8  # pairs of ranks


@dataclass(frozen=True)
class Ranks:
    """Two ranks of a family, compared seed by seed."""

    family: str
    low: int
    high: int
    right: MeanSimilarity
    left: MeanSimilarity


def section(view: View) -> Section | None:
    """A sentence for each neighbouring pair of ranks and phi(i, j) of the highest pair; None without two ranks of a
    seed."""
    found = compute(view)
    if not found:
        return None
    one = found[-1]
    caption = (
        f"How much of the first i right singular vectors of rank {one.low} lies within the first j of rank {one.high},"
        " or the other way round: φ(i, j) = ‖U₁ᵀU₂‖² / min(i, j), mean over seeds and modules (Hu et al. 2021,"
        " equation 4 and figure 3). Look at the first row: where it is bright, the low rank's first direction is among"
        " the high rank's first; a dark map says that the ranks found different subspaces."
    )
    words = tuple(
        f"{side} side, φ({i}, {j}): {s.phi[i - 1][j - 1]:.2f} (random subspaces: {max(i, j) * s.random:.2f})"
        for side, s in (("right", one.right), ("left", one.left))
        for i, j in dict.fromkeys(((1, 1), (1, len(s.phi[0])), (len(s.phi), len(s.phi[0]))))
    )
    title = f"subspace similarity φ(i, j) between rank {one.low} and rank {one.high}, {one.family}"
    figure = Figure("rank-similarity-map", draw_heat(compute_map(one)), title, caption, words)
    return Section(TITLE, (Points(tuple(sentence(r) for r in found)), figure))


def compute(view: View) -> tuple[Ranks, ...]:
    """Neighbouring ranks of each family whose cells kept their directions, at the seeds that both have; the first pairs
    if there are many."""
    families: dict[str, dict[int, str]] = {}
    for group, s in zip(view.analysis.groups, view.analysis.summaries, strict=True):
        if group.setting.method.rank is not None:
            families.setdefault(s.label.family, {})[group.setting.method.rank] = s.condition
    wanted = [
        (family, low, high) for family, ranks in families.items() for low, high in itertools.pairwise(sorted(ranks))
    ]
    made, held = [], dict[str, dict[int, Mapping[str, Directions]]]()
    for family, low, high in wanted[:_AT_MOST]:
        near = [families[family][rank] for rank in (low, high)]
        held = {
            c: held.get(c) or spectra.directions_by_seed(view, c) for c in near
        }  # two conditions at a time: one file may fill 100 MB
        ours, theirs = (held[c] for c in near)
        pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
        right, left = (rank_similarity(pairs, side, DIRECTIONS) for side in ("right", "left"))
        if right and left:
            made.append(Ranks(family, low, high, right, left))
    return tuple(made)


def compute_map(one: Ranks) -> HeatMap:
    """phi(i, j): right side, then left."""
    planes = []
    for side, s in (("right side", one.right), ("left side", one.left)):
        rows, columns = (tuple(str(i + 1) for i in range(n)) for n in (len(s.phi), len(s.phi[0])))
        planes.append(Plane(side, columns, rows, s.phi))
    return HeatMap(f"j, rank {one.high}", f"i, rank {one.low}", "φ(i, j)", tuple(planes), span=(0.0, 1.0))


def sentence(r: Ranks) -> str:
    """ "LoRA: of rank 4's first direction 0.61 lies within rank 8's first 8 (random: 0.06), of its first 4 0.33; 2
    seeds." """
    phi, k = r.right.phi, len(r.right.phi)
    most = len(phi[0])
    whole = f", of its first {k} {phi[k - 1][most - 1]:.2f}" if k > 1 else ""
    within = f"first {most}" if most > 1 else "first"
    return (
        f"{r.family}: of rank {r.low}'s first right direction {phi[0][most - 1]:.2f} lies within rank {r.high}'s"
        f" {within}{whole} (random subspaces: {most * r.right.random:.2f}; {formatting.plural(r.right.pairs, 'seed')})."
    )
