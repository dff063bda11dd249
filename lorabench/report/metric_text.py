"""A metric's values and axes in words, the same in every section."""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.aggregate import Statistic
from lorabench.record.metrics import Metric


def axis_title(m: Metric) -> str:
    """ "held-out loss (nats)": the title of an axis that a metric is drawn on."""
    unit = formatting.head_unit(m.unit)
    return f"{m.label} ({unit})" if unit else m.label


def value_words(mean: float, ci_half_width: float | None, m: Metric) -> str:
    """ "3.483 ± 0.117 nats" """
    spread = f" ± {formatting.number(ci_half_width, m.unit)}" if ci_half_width is not None else ""
    return f"{formatting.number(mean, m.unit)}{spread} {formatting.head_unit(m.unit)}".rstrip()


def share_spread(statistic: Statistic) -> str:
    """ " ± 1.2" of a share in percent; empty where no noise is known."""
    return "" if statistic.ci_half_width is None else f" ± {formatting.number(statistic.ci_half_width, 'share')}"
