"""What a stored study says: of each way to train (method and quantisation) the smallest rank that is enough, and how far it is behind full fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorabench import plugins
from lorabench.advice.choose import Option, chosen, contests, options
from lorabench.advice.recommendation import Quality, Witness
from lorabench.advice.way import FULL, Contest, Here, Key, Way
from lorabench.advice.witness import FileOf, ResultsOf, witness
from lorabench.analysis.aggregate import Summary
from lorabench.analysis.compare import margin_of
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.difference import Difference
from lorabench.analysis.pairing import Pairing
from lorabench.record.metrics import metric as described
from lorabench.report import human
from lorabench.spec.architectures import model_type
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
    results: ResultsOf
    file: FileOf

    @property
    def known(self) -> dict[str, Summary]:
        """Summaries by condition."""
        return {s.condition: s for s in self.summaries}


def heard(source: Source, here: Here) -> tuple[Contest, ...]:
    """Every contest of a study; none where its metric has no better and worse, or no loss that is tolerated."""
    margin = margin_of(source.metric, source.study.comparison) if here.tolerated is None else here.tolerated
    if margin is None:
        return ()
    return tuple(c for members in contests(source.groups) if (c := _contest(source, here, members, margin)) is not None)


def _contest(source: Source, here: Here, members: Sequence[Replicates], tolerated: float) -> Contest | None:
    known = source.known
    full = _full(members, known, source.metric)
    keys: dict[Key, list[Replicates]] = {}
    for g in members:
        if g.trains:
            keys.setdefault((g.setting.method.name, g.setting.quantization.name), []).append(g)
    ways = [w for alike in keys.values() if (w := _way(source, alike, known, full, tolerated)) is not None]
    if not ways:
        return None
    setting = members[0].setting
    distance, far = _distance(ways[0].group, known[ways[0].option.condition], here)
    ranks = {g.setting.method.rank for g in members if g.trains}
    made_up = bool(getattr(plugins.load("tasks", setting.task.name), "MADE_UP", False))
    return Contest(source.study.name, setting.model.name, setting.task.name, made_up, tuple(ways), distance, far, len(ranks - {None}))


def _way(source: Source, members: Sequence[Replicates], known: dict[str, Summary], full: Replicates | None, tolerated: float) -> Way | None:
    given = options(members, [known[g.condition] for g in members], source.pairing, source.metric)
    if not given:
        return None
    best = min(given, key=lambda o: o.worse)
    option = chosen(given, tolerated) or best
    decided = option.condition != best.condition
    group = next(g for g in members if g.condition == option.condition)
    behind = None if full is None or full is group else source.pairing.difference(source.metric, option.condition, full.condition)
    told = [_witness(source, option, best, behind, len(given) > 1, tolerated, known, full)]
    second = witness(option, given, source.results, source.file, source.metric, tolerated)
    if second is not None:
        told.append(Witness("cells", f"second witness, the spectra: {second.sentence}", str(source.folder), known[option.condition].cells))
    ranks = sorted({o.rank for o in given if o.rank is not None})
    return Way(group, option, _quality(source.metric, full is group, behind, tolerated), tuple(told), decided, len(ranks) > 1 and option.rank == ranks[-1], len(given) == 1)


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
    source: Source, option: Option, best: Option, behind: Difference | None, several: bool, tolerated: float, known: dict[str, Summary], full: Replicates | None
) -> Witness:
    m = described(source.metric)
    seeds = human.plural(option.seeds, "seed")
    told = f"{source.study.name}: {option.label}"
    if not several:
        text = f"{told} is the only one of its kind ({seeds})"
    elif option.condition == best.condition:
        text = f"{told} has the best mean of its kind, and nothing less is shown to be as good ({seeds})"
    else:
        within = f"{human.number(tolerated, m.unit)} {human.head_unit(m.unit, True)}".strip()
        text = f"{told} is the least that is within {within} of {best.label}, the best of its kind (bound {human.number(option.bound or 0.0, m.unit)}, {seeds})"
    if behind is not None and full is not None:
        ends = behind.interval
        told = f" [{human.number(ends[0], m.unit)}, {human.number(ends[1], m.unit)}]" if ends else ""
        text += f"; {human.difference(behind.value, m.unit)}{told} {m.label} against full fine-tuning"
    cells = (*known[option.condition].cells, *(known[full.condition].cells if full is not None and behind is not None else ()))
    return Witness("cells", text, str(source.folder), cells)


def _distance(group: Replicates, s: Summary, here: Here) -> tuple[float, str]:
    there = (s.mean("total_parameters") or 0.0) - (0.0 if group.setting.method.rank is None else s.mean("trainable_parameters") or 0.0)
    tokens = s.mean("train_tokens")
    architectures = model_type(group.setting.model.name), here.architecture
    size = math.log10(there / here.parameters) if there > 0 else -math.inf
    data = 0.5 * math.log10(tokens / here.tokens) if tokens and here.tokens else 0.0
    parts = {
        f"{human.count(there)} parameters, here {human.count(here.parameters)}": abs(size),
        f"architecture {architectures[0]}, here {architectures[1]}": 0.5 if None not in architectures and architectures[0] != architectures[1] else 0.0,
        f"task {group.setting.task.name}, here {here.task}": 0.5 if here.task is not None and here.task != group.setting.task.name else 0.0,
        f"{human.count(round(tokens or 0))} training tokens, here {human.count(here.tokens or 0)}": abs(data),
    }
    most = max(parts, key=lambda name: parts[name])
    return sum(parts.values()), most if parts[most] > 0 else ""
