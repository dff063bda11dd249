"""Training peaks as they were predicted before each cell ran, by their parts, beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lorabench.analysis.study import StudyAnalysis
from lorabench.record.metrics import PREDICTED_PARTS
from lorabench.record.result import CellResult


@dataclass(frozen=True)
class PeakPair:
    """A condition's training peak, predicted and measured."""

    label: str
    predicted: float
    measured: float | None
    condition: str = ""
    family: str = ""
    """the label without its rank"""
    parts: Mapping[str, float] = field(default_factory=dict)
    """bytes of the prediction by metric; empty where a cell has none, as those of older versions"""

    @property
    def error(self) -> float | None:
        """Percent of the measured value, positive where too much was predicted."""
        return None if self.measured is None else 100 * (self.predicted / self.measured - 1)


def compute_peaks(study: StudyAnalysis) -> tuple[PeakPair, ...]:
    """The conditions with a prediction, in the study's order."""
    pairs = []
    for s in study.summaries:
        results = study.of_condition(s.condition)
        predicted = {r.cell.id: v for r in results if (v := r.value("predicted_train_peak_bytes")) is not None}
        if predicted:
            parts = _parts([r for r in results if r.cell.id in predicted])
            pairs.append(
                PeakPair(
                    s.label.text,
                    statistics.fmean(predicted.values()),
                    s.mean("train_peak_bytes"),
                    s.condition,
                    s.label.family,
                    parts,
                )
            )
    return tuple(pairs)


def _parts(results: Sequence[CellResult]) -> dict[str, float]:
    """Means over cells, if every one of them has every part: others would not sum to the mean of the predictions."""
    each = [[r.value(m) for r in results] for m in PREDICTED_PARTS]
    whole = [[v for v in values if v is not None] for values in each]
    return (
        {m: statistics.fmean(values) for m, values in zip(PREDICTED_PARTS, whole, strict=True)}
        if all(len(v) == len(results) for v in whole)
        else {}
    )


@dataclass(frozen=True)
class PredictionErrors:
    """How far predictions lie from what was measured, in percent of it, whatever the sign."""

    conditions: int
    median: float
    largest: float
    worst: str
    """label of the condition that the largest is of"""


def prediction_errors(pairs: Sequence[PeakPair]) -> PredictionErrors | None:
    """None where no pair has a measured peak."""
    errors = {p.label: abs(p.error) for p in pairs if p.error is not None}
    if not errors:
        return None
    worst = max(errors, key=lambda label: errors[label])
    return PredictionErrors(len(errors), statistics.median(errors.values()), errors[worst], worst)


@dataclass(frozen=True)
class PeakGrowth:
    """What sets the condition of the largest prediction apart from the one of the smallest."""

    least: PeakPair
    most: PeakPair
    part: str
    """metric of the part that grows most"""
    part_bytes: float
    """by how much it grows"""

    @property
    def total_bytes(self) -> float:
        """By how much the whole prediction grows."""
        return self.most.predicted - self.least.predicted


def peak_growth(pairs: Sequence[PeakPair]) -> PeakGrowth | None:
    """None where fewer than two pairs have parts, or no part grows."""
    with_parts = [p for p in pairs if p.parts]
    if len(with_parts) < 2:
        return None
    least, most = min(with_parts, key=lambda p: p.predicted), max(with_parts, key=lambda p: p.predicted)
    increases = {m: n - least.parts[m] for m, n in most.parts.items()}
    part = max(increases, key=lambda m: increases[m])
    if most.predicted == least.predicted or increases[part] <= 0:
        return None
    return PeakGrowth(least, most, part, increases[part])
