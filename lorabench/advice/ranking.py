"""From what is to be trained and a card to a ranked list, and to what is ruled out by how many bytes.

    candidates  each method and quantisation with the settings that evidence gives it   (measured, else published, else the capacity rule)
    variants    micro-batch x checkpointing x optimizer; those whose upper bound of memory is within the card's; of them the fastest, or the one of least memory
    order       accuracy: shown to be within the margin of full fine-tuning; not decided, by the worst that it may be; held against other ways alone, by the
                same; without evidence; shown to be beyond the margin
                memory: least memory; speed: least time. Then fewer trained parameters, then less memory.

The order does not depend on the card, and a larger card only adds variants, so more memory never gives a worse recommendation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lorabench.advice.candidates import CandidateSpec
from lorabench.advice.evidence import FULL
from lorabench.advice.types import Candidate, Excluded, Needs, Quality, Recommendation, Workload

Priority = Literal["accuracy", "memory", "speed"]
PAGED = "its state is kept in 8 bits and paged to the host: what that costs in time and quality is not predicted"
NeedsOf = Callable[[Candidate], Needs]


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
    given: Sequence[CandidateSpec],
    needs: NeedsOf,
    priority: Priority,
    change: Callable[[Candidate, Needs], str],
    ahead: Callable[[Sequence[Candidate]], None] = lambda candidates: None,
    beyond: Callable[[Candidate], bool] = lambda candidate: False,
) -> Advice:
    """The candidates that fit in their order, and those that do not.

    `change` finds the cheapest change for what does not fit; `ahead` is told of candidates whose needs are asked for next, `beyond` knows of some that
    they do not fit before their needs are known.
    """
    fit: list[Recommendation] = []
    out: list[Excluded] = []
    notes: list[str] = []
    leasts = [variant(f, workload, 1, True, f.optimizers[-1]) for f in given]
    ahead(leasts)
    able = [f for f, least in zip(given, leasts, strict=True) if needs(least).high_bytes <= memory_bytes]
    ahead([c for f in able for c in _next(f, workload)])
    ahead(
        [c for c in (variant(f, workload, workload.batch_size, True, f.optimizers[-1]) for f in able) if not beyond(c)]
    )
    for spec, least in zip(given, leasts, strict=True):
        at_least = needs(least)
        if at_least.high_bytes > memory_bytes:
            out.append(Excluded(least, at_least, at_least.high_bytes - memory_bytes, change(least, at_least)))
            continue
        if (
            priority == "accuracy"
            and spec.quantization.name == "int8"
            and spec.quality.basis != "measured"
            and _stands_behind(spec, fit)
        ):
            notes.append("An int8 base is left out: it would save memory that is there, and cost time.")
            continue
        candidate, need = min(
            _fitting(spec, workload, memory_bytes, needs, beyond),
            key=lambda pair: (pair[1].high_bytes if priority == "memory" else 0, *_pace(*pair)),
        )
        caveats = (*spec.caveats, *((PAGED,) if candidate.optimizer != "adamw" else ()))
        fit.append(
            Recommendation(candidate, need, memory_bytes - need.high_bytes, spec.quality, spec.evidence, caveats)
        )
    fit.sort(key=lambda r: order(r, priority))
    return Advice(
        tuple(fit), tuple(out), (*dict.fromkeys(notes), *(_of_the_order(fit) if priority == "accuracy" else ()))
    )


def _of_the_order(fit: Sequence[Recommendation]) -> tuple[str, ...]:
    """What the order of these does not claim."""
    notes = []
    if len(fit) > 1 and fit[0].candidate.method.name == "full":
        notes.append(
            "Full fine-tuning stands first since the others are held against it: nothing smaller that fits is shown to be within the margin of it."
        )
    undecided = [i for i, r in enumerate(fit, 1) if quality_tier(r.quality)[0] == 1]
    if len(undecided) > 1:
        notes.append(
            f"Entries {undecided[0]} {'and' if len(undecided) == 2 else 'to'} {undecided[-1]} are not told apart: the one that may be the least behind stands first."
        )
    return tuple(notes)


def _next(spec: CandidateSpec, workload: Workload) -> tuple[Candidate, ...]:
    """What is looked at in any case where the least fits."""
    plain = variant(spec, workload, 1, False, spec.optimizers[0])
    return (plain, variant(spec, workload, 2, True, spec.optimizers[-1])) if workload.batch_size % 2 == 0 else (plain,)


def _stands_behind(spec: CandidateSpec, fit: Sequence[Recommendation]) -> bool:
    """Whether the same method on an unquantised base fits, and stands no lower."""
    counterparts = [
        r for r in fit if r.candidate.quantization.name == "none" and r.candidate.method.name == spec.method.name
    ]
    return any(quality_tier(r.quality) <= quality_tier(spec.quality) for r in counterparts)


def _fitting(
    spec: CandidateSpec, workload: Workload, memory_bytes: int, needs: NeedsOf, beyond: Callable[[Candidate], bool]
) -> list[tuple[Candidate, Needs]]:
    """Every variant that fits: micro-batches that divide the batch, with and without checkpointing, with each optimizer."""
    whole = workload.batch_size
    sizes = sorted({d for n in range(1, math.isqrt(whole) + 1) if whole % n == 0 for d in (n, whole // n)})
    found = []
    for optimizer, again in itertools.product(spec.optimizers, (False, True)):
        for n in sizes:
            candidate = variant(spec, workload, n, again, optimizer)
            if beyond(candidate) or (need := needs(candidate)).high_bytes > memory_bytes:
                break  # nor does a larger one
            found.append((candidate, need))
    return found


def variant(spec: CandidateSpec, workload: Workload, micro: int, checkpointing: bool, optimizer: str) -> Candidate:
    """One of them."""
    return Candidate(
        spec.method,
        spec.quantization,
        micro,
        workload.batch_size // micro,
        checkpointing,
        optimizer,
        spec.learning_rate,
        spec.schedule,
        spec.warmup,
        spec.weight_decay,
        spec.max_grad_norm,
    )


def order(r: Recommendation, priority: Priority) -> tuple[float, ...]:
    """What recommendations are sorted by."""
    tier, worst = quality_tier(r.quality)
    less = (float(r.needs.trainable_parameters), float(r.needs.peak_bytes))
    if priority == "memory":
        return (tier == 3, r.needs.high_bytes, *less)
    if priority == "speed":
        return (tier == 3, *_pace(r.candidate, r.needs)[:1], *less)
    return (tier, worst, *less)


def quality_tier(q: Quality) -> tuple[int, float]:
    """Tier and, among what is not shown to be within the margin, the worst that it may be: in margins, which differ between measured and published qualities."""
    worst = math.inf if q.high is None else 0.0 if q.enough else q.high / (q.margin or 1.0)
    if q.behind or q.enough is False:
        return 3, worst
    if q.high is None or q.against != FULL:
        return 2, worst
    return (0 if q.enough else 1), worst


def _pace(candidate: Candidate, needs: Needs) -> tuple[float, ...]:
    """Time of an optimizer step where it is known; else the plain optimizer, and checkpointing and small micro-batches are held to be slower."""
    time = math.inf if needs.seconds is None else sum(needs.seconds) / 2
    return (
        time,
        candidate.optimizer != "adamw",
        candidate.gradient_checkpointing,
        candidate.gradient_accumulation,
        needs.peak_bytes,
    )
