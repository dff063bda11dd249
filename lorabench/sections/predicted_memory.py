"""memory as it was predicted before each cell ran, by its parts, beside what was measured"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lorabench import formatting
from lorabench.record.metrics import PREDICTED_PARTS, metric
from lorabench.record.result import CellResult
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


@dataclass(frozen=True)
class PeakPair:
    """A condition's training peak, predicted and measured."""

    label: str
    predicted: float
    measured: float | None
    outcome: str
    """what became of the cells that did not finish"""
    family: str = ""
    """the label without its rank"""
    parts: Mapping[str, float] = field(default_factory=dict)
    """bytes of the prediction by metric; empty where a cell has none, as those of older versions"""

    @property
    def error(self) -> float | None:
        """Percent of the measured value, positive where too much was predicted."""
        return None if self.measured is None else 100 * (self.predicted / self.measured - 1)


def section(view: View) -> Section | None:
    """A figure, and a row per condition; None where nothing was predicted."""
    pairs = compute(view)
    if not pairs:
        return None
    rows = tuple(
        (
            p.label,
            formatting.size(p.predicted),
            formatting.DASH if p.measured is None else formatting.size(p.measured),
            p.outcome if p.error is None else error_words(p.error),
        )
        for p in pairs
    )
    told = (
        "Peak of live tensors in training. The prediction comes from one step traced on shapes alone, before the cell"
        " ran, for its longest batch."
    )
    grown = growth(pairs)
    blocks: tuple[Block, ...] = (
        Text(sentence(pairs)),
        *((Text(grown),) if grown else ()),
        _figure(pairs),
        Grid(("condition", "predicted", "measured", "error"), rows),
        Text(told, "small"),
    )
    return Section(TITLE, blocks)


def compute(view: View) -> tuple[PeakPair, ...]:
    """The conditions with a prediction, in the study's order."""
    found = []
    for s in view.analysis.summaries:
        results = view.analysis.of_condition(s.condition)
        predicted = {r.cell.id: v for r in results if (v := r.value("predicted_train_peak_bytes")) is not None}
        if predicted:
            parts = _parts([r for r in results if r.cell.id in predicted])
            found.append(
                PeakPair(
                    s.label.text,
                    statistics.fmean(predicted.values()),
                    s.mean("train_peak_bytes"),
                    outcome_words(s, results),
                    s.label.family,
                    parts,
                )
            )
    return tuple(found)


def _parts(results: Sequence[CellResult]) -> dict[str, float]:
    """Means over cells, if every one of them has every part: others would not sum to the mean of the predictions."""
    each = [[r.value(m) for r in results] for m in PREDICTED_PARTS]
    whole = [[v for v in values if v is not None] for values in each]
    return (
        {m: statistics.fmean(values) for m, values in zip(PREDICTED_PARTS, whole, strict=True)}
        if all(len(v) == len(results) for v in whole)
        else {}
    )


def compute_bars(pairs: Sequence[PeakPair]) -> Bars:
    """The bars of the conditions that are drawn, each part its own colour."""
    shown = drawn(pairs)
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
        hover=tuple(_in_words(p) for p in shown),
        notes=tuple(
            "" if p.error is None else error_words(p.error) if abs(p.error) >= 0.01 else "< 0.01 %" for p in shown
        ),
    )


def drawn(pairs: Sequence[PeakPair]) -> tuple[PeakPair, ...]:
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
    known = any(p.parts for p in pairs)
    made = (
        "stacked by what the bytes are for at the highest moment of the step (gradients that do not exist yet at it"
        " take no part)"
    )
    behind = "The diamond is the measured peak, the number behind a bar the prediction's error."
    look = (
        "Look for the part that a rank, a quantisation or a batch moves, and for diamonds off the end of their bar."
        if known
        else "Look for diamonds off the end of their bar."
    )
    caption = f"Each bar is a predicted peak{', ' + made if known else '; its parts were not stored'}. {behind} {look}"
    if len(info.labels) < len(pairs):
        caption += (
            f" Of {len(pairs)} conditions {len(info.labels)} are drawn: those with the least and the most memory of"
            " each family; the words below tell them all."
        )
    title = "predicted peak by its parts, and the measured peak" if known else "predicted and measured peak"
    return Figure("predicted-memory", draw_bars(info), title, caption, tuple(_in_words(p) for p in pairs))


def _in_words(pair: PeakPair) -> str:
    """ "LoRA r=4: predicted 3.50 MB (base weights 1.32 MB, activations 1.06 MB); measured 3.47 MB (error +1.0 %)" """
    parts = ", ".join(f"{metric(name).label} {formatting.size(n)}" for name, n in pair.parts.items() if n)
    measured = (
        "not measured"
        if pair.measured is None or pair.error is None
        else f"measured {formatting.size(pair.measured)} (error {error_words(pair.error)})"
    )
    return f"{pair.label}: predicted {formatting.size(pair.predicted)}{f' ({parts})' if parts else ''}; {measured}"


def growth(pairs: Sequence[PeakPair]) -> str:
    """Which part sets the condition of most memory apart from the one of least; empty where nothing does."""
    known = [p for p in pairs if p.parts]
    if len(known) < 2:
        return ""
    least, most = min(known, key=lambda p: p.predicted), max(known, key=lambda p: p.predicted)
    risen = {m: n - least.parts[m] for m, n in most.parts.items()}
    name = max(risen, key=lambda m: risen[m])
    if most.predicted == least.predicted or risen[name] <= 0:
        return ""
    between = (
        f"From {least.label} ({formatting.size(least.predicted)}, the least) to {most.label}"
        f" ({formatting.size(most.predicted)}, the most)"
    )
    return (
        f"{between} the prediction grows by {formatting.size(most.predicted - least.predicted)}; the part that grows"
        f" most is {metric(name).label}, by {formatting.size(risen[name])}."
    )


def sentence(pairs: tuple[PeakPair, ...]) -> str:
    """The errors in words."""
    errors = {p.label: abs(p.error) for p in pairs if p.error is not None}
    if not errors:
        return "No condition has a measured peak to compare the prediction with."
    worst = max(errors, key=lambda name: errors[name])
    middle = formatting.percent(statistics.median(errors.values()))
    conditions = formatting.plural(len(errors), "condition")
    return (
        f"Over {conditions} the prediction is off by {middle} in the median, by {formatting.percent(errors[worst])} at"
        f" most ({worst})."
    )


def error_words(error: float) -> str:
    """ "+0.04 %" """
    if abs(error) < 0.01:
        return formatting.percent(abs(error))
    return f"{'−' if error < 0 else '+'}{formatting.percent(abs(error))}"
