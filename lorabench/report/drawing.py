"""What a figure shows, decided before it is drawn: lines, levels and axes, and how far the y axis reaches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lorabench.report.style import Style

_BEYOND = 0.7  # of what the means span: as far as error bars may stretch the y axis
_PAD = 0.06  # of the y axis, free at each end
_NAME_LINE = 0.075  # of the y axis: what a line of letters takes at its edge
_NEAR = 0.25  # of the y axis: as far as it grows to hold a level


@dataclass(frozen=True)
class Line:
    """A curve, or points, with error bars where values repeat."""

    label: str
    style: Style
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float | None, ...] = ()
    """half-width of the 95 % interval, one for each point"""
    hover: tuple[str, ...] = ()
    """a sentence for each point; absent: the numbers"""
    below: tuple[float | None, ...] = ()
    """length of the error bar downwards, where it differs from that upwards"""
    mode: Literal["lines", "markers", "lines+markers"] | None = None
    """absent: the drawing's"""
    faint: bool = False
    """drawn pale: it is there, but not what to look at"""


@dataclass(frozen=True)
class Level:
    """A horizontal line: a condition without the x axis's setting."""

    label: str
    style: Style
    y: float
    error: float | None = None


@dataclass(frozen=True)
class Trend:
    """A thin curve behind the points, without an entry in the legend."""

    colour: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Ring:
    """A circle around a point that is spoken of."""

    colour: str
    x: float
    y: float


@dataclass(frozen=True)
class Axis:
    """An axis's title with its unit, and its scale."""

    title: str
    log: bool = False
    ticks: tuple[float, ...] = ()
    """the only places for ticks"""
    names: tuple[str, ...] = ()
    """categories: a line's x is then a place among them"""
    format: str = ""
    """d3's number format"""
    span: tuple[float, float] | None = None
    """from where to where, if a few values would press all others flat"""


@dataclass(frozen=True)
class Drawing:
    """A whole figure, decided."""

    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    levels: tuple[Level, ...] = ()
    mode: Literal["lines", "markers", "lines+markers"] = "lines"
    trends: tuple[Trend, ...] = ()
    rings: tuple[Ring, ...] = ()
    ringed: str = ""
    """what the rings mark, for the legend"""
    band: tuple[float, float] | None = None
    """from where to where on the y axis is shaded, with a line at zero"""
    beside: bool = False
    """points of several lines at one x stand next to each other"""
    beyond: tuple[Level, ...] = ()
    """levels outside of the y axis's span: an arrow at the edge names each with its value"""


def bounded(drawing: Drawing) -> Drawing:
    """The drawing with a y axis on which error bars stretch no more than _BEYOND of what curves, levels and band span:
    of two seeds they would press all else flat."""
    ys = [y for line in drawing.lines for y in line.y]
    if not ys:
        return drawing
    core = [*ys, *(v.y for v in drawing.levels), *(drawing.band or ())]
    low, high = min(core), max(core)
    ends = _bar_ends(drawing)
    least = max(min([low, *(e[0] for e in ends)]), low - _BEYOND * (high - low))
    most = min(max([high, *(e[1] for e in ends)]), high + _BEYOND * (high - low))
    pad = _PAD * (most - least)
    return replace(drawing, y=replace(drawing.y, span=(least - pad, most + pad))) if pad else drawing


def with_beyond(drawing: Drawing, far: tuple[Level, ...]) -> Drawing:
    """The drawing with the levels that its y axis was not made for: it grows to those that are near, and the others are
    named at its edge, which grows by a line of letters for each."""
    if drawing.y.span is None or not far:
        return drawing
    low, high = drawing.y.span
    wide = high - low
    near = tuple(v for v in far if low - _NEAR * wide <= v.y <= high + _NEAR * wide)
    low, high = min(low, *(v.y - _PAD * wide for v in near), low), max(high, *(v.y + _PAD * wide for v in near), high)
    beyond = tuple(v for v in far if v not in near)
    above = sum(v.y > high for v in beyond)
    below = len(beyond) - above
    line = _NAME_LINE * (high - low)
    grown = (low - (below and (below + 1) * line), high + (above and (above + 1) * line))
    return replace(drawing, y=replace(drawing.y, span=grown), levels=(*drawing.levels, *near), beyond=beyond)


def cut_off(drawing: Drawing) -> str:
    """The sentence for a caption where error bars go on beyond the edge; else empty."""
    span = drawing.y.span
    beyond = span and any(low < span[0] or high > span[1] for low, high in _bar_ends(drawing))
    return "Bars that reach the edge continue beyond it." if beyond else ""


def _bar_ends(drawing: Drawing) -> list[tuple[float, float]]:
    """Lower and upper end of each point's error bar; the point itself where it has none."""
    return [
        (y - (down or 0), y + (up or 0))
        for line in drawing.lines
        for y, up, down in zip(line.y, line.error, line.below or line.error, strict=False)
    ]


def thinned(x: Sequence[float], y: Sequence[float], most: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most `most` points, each the mean of equally many neighbours."""
    if len(x) <= most:
        return tuple(x), tuple(y)
    edges = [round(i * len(x) / most) for i in range(most + 1)]
    pieces = [(a, b) for a, b in itertools.pairwise(edges) if b > a]
    return tuple(sum(x[a:b]) / (b - a) for a, b in pieces), tuple(sum(y[a:b]) / (b - a) for a, b in pieces)
