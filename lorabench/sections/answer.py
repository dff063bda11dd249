"""the study's question, and what the comparisons say to it"""

from __future__ import annotations

from lorabench.analysis.compare import Comparison
from lorabench.record.metrics import metric
from lorabench.report import human
from lorabench.report.blocks import Block, Points, Section, Text
from lorabench.report.tables import accuracies
from lorabench.report.view import View

ORDER = 10
TITLE = "Answer"
_AT_MOST = 12  # sentences for each metric; the table has all


def section(view: View) -> Section | None:
    """Question, best condition, and a sentence for each comparison."""
    blocks: list[Block] = [Text(view.study.question, "lead")] if view.study.question else []
    standing = best_sentence(view)
    if standing:
        blocks.append(Text(standing))
    for name in ("eval_loss", *accuracies(view)[:1]):
        found = [c for c in view.comparisons if c.metric == name]
        if found:
            more = [f"{len(found) - _AT_MOST} more stand in the table below."] if len(found) > _AT_MOST else []
            blocks.append(Points((*(sentence(view, c) for c in found[:_AT_MOST]), *more)))
    if view.comparisons:
        blocks.append(Text("Each interval is taken alone; among many comparisons some exclude zero by chance.", "small"))
    elif standing:
        blocks.append(Text(_why_none(view)))
    else:
        blocks.append(Text("No cell has finished with a held-out loss yet, so there is nothing to answer with."))
    return Section(TITLE, tuple(blocks))


def sentence(view: View, c: Comparison) -> str:
    """ "LoRA r=16 ends 0.034 nats above full in held-out loss (95 % interval −0.010 to 0.078, 2 seeds): not decisive.\""""
    m = metric(c.metric)
    ours, theirs = view.label(c.condition), view.label(c.reference)
    seeds = human.plural(c.pairs, "seed")
    if c.difference == 0:
        return f"{ours} equals {theirs} in {m.label} ({seeds})."
    unit = {"share": "points", "ratio": ""}.get(m.unit, m.unit)
    size = f"{human.number(abs(c.difference), m.unit)} {unit}".strip()
    where = "above" if c.difference > 0 else "below"
    if c.low is None or c.high is None:
        why = "no interval" if c.pairs == 1 else "no interval, since the differences do not vary"
        return f"{ours} ends {size} {where} {theirs} in {m.label} ({seeds}, {why}): not decisive."
    interval = f"95 % interval {human.number(c.low, m.unit)} to {human.number(c.high, m.unit)}, {seeds}"
    better = (c.difference < 0) == (m.better == "lower")
    verdict = ("better" if better else "worse") if c.decisive else "not decisive"
    return f"{ours} ends {size} {where} {theirs} in {m.label} ({interval}): {verdict}."


def best_sentence(view: View) -> str:
    """Where the base starts and which condition ends lowest, from the means."""
    m = metric("eval_loss")
    means = [(s.mean(m.name), s) for s in view.summaries if s.comparable and s.mean(m.name) is not None]
    start = [f"The untrained {s.label.text} has a held-out loss of {human.decimals(v)} nats." for s in view.summaries
             if s.method == "base" and (v := s.mean(m.name)) is not None]  # fmt: skip
    if means:
        value, best = min(means, key=lambda pair: pair[0] or 0.0)
        seeds = human.plural(best.outcomes.finished, "seed")
        start.append(f"The lowest mean held-out loss is {human.decimals(value or 0.0)} nats, with {best.label.text} ({seeds}).")
    return " ".join(start)


def _why_none(view: View) -> str:
    if not view.references:
        return "There is no reference condition to compare with; name one under `reference` in the study."
    return "No condition shares a finished seed with its reference, so nothing can be compared yet."
