"""how much of its rank each condition's change uses, where in the model, and how it lies to the base weights"""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.condition_spectra import highest, spectra, tops
from lorabench.analysis.rank_use import SHARE, BesideBase, RankUse, compute_beside_base, compute_rank_use
from lorabench.analysis.spectra import fields
from lorabench.report import rank_use_text
from lorabench.report.blocks import Block, Figure, Grid, Points, Section, Text
from lorabench.report.column_legend import legend
from lorabench.report.drawing import Axis, Drawing, bounded, cut_off
from lorabench.report.figures import draw
from lorabench.report.heatmaps import HeatMap, Plane, draw_heat
from lorabench.report.spectra import by_rank
from lorabench.report.view import View

ORDER = 72
TITLE = "Learned rank"
_AT_MOST = 12  # sentences above the figures; they stand for the highest rank of each family
_HEADS = (
    "condition",
    "‖ΔW‖ / ‖W‖",
    "‖UᵀWV‖",
    "random directions",
    "W's own",
    "amplification",
    "intruders",
    "energy in intruders",
)


def section(view: View) -> Section | None:
    """Heat map, utilisation, and the change beside the base weights; None where no cell kept spectra."""
    used = compute(view)
    if not used:
        return None
    highest_ranks = tops(view.analysis, [u.condition for u in used if u.rank is not None])
    sentences = tuple(rank_use_text.sentence(u) for u in used if u.condition in highest_ranks)[:_AT_MOST]
    blocks: list[Block] = [Points(sentences)] if sentences else []
    blocks.extend(b for b in (_curve(view, used), _map(view), *_beside(view)) if b is not None)
    blocks.append(
        Points(
            legend(("k(q)", "stable rank", "entropy rank", "utilisation", "amplification", "intruders")),
            "What the measures mean",
        )
    )
    return Section(TITLE, tuple(blocks))


def compute(view: View) -> tuple[RankUse, ...]:
    """One for each condition that kept spectra, in the study's order."""
    return compute_rank_use(view.analysis)


def compute_curve(view: View, used: tuple[RankUse, ...]) -> Drawing | None:
    """Utilisation against rank, a line for each family; None where no family has two ranks."""
    utilisation = {u.condition: u.utilisation for u in used}
    lines, levels = by_rank(view, lambda s: utilisation.get(s.condition), 100.0)
    ranks = sorted({x for line in lines for x in line.x})
    y = Axis("entropy rank / rank (%)")
    return Drawing(Axis("rank", log=True, ticks=tuple(ranks)), y, lines, levels, "lines+markers") if lines else None


def _curve(view: View, used: tuple[RankUse, ...]) -> Figure | None:
    info = compute_curve(view, used)
    if info is None:
        return None
    info = bounded(info)
    caption = rank_use_text.utilisation_caption(cut_off(info))
    words = tuple(sentence for u in used if (sentence := rank_use_text.utilisation_sentence(u)))
    return Figure("rank-utilisation", draw(info), "rank utilisation against rank", caption, words)


def compute_map(view: View) -> HeatMap | None:
    """Energy rank k(0.9) of each layer and module type, averaged over seeds: the condition of highest rank first, a
    menu for the others."""
    planes = {}
    for s in view.analysis.summaries:
        ranks = fields(spectra(view.analysis, s.condition), lambda x: float(x.energy_rank(SHARE)))
        if ranks.types:
            columns = tuple("none" if at is None else str(at) for at in ranks.layers)
            planes[s.condition] = Plane(s.label.text, columns, ranks.types, ranks.values)
    if not planes:
        return None
    shown = list(planes).index(highest(view.analysis, planes))
    return HeatMap("layer", "module type", f"k({SHARE})", tuple(planes.values()), shown)


def _map(view: View) -> Figure | None:
    info = compute_map(view)
    if info is None:
        return None
    title = f"energy rank k({SHARE}) by layer and module type"
    return Figure("energy-rank", draw_heat(info), title, rank_use_text.map_caption(info), rank_use_text.map_words(info))


def _beside(view: View) -> tuple[Block, ...]:
    rows = compute_beside_base(view.analysis)
    if not rows:
        return ()
    return Text(rank_use_text.BESIDE_BASE, "small"), Grid(_HEADS, tuple(_row(b) for b in rows))


def _row(b: BesideBase) -> tuple[str, ...]:
    intruders = (
        formatting.DASH if b.intruders is None or b.looked_at is None else f"{b.intruders:.3g} of {b.looked_at:.3g}"
    )
    energy = formatting.DASH if b.energy_share is None else f"{formatting.number(b.energy_share, 'share')} %"
    plain = (_shown(v) for v in (b.relative_norm, b.projected, b.random, b.own, b.amplification))
    return (b.label, *plain, intruders, energy)


def _shown(value: float | None) -> str:
    return formatting.DASH if value is None else formatting.decimals(value)
