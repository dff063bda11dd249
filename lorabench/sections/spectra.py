"""how fast the singular values of what was learned fall, by condition and by type of module"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lorabench.analysis.spectra import Array, decays, mean_decay, type_decays
from lorabench.report import spectra
from lorabench.report.blocks import Block, Figure, Section, Text
from lorabench.report.drawing import Axis, Drawing, Line
from lorabench.report.figures import draw, draw_choice
from lorabench.report.style import Style, palette
from lorabench.report.view import View

ORDER = 70
TITLE = "Spectra"
MOST_POINTS = 96  # of a module type's line, evenly spaced on a log scale: a menu of 100 conditions stays below 3 MB
_X, _Y = Axis("index of the singular value"), Axis("share of the largest", log=True)


def section(view: View) -> Section | None:
    """A figure by condition and one by module type; of a study that asked for none a sentence, None where no cell kept
    any."""
    info, left_out = compute(view), not_asked(view)
    if info is None:
        return Section(TITLE, (Text(left_out),)) if left_out else None
    caption = (
        "Singular values of the learned change of each weight matrix, divided by the largest, averaged over matrices"
        " and seeds. A steep fall means that a smaller rank would have held most of it; a curve that ends high is cut"
        " off by its rank."
    )
    words = tuple(f"{line.label}: {_values(line)}, the last {line.y[-1]:.2g} of the first" for line in info.lines)
    blocks: list[Block] = [Figure("spectra", draw(info), "singular values of the learned change", caption, words)]
    types = compute_types(view)
    if types is not None:
        blocks.append(_by_type(types))
    if left_out:
        blocks.append(Text(left_out, "small"))
    return Section(TITLE, tuple(blocks))


def not_asked(view: View) -> str | None:
    """What is missing here and in the sections after it because the study asked for less than everything; None where it
    asked for all."""
    asked = {g.setting.analysis.spectra for g in view.analysis.groups if g.setting.training.steps}
    if "none" in asked:
        some = "of some conditions " if len(asked) > 1 else ""
        return (
            f"What was learned was not decomposed {some}(analysis.spectra: none): there are no singular values, ranks"
            " in use, similarities or measures beside the base. Saved adapters still have them: lorabench spectrum"
            " CELL."
        )
    if "values" in asked:
        some = "of some conditions " if len(asked) > 1 else ""
        return (
            f"Singular values alone were kept {some}(analysis.spectra: values): there are no directions to compare"
            " between seeds and ranks, and no measures beside the base."
        )
    return None


def compute(view: View) -> Drawing | None:
    """The mean normalised decay of each condition."""
    lines = []
    for s in view.analysis.summaries:
        mean = mean_decay([d for cell in spectra.spectra(view, s.condition) for d in decays(cell)])
        if len(mean):
            lines.append(_line(s.label.text, view.styles[s.condition], mean))
    return _drawing(lines) if lines else None


@dataclass(frozen=True)
class Types:
    """The decay of each module type, of every condition that kept spectra."""

    labels: tuple[str, ...]
    drawings: tuple[Drawing, ...]
    shown: int
    """index of the condition of highest rank"""


def compute_types(view: View) -> Types | None:
    """One drawing for each condition; a type of module has the same colour in all."""
    found = {
        s.condition: means
        for s in view.analysis.summaries
        if (means := type_decays(spectra.spectra(view, s.condition)))
    }
    if not found:
        return None
    names = dict.fromkeys(k for means in found.values() for k in means)
    kinds = dict(zip(names, palette(len(names)), strict=True))
    drawings = tuple(
        _drawing([_thinned(_line(k, kinds[k], mean)) for k, mean in means.items()]) for means in found.values()
    )
    return Types(
        tuple(view.analysis.label(c) for c in found), drawings, list(found).index(spectra.highest(view, found))
    )


def _by_type(info: Types) -> Figure:
    several = " (choose another above it)" if len(info.labels) > 1 else ""
    caption = (
        "The same for each type of module, averaged over layers and seeds: the figure opens with"
        f" {info.labels[info.shown]}{several}. Look for a type whose curve stays high longest: it is the one that asks"
        " for rank."
    )
    words = tuple(
        (
            f"{line.label} of {info.labels[info.shown]}: half of the first value from index {index} on"
            if (index := _half(line)) is not None
            else f"{line.label} of {info.labels[info.shown]}: the last value is still {line.y[-1]:.2g} of the first"
        )
        for line in info.drawings[info.shown].lines
    )
    plot = draw_choice(info.labels, info.drawings, info.shown)
    return Figure("spectra-types", plot, "singular value decay per module type", caption, words)


def _half(line: Line) -> int | None:
    return next((int(x) for x, y in zip(line.x, line.y, strict=True) if y <= 0.5), None)


def _values(line: Line) -> str:
    return f"{len(line.x)} value{'s' if len(line.x) > 1 else ''}"


def _line(label: str, style: Style, mean: Array) -> Line:
    return Line(label, style, tuple(float(i) for i in range(1, len(mean) + 1)), tuple(float(v) for v in mean))


def _thinned(line: Line) -> Line:
    """At most MOST_POINTS of its points, four digits of each: the first, the last, and between them denser where the
    index is small."""
    most = len(line.x)
    kept = (
        sorted({round(most ** (i / (MOST_POINTS - 1))) - 1 for i in range(MOST_POINTS)})
        if most > MOST_POINTS
        else range(most)
    )
    return replace(line, x=tuple(line.x[i] for i in kept), y=tuple(float(f"{line.y[i]:.4g}") for i in kept))


def _drawing(lines: Sequence[Line]) -> Drawing:
    few = max(len(line.x) for line in lines) <= 16
    return Drawing(_X, _Y, tuple(lines), mode="lines+markers" if few else "lines")
