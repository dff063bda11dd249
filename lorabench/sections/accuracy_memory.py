"""quality against the peak of training memory"""

from __future__ import annotations

from lorabench.record.metrics import Metric, metric
from lorabench.report import human
from lorabench.report.blocks import Figure, Section
from lorabench.report.figures import Axis, Drawing, Line, draw
from lorabench.report.tables import accuracies
from lorabench.report.view import View

ORDER = 40
TITLE = "Quality and memory"


def section(view: View) -> Section | None:
    """One figure; None where no condition has both values."""
    info = decide(view)
    if info is None:
        return None
    m = quality(view)
    corner = "upper left" if m.better == "higher" else "lower left"
    caption = f"Each point is a condition, its bar the standard deviation over seeds. Look to the {corner}: better at less memory."
    words = tuple(line.hover[0] for line in info.lines)
    return Section(TITLE, (Figure("accuracy-memory", draw(info), f"{m.label} against train peak", caption, words),))


def quality(view: View) -> Metric:
    """The first accuracy, else the held-out loss."""
    return metric(next(iter(accuracies(view)), "eval_loss"))


def decide(view: View) -> Drawing | None:
    """A point for each finished condition that has both values."""
    m = quality(view)
    found = [(s, y, x) for s in view.summaries if (y := s.statistics.get(m.name)) and (x := s.statistics.get("train_peak_bytes"))]
    if not found:
        return None
    one, name = (1e9, "GB") if max(x.mean for _, _, x in found) >= 1e9 else (1e6, "MB")
    factor = 100.0 if m.unit == "share" else 1.0
    lines = []
    for s, y, x in found:
        spread = None if y.std is None else y.std * factor
        unit = "%" if m.unit == "share" else m.unit
        hover = f"{s.label.text}: {m.label} {human.number(y.mean, m.unit)} {unit}".rstrip() + f" at {human.size(x.mean)}"
        lines.append(Line(s.label.text, view.styles[s.condition], (x.mean / one,), (y.mean * factor,), (spread,), (hover,)))
    return Drawing(Axis(f"train peak ({name})"), Axis(titled(m)), tuple(lines), mode="markers")


def titled(m: Metric) -> str:
    """A metric's label with its unit, for an axis."""
    unit = human.head_unit(m.unit)
    return f"{m.label} ({unit})" if unit else m.label
