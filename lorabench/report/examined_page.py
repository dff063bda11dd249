"""The page about one adapter, cell or checkpoint: what `lorabench spectrum --html` writes."""

from __future__ import annotations

import numpy as np

from lorabench.record.spectrum import Spectrum, place
from lorabench.report.blocks import Block, Facts, Figure, Grid, Points, Section, Text
from lorabench.report.examined import Examined, Likeness, grid, lead, likeness_words, share
from lorabench.report.figures import Axis, Drawing, Line, draw
from lorabench.report.heat import HeatMap, Plane, draw_heat
from lorabench.report.style import palette

SMALLEST = 1e-6  # of the largest value: below is float32 rounding


def examined_sections(found: Examined) -> tuple[Section, ...]:
    """The page's sections."""
    first: list[Block] = [Text(lead(found.summary.model), "lead"), Facts(found.facts)]
    if found.notes:
        first.append(Points(found.notes))
    made = [Section("What it learned", tuple(first)), Section("Singular values", (_decay(found), *_heat(found)))]
    if found.likeness is not None:
        made.append(Section("Beside the other", _alike(found.likeness)))
    heads, rows = grid(found.summary)
    modules = tuple(_module_row(s) for s in found.spectra)
    every = ("module", "norm", "stable rank", "entropy rank", "k(0.9)", "k(0.99)", "numerical rank", "utilisation")
    made.append(Section("Summed up", (Grid(heads, rows),)))
    made.append(Section("Every module", (Grid(every, modules),)))
    return tuple(made)


def _module_row(s: Spectrum) -> tuple[str, ...]:
    return (s.module, f"{s.frobenius_norm:.3g}", f"{s.stable_rank:.2f}", f"{s.entropy_rank:.2f}", str(s.energy_rank(0.9)), str(s.energy_rank(0.99)),
            str(s.numerical_rank), share(s.rank_utilisation))  # fmt: skip


def _decay(found: Examined) -> Figure:
    lines, words = [], []
    types = list(dict.fromkeys(place(s.module)[1] for s in found.spectra))
    for name, style in zip(types, palette(len(types)), strict=True):
        values = [s.singular_values / s.singular_values[0] for s in found.spectra if place(s.module)[1] == name and len(s.singular_values) and s.singular_values[0] > 0]
        if not values:
            continue
        longest = max(len(v) for v in values)
        mean = np.mean([np.pad(v, (0, longest - len(v))) for v in values], axis=0)
        mean = mean[: int(np.argmax(mean < SMALLEST)) if bool((mean < SMALLEST).any()) else longest]
        lines.append(Line(name, style, tuple(float(i + 1) for i in range(len(mean))), tuple(map(float, mean))))
        words.append(f"{name}: {len(mean)} values, the last {mean[-1]:.2g} of the first")
    caption = "Singular values of the change divided by the largest, averaged over layers. A steep fall means that a smaller rank would have held most of it."
    drawing = Drawing(Axis("index of the singular value"), Axis("share of the largest", log=True), tuple(lines))
    return Figure("decay", draw(drawing), "decay by module type", caption, tuple(words))


def _heat(found: Examined) -> tuple[Figure, ...]:
    types = list(dict.fromkeys(place(s.module)[1] for s in found.spectra))
    layers = sorted({n for s in found.spectra if (n := place(s.module)[0]) is not None})
    if len(layers) < 2:
        return ()
    ranks = {place(s.module): float(s.energy_rank(0.9)) for s in found.spectra}
    types = [t for t in types if any((n, t) in ranks for n in layers)]
    rows = tuple(tuple(ranks.get((n, t)) for t in types) for n in layers)
    plane = Plane(found.title, tuple(types), tuple(map(str, layers)), rows)
    caption = "Least number of singular directions that hold 90 % of the energy of a change. Look for layers and modules that need more than the others: a rank there is worth more."
    words = tuple(f"layer {n}: " + ", ".join(f"{t} {v:.0f}" for t, v in zip(types, row, strict=True) if v is not None) for n, row in zip(layers, rows, strict=True))
    return (Figure("energy-rank", draw_heat(HeatMap("module type", "layer", "k(0.9)", (plane,))), "energy rank by layer and module", caption, words),)


def _alike(found: Likeness) -> tuple[Block, ...]:
    blocks: list[Block] = [Text(likeness_words(found))]
    for side, table, random, told in (("right", found.right, found.random_right, "what is read"), ("left", found.left, found.random_left, "what is written")):
        if not table.size:
            continue
        names = tuple(str(i + 1) for i in range(table.shape[0])), tuple(str(j + 1) for j in range(table.shape[1]))
        plane = Plane(side, names[1], names[0], tuple(tuple(map(float, row)) for row in table))
        caption = f"phi(i, j) of the first i and j {side} singular vectors ({told}), mean over modules: 1 where the smaller subspace lies in the larger, {random:.3f} expected of random ones (all directions)."
        words = tuple(f"phi({i + 1}, {i + 1}) = {table[i, i]:.3f}" for i in range(min(table.shape)))
        blocks.append(Figure(f"similarity-{side}", draw_heat(HeatMap("j of the other", "i of this one", "phi", (plane,), span=(0.0, 1.0))), f"similarity of {side} singular vectors", caption, words))
    return tuple(blocks)
