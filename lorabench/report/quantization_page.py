"""The page about what quantization alone does to a model's weights: what `lorabench quantization-error --html`
writes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lorabench import formatting
from lorabench.record.spectrum import Repair, place
from lorabench.report.adapter_summary import share, three_digits
from lorabench.report.bars import BarPart, Bars, draw_bars
from lorabench.report.blocks import Block, Figure, Grid, Points, Section, Text
from lorabench.report.column_legend import legend
from lorabench.report.drawing import Axis, Drawing, Line
from lorabench.report.figures import draw
from lorabench.report.heatmaps import HeatMap, Plane, draw_heat
from lorabench.report.style import palette


@dataclass(frozen=True)
class ModuleError:
    """The error of one weight in one form."""

    module: str
    form: str
    """name of the quantization, with "dq" where its constants are quantized, too"""
    relative: float
    """||W_q - W||_F / ||W||_F"""
    maximum: float
    """max |W_q - W| / max |W|"""
    signal_to_noise: float | None
    """decibels; None where there is no error"""
    stable_rank: float
    """of W_q - W"""
    repair: Repair | None


def group_rows(errors: Sequence[ModuleError]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Heads and rows: means by form and module type, and of all modules of a form; also what the text output shows."""
    repaired = any(e.repair for e in errors)
    heads = ("quantization", "type", "modules", "relative error", "worst", "maximum", "SNR (dB)", "stable rank") + (
        ("repair cosine", "repaired", "at best") if repaired else ()
    )
    rows = []
    for form in forms(errors):
        of_form = [e for e in errors if e.form == form]
        for kind in (*kinds(of_form), "all"):
            some = [e for e in of_form if kind in (place(e.module)[1], "all")]
            noise = [e.signal_to_noise for e in some if e.signal_to_noise is not None]
            row = [
                form,
                kind,
                str(len(some)),
                f"{100 * statistics.fmean(e.relative for e in some):.3g} %",
                f"{100 * max(e.relative for e in some):.3g} %",
                f"{100 * max(e.maximum for e in some):.3g} %",
                f"{statistics.fmean(noise):.1f}" if noise else formatting.DASH,
                f"{statistics.fmean(e.stable_rank for e in some):.1f}",
            ]
            if repaired:
                repairs = [e.repair for e in some if e.repair]
                row += [
                    three_digits(statistics.fmean(getattr(r, field) for r in repairs) if repairs else None)
                    for field in ("cosine", "repaired_share", "best_share")
                ]
            rows.append(tuple(row))
    return heads, tuple(rows)


def forms(errors: Sequence[ModuleError]) -> tuple[str, ...]:
    """The forms in the order that they were asked for."""
    return tuple(dict.fromkeys(e.form for e in errors))


def kinds(errors: Sequence[ModuleError]) -> tuple[str, ...]:
    """The types of modules in the model's order."""
    return tuple(dict.fromkeys(place(e.module)[1] for e in errors))


def quantization_sections(
    errors: Sequence[ModuleError], adapter: str | None = None, note: str | None = None
) -> tuple[Section, ...]:
    """The page's sections: the errors by type and layer, what an adapter repairs of them where that was measured
    (`adapter` names it), and a table of groups and of modules; `note` stands below the first sentences."""
    heads, rows = group_rows(errors)
    first: list[Block] = [Text(sentence, "lead" if i == 0 else "plain") for i, sentence in enumerate(lead(errors))]
    if note:
        first.append(Text(f"Note: {note}."))
    sections = [Section("What quantization loses", (*first, by_type(errors), *by_layer(errors)))]
    if any(e.repair for e in errors):
        sections.append(Section("What the adapter repairs", (Text(_repair_words(errors, adapter)), _repair(errors))))
    sections.append(Section("By module type", (Grid(heads, rows), Points(legend(heads), "What the columns mean"))))
    every = ("module", "quantization", "relative error", "maximum", "SNR (dB)", "stable rank")
    sections.append(Section("Every module", (Grid(every, tuple(_row(e) for e in errors)),)))
    return tuple(sections)


def lead(errors: Sequence[ModuleError]) -> tuple[str, ...]:
    """The forms against each other, and where the error is largest."""
    means = {form: statistics.fmean(e.relative for e in errors if e.form == form) for form in forms(errors)}
    order = sorted(means, key=lambda f: means[f])
    losses = ", ".join(
        f"{share(means[form])}{' of their norm' if i == 0 else ''} with {form}" for i, form in enumerate(order)
    )
    worst = max(errors, key=lambda e: e.relative)
    least = f" {order[0]} changes them least." if len(order) > 1 and means[order[0]] < means[order[1]] else ""
    return (
        (
            f"On average over {formatting.plural(len({e.module for e in errors}), 'module')}, quantization changes the"
            f" weights by {losses}.{least}"
        ),
        (
            f"{worst.module} in {worst.form} has the largest error: {share(worst.relative)}. Nothing was trained: this"
            " is the error of the stored weights alone, not of the model's outputs."
        ),
    )


