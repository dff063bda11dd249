"""How fast steps were taken, by their curve: of a cell, of several cards, of the few steps that time a packed cell."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence

from lorabench.engine.checkpoint import StepRecord
from lorabench.record.result import Reading


def tokens_per_second(curve: Sequence[StepRecord]) -> float | None:
    """Over the steps after the first, which warms up; of a single step its own pace; None where no step tells its
    tokens."""
    timed = _timed(curve)
    return sum(tokens for _, tokens in timed) / sum(seconds for seconds, _ in timed) if timed else None


def paces(curve: Sequence[StepRecord]) -> Iterator[Reading]:
    """tokens_per_second, and the median and interquartile range of the same steps' seconds."""
    speed = tokens_per_second(curve)
    if speed is None:
        return
    seconds = [s for s, _ in _timed(curve)]
    yield Reading(metric="tokens_per_second", value=speed)
    yield Reading(metric="step_seconds", value=statistics.median(seconds))
    if len(seconds) > 1:
        first, _, third = statistics.quantiles(seconds, n=4, method="inclusive")
        yield Reading(metric="step_spread_seconds", value=third - first)


def _timed(curve: Sequence[StepRecord]) -> list[tuple[float, int]]:
    """Seconds and tokens of the steps after the first; those of a checkpoint that kept no tokens are left out."""
    pairs = list(itertools.pairwise(curve)) or [(StepRecord(0, 0.0, 0.0, 0.0, 0.0), one) for one in curve]
    return [(after.seconds - before.seconds, after.tokens) for before, after in pairs if after.tokens]
