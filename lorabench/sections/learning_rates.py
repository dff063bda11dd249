"""how each condition came to its learning rate: validation loss against rate"""

from __future__ import annotations

from lorabench.analysis.learning_rate_ratios import LearningRateRatios, learning_rate_ratios
from lorabench.analysis.tuning import METRIC
from lorabench.record.metrics import metric
from lorabench.report import learning_rates_text as text
from lorabench.report.blocks import Block, Figure, Grid, Points, Section
from lorabench.report.drawing import Axis, Drawing, Line, bounded, cut_off
from lorabench.report.figures import draw, draw_choice
from lorabench.report.style import GREY, Style, palette
from lorabench.report.view import View

ORDER = 62
TITLE = "Learning rates"
_MOST_BY_SEED = 60  # conditions in the menu of seeds
_CHOSEN = "chosen learning rate"
_MOST_LINES = 12  # with more conditions the figure shows a part, the table all


def section(view: View) -> Section | None:
    """What was chosen, the curve over the rates, and every value; None where no rate is tuned."""
    tunings = view.analysis.tunings
    if not tunings:
        return None
    info = bounded(drawing(view))
    caption = text.caption(tunings, len(info.lines), cut_off(info))
    words = tuple(text.sentence(view, t) for t in tunings)
    blocks: list[Block] = [
        Points((*text.choices(view), *headline(view), *text.edges(tunings))),
        Figure("learning-rates", draw(info), "validation loss against learning rate", caption, words),
    ]
    return Section(TITLE, (*blocks, *_by_seed(view), table(view)))


def headline(view: View) -> tuple[str, ...]:
    """How the adapters' chosen rates stand to that of full fine-tuning of the same model and task, for the first
    screen, too."""
    ratios = compute(view)
    return (text.ratio_sentence(ratios),) if ratios else ()


def compute(view: View) -> LearningRateRatios | None:
    """The adapters' chosen rates over that of full fine-tuning."""
    return learning_rate_ratios(view.analysis)


def _by_seed(view: View) -> tuple[Figure, ...]:
    drawings = compute_by_seed(view)
    if not drawings:
        return ()
    words = tuple(
        text.lowest(label, line) for label, d in drawings.items() for line in d.lines if line.label != _CHOSEN
    )
    return (
        Figure(
            "rates-by-seed",
            draw_choice(tuple(drawings), tuple(drawings.values()), 0),
            "validation loss of each seed by learning rate",
            text.seed_caption(several=len(drawings) > 1),
            words,
        ),
    )


def compute_by_seed(view: View) -> dict[str, Drawing]:
    """A line for each seed and a mark at the chosen rate, for each tuned condition by its label."""
    drawings: dict[str, Drawing] = {}
    all_seeds = sorted({c.seed for g in view.analysis.planned for c in g.cells})
    styles = dict(zip(all_seeds, palette(len(all_seeds)), strict=True))
    learning_rates = tuple(sorted({x.learning_rate for t in view.analysis.tunings for x in t.results}))
    groups = {g.condition: g for g in view.analysis.planned}
    for t in view.analysis.tunings[:_MOST_BY_SEED]:
        points: dict[int, dict[float, float]] = {}
        for cell, i in zip(groups[t.condition].cells, groups[t.condition].ids, strict=True):
            r = view.analysis.results.get(i)
            value = (
                None
                if r is None or r.outcome != "finished"
                else next((x.value for x in r.readings if x.metric == METRIC), None)
            )
            if value is not None:
                points.setdefault(cell.seed, {})[cell.training.fixed_learning_rate] = value
        lines = [
            Line(f"seed {seed}", styles[seed], tuple(sorted(losses)), tuple(losses[x] for x in sorted(losses)))
            for seed, losses in sorted(points.items())
        ]
        best = next((x for x in t.results if x.learning_rate == t.chosen), None)
        if best is not None and best.mean is not None:
            lines.append(
                Line(_CHOSEN, Style(GREY, "solid", "star"), (best.learning_rate,), (best.mean,), mode="markers")
            )
        if lines:
            drawings[view.analysis.label(t.condition)] = Drawing(
                Axis("learning rate", log=True, ticks=learning_rates),
                Axis(f"{metric(METRIC).label} (nats)"),
                tuple(lines),
                mode="lines+markers",
            )
    return drawings


def drawing(view: View) -> Drawing:
    """A line for each condition; rates at which no cell finished have no point."""
    lines, learning_rates = [], set()
    for t in view.analysis.tunings[:: -(-len(view.analysis.tunings) // _MOST_LINES)]:
        points = [(x.learning_rate, x.mean, x.ci_half_width) for x in t.results if x.mean is not None]
        learning_rates |= {x.learning_rate for x in t.results}
        if points:
            x, y, error = zip(*points, strict=True)
            lines.append(Line(view.analysis.label(t.condition), view.styles[t.condition], x, y, error))
    return Drawing(
        Axis("learning rate", log=True, ticks=tuple(sorted(learning_rates))),
        Axis(f"{metric(METRIC).label} (nats)"),
        tuple(lines),
        mode="lines+markers",
    )


def table(view: View) -> Grid:
    """Every condition's validation loss at every rate of any grid, the chosen one marked."""
    learning_rates = sorted({x.learning_rate for t in view.analysis.tunings for x in t.results})
    rows = []
    for t in view.analysis.tunings:
        by_rate = {x.learning_rate: x for x in t.results}
        cells = [text.result_words(by_rate[r], r == t.chosen) if r in by_rate else "" for r in learning_rates]
        rows.append((view.analysis.label(t.condition), *cells))
    return Grid(("condition", *(f"{r:g}" for r in learning_rates)), tuple(rows))