def by_type(errors: Sequence[ModuleError]) -> Figure:
    """Mean relative error of each type of module, points of the forms beside each other."""
    types, names = kinds(errors), forms(errors)
    styles = dict(zip(names, palette(len(names)), strict=True))
    lines = tuple(
        Line(
            form,
            styles[form],
            tuple(range(len(types))),
            tuple(
                100 * statistics.fmean(e.relative for e in errors if e.form == form and place(e.module)[1] == t)
                for t in types
            ),
            mode="markers",
        )
        for form in names
    )
    drawing = Drawing(Axis("", names=types), Axis("relative error (%)"), lines, mode="markers", beside=True)
    words = tuple(
        f"{line.label}: " + ", ".join(f"{t} {y:.3g} %" for t, y in zip(types, line.y, strict=True)) for line in lines
    )
    caption = (
        "Relative error of the weights, mean over layers. Look for a type of module that loses more than the others:"
        " leaving it unquantized would help most."
    )
    return Figure("error-by-type", draw(drawing), "error by module type and quantization", caption, words)


def by_layer(errors: Sequence[ModuleError]) -> tuple[Figure, ...]:
    """Relative error by layer and type, a plane for each form; none where the model has one layer."""
    layers = sorted({n for e in errors if (n := place(e.module)[0]) is not None})
    if len(layers) < 2:
        return ()
    types = tuple(
        k for k in kinds(errors) if any(place(e.module)[0] is not None for e in errors if place(e.module)[1] == k)
    )
    planes = []
    for form in forms(errors):
        percent = {place(e.module): 100 * e.relative for e in errors if e.form == form}
        planes.append(
            Plane(
                form,
                tuple(str(n) for n in layers),
                types,
                tuple(tuple(percent.get((n, k)) for n in layers) for k in types),
            )
        )
    caption = "Relative error (%) of each weight by its layer." + (
        " Choose a quantization above the figure; all share one colour scale." if len(planes) > 1 else ""
    )
    values = [v for p in planes for row in p.values for v in row if v is not None]
    words = tuple(
        f"{p.label}, {kind}: "
        + ", ".join(f"layer {n} {v:.3g} %" for n, v in zip(p.columns, row, strict=True) if v is not None)
        for p in planes
        for kind, row in zip(p.rows, p.values, strict=True)
    )
    return (
        Figure(
            "error-by-layer",
            draw_heat(HeatMap("layer", "module type", "%", tuple(planes), span=(min(values), max(values)))),
            "error by layer and module type",
            caption,
            words,
        ),
    )


def _repair(errors: Sequence[ModuleError]) -> Figure:
    """Repaired share and the most that is possible, by type and form."""
    labels, repaired, best = [], [], []
    for form in forms(errors):
        for kind in kinds(errors):
            repairs = [e.repair for e in errors if e.repair and e.form == form and place(e.module)[1] == kind]
            if repairs:
                labels.append(f"{form}, {kind}")
                repaired.append(100 * statistics.fmean(r.repaired_share for r in repairs))
                best.append(100 * statistics.fmean(r.best_share for r in repairs))
    style = palette(1)[0]
    words = tuple(
        f"{label}: {share(r / 100)} repaired, {share(b / 100)} at best"
        for label, r, b in zip(labels, repaired, best, strict=True)
    )
    part = BarPart("repaired", style.colour, tuple(max(0.0, r) for r in repaired), words)
    info = Bars(
        "share of the squared error (%)",
        tuple(labels),
        (part,),
        "the most that a change of this rank could remove",
        tuple(best),
        words,
        tuple(share(r / 100) for r in repaired),
    )
    caption = (
        "Share of the squared error of quantization that adding the adapter's change removes, mean over layers; a"
        " negative number without a bar means that the change adds to the error. The diamond is what the best change of"
        " the same rank would remove (Eckart and Young 1936)."
    )
    return Figure("repair", draw_bars(info), "the adapter's repair by module type", caption, words)


def _repair_words(errors: Sequence[ModuleError], adapter: str | None) -> str:
    parts = []
    for form in forms(errors):
        repairs = [e.repair for e in errors if e.repair and e.form == form]
        if repairs:
            parts.append(
                f"{form}: {share(statistics.fmean(r.repaired_share for r in repairs))} of the squared error is undone"
                f" (at best {share(statistics.fmean(r.best_share for r in repairs))}), cosine"
                f" {three_digits(statistics.fmean(r.cosine for r in repairs))}"
            )
    return f"What {adapter or 'the adapter'} learned, compared with the error of quantization: {'; '.join(parts)}."


def _row(e: ModuleError) -> tuple[str, ...]:
    noise = formatting.DASH if e.signal_to_noise is None else f"{e.signal_to_noise:.1f}"
    return (e.module, e.form, share(e.relative), share(e.maximum), noise, f"{e.stable_rank:.1f}")
