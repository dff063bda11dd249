"""how each condition came to its learning rate: validation loss against rate"""

from __future__ import annotations

import itertools

from lorabench import formatting
from lorabench.analysis.tuning import METRIC, Tried, Tuning
from lorabench.config.fingerprint import canonical_json
from lorabench.record.metrics import metric
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
    if not view.analysis.tunings:
        return None
    info = bounded(drawing(view))
    caption = (
        "Mean validation loss over seeds at each learning rate of the grid, its bar (± in the table) the 95 % interval"
        " of that mean. The one of lowest mean is chosen for all seeds of a condition; what the report says of it is"
        " measured on the test split, whose data took no part in the choice (a choice among rates that are nearly as"
        " good still favours lucky runs a little). Look for curves whose lowest point ends the grid: a better rate may"
        " lie outside."
    )
    if any(x.broken or x.missing for t in view.analysis.tunings for x in t.tried):
        caption += (
            " Only rates at which the most seeds finished, and of these the fewest broke, are up for choice: the mean"
            " of the seeds that are left flatters a rate."
        )
    if cut_off(info):
        caption += f" {cut_off(info)}"
    if len(info.lines) < len(view.analysis.tunings):
        caption += f" Of {len(view.analysis.tunings)} conditions {len(info.lines)} are drawn; the table has all."
    words = tuple(sentence(view, t) for t in view.analysis.tunings)
    blocks: list[Block] = [
        Points(told(view)),
        Figure("learning-rates", draw(info), "validation loss against learning rate", caption, words),
    ]
    return Section(TITLE, (*blocks, *_by_seed(view), table(view)))


def _by_seed(view: View) -> tuple[Figure, ...]:
    made = compute_by_seed(view)
    if not made:
        return ()
    labels, drawings = zip(*made.items(), strict=True)
    several = " Choose a condition above the figure." if len(made) > 1 else ""
    caption = (
        "Validation loss of every seed at every learning rate of one condition, measured once at the end of training;"
        f" the star is the learning rate that was chosen, at the mean of its seeds.{several} Look whether all seeds"
        " have their lowest point at the same learning rate: where they part, the choice is partly luck."
    )
    words = tuple(
        f"{label}: {line.label} lowest at {line.x[line.y.index(min(line.y))]:g}"
        for label, d in made.items()
        for line in d.lines
        if line.label != _CHOSEN
    )
    return (
        Figure(
            "rates-by-seed",
            draw_choice(labels, drawings, 0),
            "validation loss of each seed by learning rate",
            caption,
            words,
        ),
    )


def compute_by_seed(view: View) -> dict[str, Drawing]:
    """A line for each seed and a mark at the chosen rate, for each tuned condition by its label."""
    made: dict[str, Drawing] = {}
    all_seeds = sorted({c.seed for g in view.analysis.planned for c in g.cells})
    styles = dict(zip(all_seeds, palette(len(all_seeds)), strict=True))
    rates = tuple(sorted({x.rate for t in view.analysis.tunings for x in t.tried}))
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
            Line(f"seed {seed}", styles[seed], tuple(sorted(found)), tuple(found[rate] for rate in sorted(found)))
            for seed, found in sorted(points.items())
        ]
        best = next((x for x in t.tried if x.rate == t.chosen), None)
        if best is not None and best.mean is not None:
            lines.append(Line(_CHOSEN, Style(GREY, "solid", "star"), (best.rate,), (best.mean,), mode="markers"))
        if lines:
            made[view.analysis.label(t.condition)] = Drawing(
                Axis("learning rate", log=True, ticks=rates),
                Axis(f"{metric(METRIC).label} (nats)"),
                tuple(lines),
                mode="lines+markers",
            )
    return made


def headline(view: View) -> tuple[str, ...]:
    """How the adapters' chosen rates stand to that of full fine-tuning of the same model and task, for the first
    screen, too."""
    tuned = {
        t.condition: t
        for t in view.analysis.tunings
        if t.chosen and not view.analysis.summary(t.condition).outcomes.broken
    }  # a rate of survivors is no best one
    full = {_base(view, c): t for c, t in tuned.items() if view.analysis.summary(c).method == "full"}
    pairs = [
        (t, full[_base(view, c)])
        for c, t in tuned.items()
        if view.analysis.summary(c).method != "full" and _base(view, c) in full
    ]
    ratios = sorted(a.chosen / f.chosen for a, f in pairs if a.chosen and f.chosen)
    if not ratios:
        return ()
    between = f"{ratios[0]:.3g}" if ratios[0] == ratios[-1] else f"{ratios[0]:.3g} to {ratios[-1]:.3g}"
    step = max(b.rate / a.rate for pair in pairs for t in pair for a, b in itertools.pairwise(t.tried))
    edges = sum(a.edge or f.edge for a, f in pairs)
    caution = (
        f"; in {edges} of {len(pairs)} a rate ends its grid, so that the true factor may be another" if edges else ""
    )
    return (
        (
            f"The adapters' best learning rates are {between} times full fine-tuning's"
            f" ({formatting.plural(len(pairs), 'condition')}), as far as grids with steps of a factor {step:.3g} can"
            f" tell{caution}."
        ),
    )


