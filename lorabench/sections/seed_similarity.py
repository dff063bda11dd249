"""whether two seeds learn the same directions"""

from __future__ import annotations

from dataclasses import dataclass

from lorabench import formatting
from lorabench.analysis.spectra import MeanSimilarity, seed_similarity
from lorabench.record.truncations import DIRECTIONS
from lorabench.report import spectra
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
    found = compute(view)
    if not found:
        return None
    caption = (
        "How much of the first k right singular vectors (what the change reads) two seeds of a condition have in"
        " common: φ(k, k) = ‖U₁ᵀU₂‖² / k (Hu et al. 2021, equation 4), mean over pairs of seeds and modules; 1 is the"
        " same subspace. Look how far a curve lies above the dashed line of random subspaces, and where it falls to it:"
        " beyond that index a change is noise of its seed. The left side (what the change writes) stands below in"
        " words."
    )
    if len(shown := drawn(view, found)) < len(found):
        caption += (
            f" Of {len(found)} conditions {len(shown)} are drawn (the highest rank of each family); the others stand"
            " below in words."
        )
    words = tuple(sentence(s) for s in found)
    blocks = [
        Figure(
            "seed-similarity",
            draw(drawing(view, found)),
            "similarity of the learned subspaces between seeds",
            caption,
            words,
        )
    ]
    one = chosen(view, found)
    said = (
        f"φ(i, j) of {one.label}: how much of the first i directions of one seed lies within the first j of another, or"
        " the other way round. The figure opens with the right side (choose the left above it). Look at the first row:"
        " where it is bright, one seed's first direction is among the other's first."
    )
    corner = tuple(
        f"{side} side, φ({i}, {j}): {s.phi[i - 1][j - 1]:.2f} (random subspaces: {max(i, j) * s.random:.2f})"
        for side, s in (("right", one.right), ("left", one.left))
        for i, j in dict.fromkeys(((1, 1), (1, len(s.phi)), (len(s.phi), len(s.phi))))
    )
    blocks.append(
        Figure(
            "seed-similarity-map",
            draw_heat(compute_map(one)),
            f"subspace similarity φ(i, j) between seeds, {one.label}",
            said,
            corner,
        )
    )
    return Section(TITLE, tuple(blocks))


@dataclass(frozen=True)
class Seeds:
    """A condition's similarity between its seeds on both sides."""

    condition: str
    label: str
    right: MeanSimilarity
    left: MeanSimilarity


def compute(view: View) -> tuple[Seeds, ...]:
    """One for each condition that has directions of two seeds."""
    made = []
    for s in view.analysis.summaries:
        cells = spectra.directions(view, s.condition)
        right, left = seed_similarity(cells, "right", DIRECTIONS), seed_similarity(cells, "left", DIRECTIONS)
        if right is not None and left is not None:
            made.append(Seeds(s.condition, s.label.text, right, left))
    return tuple(made)


def drawing(view: View, found: tuple[Seeds, ...]) -> Drawing:
    """phi(k, k) of the right side, with the random baseline averaged over the conditions."""
    lines = [Line(s.label, view.styles[s.condition], _upto(s.right), s.right.diagonal) for s in drawn(view, found)]
    most = max(len(line.x) for line in lines)
    random = sum(s.right.random for s in found) / len(found)
    x = tuple(float(k) for k in range(1, most + 1))
    lines.append(Line("random subspaces", Style(GREY, "dash", "line-ew"), x, tuple(k * random for k in x)))
    return Drawing(
        Axis("k: first singular vectors compared", ticks=x),
        Axis("φ(k, k) between seeds"),
        tuple(lines),
        mode="lines+markers",
    )


def drawn(view: View, found: tuple[Seeds, ...]) -> tuple[Seeds, ...]:
    """All while they are few, else the highest rank of each family."""
    if len(found) <= MOST_LINES:
        return found
    tops = spectra.tops(view, [s.condition for s in found])
    return tuple(s for s in found if s.condition in tops)


def _upto(s: MeanSimilarity) -> tuple[float, ...]:
    return tuple(float(k) for k in range(1, len(s.phi) + 1))


def chosen(view: View, found: tuple[Seeds, ...]) -> Seeds:
    """The condition of highest rank."""
    condition = spectra.highest(view, [f.condition for f in found])
    return next(s for s in found if s.condition == condition)


def compute_map(one: Seeds) -> HeatMap:
    """phi(i, j) of a condition: right side, then left."""
    planes = []
    for side, s in (("right side", one.right), ("left side", one.left)):
        names = tuple(str(i) for i in range(1, len(s.phi) + 1))
        planes.append(Plane(side, names, names, s.phi))
    return HeatMap("j", "i", "φ(i, j)", tuple(planes), span=(0.0, 1.0))


def sentence(s: Seeds) -> str:
    """ "LoRA r=16: of the first 8 directions seeds share 0.43 on the right and 0.31 on the left (random: 0.12 and 0.12;
    3 pairs of seeds).\""""
    k = min(len(s.right.phi), len(s.left.phi))
    first = f"of the first {k} directions" if k > 1 else "of the first direction"
    return (
        f"{s.label}: {first} seeds share {s.right.diagonal[k - 1]:.2f} on the right and {s.left.diagonal[k - 1]:.2f} on"
        f" the left (random subspaces: {k * s.right.random:.2f} and {k * s.left.random:.2f};"
        f" {formatting.plural(s.right.pairs, 'pair')} of seeds)."
    )
