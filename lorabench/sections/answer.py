"""the study's question, what the data decide, and how sure that is"""

from __future__ import annotations

from lorabench import plugins
from lorabench.analysis.decisions import Decision, compute_decisions
from lorabench.record.metrics import metric
from lorabench.report import answer_text as text
from lorabench.report.blocks import Block, Points, Section, Text
from lorabench.report.tables import accuracies
from lorabench.report.view import View

ORDER = 10
TITLE = "Answer"
_AT_MOST = 12  # sentences for each metric; the table has all
_HEADLINES = 6  # sentences of another section
_DECISIONS = 3  # sentences on the first screen; a study over many models has a reference for each


def section(view: View) -> Section | None:
    """Question, decision, how sure, and below a sentence for each comparison."""
    blocks: list[Block] = [Text(view.analysis.study.question, "question")] if view.analysis.study.question else []
    decisions = compute(view, view.analysis.metric)
    blocks += [Text(text.decision(view, d), "lead") for d in decisions[:_DECISIONS]]
    if len(decisions) > _DECISIONS:
        blocks.append(Text(f"{len(decisions) - _DECISIONS} more references have their answers below.", "small"))
    best = text.best_sentence(view)
    if not decisions:
        blocks.append(Text(best or "No cell has finished with a result to answer with.", "lead" if best else "plain"))
        if best:
            blocks.append(Text(text.why_no_decision(view)))
    if decisions or best:
        blocks.append(Text(text.how_sure(view)))
    points = (*headlines(view), *text.counts(view, decisions), *others(view), best if decisions else "")
    if any(points):
        blocks.append(Points(tuple(p for p in points if p)))
    for name in _metrics(view):
        comparisons = [c for c in view.analysis.comparisons if c.metric == name]
        if comparisons:
            more = len(comparisons) - _AT_MOST
            lines = (
                *(text.sentence(view, c) for c in comparisons[:_AT_MOST]),
                *([f"{more} more are in the table below."] if more > 0 else []),
            )
            title = f"Every comparison in {metric(name).label}" if len(comparisons) > 1 else ""
            blocks.append(Points(lines, title))
    return Section(TITLE, tuple(blocks))


def compute(view: View, name: str) -> tuple[Decision, ...]:
    """A decision for each reference, in one metric."""
    return compute_decisions(view.analysis.summaries, view.analysis.comparisons, name)


def _metrics(view: View) -> tuple[str, ...]:
    """The study's metric, the first accuracy and forgetting, those that were measured."""
    forgetting = [m for m in ("forgetting",) if m in view.analysis.metrics]
    return tuple(dict.fromkeys((view.analysis.metric, *accuracies(view)[:1], *forgetting)))


def others(view: View) -> tuple[str, ...]:
    """The decision in the metrics that the answer is not about, where there is one reference."""
    decisions = {name: compute(view, name) for name in _metrics(view)[1:]}
    return tuple(
        f"By {metric(name).label}: {text.decision(view, only[0])}" for name, only in decisions.items() if len(only) == 1
    )


def headlines(view: View) -> tuple[str, ...]:
    """What other sections have to say on the first screen: those with a `headline`, some sentences of each."""
    modules = sorted(
        (plugins.load("sections", n) for n in plugins.names("sections")), key=lambda m: (m.ORDER, m.__name__)
    )
    sentences: list[str] = []
    for module in modules:
        if hasattr(module, "headline"):
            of_section = module.headline(view)
            sentences += of_section[:_HEADLINES]
            if len(of_section) > _HEADLINES:
                sentences.append(f"{len(of_section) - _HEADLINES} more of this kind are below.")
    return tuple(sentences)
