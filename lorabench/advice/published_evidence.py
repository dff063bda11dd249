"""What the meta-analysis of published tables says of a candidate that no study of the user's measured: how far it is
behind full fine-tuning, which rank, which learning rate, and of what it knows nothing. Numbers are `evidence`'s, the
sentences are made here.

    quality   full fine-tuning's gap of the adapter and rank, plus that of the storage
    rank      the least that costs nothing beside the highest that fits (evidence.choices); where memory or speed is
              asked for, the least that is expected within the margin
    rate      the model of best rates
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorabench import formatting
from lorabench.advice.candidates import CandidateSpec
from lorabench.advice.evidence import FULL, Key
from lorabench.advice.priors import MARGIN, POINTS
from lorabench.advice.types import EvidenceItem, Priority, Quality
from lorabench.errors import LorabenchError
from lorabench.evidence.calibration import published_meta_analyses
from lorabench.evidence.choices import cost_of_rank, costs_nothing
from lorabench.evidence.gaps import Contrast
from lorabench.evidence.learning_rate_model import RateSetting, published_rate_model
from lorabench.evidence.library import task_kind_of
from lorabench.evidence.meta_analysis import MetaAnalysis, Prediction, Setting, quantile

SOURCE = "lorabench evidence"
_NAMED = 3
"""sources that are named at most, largest weight first"""
_WORTH_A_NAME, _SLIGHT = 0.05, 0.005
"""weights below which a source is counted only, and not even that"""


@dataclass(frozen=True)
class Asked:
    """What is to be trained, as far as published tables tell it apart."""

    kind: str | None
    """of the task; absent: not named, and only rates are told"""
    parameters: int
    hidden_size: int | None
    family: str
    tokens: int | None
    batch_size: int
    analyses: dict[Contrast, MetaAnalysis]
    """of what was published, with the user's own studies where there are any"""
    moved: tuple[str, ...] = ()
    """how far the user's own studies moved it"""
    tolerated: float | None = None
    """loss in points; absent: the margin is that of studies, and for accuracy no rank is given up for it"""


def kind_of(task: str | None) -> str | None:
    """The kind of a task, as tables of the literature have it; None for made-up ones and where none is named."""
    if task is None:
        return None
    try:
        return task_kind_of(task)
    except LorabenchError:
        return None


def asked_of(
    task: str | None,
    parameters: int,
    hidden_size: int | None,
    family: str | None,
    tokens: int | None,
    batch_size: int,
    tolerated: float | None = None,
) -> Asked:
    """With the published analyses."""
    plain = next((f for f in ("llama", "qwen") if f in (family or "")), family or "")
    known = published_meta_analyses()
    return Asked(kind_of(task), parameters, hidden_size, plain, tokens, batch_size, known, tolerated=tolerated)


def informed(
    spec: CandidateSpec,
    asked: Asked,
    ranks: Sequence[int],
    priority: Priority,
    fits: Callable[[CandidateSpec], bool],
) -> CandidateSpec:
    """The candidate with what was published: rate, and where the task is named rank and quality. A candidate that was
    measured by the user stays as it is."""
    if spec.measured:
        return spec
    chosen = spec
    if asked.kind is not None and spec.method.name != "full":
        loss = asked.tolerated or (None if priority == "accuracy" else MARGIN)
        if fitting := _fitting(spec, sorted(ranks), fits):
            chosen = _with_rank(spec, asked, fitting, loss)
    if asked.kind is not None:
        chosen = _with_quality(chosen, asked)
    return _with_rate(chosen, asked)


