"""A page about one adapter, cell or checkpoint: what `lorabench spectrum --html` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorabench.analysis.summarise import Group, Summary
from lorabench.record.spectrum import Spectrum, place
from lorabench.report import human
from lorabench.report.blocks import Block, Facts, Figure, Grid, Points, Section, Text
from lorabench.report.figures import Axis, Drawing, Line, draw
from lorabench.report.heat import HeatMap, Plane, draw_heat
from lorabench.report.style import palette

SMALLEST = 1e-6  # of the largest value: below is float32 rounding


@dataclass(frozen=True, eq=False)
class Likeness:
    """Mean phi(i, j) over the modules that two changes share."""

    other: str
    modules: int
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    random_left: float
    """expected of random subspaces, of the whole tables' sizes"""
    random_right: float


@dataclass(frozen=True, eq=False)
class Examined:
    """All that the page shows."""

    title: str
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    spectra: tuple[Spectrum, ...]
    summary: Summary
    likeness: Likeness | None = None


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


def lead(model: Group) -> str:
    """The whole in two sentences."""
    if not model.frobenius_norm:
        return "The change is zero: nothing was learned."
    said = f"On average {model.energy_rank['0.9']:.3g} singular directions of a matrix hold 90 % of the energy of its change, {model.energy_rank['0.99']:.3g} hold 99 %."
    if model.rank_utilisation is not None:
        said += f" By entropy {human.percent(100 * model.rank_utilisation)} of the rank is used."
    return said


def grid(summary: Summary, layers: bool = True) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Heads and rows of the groups; columns that no group has are left out."""
    groups = (*summary.types, *(summary.layers if layers else ()), summary.model)
    names = (*(g.name for g in summary.types), *(f"layer {g.name}" for g in (summary.layers if layers else ())), "all")
    columns: list[tuple[str, list[str]]] = [
        ("group", list(names)),
        ("modules", [str(g.modules) for g in groups]),
        ("norm", [f"{g.frobenius_norm:.3g}" for g in groups]),
        ("of base", [_share(g.relative_norm) for g in groups]),
        ("stable rank", [f"{g.stable_rank:.2f}" for g in groups]),
        ("entropy rank", [f"{g.entropy_rank:.2f}" for g in groups]),
        *((f"k({q})", [f"{g.energy_rank[q]:.1f}" for g in groups]) for q in ("0.5", "0.9", "0.99")),
        ("utilisation", [_share(g.rank_utilisation) for g in groups]),
        ("amplification", [_number(g.amplification) for g in groups]),
        ("intruders", [_number(g.intruders) for g in groups]),
        ("their energy", [_share(g.intruder_energy) for g in groups]),
        ("repair cosine", [_number(g.repair_cosine) for g in groups]),
        ("repaired", [_share(g.repaired_share) for g in groups]),
        ("at best", [_share(g.best_share) for g in groups]),
    ]
    kept = [(head, fields) for head, fields in columns if set(fields) != {human.DASH}]
    return tuple(h for h, _ in kept), tuple(zip(*(f for _, f in kept), strict=True))


def _share(value: float | None) -> str:
    return human.DASH if value is None else f"{'−' if value < 0 else ''}{human.percent(abs(100 * value))}"


def _number(value: float | None) -> str:
    return human.DASH if value is None else f"{value:.3g}".replace("-", "−")


def _module_row(s: Spectrum) -> tuple[str, ...]:
    return (s.module, f"{s.frobenius_norm:.3g}", f"{s.stable_rank:.2f}", f"{s.entropy_rank:.2f}", str(s.energy_rank(0.9)), str(s.energy_rank(0.99)),
            str(s.numerical_rank), _share(s.rank_utilisation))  # fmt: skip


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


def likeness_words(found: Likeness) -> str:
    """One sentence on each side."""
    if not found.left.size:
        return f"One of the two is a change of zero: there is nothing to compare in {human.plural(found.modules, 'module')}."
    sides = (("what is read (right)", found.right, found.random_right), ("what is written (left)", found.left, found.random_left))
    told = "; ".join(f"{name}: phi(1, 1) = {t[0, 0]:.3f}, whole subspaces {t[-1, -1]:.3f} where random ones have {r:.3f}" for name, t, r in sides)
    return f"Beside {found.other}, mean over {human.plural(found.modules, 'module')}. {told[0].upper()}{told[1:]}."


def sizes(spectra: Sequence[Spectrum]) -> str:
    """ "rank 8" or "ranks 2 to 16" """
    ranks = sorted({s.rank for s in spectra if s.rank})
    if not ranks:
        return "no rank"
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
