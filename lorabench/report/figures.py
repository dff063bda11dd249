"""Drawing: each function turns an info value that a section decided into a plotly figure.

Colours of text and grid come from the page (light, dark or print), so none are set here. plotly reads a
subset of HTML in every text, so names go through `safe`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from lorabench.formatting import one_line
from lorabench.report.drawing import Axis, Drawing, Line
from lorabench.report.style import GREY, Style

_MENU = 40  # letters of a menu's entry
_RING = 22  # pixels
_ARROW = 20  # pixels
_POWERS = 8  # labels that an axis of 430 pixels has room for
_GAP = 0.7  # of the distance between two ticks stays free of points


Restyle = Mapping[str, Sequence[object]]
"""What plotly's restyle takes: for each attribute a value for each trace."""


def safe(text: str) -> str:
    """A name as plotly text: shown, not interpreted."""
    return html.escape(one_line(text), quote=False)


def draw(drawing: Drawing) -> go.Figure:
    """The figure of a drawing."""
    traces = [go.Scatter(**_trace(line, drawing.mode, drawing.x.names)) for line in drawing.lines]
    if drawing.rings:
        traces.append(go.Scatter(**_marks(drawing)))
    span = _span(drawing)
    for i, level in enumerate((*drawing.levels, *drawing.beyond)):
        shown = f"{level.y:.4g}" + (f" ± {level.error:.2g}" if level.error is not None else "")
        traces.append(
            go.Scatter(
                x=list(span),
                y=[level.y, level.y],
                mode="lines",
                name=safe(level.label),
                line={"color": level.style.colour, "dash": ("dash", "dot", "dashdot")[i % 3], "width": 2},
                hovertemplate=f"{shown}<extra>%{{fullData.name}}</extra>",
            )
        )
    figure = go.Figure(traces)  # at once: add_trace copies those before
    figure.update_layout(
        template=None,
        height=430,
        margin={"l": 62, "r": 12, "t": 30, "b": 50},
        legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0, "xanchor": "left"},
        hovermode="closest",
        xaxis=_axis(drawing.x, [x for line in drawing.lines for x in line.x]),
        yaxis=_axis(drawing.y, [y for line in drawing.lines for y in line.y]),
        showlegend=True,
        shapes=_shapes(drawing),
        annotations=_arrows(drawing),
    )
    if drawing.beside:
        figure.update_layout(scattermode="group", scattergap=_GAP)
    return figure


def _arrows(drawing: Drawing) -> list[dict[str, object]]:
    """An arrow at each edge of the y axis that levels lie beyond, their names and values beside it, where the curves
    leave most room."""
    arrows: list[dict[str, object]] = []
    span = drawing.y.span
    rising = sum(line.y[-1] - line.y[0] for line in drawing.lines if line.y) > 0
    for top in (True, False):
        levels = [v for v in drawing.beyond if span and (v.y > span[1]) == top]
        if levels:
            left = rising == top  # under a rising curve there is room on the left above, on the right below
            names = "<br>".join(
                f'<span style="color:{v.style.colour}">\u25a0</span> {safe(v.label)}: {v.y:.4g}' for v in levels
            )
            side = (
                {"x": 0.02, "xanchor": "left", "align": "left"}
                if left
                else {"x": 0.98, "xanchor": "right", "align": "right"}
            )
            tail = _ARROW if top else -_ARROW
            arrows.append(
                {
                    "text": names,
                    "xref": "paper",
                    "yref": "paper",
                    "y": int(top),
                    **side,
                    "ax": 0,
                    "ay": tail,
                    "yanchor": "top" if top else "bottom",
                    "showarrow": True,
                    "arrowhead": 2,
                    "arrowwidth": 1.6,
                    "arrowcolor": GREY,
                }
            )
    return arrows


def _shapes(drawing: Drawing) -> list[dict[str, object]]:
    """What is no trace, and so takes no room in the legend."""
    shapes: list[dict[str, object]] = []
    if drawing.band is not None:
        across = {"xref": "paper", "x0": 0, "x1": 1, "layer": "below"}
        shapes.append(
            {
                "type": "rect",
                **across,
                "y0": drawing.band[0],
                "y1": drawing.band[1],
                "fillcolor": GREY,
                "opacity": 0.18,
                "line": {"width": 0},
            }
        )
        shapes.append({"type": "line", **across, "y0": 0, "y1": 0, "line": {"color": GREY, "width": 1}})
    for trend in drawing.trends:
        path = "M" + "L".join(f"{x:.6g},{y:.6g}" for x, y in zip(trend.x, trend.y, strict=True))
        shapes.append({"type": "path", "path": path, "layer": "below", "line": {"color": trend.colour, "width": 1.2}})
    return shapes


def _marks(drawing: Drawing) -> dict[str, object]:
    """All rings as one trace: each trace takes room in the legend."""
    shape = {"symbol": "circle-open", "size": _RING, "color": [r.colour for r in drawing.rings], "line": {"width": 2}}
    x, y = [r.x for r in drawing.rings], [r.y for r in drawing.rings]
    return {"x": x, "y": y, "mode": "markers", "name": safe(drawing.ringed), "marker": shape, "hoverinfo": "skip"}


