"""Findings about training: predicted peaks of memory and losses that still fall. Each function is named after its kind.

A falling loss: least squares over the last quarter of the steps, as if steps were independent; its fall is the slope
times that quarter, and what counts is the lower end of its one-sided 95 % interval over a condition's cells (t with the
steps' degrees of freedom).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scipy import special

from lorabench.analysis.findings import design_text as text
from lorabench.analysis.findings.base import Finding
from lorabench.analysis.study import StudyAnalysis

_OFF = 0.05  # of a predicted peak: within it a card's reserve covers the error
_LAST, _LEAST_STEPS = 0.25, 8  # share of the steps that a fall is read from, and how many that must be


def prediction_off(e: StudyAnalysis) -> Finding | None:
    """Predicted peaks that missed."""
    errors: dict[str, float] = {}
    predicted = 0
    for g in e.trained:
        pairs = [
            (e.results[i].value("predicted_train_peak_bytes"), e.results[i].value("train_peak_bytes"))
            for i in e.finished([g])
        ]
        whole = [(p, m) for p, m in pairs if p is not None and m]
        if whole:
            predicted += 1
            error = max(
                (p / m - 1 for p, m in whole), key=abs
            )  # of a mean a cell above and one below would say nothing
            if abs(error) > _OFF:
                errors[g.condition] = error
    if not errors:
        return None
    largest_first = sorted(errors, key=lambda c: -abs(errors[c]))
    sentence = text.prediction_off([(e.label(c), errors[c]) for c in largest_first], predicted, _OFF)
    groups = [e.group(c) for c in errors]
    return Finding(
        "prediction_off", "note", "Memory was predicted wrongly", sentence, e.labels(groups), e.finished(groups)
    )


def still_falling(e: StudyAnalysis) -> Finding | None:
    """Training losses that had not come to rest."""
    margin = e.study.comparison.loss_margin
    falls: dict[str, float] = {}
    for g in e.trained:
        each = [f for i in e.finished([g]) if (f := fall(e.file(i, "curve.csv"))) is not None]
        if each:
            mean, error = sum(f for f, _, _ in each) / len(each), math.hypot(*(s for _, s, _ in each)) / len(each)
            if mean - float(special.stdtrit(sum(n for _, _, n in each), 0.95)) * error > margin:
                falls[g.condition] = mean
    if not falls:
        return None
    steepest_first = sorted(falls, key=lambda c: -falls[c])
    sentence = text.still_falling([(e.label(c), falls[c]) for c in steepest_first], len(e.trained), margin)
    groups = [e.group(c) for c in falls]
    return Finding(
        "still_falling",
        "caution",
        "The training loss still falls at the end",
        sentence,
        e.labels(groups),
        e.finished(groups),
    )


def fall(curve: Path) -> tuple[float, float, int] | None:
    """By how much the loss falls over the last quarter of the steps, the standard error and its degrees of freedom;
    None where that is too short to tell."""
    try:
        head, *lines = curve.read_text(encoding="utf-8").splitlines()
        column = head.split(",").index("loss")
        y = np.array([float(line.split(",")[column]) for line in lines[-int(_LAST * len(lines)) :]])
    except (OSError, ValueError, IndexError):  # no curve, or one that was cut off
        return None
    if len(y) < _LEAST_STEPS or not np.isfinite(y).all():
        return None
    x = np.arange(len(y)) - (len(y) - 1) / 2
    spread = float(x @ x)
    slope = float(x @ y) / spread
    rest = y - y.mean() - slope * x
    return -slope * (len(y) - 1), math.sqrt(float(rest @ rest) / (len(y) - 2) / spread) * (len(y) - 1), len(y) - 2
