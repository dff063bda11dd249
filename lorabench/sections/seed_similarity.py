"""whether two seeds learn the same directions"""

from __future__ import annotations

from lorabench.analysis.condition_spectra import highest, tops
from lorabench.analysis.spectra import MeanSimilarity
from lorabench.analysis.subspace_similarity import SeedSimilarity, compute_seed_similarity
from lorabench.report import similarity_text
from lorabench.report.blocks import Figure, Section
from lorabench.report.drawing import Axis, Drawing, Line
from lorabench.report.figures import draw
from lorabench.report.heatmaps import HeatMap, Plane, draw_heat
from lorabench.report.style import GREY, Style
from lorabench.report.view import View

ORDER = 76
TITLE = "Similarity between seeds"
MOST_LINES = 12  # with more conditions, a family shows its highest rank alone


def section(view: View) -> Section | None:
    """phi(k, k) of every condition and phi(i, j) of one; None where no condition has directions of two seeds."""
    rows = compute(view)
    if not rows:
        return None
    one = chosen(view, rows)
    curves = Figure(
        "seed-similarity",
        draw(drawing(view, rows)),
        "similarity of the learned subspaces between seeds",
        similarity_text.seed_caption(len(rows), len(shown(view, rows))),
        tuple(map(similarity_text.seed_sentence, rows)),
    )
    heat_map = Figure(
        "seed-similarity-map",
        draw_heat(compute_map(one)),
        f"subspace similarity φ(i, j) between seeds, {one.label}",
        similarity_text.seed_map_caption(one.label),
        similarity_text.corners(one.right, one.left),
    )
    return Section(TITLE, (curves, heat_map))


def compute(view: View) -> tuple[SeedSimilarity, ...]:
    """One for each condition that has directions of two seeds."""
    return compute_seed_similarity(view.analysis)


def drawing(view: View, rows: tuple[SeedSimilarity, ...]) -> Drawing:
    """phi(k, k) of the right side, with the random baseline averaged over the conditions."""
    lines = [Line(s.label, view.styles[s.condition], _upto(s.right), s.right.diagonal) for s in shown(view, rows)]
    most = max(len(line.x) for line in lines)
    random = sum(s.right.random for s in rows) / len(rows)
    x = tuple(float(k) for k in range(1, most + 1))
    lines.append(Line("random subspaces", Style(GREY, "dash", "line-ew"), x, tuple(k * random for k in x)))
    return Drawing(
        Axis("k: first singular vectors compared", ticks=x),
        Axis("φ(k, k) between seeds"),
        tuple(lines),
        mode="lines+markers",
    )


def shown(view: View, rows: tuple[SeedSimilarity, ...]) -> tuple[SeedSimilarity, ...]:
    """All while they are few, else the highest rank of each family."""
    if len(rows) <= MOST_LINES:
        return rows
    highest_ranks = tops(view.analysis, [s.condition for s in rows])
    return tuple(s for s in rows if s.condition in highest_ranks)


def _upto(s: MeanSimilarity) -> tuple[float, ...]:
    return tuple(float(k) for k in range(1, len(s.phi) + 1))


def chosen(view: View, rows: tuple[SeedSimilarity, ...]) -> SeedSimilarity:
    """The condition of highest rank."""
    condition = highest(view.analysis, [s.condition for s in rows])
    return next(s for s in rows if s.condition == condition)


def compute_map(one: SeedSimilarity) -> HeatMap:
    """phi(i, j) of a condition: right side, then left."""
    planes = []
    for side, s in (("right side", one.right), ("left side", one.left)):
        names = tuple(str(i) for i in range(1, len(s.phi) + 1))
        planes.append(Plane(side, names, names, s.phi))
    return HeatMap("j", "i", "φ(i, j)", tuple(planes), span=(0.0, 1.0))
