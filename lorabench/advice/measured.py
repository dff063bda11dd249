"""What a stored study says: of each way to train (method and quantisation) the smallest rank that is enough, and how far it is behind full fine-tuning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorabench.advice.choose import Option, chosen, contests, options
from lorabench.advice.recommendation import Quality, Witness
from lorabench.advice.way import FULL, Here, Way
from lorabench.analysis.aggregate import Summary
from lorabench.analysis.compare import margin_of
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.difference import Difference
from lorabench.analysis.pairing import Pairing
from lorabench.record.metrics import metric as described
from lorabench.report import human
from lorabench.spec.study import Study


@dataclass(frozen=True)
class Source:
    """A study as analysis understands it."""

    folder: Path
    study: Study
    groups: tuple[Replicates, ...]
    summaries: tuple[Summary, ...]
    pairing: Pairing
    metric: str
    architecture: Callable[[str], str | None]
    """of a model's name"""


def ways(source: Source, here: Here) -> tuple[Way, ...]:
    """Every way of every contest of a study; none where its metric has no better and worse."""
    known = {s.condition: s for s in source.summaries}
    made = []
    for contest in contests(source.groups):
        full = _full(contest, known, source.metric)
        keys = dict.fromkeys((g.setting.method.name, g.setting.quantization.name) for g in contest if g.trains)
        for key in keys:
            members = [g for g in contest if (g.setting.method.name, g.setting.quantization.name) == key]
            found = _way(source, here, members, known, full)
            if found is not None:
                made.append(found)
    return tuple(made)


def _way(source: Source, here: Here, members: Sequence[Replicates], known: dict[str, Summary], full: Replicates | None) -> Way | None:
    given = options(members, [known[g.condition] for g in members], source.pairing, source.metric)
    margin = margin_of(source.metric, source.study.comparison)
    if not given or margin is None:
        return None
    tolerated = margin if here.tolerated is None else here.tolerated
    alone = len(given) == 1
    least = chosen(given, tolerated)
    decided = least is not None and not alone
    option = least or min(given, key=lambda o: o.worse)
    group = next(g for g in members if g.condition == option.condition)
    behind = None if full is None or full is group else source.pairing.difference(source.metric, option.condition, full.condition)
    best = min(given, key=lambda o: o.worse)
    tokens = known[option.condition].mean("train_tokens")
    return Way(
        group, option, _quality(source.metric, full is group, behind, tolerated), _witness(source, option, best, behind, decided, tolerated, known, full), decided,
        _distance(source, group, known, here), source.study.name, group.setting.model.name, None if tokens is None else round(tokens),
    )  # fmt: skip


def _full(contest: Sequence[Replicates], known: dict[str, Summary], metric: str) -> Replicates | None:
    """The best full fine-tuning of a contest: at a rate that fits it."""
    sign = 1.0 if described(metric).better == "lower" else -1.0
    able = [g for g in contest if g.setting.method.name == "full" and known[g.condition].comparable and known[g.condition].mean(metric) is not None]
    return min(able, key=lambda g: sign * (known[g.condition].mean(metric) or 0.0), default=None)


def _quality(metric: str, is_full: bool, behind: Difference | None, margin: float) -> Quality:
    if is_full:
        return Quality("measured", FULL, metric, 0.0, 0.0, 0.0, margin)
    if behind is None:
        return Quality("none")
    sign = 1.0 if described(metric).better == "lower" else -1.0
    ends = sorted(sign * e for e in behind.interval) if behind.interval is not None else (None, None)
    return Quality("measured", FULL, metric, sign * behind.value, ends[0], ends[1], margin)


def _witness(
    source: Source, option: Option, best: Option, behind: Difference | None, decided: bool, tolerated: float, known: dict[str, Summary], full: Replicates | None
) -> Witness:
    m = described(source.metric)
    seeds = human.plural(option.seeds, "seed")
    parts = [f"{source.study.name}: {option.label}"]
    if decided and option.bound is not None and option.condition != best.condition:
        parts.append(f"is the least that is within {human.number(tolerated, m.unit)} {human.head_unit(m.unit)} of {best.label}, the best of its kind (bound {human.number(option.bound, m.unit)}, {seeds})")
    elif decided:
        parts.append(f"is the best of its kind, and nothing less is shown to be as good ({seeds})")
    else:
        parts.append(f"has the best mean of its kind ({seeds})")
    text = " ".join(parts)
    if behind is not None and full is not None:
        ends = behind.interval
        told = f" [{human.number(ends[0], m.unit)}, {human.number(ends[1], m.unit)}]" if ends else ""
        text += f"; {human.difference(behind.value, m.unit)}{told} {m.label} against full fine-tuning"
    cells = (*known[option.condition].cells, *(known[full.condition].cells if full is not None and behind is not None else ()))
    return Witness("cells", text, str(source.folder), cells)


def _distance(source: Source, group: Replicates, known: dict[str, Summary], here: Here) -> float:
    s = known[group.condition]
    there = (s.mean("total_parameters") or 0.0) - (0.0 if group.setting.method.rank is None else s.mean("trainable_parameters") or 0.0)
    far = abs(math.log10(there / here.parameters)) if there > 0 else math.inf
    architectures = source.architecture(group.setting.model.name), here.architecture
    if None not in architectures and architectures[0] != architectures[1]:
        far += 0.5
    tokens = s.mean("train_tokens")
    return far + (0.5 * abs(math.log10(tokens / here.tokens)) if tokens and here.tokens else 0.0)
