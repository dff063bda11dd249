"""Stacked horizontal bars with a marker beside each: what a sum is made of, and what was measured of it.

Bars stand at whole numbers and bear their labels as ticks, so that two bars may be called the same. Long labels take two lines.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lorabench.report.figures import safe
from lorabench.report.human import one_line

_LINE = 20  # letters of a label's line: a third of a phone's width
_EACH, _EACH_OF_TWO = 30, 42  # pixels for a bar, with a label of one and of two lines
_AROUND = 86  # pixels above and below the bars, the legend left out
_LEAST = 360
_ROOM = 1.22  # of the longest bar: for the note behind it
_FILL, _EDGE = "#ffffff", "#1c2024"  # of a marker that is seen on every bar and on every page


@dataclass(frozen=True)
class Part:
    """One part of every bar."""

    label: str
    colour: str
    values: tuple[float, ...]
    """one for each bar, from the top"""
    hover: tuple[str, ...]
    """a sentence for each bar"""
    hatched: bool = False
    """a second part of the same colour"""


@dataclass(frozen=True)
class Bars:
    """A whole figure, decided."""

    x: str
    """title of the axis, with its unit"""
    labels: tuple[str, ...]
    """from the top"""
    parts: tuple[Part, ...]
    """from the left"""
    marked: str
    """what the markers are"""
    marks: tuple[float | None, ...]
    """one for each bar; None where nothing was measured"""
    hover: tuple[str, ...]
    """a sentence for each mark"""
    notes: tuple[str, ...]
    """a few letters behind each bar"""

    @property
    def ends(self) -> tuple[float, ...]:
        """Where each bar ends."""
        return tuple(sum(part.values[i] for part in self.parts) for i in range(len(self.labels)))


def draw_bars(info: Bars) -> go.Figure:
    """The figure; `layout.meta` tells the page the height that its number of bars asks for, legend left out."""
    places = list(range(len(info.labels)))
    names = [_in_lines(label) for label in info.labels]
    wanted = len(places) * (_EACH_OF_TWO if any("<br>" in n for n in names) else _EACH)
    height = max(_LEAST, wanted + _AROUND)
    thick = 0.66 * min(1.0, wanted / (height - _AROUND))  # few bars do not swell to fill the plot
    figure = go.Figure()
    for part in info.parts:
        figure.add_trace(go.Bar(**_bar(part, places, thick)))
    far = [max(end, mark or 0.0) for end, mark in zip(info.ends, info.marks, strict=True)]
    if any(info.notes):
        notes = {"mode": "text", "text": [f"\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}{safe(n)}" for n in info.notes], "textposition": "middle right"}
        figure.add_trace(go.Scatter(x=far, y=places, hoverinfo="skip", showlegend=False, **notes))
    seen = [(i, mark, words) for i, mark, words in zip(places, info.marks, info.hover, strict=True) if mark is not None]
    if seen:
        figure.add_trace(
            go.Scatter(
                x=[mark for _, mark, _ in seen],
                y=[i for i, _, _ in seen],
                mode="markers",
                name=safe(info.marked),
                marker={"symbol": "diamond", "size": 11, "color": _FILL, "line": {"color": _EDGE, "width": 1.5}},
                hovertext=[safe(words) for _, _, words in seen],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    figure.update_layout(
        template=None,
        height=height,
        meta={"height": height},
        barmode="stack",
        margin={"l": 62, "r": 12, "t": 30, "b": 50},
        legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0, "xanchor": "left", "traceorder": "normal"},
        hovermode="closest",
        xaxis={"title": {"text": safe(info.x)}, "range": [0, _ROOM * max(far, default=1.0)], "automargin": True, "zeroline": False},
        yaxis={"tickmode": "array", "tickvals": places, "ticktext": names, "range": [len(places) - 0.5, -0.5], "automargin": True, "showgrid": False, "zeroline": False},
        showlegend=True,
    )
    return figure


def _bar(part: Part, places: list[int], thick: float) -> dict[str, Any]:
    marker: dict[str, Any] = {"color": part.colour, "line": {"width": 0}}
    if part.hatched:
        marker["pattern"] = {"shape": "/", "fillmode": "overlay", "fgcolor": _FILL, "fgopacity": 0.9, "size": 6, "solidity": 0.3}
    return {
        "x": list(part.values),
        "y": places,
        "orientation": "h",
        "width": thick,
        "name": safe(part.label),
        "marker": marker,
        "hovertext": [safe(words) for words in part.hover],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _in_lines(label: str) -> str:
    """A label in at most two lines of plotly text."""
    return "<br>".join(safe(line) for line in textwrap.wrap(one_line(label), _LINE, max_lines=2, placeholder=" …"))
