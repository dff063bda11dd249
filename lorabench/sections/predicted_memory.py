"""memory as it was predicted before each cell ran, by its parts, beside what was measured"""

from __future__ import annotations

from collections.abc import Sequence

from lorabench import formatting
from lorabench.analysis.memory_prediction import PeakPair, compute_peaks
from lorabench.record.metrics import PREDICTED_PARTS, metric
from lorabench.report import predicted_memory_text as text
from lorabench.report.bars import BarPart, Bars, draw_bars
from lorabench.report.blocks import Block, Figure, Grid, Section, Text
from lorabench.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from lorabench.report.table_text import outcome_words
from lorabench.report.view import View

ORDER = 45
TITLE = "Memory, predicted and measured"
MOST = 40  # bars of one figure
WHOLE = "parts not stored"
_COLOURS = dict(
    zip(PREDICTED_PARTS, (BLUE, BLUE, SKY, GREEN, ORANGE, VERMILION, PURPLE, GREY), strict=True)
)  # the same in every report
_HATCHED = ("predicted_quantization_state_bytes",)  # what belongs to the base weights has their colour


def section(view: View) -> Section | None:
    """A figure, and a row per condition; None where nothing was predicted."""
    pairs = compute(view)
    if not pairs:
        return None
    growth = text.growth(pairs)
    blocks: tuple[Block, ...] = (
        Text(text.sentence(pairs)),
        *((Text(growth),) if growth else ()),
        _figure(pairs),
        Grid(("condition", "predicted", "measured", "error"), tuple(_row(view, p) for p in pairs)),
        Text(text.NOTE, "small"),
    )
    return Section(TITLE, blocks)


def compute(view: View) -> tuple[PeakPair, ...]:
    """The conditions with a prediction, in the study's order."""
    return compute_peaks(view.analysis)


def _row(view: View, p: PeakPair) -> tuple[str, ...]:
    return (
        p.label,
        formatting.size(p.predicted),
        formatting.DASH if p.measured is None else formatting.size(p.measured),
        (
            outcome_words(view.analysis.summary(p.condition), view.analysis.of_condition(p.condition))
            if p.error is None
            else text.error_words(p.error)
        ),
    )


def compute_bars(pairs: Sequence[PeakPair]) -> Bars:
    """The bars of the conditions that are drawn, each part its own colour."""
    shown = shown_pairs(pairs)
    one, unit = (1e9, "GB") if max(max(p.predicted, p.measured or 0.0) for p in shown) >= 1e9 else (1e6, "MB")
    parts = []
    for name in PREDICTED_PARTS:
        if any(p.parts.get(name) for p in shown):
            label = metric(name).label
            hover = tuple(
                f"{p.label}: {label} {formatting.size(p.parts.get(name, 0.0))} of {formatting.size(p.predicted)}"
                " predicted"
                for p in shown
            )
            parts.append(
                BarPart(
                    label, _COLOURS[name], tuple(p.parts.get(name, 0.0) / one for p in shown), hover, name in _HATCHED
                )
            )
    if not all(p.parts for p in shown):
        hover = tuple(f"{p.label}: {formatting.size(p.predicted)} predicted" for p in shown)
        parts.append(
            BarPart(WHOLE, GREY, tuple(0.0 if p.parts else p.predicted / one for p in shown), hover, hatched=True)
        )
    return Bars(
        x=f"training peak ({unit})",
        labels=tuple(p.label for p in shown),
        parts=tuple(parts),
        marked="measured",
        marks=tuple(None if p.measured is None else p.measured / one for p in shown),
        hover=tuple(text.peak_words(p) for p in shown),
        notes=tuple(
            "" if p.error is None else text.error_words(p.error) if abs(p.error) >= 0.01 else "< 0.01 %" for p in shown
        ),
    )


def shown_pairs(pairs: Sequence[PeakPair]) -> tuple[PeakPair, ...]:
    """All of them; of very many the least and the most of each family, and of very many families the first."""
    if len(pairs) <= MOST:
        return tuple(pairs)
    families: dict[str, list[PeakPair]] = {}
    for pair in pairs:
        families.setdefault(pair.family, []).append(pair)
    ends = {id(end(members, key=lambda p: p.predicted)) for members in families.values() for end in (min, max)}
    return tuple(p for p in pairs if id(p) in ends)[:MOST]


def _figure(pairs: Sequence[PeakPair]) -> Figure:
    info = compute_bars(pairs)
    title = (
        "predicted peak by its parts, and the measured peak"
        if any(p.parts for p in pairs)
        else "predicted and measured peak"
    )
    words = tuple(map(text.peak_words, pairs))
    return Figure("predicted-memory", draw_bars(info), title, text.caption(pairs, len(info.labels)), words)
