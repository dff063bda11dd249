"""how much of its rank each condition's change uses, where in the model, and how it lies to the base weights"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, median

from lorabench import formatting
from lorabench.analysis.aggregate import Statistic
from lorabench.analysis.spectra import Measure, fields, measured
from lorabench.record.spectrum import Spectrum
from lorabench.report import spectra
from lorabench.report.blocks import Block, Figure, Grid, Points, Section, Text
from lorabench.report.column_legend import legend
from lorabench.report.drawing import Axis, Drawing, bounded, cut_off
from lorabench.report.figures import draw
from lorabench.report.heatmaps import HeatMap, Plane, draw_heat
from lorabench.report.view import View

ORDER = 72
TITLE = "Learned rank"
SHARE = 0.9  # of the energy: the q of k(q)
_AT_MOST = 12  # sentences above the figures; they stand for the highest rank of each family


def section(view: View) -> Section | None:
    """Heat map, utilisation, and the change beside the base weights; None where no cell kept spectra."""
    used = compute(view)
    if not used:
        return None
    tops = spectra.tops(view, [u.condition for u in used if u.rank is not None])
    said = tuple(sentence(u) for u in used if u.condition in tops)[:_AT_MOST]
    blocks: list[Block] = [Points(said)] if said else []
    blocks.extend(b for b in (_curve(view, used), _map(view), *_beside(view)) if b is not None)
    blocks.append(
        Points(
            legend(("k(q)", "stable rank", "entropy rank", "utilisation", "amplification", "intruders")),
            "What the measures mean",
        )
    )
    return Section(TITLE, tuple(blocks))


@dataclass(frozen=True)
class RankUse:
    """What a condition's changes use of the rank that they can have, averaged over modules and seeds."""

    condition: str
    label: str
    rank: int | None
    """of its adapters"""
    room: float | None
    """the most that a change can have: of the adapter (twice the rank for pissa), else the smaller side of the
    matrix"""
    entropy_rank: Statistic
    energy_rank: Statistic
    """k(0.9)"""
    utilisation: Statistic | None
    """entropy rank / room"""


def compute(view: View) -> tuple[RankUse, ...]:
    """One for each condition that kept spectra, in the study's order."""
    made = []
    for s in view.analysis.summaries:
        cells = spectra.spectra(view, s.condition)
        entropy, energy = (
            measured(cells, lambda x: x.entropy_rank),
            measured(cells, lambda x: float(x.energy_rank(SHARE))),
        )
        if entropy is None or energy is None:
            continue
        room, used = measured(cells, lambda x: x.rank), measured(cells, lambda x: x.rank_utilisation)
        rank = spectra.rank_of(view, s.condition)
        made.append(RankUse(s.condition, s.label.text, rank, room.mean if room else None, entropy, energy, used))
    return tuple(made)


def sentence(used: RankUse) -> str:
    """ "LoRA r=16: at rank 16 the changes use 8.1 of 16 (entropy rank); 90 % of their energy lies in 6.2
    directions.\""""
    at = f"at rank {used.rank} " if used.rank is not None else ""
    most = (
        "" if used.room == used.rank else ", the most such a change can have"
    )  # of a dense one the smaller side, of pissa twice the rank
    room = f" of {used.room:.4g}{most}" if used.room else ""
    directions = "1 direction" if used.energy_rank.mean == 1 else f"{used.energy_rank.mean:.3g} directions"
    return (
        f"{used.label}: {at}the changes use {used.entropy_rank.mean:.3g}{room} (entropy rank); {100 * SHARE:.0f} % of"
        f" their energy lies in {directions}."
    )


def compute_curve(view: View, used: tuple[RankUse, ...]) -> Drawing | None:
    """Utilisation against rank, a line for each family; None where no family has two ranks."""
    found = {u.condition: u.utilisation for u in used}
    lines, levels = spectra.by_rank(view, lambda s: found.get(s.condition), 100.0)
    ranks = sorted({x for line in lines for x in line.x})
    y = Axis("entropy rank / rank (%)")
    return Drawing(Axis("rank", log=True, ticks=tuple(ranks)), y, lines, levels, "lines+markers") if lines else None


def _curve(view: View, used: tuple[RankUse, ...]) -> Figure | None:
    info = compute_curve(view, used)
    if info is None:
        return None
    info = bounded(info)
    caption = (
        "Entropy rank (Roy and Vetterli 2007) of the learned changes as a share of the rank they can have: mean over"
        " modules and seeds with the 95 % interval of the mean over seeds (±). Look where a line falls: there, added"
        " rank is used less and less. 100 % would be a change that uses all directions alike. For a condition without"
        f" a rank, the level is a share of the smaller side of its matrices. {cut_off(info)}".rstrip()
    )
    words = tuple(
        f"{sentence(u).removesuffix('.')}: a utilisation of"
        f" {formatting.number(u.utilisation.mean, 'share')}{_spread(u.utilisation)} %."
        for u in used
        if u.utilisation
    )
    return Figure("rank-utilisation", draw(info), "rank utilisation against rank", caption, words)


def _spread(statistic: Statistic) -> str:
    return "" if statistic.ci_half_width is None else f" ± {formatting.number(statistic.ci_half_width, 'share')}"


