"""A metric's values and axes in words, the same in every section."""

from __future__ import annotations

from lorabench import formatting
from lorabench.record.metrics import Metric


def axis_title(m: Metric) -> str:
    """ "held-out loss (nats)": the title of an axis that a metric is drawn on."""
    return with_unit(m.label, formatting.head_unit(m.unit))


def axis_factor(m: Metric) -> float:
    """From a metric's own unit to that of its axis: 100 for shares, which are drawn in percent."""
    return 100.0 if m.unit == "share" else 1.0


def with_unit(label: str, unit: str) -> str:
    """ "gap (points)"; the label alone where the unit is empty."""
    return f"{label} ({unit})" if unit else label


def value_words(mean: float, ci_half_width: float | None, m: Metric) -> str:
    """ "3.483 ± 0.117 nats" """
    spread = plus_minus(ci_half_width, m.unit)
    return f"{formatting.number(mean, m.unit)}{spread} {formatting.head_unit(m.unit)}".rstrip()


def plus_minus(ci_half_width: float | None, unit: str) -> str:
    """ " ± 0.117", to stand behind a mean in its unit; empty where no noise is known."""
    return "" if ci_half_width is None else f" ± {formatting.number(ci_half_width, unit)}"
