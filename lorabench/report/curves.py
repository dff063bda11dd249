"""Three curves of one condition below each other, a line for each seed, with a menu for the other conditions: loss,
gradient norm, learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from lorabench.report.figures import Restyle, menu, safe
from lorabench.report.style import GREY, palette

PANELS = ("loss", "grad_norm", "learning_rate")
_TITLES = ("loss (nats)", "gradient norm", "learning rate")
_DOMAINS = ((0.64, 1.0), (0.3, 0.58), (0.0, 0.24))
_CLIP = "clipped above"


@dataclass(frozen=True)
class SeedCurves:
    """What one cell's training wrote at each step, thinned."""

    seed: int
    step: tuple[float, ...]
    values: tuple[tuple[float | None, ...], ...]
    """a tuple for each of PANELS; None where the cell wrote none, or no finite number"""


@dataclass(frozen=True)
class ConditionCurves:
    """All seeds of one condition."""

    label: str
    seeds: tuple[SeedCurves, ...]
    clip: float
    """gradients above this norm are scaled down to it"""


def draw_curves(conditions: Sequence[ConditionCurves]) -> go.Figure:
    """The figure of the first condition with a menu for the others; a seed keeps its colour in all."""
    seeds = sorted({s.seed for c in conditions for s in c.seeds})
    figure = go.Figure()
    first = _restyled(conditions[0], seeds)
    at = 0
    for seed, style in zip(seeds, palette(len(seeds)), strict=True):
        for i, _ in enumerate(PANELS):
            figure.add_trace(
                go.Scatter(
                    x=first["x"][at],
                    y=first["y"][at],
                    name=f"seed {seed}" if i == 0 else f"seed {seed}, {_TITLES[i]}",
                    legendgroup=f"seed {seed}",
                    showlegend=i == 0,
                    mode="lines",
                    xaxis="x",
                    yaxis=_axis_of(i),
                    line={"color": style.colour, "dash": style.dash, "width": 1.6},
                    hovertemplate="step %{x:.0f}: %{y:.4g}<extra>%{fullData.name}</extra>",
                )
            )
            at += 1
    figure.add_trace(
        go.Scatter(
            x=first["x"][at],
            y=first["y"][at],
            name=_CLIP,
            mode="lines",
            yaxis=_axis_of(1),
            line={"color": GREY, "dash": "dash", "width": 1.6},
            hovertemplate="%{y:.4g}<extra>%{fullData.name}</extra>",
        )
    )
    axes: dict[str, dict[str, object]] = {}
    for i, (title, domain) in enumerate(zip(_TITLES, _DOMAINS, strict=True)):
        axes["yaxis" + ("" if not i else str(i + 1))] = {
            "title": {"text": title},
            "domain": list(domain),
            "automargin": True,
            "zeroline": False,
            "anchor": "x",
            "exponentformat": "power",
            "nticks": 5,
        }
    axes["yaxis2"]["rangemode"] = axes["yaxis3"]["rangemode"] = "tozero"
    figure.update_layout(
        template=None,
        height=620,
        margin={"l": 62, "r": 12, "t": 30, "b": 50},
        legend={"orientation": "h", "y": -0.12, "x": 0},
        hovermode="closest",
        showlegend=True,
        xaxis={"title": {"text": "optimizer step"}, "automargin": True, "zeroline": False, "anchor": "y3"},
        **axes,
    )
    if len(conditions) > 1:
        figure.update_layout(**menu([safe(c.label) for c in conditions], [_restyled(c, seeds) for c in conditions], 0))
    return figure


def _axis_of(panel: int) -> str:
    return "y" if not panel else f"y{panel + 1}"


def _restyled(condition: ConditionCurves, seeds: Sequence[int]) -> Restyle:
    """The points of each trace, in the order they are drawn in."""
    by_seed = {s.seed: s for s in condition.seeds}
    x: list[list[float]] = []
    y: list[list[float | None]] = []
    for seed in seeds:
        curves = by_seed.get(seed)
        for i, _ in enumerate(PANELS):
            drawable = curves is not None and any(v is not None for v in curves.values[i])
            x.append(list(curves.step) if curves and drawable else [])
            y.append(
                [None if v is None else float(f"{v:.4g}") for v in curves.values[i]] if curves and drawable else []
            )
    steps = [s for c in condition.seeds for s in c.step]
    x.append([min(steps), max(steps)] if steps else [])
    y.append([condition.clip, condition.clip] if steps else [])
    return {"x": x, "y": y}