def draw_choice(labels: Sequence[str], drawings: Sequence[Drawing], shown: int) -> go.Figure:
    """One of several drawings of the same axes, with a menu for the others; a line keeps its trace and style by its
    label."""
    figure = draw(drawings[shown])
    styles: dict[str, Style] = {}
    for drawing in (drawings[shown], *drawings):
        for line in drawing.lines:
            styles.setdefault(line.label, line.style)
    order = tuple(styles)
    for name in order[len(drawings[shown].lines) :]:
        figure.add_trace(go.Scatter(**_trace(Line(name, styles[name], (), ()), drawings[shown].mode), showlegend=False))
    if len(drawings) > 1:
        figure.update_layout(**menu(labels, [_restyled(d, order) for d in drawings], shown))
    return figure


def _restyled(drawing: Drawing, order: Sequence[str]) -> Restyle:
    """The points of a drawing for each trace in the order that they were drawn in."""
    lines = {line.label: line for line in drawing.lines}
    ordered = [lines.get(name) for name in order]
    points = {"x": [list(f.x) if f else [] for f in ordered], "y": [list(f.y) if f else [] for f in ordered]}
    return {
        **points,
        "mode": [f.mode or drawing.mode if f else drawing.mode for f in ordered],
        "showlegend": [f is not None for f in ordered],
    }


def menu(labels: Sequence[str], choices: Sequence[Restyle], shown: int) -> dict[str, object]:
    """Layout with a menu above the plot; the labels are those of the choices, `shown` is the index of the
    chosen one.

    plotly marks the chosen entry in near white and takes no other colour for it, so the menu has its own colours in
    light and dark.
    """
    names = [_short(label) for label in labels]
    buttons = [
        {"label": name, "method": "restyle", "args": [choice]} for name, choice in zip(names, choices, strict=True)
    ]
    place = {
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 10, "t": 0, "l": 0, "r": 0},
        "showactive": True,
    }
    colours = {"bgcolor": "#e9edf2", "bordercolor": "#aab4c0", "font": {"color": "#1c2024", "size": 13}}
    return {
        "updatemenus": [{"type": "dropdown", "active": shown, "buttons": buttons, **place, **colours}],
        "margin": {"l": 62, "r": 12, "t": 64, "b": 50},
    }


def _short(label: str) -> str:
    """A name that a menu on a phone has room for."""
    return safe(label if len(label) <= _MENU else label[: _MENU - 1] + "…")


def _trace(line: Line, mode: str, names: Sequence[str] = ()) -> dict[str, object]:
    trace: dict[str, object] = {
        "x": [safe(names[int(x)]) for x in line.x] if names else list(line.x),
        "y": list(line.y),
        "mode": line.mode or mode,
        "name": safe(line.label),
        "opacity": 0.35 if line.faint else 1,
        "line": {"color": line.style.colour, "dash": line.style.dash, "width": 2},
        "marker": {"color": line.style.colour, "symbol": line.style.symbol, "size": 10},
    }
    if any(e is not None for e in line.error):
        downwards = {"symmetric": False, "arrayminus": [e or 0.0 for e in line.below]} if line.below else {}
        trace["error_y"] = {
            "type": "data",
            "array": list(line.error),
            "thickness": 1.5,
            "width": 5,
            "color": line.style.colour,
            **downwards,
        }
    if line.hover:
        trace |= {"text": [safe(h) for h in line.hover], "hovertemplate": "%{text}<extra></extra>"}
    return trace


def _span(drawing: Drawing) -> tuple[float, float]:
    xs = [x for line in drawing.lines for x in line.x] or [0.0, 1.0]
    return min(xs), max(xs)


def _axis(axis: Axis, values: Sequence[float]) -> dict[str, object]:
    layout: dict[str, object] = {"title": {"text": safe(axis.title)}, "automargin": True, "zeroline": False}
    if axis.log:
        layout |= {"type": "log", "exponentformat": "power", **({} if axis.ticks else _decades(values))}
    if axis.ticks:
        layout |= {"tickvals": list(axis.ticks), "ticktext": [f"{t:g}" for t in axis.ticks], "tickmode": "array"}
    if axis.names:
        layout |= {"type": "category", "categoryorder": "array", "categoryarray": [safe(n) for n in axis.names]}
    if axis.span is not None:
        layout["range"] = list(axis.span)
    if axis.format:
        layout["tickformat"] = axis.format
    return layout


def _decades(values: Sequence[float]) -> dict[str, object]:
    """Ticks of a log axis: powers of ten have labels, and what lies between them marks alone; 1, 2 and 5 have them too
    where the values reach one power of ten at most."""
    positive = [v for v in values if v > 0]
    if not positive:
        return {}
    first, last = math.log10(min(positive)), math.log10(max(positive))
    powers = math.floor(last) - math.ceil(first) + 1
    minor = {"ticks": "outside", "ticklen": 4, "tickcolor": GREY, "dtick": "D1" if powers <= _POWERS else 1}
    if powers >= 2:
        return {"dtick": math.ceil(powers / _POWERS), "minor": minor}
    ticks = [digit * 10.0**power for power in range(math.floor(first), math.floor(last) + 1) for digit in (1, 2, 5)]
    return {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{t:g}" for t in ticks], "minor": minor}
