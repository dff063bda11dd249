"""whether a low rank and a high one learn the same directions"""

from __future__ import annotations

from lorabench.analysis.subspace_similarity import RankSimilarity, compute_rank_similarity
from lorabench.report import similarity_text
from lorabench.report.blocks import Figure, Points, Section
from lorabench.report.heatmaps import HeatMap, Plane, draw_heat
from lorabench.report.view import View

ORDER = 77
TITLE = "Similarity between ranks"


def section(view: View) -> Section | None:
    """A sentence for each neighbouring pair of ranks and phi(i, j) of the highest pair; None without two ranks of a
    seed."""
    pairs = compute(view)
    if not pairs:
        return None
    one = pairs[-1]
    figure = Figure(
        "rank-similarity-map",
        draw_heat(compute_map(one)),
        f"subspace similarity φ(i, j) between rank {one.low} and rank {one.high}, {one.family}",
        similarity_text.rank_map_caption(one),
        similarity_text.corners(one.right, one.left),
    )
    return Section(TITLE, (Points(tuple(map(similarity_text.rank_sentence, pairs))), figure))


def compute(view: View) -> tuple[RankSimilarity, ...]:
    """Neighbouring ranks of each family whose cells kept their directions, at the seeds that both have; the first pairs
    if there are many."""
    return compute_rank_similarity(view.analysis)


def compute_map(one: RankSimilarity) -> HeatMap:
    """phi(i, j): right side, then left."""
    planes = []
    for side, s in (("right side", one.right), ("left side", one.left)):
        rows, columns = (tuple(str(i + 1) for i in range(n)) for n in (len(s.phi), len(s.phi[0])))
        planes.append(Plane(side, columns, rows, s.phi))
    return HeatMap(f"j, rank {one.high}", f"i, rank {one.low}", "φ(i, j)", tuple(planes), span=(0.0, 1.0))