def _base(view: View, condition: str) -> str:
    declared = view.analysis.declared(condition)
    return canonical_json({name: declared[name] for name in ("model", "task")})


def drawing(view: View) -> Drawing:
    """A line for each condition; rates at which no cell finished have no point."""
    lines, rates = [], set()
    for t in view.analysis.tunings[:: -(-len(view.analysis.tunings) // _MOST_LINES)]:
        known = [(x.rate, x.mean, x.ci_half_width) for x in t.tried if x.mean is not None]
        rates |= {x.rate for x in t.tried}
        if known:
            x, y, error = zip(*known, strict=True)
            lines.append(Line(view.analysis.label(t.condition), view.styles[t.condition], x, y, error))
    return Drawing(
        Axis("learning rate", log=True, ticks=tuple(sorted(rates))),
        Axis(f"{metric(METRIC).label} (nats)"),
        tuple(lines),
        mode="lines+markers",
    )


def told(view: View) -> tuple[str, ...]:
    """Which rates were chosen, by method, and what they say of LoRA's rate against full fine-tuning's and of the
    rank."""
    methods: dict[str, list[Tuning]] = {}
    for t in view.analysis.tunings:
        if t.chosen is not None:
            methods.setdefault(view.analysis.summary(t.condition).method, []).append(t)
    made = []
    for method, found in methods.items():
        chosen = sorted({t.chosen for t in found if t.chosen is not None})
        one = f"{chosen[0]:g}" if len(chosen) == 1 else f"{chosen[0]:g} to {chosen[-1]:g}"
        made.append(
            f"{method}: {formatting.plural(len(found), 'condition')} chose"
            f" {one}{' throughout' if len(chosen) == 1 and len(found) > 1 else ''}."
        )
    made += headline(view)
    edges = [t for t in view.analysis.tunings if t.edge]
    if edges:
        made.append(
            f"{len(edges)} of {len(view.analysis.tunings)} chosen learning rates end their grid: there a better one may"
            " lie outside."
        )
    return tuple(made)


def sentence(view: View, t: Tuning) -> str:
    """ "LoRA r=4: chose 0.003 of 0.001 to 0.01 (3.412 nats; 3.455 at 0.001, 3.431 at 0.01)" """
    label = view.analysis.label(t.condition)
    if t.chosen is None:
        return f"{label}: no cell has finished yet"
    best = next(x for x in t.tried if x.rate == t.chosen)
    others = ", ".join(f"{_value(x.mean)} at {x.rate:g}{_lost(x)}" for x in t.tried if x is not best)
    return (
        f"{label}: chose {t.chosen:g}{', the edge of its grid,' if t.edge else ''} with {_value(best.mean)}"
        f" nats{_lost(best)}; {others}"
    )


def table(view: View) -> Grid:
    """Every condition's validation loss at every rate of any grid, the chosen one marked."""
    rates = sorted({x.rate for t in view.analysis.tunings for x in t.tried})
    rows = []
    for t in view.analysis.tunings:
        by_rate = {x.rate: x for x in t.tried}
        cells = [_field(by_rate[r], r == t.chosen) if r in by_rate else "" for r in rates]
        rows.append((view.analysis.label(t.condition), *cells))
    return Grid(("condition", *(f"{r:g}" for r in rates)), tuple(rows))


def _field(tried: Tried, chosen: bool) -> str:
    spread = f" ± {formatting.decimals(tried.ci_half_width)}" if tried.ci_half_width is not None else ""
    return f"{'→ ' if chosen else ''}{_value(tried.mean)}{spread}{_lost(tried)}"


def _lost(tried: Tried) -> str:
    """ " (1 broke, 2 without a value)": what the mean is not over."""
    parts = [f"{n} {word}" for n, word in ((tried.broken, "broke"), (tried.missing, "without a value")) if n]
    return f" ({', '.join(parts)})" if parts else ""


def _value(mean: float | None) -> str:
    return formatting.DASH if mean is None else formatting.decimals(mean)
