"""A comparison in words: its size, its interval and what it rests on, the same in every sentence."""

from __future__ import annotations

from lorabench.analysis.compare import Comparison
from lorabench.record.metrics import Metric, metric
from lorabench.report import human


def size(c: Comparison) -> str:
    """ "0.034 nats" """
    m = metric(c.metric)
    return f"{human.number(abs(c.difference), m.unit)} {_unit(m.unit)}".strip()


def signed(c: Comparison) -> str:
    """ "+0.034 nats" """
    m = metric(c.metric)
    return f"{human.difference(c.difference, m.unit)} {_unit(m.unit)}".strip()


def margin(c: Comparison) -> str:
    """ "0.02 nats" """
    return "any size" if c.margin is None else amount(c.margin, metric(c.metric))


def amount(value: float, m: Metric) -> str:
    """ "0.02 nats"; "1 point" """
    shown = 100 * value if m.unit == "share" else value
    return f"{shown:g} {'point' if m.unit == 'share' and shown == 1 else _unit(m.unit)}".strip()


def interval(c: Comparison, *, of_size: bool = False) -> str:
    """ "95 % interval −0.010 to 0.078, 2 seeds"; of the difference, or of its size in the direction that words give it."""
    m = metric(c.metric)
    if c.low is None or c.high is None:
        return f"{seeds(c)}, {'no interval' if c.pairs == 1 else 'no interval, since the differences do not vary'}"
    over = {"items": " over items", "seeds and items": " over seeds and items"}.get(c.basis or "", "")
    low, high = (-c.high, -c.low) if of_size and c.difference < 0 else (c.low, c.high)
    return f"95 % interval{over} {human.number(low, m.unit)} to {human.number(high, m.unit)}, {seeds(c)}"


def seeds(c: Comparison) -> str:
    """ "2 seeds" """
    return "untrained" if c.repeated and c.pairs == 1 else human.plural(c.pairs, "seed")


def _unit(unit: str) -> str:
    return {"share": "points", "ratio": ""}.get(unit, unit)
