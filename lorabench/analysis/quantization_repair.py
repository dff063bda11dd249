"""Whether training undoes what quantization did to the base weights."""

from __future__ import annotations

from dataclasses import dataclass

from lorabench.analysis.aggregate import Statistic
from lorabench.analysis.condition_spectra import spectra
from lorabench.analysis.spectra import measured
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.spectrum import Spectrum


@dataclass(frozen=True)
class QuantizationRepair:
    """What the changes of a quantized condition do to its error, averaged over modules, then over seeds."""

    label: str
    error: Statistic | None
    """||E|| / ||W||; None where ||W|| was not measured"""
    cosine: Statistic
    repaired: Statistic
    best: Statistic


def compute_repair(study: StudyAnalysis) -> tuple[QuantizationRepair, ...]:
    """One for each condition whose spectra carry a repair."""
    rows = []
    for s in study.summaries:
        cells = spectra(study, s.condition)
        cosine = measured(cells, lambda x: x.repair.cosine if x.repair else None)
        repaired = measured(cells, lambda x: x.repair.repaired_share if x.repair else None)
        best = measured(cells, lambda x: x.repair.best_share if x.repair else None)
        if cosine is not None and repaired is not None and best is not None:
            rows.append(QuantizationRepair(s.label.text, measured(cells, _relative_error), cosine, repaired, best))
    return tuple(rows)


def _relative_error(spectrum: Spectrum) -> float | None:
    if spectrum.repair is None or spectrum.alignment is None or not spectrum.alignment.base_norm:
        return None
    return spectrum.repair.error_norm / spectrum.alignment.base_norm
