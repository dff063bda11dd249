"""Heat maps: each field a number, shown where there are few, coloured by a scale that is read in light, in dark and by
the colour-blind.

The scale runs from blue to yellow with rising lightness; its darkest colour still has a contrast of 5:1 with the
numbers' ink and of 5:1 with a dark page.
"""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

from lorabench.report.figures import Restyle, menu, safe

FEW = 12  # columns or rows; more leave no room for numbers on a phone
_SCALE = ((0.0, "#5b8ec9"), (0.33, "#7fb0b8"), (0.67, "#b9cc83"), (1.0, "#fde74c"))
_INK = "#1c2024"


@dataclass(frozen=True)
class Plane:
    """One condition's fields."""

    label: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    """from the top"""
    values: tuple[tuple[float | None, ...], ...]
    """a tuple for each row; None leaves a gap"""


@dataclass(frozen=True)
class HeatMap:
    """A whole figure, decided."""

    x: str
    y: str
    value: str
    """what the numbers are"""
    planes: tuple[Plane, ...]
    """a menu chooses among several"""
    shown: int = 0
    """index of the one that stands there first"""
    span: tuple[float, float] | None = None
    """ends of the colour scale; absent: least and most of the plane"""


def draw_heat(info: HeatMap) -> go.Figure:
    """The figure of a heat map."""
    first = info.planes[info.shown]
    trace: dict[str, object] = {key: value[0] for key, value in _shown(first).items()}
    if info.span is not None:
        trace |= {"zmin": info.span[0], "zmax": info.span[1]}
    figure = go.Figure(
        go.Heatmap(
            **trace,
            texttemplate="%{text}",
            textfont={"color": _INK},
            colorscale=list(_SCALE),
            xgap=2 if len(first.columns) <= FEW else 1,
            ygap=2,
            hoverongaps=False,
            hovertemplate=f"{safe(info.y)} %{{y}}, {safe(info.x)} %{{x}}: %{{z:.3g}}<extra></extra>",
            colorbar={
                "title": {"text": safe(info.value), "side": "right"},
                "thickness": 12,
                "outlinewidth": 0,
                "xpad": 6,
                "ypad": 0,
            },
        )
    )
    figure.update_layout(
        template=None,
        height=430,
        margin={"l": 62, "r": 12, "t": 30, "b": 50},
        xaxis={
            "title": {"text": safe(info.x)},
            "type": "category",
            "autotypenumbers": "strict",
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
        },
        yaxis={
            "title": {"text": safe(info.y), "standoff": 12},
            "type": "category",
            "autotypenumbers": "strict",
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
            "autorange": "reversed",
        },
        showlegend=False,
    )
    if len(info.planes) > 1:
        figure.update_layout(**menu([p.label for p in info.planes], [_shown(p) for p in info.planes], info.shown))
    return figure


def _shown(plane: Plane) -> Restyle:
    """What of the one trace belongs to a plane, as plotly's restyle takes it: a list with a value for each trace."""
    few = max(len(plane.columns), len(plane.rows)) <= FEW
    text = [[_number(v) if few and v is not None else "" for v in row] for row in plane.values]
    z = [[None if v is None else float(f"{v:.4g}") for v in row] for row in plane.values]
    return {
        "x": [[safe(c) for c in plane.columns]],
        "y": [[safe(r) for r in plane.rows]],
        "z": [z],
        "text": [text],
        "name": [safe(plane.label)],
    }


def _number(value: float) -> str:
    """Two digits, three of a hundred and more: what fits into a field."""
    return (
        f"{value:.0f}"
        if abs(value) >= 10 or value == int(value)
        else f"{value:.1f}"
        if abs(value) >= 1
        else f"{value:.2f}"
    )
