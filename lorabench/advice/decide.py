"""From what is to be trained and a card to a ranked list, and to what is ruled out by how many bytes.

    families    each method and quantisation with the settings that evidence gives it   (measured, else published, else the capacity rule)
    variants    micro-batch x checkpointing x optimizer; those whose upper bound of memory is within the card's; of them the fastest, or the one of least memory
    order       accuracy: shown to be within the margin; not decided, by the worst that it may be; without evidence; shown to be beyond the margin
                memory: least memory; speed: least time. Then fewer trained parameters, then less memory.

The order does not depend on the card, and a larger card only adds variants, so more memory never gives a worse recommendation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lorabench.advice.recommendation import Candidate, Excluded, Needs, Quality, Recommendation, Witness, Workload
from lorabench.advice.rules import learning_rate, published, rank_by_capacity, rules
from lorabench.advice.way import REACH, Way, nearest
from lorabench.spec.settings import MethodSpec, QuantizationSpec

Priority = Literal["accuracy", "memory", "speed"]
NeedsOf = Callable[[Candidate], Needs]
FAMILIES = (("lora", "none"), ("lora", "int8"), ("lora", "nf4"), ("full", "none"))
"""what is thought of without any measurement"""


@dataclass(frozen=True)
class Family:
    """A method and quantisation with its settings and what speaks for them."""

    method: MethodSpec
    quantization: QuantizationSpec
    learning_rate: float
    schedule: str
    warmup: float
    quality: Quality
    evidence: tuple[Witness, ...]
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Advice:
    """The answer."""

    recommendations: tuple[Recommendation, ...]
    excluded: tuple[Excluded, ...]
    notes: tuple[str, ...] = ()
    """what limits all of it"""


def advise(
    workload: Workload,
    memory_bytes: int,
    given: Sequence[Family],
    needs: NeedsOf,
    priority: Priority,
    change: Callable[[Candidate, Needs], str],
    ahead: Callable[[Sequence[Candidate]], None] = lambda candidates: None,
) -> Advice:
    """The families that fit in their order, and those that do not.

    `change` finds the cheapest change for what does not fit; `ahead` is told of candidates whose needs are asked for next.
    """
    fit: list[Recommendation] = []
    out: list[Excluded] = []
    leasts = [variant(f, workload, 1, True, optimizers(f)[-1]) for f in given]
    ahead(leasts)
    ahead([c for f, least in zip(given, leasts, strict=True) if needs(least).high_bytes <= memory_bytes for c in _next(f, workload)])
    for family, least in zip(given, leasts, strict=True):
        at_least = needs(least)
        if at_least.high_bytes > memory_bytes:
            out.append(Excluded(least, at_least, at_least.high_bytes - memory_bytes, ""))
            continue
        if priority != "speed" and family.quantization.name == "int8" and family.quality.basis != "measured" and _unquantised(family, fit):
            continue  # it saves memory that is there, and stands behind the unquantised base by accuracy and behind nf4 by memory
        able = _fitting(family, workload, memory_bytes, needs)
        candidate, need = min(able, key=lambda pair: (pair[1].high_bytes if priority == "memory" else 0, *_pace(*pair)))
        fit.append(Recommendation(candidate, need, memory_bytes - need.high_bytes, family.quality, family.evidence, family.caveats))
    fit.sort(key=lambda r: order(r, priority))
    return Advice(tuple(fit), tuple(replace(e, cheapest_change=change(e.candidate, e.needs)) for e in out))


def families(here_parameters: int, tokens: int | None, trainable: dict[int, int], found: Sequence[Way], reach: float = REACH) -> tuple[Family, ...]:
    """Each method and quantisation that is worth a thought: the shipped ones, and those that a near study measured."""
    near = [w for w in found if w.distance <= reach]
    keys = dict.fromkeys((*FAMILIES, *(w.key for w in near if w.key[0] != "base")))
    return tuple(family(m, q, here_parameters, tokens, trainable, nearest(found, (m, q), reach)) for m, q in keys)


def family(method: str, quantization: str, parameters: int, tokens: int | None, trainable: dict[int, int], way: Way | None) -> Family:
    """One of them: as measured where a study is near, else by published scores and the capacity rule."""
    kind = QuantizationSpec(name=quantization, double_quant=quantization in ("nf4", "fp4"))
    if way is not None:
        return _measured(way, kind)
    rate, rated = learning_rate(method, parameters)
    quality, told = published(method, quantization, tokens)
    if method == "full":
        return Family(MethodSpec(name="full", rank=None, alpha=None, dropout=None, target_modules=None), kind, rate, "cosine", 0.03, quality, (rated,))
    rank, ranked, caveat = rank_by_capacity(trainable, tokens)
    settings = rules().lora
    spec = MethodSpec(name=method, rank=rank, alpha=settings.alpha, target_modules=settings.target_modules)
    caveats = tuple(filter(None, ("no evidence of its quality" if quality.basis == "none" else "", caveat)))
    return Family(spec, kind, rate, "cosine", 0.03, quality, (*told, ranked, rated), caveats)


def _measured(way: Way, kind: QuantizationSpec) -> Family:
    setting = way.group.setting
    caveats = []
    if not way.decided and setting.method.rank is not None:
        caveats.append(f"rank {setting.method.rank} is not shown to be enough: it has the best mean, or is the only one, in {way.study}")
    if way.distance > REACH:
        caveats.append(f"{way.study} was run on {way.model}, which is far from this model: what holds there need not hold here")
    if way.option.seeds == 1:
        caveats.append("one seed: the bound speaks for the items of its test set, a repetition may land elsewhere")
    if way.quality.basis == "none":
        caveats.append(f"{way.study} has no full fine-tuning to hold it against")
    training = setting.training
    quantization = setting.quantization if setting.quantization.name != "none" else kind
    return Family(setting.method, quantization, training.rate, training.schedule, training.warmup, way.quality, (way.witness,), tuple(caveats))


def optimizers(family: Family) -> tuple[str, ...]:
    """Those that are tried, by rising saving: an adapter's state is small, that of a whole model is twice its weights."""
    return ("adamw", "paged-adamw-8bit") if family.method.name == "full" else ("adamw",)


