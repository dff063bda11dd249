"""A comparison in words: its size, its interval and what it rests on, the same in every sentence."""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.verdict import LEVEL, Comparison
from lorabench.record.metrics import Metric, metric


def size(c: Comparison) -> str:
    """ "0.034 nats" """
    m = metric(c.metric)
    return f"{formatting.number(abs(c.difference), m.unit)} {difference_unit(m.unit)}".strip()


def signed(c: Comparison) -> str:
    """ "+0.034 nats" """
    m = metric(c.metric)
    return f"{formatting.difference(c.difference, m.unit)} {difference_unit(m.unit)}".strip()


def margin(c: Comparison) -> str:
    """ "0.02 nats" """
    return "any size" if c.margin is None else amount(c.margin, metric(c.metric))


def amount(value: float, m: Metric) -> str:
    """ "0.02 nats"; "1 point" """
    shown = 100 * value if m.unit == "share" else value
    return f"{shown:g} {'point' if m.unit == 'share' and shown == 1 else difference_unit(m.unit)}".strip()


def interval(c: Comparison, *, of_size: bool = False) -> str:
    """ "95 % interval −0.010 to 0.078, 2 seeds"; of the difference, or of its size in the direction that words give
    it."""
    m = metric(c.metric)
    if c.low is None or c.high is None:
        return f"{seeds(c)}, {'no interval' if c.pairs == 1 else 'no interval, since the differences do not vary'}"
    over = {"items": " over items", "seeds and items": " over seeds and items"}.get(c.basis or "", "")
    low, high = (-c.high, -c.low) if of_size and c.difference < 0 else (c.low, c.high)
    return f"95 % interval{over} {formatting.number(low, m.unit)} to {formatting.number(high, m.unit)}, {seeds(c)}"


def verdict(c: Comparison) -> str:
    """What is said of a pair, the same in every section: "worse", "within the margin of 0.02 nats", "not decisive among
    so many comparisons"."""
    if c.verdict == "equivalent":
        return f"within the margin of {margin(c)}"
    if c.verdict == "non-inferior":
        return f"not worse by more than {margin(c)} ({bound(c)})"
    if c.verdict != "not decisive":
        return c.verdict
    if not c.repeated:
        return "not decisive (one seed)"
    if c.flattered:
        return f"not decisive, since {formatting.plural(c.broken, 'cell')} of it did not finish, which flatters it"
    if c.of_those_that_finished == "worse":
        broken = formatting.plural(c.reference_broken, "cell")
        return f"not decisive, since {broken} of the reference did not finish, which flatters it"
    return "not decisive among so many comparisons" if c.p_value is not None and c.p_value < LEVEL else "not decisive"


def bound(c: Comparison) -> str:
    """ "one-sided 95 % bound 0.013", of how much worse than the reference it is."""
    return one_sided_bound(c.worse_at_most, metric(c.metric))


def one_sided_bound(value: float | None, m: Metric) -> str:
    """The same of a value in the metric's unit; None where no noise is known."""
    return "the noise is unknown" if value is None else f"one-sided 95 % bound {formatting.number(value, m.unit)}"


def seeds(c: Comparison) -> str:
    """ "2 seeds" """
    return "untrained" if c.repeated and c.pairs == 1 else formatting.plural(c.pairs, "seed")


def difference_unit(unit: str) -> str:
    """What stands behind a difference: points where the values are shares, nothing behind a ratio."""
    return {"share": "points", "ratio": ""}.get(unit, unit)
