"""What is said of changes that are cut to a lower rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorabench import formatting
from lorabench.analysis.aggregate import Statistic
from lorabench.analysis.truncation import TruncationCurve
from lorabench.record.metrics import metric
from lorabench.record.truncations import Allocation
from lorabench.report.spectra import over_seeds

ALLOCATIONS: dict[Allocation, str] = {"uniform": "cut", "energy": "cut by energy"}


def sentence(cut: TruncationCurve, name: str) -> str:
    """ "LoRA r=16, cut: 2.31 at rank 1, 2.25 at 4 (nats); trained at 4 2.27 (the cut one is better in 2 of 2
    seeds).\""""
    unit = formatting.head_unit(metric(name).unit)
    points = ", ".join(
        f"{number(p.value, name)} at {'rank ' if i == 0 else ''}{p.rank}" for i, p in enumerate(cut.points)
    )
    values = f"{cut.label}, {ALLOCATIONS[cut.allocation]}: {points}{f' ({unit})' if unit else ''}"
    beside = [
        f"trained at {p.rank} {number(p.trained, name)}"
        + (f" (the cut one is better in {p.ahead} of {formatting.plural(p.pairs, 'seed')})" if p.pairs else "")
        for p in cut.points
        if p.trained is not None
    ]
    return values + (f"; {', '.join(beside)}." if beside else ".")


def number(value: Statistic, name: str) -> str:
    """ "2.31 ± 0.02", the interval over seeds."""
    unit = metric(name).unit
    ci_half_width = over_seeds(value)
    spread = f" ± {formatting.number(ci_half_width, unit)}" if ci_half_width is not None else ""
    return formatting.number(value.mean, unit) + spread


def caption(
    name: str,
    cuts: Sequence[TruncationCurve],
    shown: Sequence[TruncationCurve],
    cut: str,
    beyond: Mapping[str, Statistic],
) -> str:
    """Of the figure of one metric: `shown` are drawn of all `cuts`, `cut` says which bars are cut off, and `beyond` are
    the values, by label, that lie too far away."""
    m = metric(name)
    sentences = [
        "Open symbols: each learned change is cut to a lower rank by its singular values, without further training,"
        " and evaluated again; mean over seeds with its 95 % interval (±). Filled symbols: adapters that were trained"
        f" at that rank. Look for where a cut curve runs {'above' if m.better == 'higher' else 'below'} the trained"
        " one: there it pays to train at a high rank and cut. Look also for the rank from which it is flat: what is cut"
        " off there does not matter for this metric."
    ]
    if any(c.allocation == "energy" for c in shown):
        sentences.append(
            "Cut by energy: as many parameters as at the uniform rank, given to the modules where the energy is."
        )
    if len(shown) < len(cuts):
        sentences.append(
            f"Of {len(cuts)} curves {len(shown)} are drawn (the highest rank of each family); the others are listed"
            " below in words."
        )
    if cut:
        sentences.append(cut)
    percent = " %" if m.unit == "share" else ""
    sentences += [f"Too far away to be drawn: {label} at {number(v, name)}{percent}." for label, v in beyond.items()]
    return " ".join(sentences)
