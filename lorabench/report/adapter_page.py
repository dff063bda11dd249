"""The page about one adapter, cell or checkpoint: what `lorabench spectrum --html` writes."""

from __future__ import annotations

import numpy as np

from lorabench.analysis.spectra import fields, type_decays
from lorabench.record.spectrum import Spectrum
from lorabench.report.adapter_summary import Examined, SubspaceSimilarity, grid, last, lead, share, similarity_words
from lorabench.report.blocks import Block, Facts, Figure, Grid, Points, Section, Text
from lorabench.report.column_legend import legend
from lorabench.report.drawing import Axis, Drawing, Line
from lorabench.report.figures import draw
from lorabench.report.heatmaps import HeatMap, Plane, draw_heat
from lorabench.report.style import palette


def examined_sections(examined: Examined) -> tuple[Section, ...]:
    """The page's sections: what was learned, its singular values, the comparison with another one where that was asked
    for, and a table of groups and of modules."""
    first: list[Block] = [Text(lead(examined.summary.model), "lead"), Facts(examined.facts)]
    if examined.notes:
        first.append(Points(examined.notes))
    sections = [
        Section("What it learned", tuple(first)),
        Section("Singular values", (_decay(examined), *_energy_rank_map(examined))),
    ]
    if examined.similarity is not None:
        sections.append(Section("Compared with the other", _similarity_blocks(examined.similarity)))
    heads, rows = grid(examined.summary)
    modules = tuple(_module_row(s) for s in examined.spectra)
    every = ("module", "norm", "stable rank", "entropy rank", "k(0.9)", "k(0.99)", "numerical rank", "utilisation")
    sections.append(Section("Summary", (Grid(heads, rows), Points(legend(heads), "What the columns mean"))))
    sections.append(Section("Every module", (Grid(every, modules), Points(legend(every), "What the columns mean"))))
    return tuple(sections)


def _module_row(s: Spectrum) -> tuple[str, ...]:
    return (
        s.module,
        f"{s.frobenius_norm:.3g}",
        f"{s.stable_rank:.2f}",
        f"{s.entropy_rank:.2f}",
        str(s.energy_rank(0.9)),
        str(s.energy_rank(0.99)),
        str(s.numerical_rank),
        share(s.rank_utilisation),
    )


def _decay(examined: Examined) -> Figure:
    means = type_decays([examined.spectra])
    lines = tuple(
        Line(name, style, tuple(float(i + 1) for i in range(len(mean))), tuple(map(float, mean)))
        for (name, mean), style in zip(means.items(), palette(len(means)), strict=True)
    )
    words = tuple(f"{line.label}: {len(line.x)} values, the last {line.y[-1]:.2g} of the first" for line in lines)
    caption = (
        "Singular values of the change divided by the largest, averaged over layers. A steep fall means that a smaller"
        " rank would have held most of it."
    )
    drawing = Drawing(Axis("index of the singular value"), Axis("share of the largest", log=True), lines)
    return Figure("decay", draw(drawing), "decay by module type", caption, words)


def _energy_rank_map(examined: Examined) -> tuple[Figure, ...]:
    field_means = fields([examined.spectra], lambda s: float(s.energy_rank(0.9)))
    if len([n for n in field_means.layers if n is not None]) < 2:
        return ()
    columns = tuple("none" if n is None else str(n) for n in field_means.layers)
    plane = Plane(examined.title, columns, field_means.types, field_means.values)
    caption = (
        "Smallest number of singular directions that hold 90 % of the energy of a change. Look for layers and modules"
        " that need more than the others: rank is worth more there."
    )
    words = tuple(
        f"{kind}: " + ", ".join(f"layer {n} {v:.0f}" for n, v in zip(columns, row, strict=True) if v is not None)
        for kind, row in zip(field_means.types, field_means.values, strict=True)
    )
    return (
        Figure(
            "energy-rank",
            draw_heat(HeatMap("layer", "module type", "k(0.9)", (plane,))),
            "energy rank by layer and module",
            caption,
            words,
        ),
    )


def _similarity_blocks(similarity: SubspaceSimilarity) -> tuple[Block, ...]:
    blocks: list[Block] = [Text(similarity_words(similarity))]
    for side, table, random, role in (
        ("right", similarity.right, similarity.random_right, "what is read"),
        ("left", similarity.left, similarity.random_left, "what is written"),
    ):
        if not table.size:
            continue
        names = tuple(str(i + 1) for i in range(table.shape[0])), tuple(str(j + 1) for j in range(table.shape[1]))
        plane = Plane(
            side, names[1], names[0], tuple(tuple(None if np.isnan(v) else float(v) for v in row) for row in table)
        )
        caption = (
            f"phi(i, j) of the first i and j {side} singular vectors ({role}), mean over modules: 1 where the smaller"
            f" subspace lies in the larger, {last(random):.3f} expected of random ones with all directions."
        )
        words = tuple(f"phi({i + 1}, {i + 1}) = {table[i, i]:.3f}" for i in range(min(table.shape)))
        blocks.append(
            Figure(
                f"similarity-{side}",
                draw_heat(HeatMap("j of the other", "i of this one", "phi", (plane,), span=(0.0, 1.0))),
                f"similarity of {side} singular vectors",
                caption,
                words,
            )
        )
    return tuple(blocks)
