"""Stacked horizontal bars with a marker beside each: what a sum is made of, and what was measured of it.

Long labels take two lines, and the figure is as high as its number of bars asks for.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from lorabench.formatting import one_line
from lorabench.report.figures import safe

_LINE = 20  # letters of a label's line: a third of a phone's width
_EACH, _EACH_OF_TWO = 30, 42  # pixels for a bar, with a label of one and of two lines
_AROUND = 136  # pixels above and below the bars, which the page knows of a figure's height
_LEAST = 400
_ROOM = 1.03  # of the longest bar
_BEHIND = 70  # pixels on the right, for the note behind the longest bar: more than a share of a phone's plot would give
_FILL, _EDGE = "#ffffff", "#1c2024"  # of a marker that is seen on every bar and on every page


@dataclass(frozen=True)
class BarPart:
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
    parts: tuple[BarPart, ...]
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
    """The figure of stacked bars."""
    places = _distinct(info.labels)
    names = [_in_lines(label) for label in info.labels]
    bars_height = len(places) * (_EACH_OF_TWO if any("<br>" in n for n in names) else _EACH)
    height = max(_LEAST, bars_height + _AROUND)
    thick = 0.66 * min(1.0, bars_height / (height - _AROUND))  # few bars do not swell to fill the plot
    figure = go.Figure()
    for part in info.parts:
        figure.add_trace(go.Bar(**_bar(part, places, thick)))
    if any(mark is not None for mark in info.marks):
        figure.add_trace(go.Scatter(**_marks(info, places)))
    far = [max(end, mark or 0.0) for end, mark in zip(info.ends, info.marks, strict=True)]
    behind = {"xanchor": "left", "xshift": 9, "showarrow": False}
    figure.update_layout(
        template=None,
        height=height,
        barmode="relative",  # stacks as "stack" does, which would turn the legend's order round
        margin={"l": 62, "r": _BEHIND if any(info.notes) else 12, "t": 30, "b": 50},
        legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0, "xanchor": "left"},
        hovermode="closest",
        annotations=[
            {"x": x, "y": i, "text": safe(note), **behind}
            for i, (x, note) in enumerate(zip(far, info.notes, strict=True))
            if note
        ],
        xaxis={
            "title": {"text": safe(info.x)},
            "range": [0, _ROOM * max(far, default=1.0)],
            "automargin": True,
            "zeroline": False,
        },
        yaxis={
            "type": "category",
            "autotypenumbers": "strict",
            "tickmode": "array",
            "tickvals": places,
            "ticktext": names,
            "range": [len(places) - 0.5, -0.5],
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
        },
        showlegend=True,
    )
    return figure


def _bar(part: BarPart, places: Sequence[str], thick: float) -> dict[str, object]:
    marker: dict[str, object] = {"color": part.colour, "line": {"width": 0}}
    if part.hatched:
        marker["pattern"] = {
            "shape": "/",
            "fillmode": "overlay",
            "fgcolor": _FILL,
            "fgopacity": 0.9,
            "size": 6,
            "solidity": 0.3,
        }
    return {
        "x": list(part.values),
        "y": list(places),
        "orientation": "h",
        "width": thick,
        "name": safe(part.label),
        "marker": marker,
        "hovertext": [safe(words) for words in part.hover],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _marks(info: Bars, places: Sequence[str]) -> dict[str, object]:
    marked = [
        (place, mark, words)
        for place, mark, words in zip(places, info.marks, info.hover, strict=True)
        if mark is not None
    ]
    return {
        "x": [mark for _, mark, _ in marked],
        "y": [place for place, _, _ in marked],
        "mode": "markers",
        "cliponaxis": False,
        "name": safe(info.marked),
        "marker": {"symbol": "diamond", "size": 11, "color": _FILL, "line": {"color": _EDGE, "width": 1.5}},
        "hovertext": [safe(words) for _, _, words in marked],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _distinct(labels: Sequence[str]) -> list[str]:
    """A place for each bar: two of one name would be stacked into one bar."""
    places: dict[str, None] = {}
    for label in labels:
        name, n = safe(label), 2
        while name in places:
            name, n = f"{safe(label)} ({n})", n + 1
        places[name] = None
    return list(places)


def _in_lines(label: str) -> str:
    """A label in at most two lines of plotly text."""
    return "<br>".join(safe(line) for line in textwrap.wrap(one_line(label), _LINE, max_lines=2, placeholder=" …"))
