"""How much of the rank that a change can have it uses, where in the model, and how it lies to the base weights."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, median

from lorabench.analysis.aggregate import Statistic
from lorabench.analysis.condition_spectra import rank_of, spectra
from lorabench.analysis.spectra import Measure, measured
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.spectrum import Spectrum

SHARE = 0.9  # of the energy: the q of k(q)


@dataclass(frozen=True)
class RankUse:
    """What a condition's changes use of the rank that they can have, averaged over modules and seeds."""

    condition: str
    label: str
    rank: int | None
    """of its adapters"""
    max_rank: float | None
    """the most that a change can have: of the adapter (twice the rank for pissa), else the smaller side of the
    matrix"""
    entropy_rank: Statistic
    energy_rank: Statistic
    """k(0.9)"""
    utilisation: Statistic | None
    """entropy rank / max_rank"""


def compute_rank_use(study: StudyAnalysis) -> tuple[RankUse, ...]:
    """One for each condition that kept spectra, in the study's order."""
    rows = []
    for s in study.summaries:
        cells = spectra(study, s.condition)
        entropy, energy = (
            measured(cells, lambda x: x.entropy_rank),
            measured(cells, lambda x: float(x.energy_rank(SHARE))),
        )
        if entropy is None or energy is None:
            continue
        max_rank, utilisation = measured(cells, lambda x: x.rank), measured(cells, lambda x: x.rank_utilisation)
        rank = rank_of(study, s.condition)
        rows.append(
            RankUse(s.condition, s.label.text, rank, max_rank.mean if max_rank else None, entropy, energy, utilisation)
        )
    return tuple(rows)


@dataclass(frozen=True)
class BesideBase:
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


def compute_beside_base(study: StudyAnalysis) -> tuple[BesideBase, ...]:
    """One for each condition whose spectra carry an alignment or intruders."""
    rows = []
    for s in study.summaries:
        cells = spectra(study, s.condition)
        means = (measured(cells, measure, median if measure is _amplification else mean) for measure in _MEASURES)
        values = tuple(m.mean if m else None for m in means)
        if any(value is not None for value in values):
            rows.append(BesideBase(s.label.text, *values))
    return tuple(rows)


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