def _with_rank(spec: CandidateSpec, asked: Asked, ranks: Sequence[int], loss: float | None) -> CandidateSpec:
    """At one of the ranks, which rise: the least within the loss that is tolerated, without one the least that costs
    nothing."""
    highest = ranks[-1]
    costs = {r: cost_of_rank(asked.analyses["rank"], _setting(asked), r, highest) for r in ranks[:-1]}
    best = max((0.0, *(p.mean for p in costs.values())))

    def least(loss: float) -> int:
        return next((r for r, p in costs.items() if best - p.mean <= loss), highest)

    rank = next((r for r, p in costs.items() if costs_nothing(p)), highest) if loss is None else least(loss)
    why = "the highest that fits"
    if rank < highest:
        beside = f"beside which rank {highest} is expected to bring little"
        why = beside if loss is None else f"the least within {_loss(loss)} of rank {highest} on average"
    words, shown = f"rank {rank}, {why}", min(rank, least(MARGIN))
    if shown < rank:
        words += f"; rank {shown} is within {_loss(MARGIN)} on average"
    if shown in costs:
        setting = _setting(asked, rank=highest, against_rank=shown)
        words += f" ({_points(costs[shown].mean)}, 80 % {_interval(costs[shown])})"
        words += f"; {_named(asked.analyses['rank'], setting)}"
    item = EvidenceItem("published", words, SOURCE)
    one_seed = tuple(e for e in spec.evidence if e.kind == "cells")
    facts = tuple(e for e in spec.evidence if e.kind == "published" and not e.text.startswith(("learning", "rank")))
    rates = tuple(e for e in spec.evidence if e.text.startswith("learning"))
    caveats = tuple(c for c in spec.caveats if c not in spec.doubts)
    return replace(_at_rank(spec, rank), evidence=(*facts, item, *rates, *one_seed), caveats=caveats)


def _fitting(spec: CandidateSpec, ranks: Sequence[int], fits: Callable[[CandidateSpec], bool]) -> Sequence[int]:
    """Those of rising ranks that fit; the ends are looked at first, since what lies between two ranks follows from
    them."""
    if not ranks or fits(_at_rank(spec, ranks[-1])):
        return ranks
    if not fits(_at_rank(spec, ranks[0])):
        return ()
    return ranks[: next(n for n in range(len(ranks) - 1, 0, -1) if fits(_at_rank(spec, ranks[n - 1])))]


def _at_rank(spec: CandidateSpec, rank: int) -> CandidateSpec:
    return replace(spec, method=spec.method.model_copy(update={"rank": rank}))


def _loss(points: float) -> str:
    """ "1 point\""""
    return f"{points:g} point{'' if points == 1 else 's'}"


def _setting(asked: Asked, **of_it: Any) -> Setting:
    """Tuned, with alpha as it is: a tuned rate makes up for the scaling."""
    known = Setting(asked.kind or "", parameters=asked.parameters, tokens=asked.tokens, alpha_moves=False)
    return replace(known, **of_it)


def _with_quality(spec: CandidateSpec, asked: Asked) -> CandidateSpec:
    if spec.method.name == "full":
        return spec
    key: Key = (spec.method.name, spec.quantization.name)
    if key[0] not in ("lora", "rslora", "dora", "pissa") or key[1] not in ("none", "nf4", "fp4", "int8"):
        return spec
    rank = spec.method.rank
    setting = _setting(asked, method=key[0], rank=rank)
    against_full = asked.analyses["full"]
    total, items = against_full.predict(setting), []
    what = f"rank {rank} against full"
    items.append(_gap_item(what, total, against_full, setting))
    if key[1] != "none":
        stored = replace(setting, storage=key[1])
        gap = asked.analyses["storage"].predict(stored)
        items.append(_gap_item(f"{key[1]} against a 16-bit base", gap, asked.analyses["storage"], stored))
        total = total.plus(gap)
    low, high = total.interval(0.95)
    bound = -total.mean + total.sd * quantile(total.degrees, 0.95)
    quality = Quality("published", FULL, POINTS, -total.mean, -high, -low, bound, asked.tolerated or MARGIN)
    kept = tuple(e for e in spec.evidence if e.kind != "published" or e.text.startswith(("rank", "learning")))
    return replace(spec, quality=quality, evidence=(*items, *kept))


def _gap_item(what: str, gap: Prediction, analysis: MetaAnalysis, setting: Setting) -> EvidenceItem:
    text = f"{what}: {_points(gap.mean)} points, 80 % of new sources {_interval(gap)}; {_named(analysis, setting)}"
    return EvidenceItem("published", text, SOURCE)


