"""How the learning rates that adapters chose stand to full fine-tuning's, of the same model and task."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from lorabench.analysis.study import StudyAnalysis
from lorabench.config.fingerprint import canonical_json


@dataclass(frozen=True)
class LearningRateRatios:
    """Adapters' chosen learning rates over that of full fine-tuning."""

    lowest: float
    highest: float
    conditions: int
    """adapters that have a full fine-tuning beside them"""
    step: float
    """the widest factor between neighbours of a grid: no ratio is known better"""
    at_an_edge: int
    """conditions of which a chosen rate, or full fine-tuning's, ends its grid"""


def learning_rate_ratios(study: StudyAnalysis) -> LearningRateRatios | None:
    """None where no adapter has a full fine-tuning beside it, both tuned and without broken cells (a rate of survivors
    is no best one)."""
    tuned = {t.condition: t for t in study.tunings if t.chosen and not study.summary(t.condition).outcomes.broken}
    full = {_base(study, c): t for c, t in tuned.items() if study.summary(c).method == "full"}
    pairs = [
        (t, full[_base(study, c)])
        for c, t in tuned.items()
        if study.summary(c).method != "full" and _base(study, c) in full
    ]
    ratios = sorted(a.chosen / f.chosen for a, f in pairs if a.chosen and f.chosen)
    if not ratios:
        return None
    step = max(
        b.learning_rate / a.learning_rate for pair in pairs for t in pair for a, b in itertools.pairwise(t.results)
    )
    return LearningRateRatios(ratios[0], ratios[-1], len(pairs), step, sum(a.edge or f.edge for a, f in pairs))


def _base(study: StudyAnalysis, condition: str) -> str:
    declared = study.declared(condition)
    return canonical_json({name: declared[name] for name in ("model", "task")})
