"""What is said of the rank that changes use, and of how they lie to the base weights."""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.rank_use import SHARE, RankUse
from lorabench.report.heatmaps import HeatMap
from lorabench.report.metric_text import plus_minus


def sentence(used: RankUse) -> str:
    """ "LoRA r=16: at rank 16 the changes use 8.1 of 16 (entropy rank); 90 % of their energy lies in 6.2
    directions.\""""
    at = f"at rank {used.rank} " if used.rank is not None else ""
    most = (
        "" if used.max_rank == used.rank else ", the most such a change can have"
    )  # of a dense one the smaller side, of pissa twice the rank
    of_max = f" of {used.max_rank:.4g}{most}" if used.max_rank else ""
    directions = "1 direction" if used.energy_rank.mean == 1 else f"{used.energy_rank.mean:.3g} directions"
    return (
        f"{used.label}: {at}the changes use {used.entropy_rank.mean:.3g}{of_max} (entropy rank); {100 * SHARE:.0f} % of"
        f" their energy lies in {directions}."
    )


def utilisation_sentence(used: RankUse) -> str:
    """The same with the utilisation; empty where that was not measured."""
    if used.utilisation is None:
        return ""
    return (
        f"{sentence(used).removesuffix('.')}: a utilisation of"
        f" {formatting.number(used.utilisation.mean, 'share')}{plus_minus(used.utilisation.ci_half_width, 'share')} %."
    )


def utilisation_caption(cut: str) -> str:
    """Of the figure over rank; `cut` says what lies beyond its axis."""
    return (
        "Entropy rank (Roy and Vetterli 2007) of the learned changes as a share of the rank they can have: mean over"
        " modules and seeds with the 95 % interval of the mean over seeds (±). Look for where a line falls: there,"
        " added rank is used less and less. 100 % would be a change that uses all directions alike. For a condition"
        f" without a rank, the level is a share of the smaller side of its matrices. {cut}".rstrip()
    )


def map_caption(info: HeatMap) -> str:
    """Of the map of energy ranks."""
    several = " (choose another above it)" if len(info.planes) > 1 else ""
    return (
        f"How many singular directions hold {100 * SHARE:.0f} % of the energy of each module's change, mean over seeds."
        f" The figure opens with {info.planes[info.shown].label}{several}. Look for bright fields: modules that need"
        " more rank than the others."
    )


def map_words(info: HeatMap) -> tuple[str, ...]:
    """For each type of module of the plane that is shown, its least and its greatest energy rank."""
    plane = info.planes[info.shown]
    sentences = []
    for kind, row in zip(plane.rows, plane.values, strict=True):
        ranks = [(v, at) for v, at in zip(row, plane.columns, strict=True) if v is not None]
        low, high = min(ranks, key=lambda rank: rank[0]), max(ranks, key=lambda rank: rank[0])
        reach = (
            f"{low[0]:.3g} (layer {low[1]}) to {high[0]:.3g} (layer {high[1]}), mean"
            f" {sum(v for v, _ in ranks) / len(ranks):.3g}"
        )
        sentences.append(f"{kind} of {plane.label}: {reach if low[0] < high[0] else f'{low[0]:.3g} everywhere'}")
    return tuple(sentences)


BESIDE_BASE = (
    "The change ΔW = U Σ Vᵀ beside the base weights W, means over modules and seeds. ‖UᵀWV‖ is how much of W lies"
    " in the change's own directions (of a dense change in its first few); the next two columns are what as many"
    " random directions would hold, and W's own first ones. The amplification factor ‖ΔW‖ / ‖UᵀWV‖ (Hu et al. 2021,"
    " section 7.3; median over modules) is large where training strengthens what W hardly uses. Intruders"
    " (Shuttleworth et al. 2024) are leading singular vectors of W + ΔW that resemble none of W's."
)