def _next(family: Family, workload: Workload) -> tuple[Candidate, ...]:
    """What is looked at in any case where the least fits."""
    plain = variant(family, workload, 1, False, optimizers(family)[0])
    return (plain, variant(family, workload, 2, True, optimizers(family)[-1])) if workload.batch_size % 2 == 0 else (plain,)


def _unquantised(family: Family, fit: Sequence[Recommendation]) -> bool:
    return any(r.candidate.quantization.name == "none" and r.candidate.method.name == family.method.name for r in fit)


def _fitting(family: Family, workload: Workload, memory_bytes: int, needs: NeedsOf) -> list[tuple[Candidate, Needs]]:
    """Every variant that fits: micro-batches that divide the batch, with and without checkpointing, with each optimizer."""
    sizes = [n for n in range(1, workload.batch_size + 1) if workload.batch_size % n == 0]
    found = []
    for optimizer, again in itertools.product(optimizers(family), (False, True)):
        for n in sizes:
            candidate = variant(family, workload, n, again, optimizer)
            need = needs(candidate)
            if need.high_bytes > memory_bytes:
                break  # nor does a larger one
            found.append((candidate, need))
    return found


def variant(family: Family, workload: Workload, micro: int, checkpointing: bool, optimizer: str) -> Candidate:
    """One of them."""
    return Candidate(
        family.method, family.quantization, micro, workload.batch_size // micro, checkpointing, optimizer, family.learning_rate, family.schedule, family.warmup
    )  # fmt: skip


def order(r: Recommendation, priority: Priority) -> tuple[float, ...]:
    """What recommendations are sorted by."""
    q = r.quality
    tier = 2 if q.high is None else {True: 0, None: 1, False: 3}[q.enough]
    less = (float(r.needs.trainable_parameters), float(r.needs.peak_bytes))
    if priority == "memory":
        return (tier == 3, r.needs.high_bytes, *less)
    if priority == "speed":
        return (tier == 3, *_pace(r.candidate, r.needs)[:1], *less)
    # margins differ between measured and published qualities, so that the worst case is counted in margins
    return (tier, (q.high or 0.0) / (q.margin or 1.0) if tier in (1, 3) else 0.0, *less)


def _pace(candidate: Candidate, needs: Needs) -> tuple[float, ...]:
    """Time of an optimizer step where it is known; else checkpointing and small micro-batches are held to be slower. Then the plain optimizer."""
    known = needs.seconds is not None
    time = sum(needs.seconds or (0.0, 0.0)) / 2
    return (time if known else 0.0, candidate.gradient_checkpointing, candidate.gradient_accumulation, candidate.optimizer != "adamw", needs.peak_bytes)
