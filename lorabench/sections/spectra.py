"""how fast the singular values of what was learned fall, by condition and by type of module"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lorabench.analysis.condition_spectra import highest, spectra
from lorabench.analysis.spectra import Array, decays, mean_decay, type_decays
from lorabench.report import spectra_text as text
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
    info, left_out = compute(view), text.left_out(requested_spectra(view))
    if info is None:
        return Section(TITLE, (Text(left_out),)) if left_out else None
    words = tuple(map(text.decay_words, info.lines))
    title = "singular values of the learned change"
    blocks: list[Block] = [Figure("spectra", draw(info), title, text.CAPTION, words)]
    types = compute_types(view)
    if types is not None:
        blocks.append(_by_type(types))
    if left_out:
        blocks.append(Text(left_out, "small"))
    return Section(TITLE, tuple(blocks))


def requested_spectra(view: View) -> set[str]:
    """What the trained conditions asked for: analysis.spectra."""
    return {g.setting.analysis.spectra for g in view.analysis.groups if g.setting.training.steps}


def compute(view: View) -> Drawing | None:
    """The mean normalised decay of each condition."""
    lines = []
    for s in view.analysis.summaries:
        mean = mean_decay([d for cell in spectra(view.analysis, s.condition) for d in decays(cell)])
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
    by_condition = {
        s.condition: means
        for s in view.analysis.summaries
        if (means := type_decays(spectra(view.analysis, s.condition)))
    }
    if not by_condition:
        return None
    names = dict.fromkeys(k for means in by_condition.values() for k in means)
    kinds = dict(zip(names, palette(len(names)), strict=True))
    drawings = tuple(
        _drawing([_thinned(_line(k, kinds[k], mean)) for k, mean in means.items()]) for means in by_condition.values()
    )
    return Types(
        tuple(view.analysis.label(c) for c in by_condition),
        drawings,
        list(by_condition).index(highest(view.analysis, by_condition)),
    )


def _by_type(info: Types) -> Figure:
    label, drawing = info.labels[info.shown], info.drawings[info.shown]
    caption = text.types_caption(label, several=len(info.labels) > 1)
    words = tuple(text.type_words(line, label) for line in drawing.lines)
    plot = draw_choice(info.labels, info.drawings, info.shown)
    return Figure("spectra-types", plot, "singular value decay per module type", caption, words)


def _line(label: str, style: Style, mean: Array) -> Line:
    return Line(label, style, tuple(float(i) for i in range(1, len(mean) + 1)), tuple(float(v) for v in mean))


def _thinned(line: Line) -> Line:
    """At most MOST_POINTS of its points, four digits of each: the first, the last, and between them denser where the
    index is small."""
    most = len(line.x)
    indices = (
        sorted({round(most ** (i / (MOST_POINTS - 1))) - 1 for i in range(MOST_POINTS)})
        if most > MOST_POINTS
        else range(most)
    )
    return replace(line, x=tuple(line.x[i] for i in indices), y=tuple(float(f"{line.y[i]:.4g}") for i in indices))


def _drawing(lines: Sequence[Line]) -> Drawing:
    few = max(len(line.x) for line in lines) <= 16
    return Drawing(_X, _Y, tuple(lines), mode="lines+markers" if few else "lines")