def _with_rate(spec: CandidateSpec, asked: Asked) -> CandidateSpec:
    method = spec.method
    setting = RateSetting(
        method.name, asked.parameters, asked.hidden_size, asked.family, method.rank, method.alpha, asked.batch_size,
        continued=asked.kind == "continued-pretraining",
    )  # fmt: skip
    found = published_rate_model().predict(setting)
    tried = ", ".join(f"{r:g}" for r in found.grid)
    text = (
        f"learning rate {found.grid[1]:g}, 80 % of new sources {found.low:.1e} to {found.high:.1e}; try {tried};"
        f" {_most(found.weights)}"
    )
    kept = tuple(e for e in spec.evidence if not e.text.startswith("learning rate"))
    item = EvidenceItem("published", text, SOURCE)
    return replace(
        spec,
        learning_rate=found.grid[1],
        evidence=(*(e for e in kept if e.kind != "cells"), item, *(e for e in kept if e.kind == "cells")),
        rate_range=(found.low, found.high),
        rate_grid=found.grid,
    )


def _points(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


def _beside(p: Prediction) -> str:
    """ "1.3 [−0.4, 3.0] points worse\""""
    sign, word = (1, "better") if round(p.mean, 1) > 0 else (-1, "worse")
    low, high = sorted(sign * end for end in p.interval(0.8))
    value, low_end, high_end = (_points(x).replace("+", "") for x in (sign * p.mean, low, high))
    return f"{value} [{low_end}, {high_end}] points {word}"


def _interval(p: Prediction) -> str:
    low, high = p.interval(0.8)
    return f"[{_points(low)}, {_points(high)}]"


def _named(analysis: MetaAnalysis, setting: Setting) -> str:
    return _most(list(analysis.weights(setting).items()))


def _most(weights: Sequence[tuple[str, float]]) -> str:
    """The sources of most weight, three at most, and how many there are beside them."""
    told = [(name, w) for name, w in weights if w >= _SLIGHT]
    named = [(name, w) for name, w in told[:_NAMED] if w >= _WORTH_A_NAME] or told[:1]
    words = ", ".join(f"{name} {100 * w:.0f}\u00a0%" for name, w in named)
    return words + (f" and {len(told) - len(named)} more" if len(told) > len(named) else "")


def published_sentence(task: str, parameters: float | None, tokens: float | None, ranks: Sequence[int]) -> str | None:
    """What published tables say of the ranks of a study, for its report; None for tasks that they do not have."""
    kind = kind_of(task)
    if kind is None or not ranks:
        return None
    analyses, low, high = published_meta_analyses(), min(ranks), max(ranks)
    setting = Setting(kind, rank=high, parameters=parameters, tokens=tokens, alpha_moves=False)
    gap = analyses["full"].predict(setting)
    text = (
        f"Published tables of {kind} ({_named(analyses['full'], setting)}) have LoRA of rank {high}"
        f" {_beside(gap)} than full fine-tuning in 80 % of new sources"
    )
    if low < high:
        cost = cost_of_rank(analyses["rank"], setting, low, high)
        text += f", and rank {low} {_beside(cost)} than rank {high}"
    return f"{text}."


def limits(asked: Asked) -> Iterator[str]:
    """Of what the published tables know nothing, and how far the user's own studies moved the answer."""
    if asked.kind is None:
        return
    yield from asked.moved
    full = asked.analyses["full"]
    index = full.fit.kinds.index(asked.kind)
    if (sources := full.fit.sources_of_kind[index]) == 0:
        yield (
            f"No published table holds LoRA against full fine-tuning in {asked.kind}: what is said is what all kinds of"
            " task have in common, with a wide interval."
        )
    elif sources == 1:
        yield f"One source alone holds LoRA against full fine-tuning in {asked.kind}: other sources may well differ."
    for name, value, unit in (
        ("tokens", asked.tokens, "training tokens"),
        ("parameters", asked.parameters, "parameters"),
    ):
        spanned = full.range_of(asked.kind, name)
        if value is None:
            continue
        if spanned is None:
            if sources:
                yield f"No table of {asked.kind} names its {unit}: their influence is not known."
        elif value > 1.001 * spanned.high:
            yield (
                f"No source beyond {formatting.count(round(spanned.high))} {unit} in {asked.kind}"
                f" ({spanned.high_source}): beyond, its answer is kept."
            )
        elif value < spanned.low / 1.001:
            yield (
                f"No source below {formatting.count(round(spanned.low))} {unit} in {asked.kind} ({spanned.low_source}):"
                " below, its answer is kept."
            )