def compute_map(view: View) -> HeatMap | None:
    """Energy rank k(0.9) of each layer and module type, averaged over seeds: the condition of highest rank first, a
    menu for the others."""
    planes = {}
    for s in view.analysis.summaries:
        found = fields(spectra.spectra(view, s.condition), lambda x: float(x.energy_rank(SHARE)))
        if found.types:
            columns = tuple("none" if at is None else str(at) for at in found.layers)
            planes[s.condition] = Plane(s.label.text, columns, found.types, found.values)
    if not planes:
        return None
    shown = list(planes).index(spectra.highest(view, planes))
    return HeatMap("layer", "module type", f"k({SHARE})", tuple(planes.values()), shown)


def _map(view: View) -> Figure | None:
    info = compute_map(view)
    if info is None:
        return None
    plane = info.planes[info.shown]
    several = " (choose another above it)" if len(info.planes) > 1 else ""
    caption = (
        f"How many singular directions hold {100 * SHARE:.0f} % of the energy of each module's change, mean over seeds."
        f" The figure opens with {plane.label}{several}. Look for bright fields: modules that need more rank than the"
        " others."
    )
    words = []
    for kind, row in zip(plane.rows, plane.values, strict=True):
        found = [(v, at) for v, at in zip(row, plane.columns, strict=True) if v is not None]
        low, high = min(found, key=lambda f: f[0]), max(found, key=lambda f: f[0])
        reach = (
            f"{low[0]:.3g} (layer {low[1]}) to {high[0]:.3g} (layer {high[1]}), mean"
            f" {sum(v for v, _ in found) / len(found):.3g}"
        )
        words.append(f"{kind} of {plane.label}: {reach if low[0] < high[0] else f'{low[0]:.3g} everywhere'}")
    title = f"energy rank k({SHARE}) by layer and module type"
    return Figure("energy-rank", draw_heat(info), title, caption, tuple(words))


@dataclass(frozen=True)
class Beside:
    """How a condition's changes lie to the base weights W, averaged over modules and seeds; None where it was not
    measured."""

    label: str
    relative_norm: float | None
    """||delta_w|| / ||W||"""
    projected: float | None
    """||U^T W V||, with the change's own singular vectors"""
    random: float | None
    own: float | None
    amplification: float | None
    """median over modules: where ||U^T W V|| is small, the ratio has no bound"""
    intruders: float | None
    looked_at: float | None
    energy_share: float | None


def compute_beside(view: View) -> tuple[Beside, ...]:
    """One for each condition whose spectra carry an alignment or intruders."""
    made = []
    for s in view.analysis.summaries:
        cells = spectra.spectra(view, s.condition)
        means = (measured(cells, measure, median if measure is _amplification else mean) for measure in _MEASURES)
        found = tuple(m.mean if m else None for m in means)
        if any(value is not None for value in found):
            made.append(Beside(s.label.text, *found))
    return tuple(made)


def _amplification(x: Spectrum) -> float | None:
    return x.amplification


_MEASURES: tuple[Measure, ...] = (
    lambda x: x.relative_norm,
    lambda x: x.alignment.projected_norm if x.alignment else None,
    lambda x: x.alignment.projected_random if x.alignment else None,
    lambda x: x.alignment.projected_own if x.alignment else None,
    _amplification,
    lambda x: float(x.intruders.count) if x.intruders else None,
    lambda x: float(x.intruders.looked_at) if x.intruders else None,
    lambda x: x.intruders.energy_share if x.intruders else None,
)


def _beside(view: View) -> tuple[Block, ...]:
    rows = compute_beside(view)
    if not rows:
        return ()
    text = (
        "The change ΔW = U Σ Vᵀ beside the base weights W, means over modules and seeds. ‖UᵀWV‖ is how much of W lies"
        " in the change's own directions (of a dense change in its first few); the next two columns are what as many"
        " random directions would hold, and W's own first ones. The amplification factor ‖ΔW‖ / ‖UᵀWV‖ (Hu et al. 2021,"
        " section 7.3; median over modules) is large where training strengthens what W hardly uses. Intruders"
        " (Shuttleworth et al. 2024) are leading singular vectors of W + ΔW that resemble none of W's."
    )
    heads = (
        "condition",
        "‖ΔW‖ / ‖W‖",
        "‖UᵀWV‖",
        "random directions",
        "W's own",
        "amplification",
        "intruders",
        "energy in intruders",
    )
    return (Text(text, "small"), Grid(heads, tuple(_row(b) for b in rows)))


def _row(b: Beside) -> tuple[str, ...]:
    intruders = (
        formatting.DASH if b.intruders is None or b.looked_at is None else f"{b.intruders:.3g} of {b.looked_at:.3g}"
    )
    energy = formatting.DASH if b.energy_share is None else f"{formatting.number(b.energy_share, 'share')} %"
    plain = (_shown(v) for v in (b.relative_norm, b.projected, b.random, b.own, b.amplification))
    return (b.label, *plain, intruders, energy)


def _shown(value: float | None) -> str:
    return formatting.DASH if value is None else formatting.decimals(value)
