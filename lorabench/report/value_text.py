"""How values, names and axes read, the same in every section: one home for what several of them write."""

from __future__ import annotations

from collections.abc import Sequence

from lorabench import formatting
from lorabench.record.metrics import Metric


def plus_minus(half_width: float | None, unit: str) -> str:
    """ " ± 0.004", to go behind a mean; empty where the half-width of its interval is unknown."""
    return "" if half_width is None else f" ± {formatting.number(half_width, unit)}"


def first_names(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """ "a, b and 3 more": the first `most` of them by name."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def with_unit(label: str, unit: str) -> str:
    """ "held-out loss (nats)"; the label alone where there is no unit."""
    return f"{label} ({unit})" if unit else label


def axis_title(m: Metric) -> str:
    """A metric's label with the unit of its axis, on which shares are percent (see `axis_factor`)."""
    return with_unit(m.label, formatting.head_unit(m.unit))


def axis_factor(m: Metric) -> float:
    """From a metric's own unit to that of its axis: 100 for shares."""
    return 100.0 if m.unit == "share" else 1.0
