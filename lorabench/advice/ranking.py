"""From what is to be trained and a card to a ranked list, and to what is ruled out by how many bytes.

    candidates  each method and quantization with the settings that evidence gives it
                (measured, else published, else the capacity rule)
    variants    micro-batch x checkpointing x optimizer; those whose upper bound of memory is within the card's; of them
                the fastest, or the one of least memory
    order       accuracy: shown to be within the margin of full fine-tuning; not decided, by the worst that it may be;
                held against other methods alone, by the same; without evidence; shown to be beyond the margin
                memory: least memory; speed: least time. Then fewer trained parameters, then less memory.

The order does not depend on the card, and a larger card only adds variants, so more memory never gives a worse
recommendation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lorabench.advice.candidates import CandidateSpec
from lorabench.advice.cheapest_change import cheapest_change
from lorabench.advice.evidence import FULL
from lorabench.advice.memory_oracle import MemoryOracle
from lorabench.advice.types import Candidate, Excluded, Needs, Priority, Quality, RankedCandidate, Workload
from lorabench.formatting import size

SAVING = {
    "adamw-8bit": "its state is kept in 8 bits: what that costs in quality is not predicted",
    "paged-adamw-8bit": (
        "its state is kept in 8 bits and paged to the host: what that costs in time and quality is not predicted"
    ),
}
"""what is said of an optimizer"""


@dataclass(frozen=True)
class Ranking:
    """The candidates that fit, best first, and those that do not."""

    ranked: tuple[RankedCandidate, ...]
    excluded: tuple[Excluded, ...]
    notes: tuple[str, ...] = ()
    """what the order leaves out and does not claim"""


def rank_candidates(
    workload: Workload, specs: Sequence[CandidateSpec], memory: MemoryOracle, priority: Priority
) -> Ranking:
    """The candidates that fit in their order, and those that do not, each with the cheapest change that would make it
    fit."""
    least_variants = [variant(spec, workload, 1, True, spec.optimizers[-1]) for spec in specs]
    memory.prefetch(least_variants)
    fitting = [
        spec
        for spec, least in zip(specs, least_variants, strict=True)
        if memory.needs(least).high_bytes <= memory.memory_bytes
    ]
    memory.prefetch([c for spec in fitting for c in _always_tried(spec, workload)])
    largest = [variant(spec, workload, workload.batch_size, True, spec.optimizers[-1]) for spec in fitting]
    memory.prefetch([c for c in largest if not memory.is_too_large(c)])
    adapters_fit = any(spec.method.name != "full" for spec in fitting)
    ranked: list[RankedCandidate] = []
    excluded: list[Excluded] = []
    notes: list[str] = []
    for spec, least in zip(specs, least_variants, strict=True):
        least_needs = memory.needs(least)
        over = least_needs.high_bytes - memory.memory_bytes
        if over > 0:
            change = cheapest_change(least, least_needs, memory, adapters_fit)
            excluded.append(Excluded(least, least_needs, over, change))
            continue
        if priority == "accuracy" and _int8_brings_nothing(spec, ranked):
            notes.append("An int8 base is left out: it would save memory that is not needed, and cost time.")
            continue
        candidate, needs = min(
            _fitting(spec, workload, memory),
            key=lambda pair: (pair[1].high_bytes if priority == "memory" else 0, *_pace(*pair)),
        )
        saving = SAVING.get(candidate.optimizer)
        caveats = (*spec.caveats, *((saving,) if saving else ()))
        headroom = memory.memory_bytes - needs.high_bytes
        told = (spec.quality, spec.evidence, caveats, spec.rate_range, spec.rate_grid)
        ranked.append(RankedCandidate(candidate, needs, headroom, *told))
    ranked = [_explained(r, ranked) for r in ranked]
    ranked.sort(key=lambda r: order(r, priority))
    order_notes = _order_notes(ranked) if priority == "accuracy" else ()
    return Ranking(tuple(ranked), tuple(excluded), (*dict.fromkeys(notes), *order_notes))


def _order_notes(ranked: Sequence[RankedCandidate]) -> tuple[str, ...]:
    """What the order of these does not claim."""
    notes = []
    if len(ranked) > 1 and ranked[0].candidate.method.name == "full":
        notes.append(
            "Full fine-tuning stands first since the others are compared with it: nothing smaller that fits is shown to"
            " be within the margin of it."
        )
    undecided = [i for i, r in enumerate(ranked, 1) if quality_tier(r.quality)[0] == 1]
    if len(undecided) > 1:
        notes.append(
            f"Entries {undecided[0]} {'and' if len(undecided) == 2 else 'to'} {undecided[-1]} cannot be told"
            " apart: the one that may be the least behind comes first."
        )
    return tuple(notes)


def _explained(r: RankedCandidate, ranked: Sequence[RankedCandidate]) -> RankedCandidate:
    """With a caveat where a quantized base needs more memory than the same method on an unquantized one."""
    c = r.candidate
    same = [o for o in ranked if o.candidate.method == c.method and o.candidate.quantization.name == "none"]
    if c.quantization.name == "none" or not same or r.needs.peak_bytes <= same[0].needs.peak_bytes:
        return r
    other, more = same[0].candidate, size(r.needs.peak_bytes - same[0].needs.peak_bytes)
    if (c.micro_batch_size, c.gradient_checkpointing, c.optimizer) == (
        other.micro_batch_size,
        other.gradient_checkpointing,
        other.optimizer,
    ):
        why = (
            "the weights of so small a model save less than a training step on quantized weights holds beside them"
            " (dequantized copies, activations)"
        )
    else:
        why = "the memory that quantization saves goes into a faster setting (micro-batch, checkpointing, optimizer)"
    caveat = f"it needs {more} more memory than on an unquantized base: {why}"
    return replace(r, caveats=(*r.caveats, caveat))


def _always_tried(spec: CandidateSpec, workload: Workload) -> tuple[Candidate, ...]:
    """What is looked at in any case where the least fits."""
    plain = variant(spec, workload, 1, False, spec.optimizers[0])
    return (plain, variant(spec, workload, 2, True, spec.optimizers[-1])) if workload.batch_size % 2 == 0 else (plain,)


def _int8_brings_nothing(spec: CandidateSpec, ranked: Sequence[RankedCandidate]) -> bool:
    """Whether it is int8 without a measurement, and the same method on an unquantized base fits and stands no lower."""
    if spec.quantization.name != "int8" or spec.quality.basis == "measured":
        return False
    counterparts = [
        r for r in ranked if r.candidate.quantization.name == "none" and r.candidate.method.name == spec.method.name
    ]
    return any(quality_tier(r.quality) <= quality_tier(spec.quality) for r in counterparts)


def _fitting(spec: CandidateSpec, workload: Workload, memory: MemoryOracle) -> list[tuple[Candidate, Needs]]:
    """Every variant that fits: micro-batches that divide the batch, with and without checkpointing, with each
    optimizer."""
    batch = workload.batch_size
    sizes = sorted({d for n in range(1, math.isqrt(batch) + 1) if batch % n == 0 for d in (n, batch // n)})
    fitting = []
    for optimizer, checkpointing in itertools.product(spec.optimizers, (False, True)):
        for n in sizes:
            candidate = variant(spec, workload, n, checkpointing, optimizer)
            if memory.is_too_large(candidate) or (needs := memory.needs(candidate)).high_bytes > memory.memory_bytes:
                break  # nor does a larger one
            fitting.append((candidate, needs))
    return fitting


def variant(spec: CandidateSpec, workload: Workload, micro: int, checkpointing: bool, optimizer: str) -> Candidate:
    """The candidate of a spec with a micro-batch size, checkpointing and optimizer; accumulation fills the batch."""
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
        spec.dtype,
    )


def order(r: RankedCandidate, priority: Priority) -> tuple[float, ...]:
    """What recommendations are sorted by."""
    tier, worst = quality_tier(r.quality)
    less = (float(r.needs.trainable_parameters), float(r.needs.peak_bytes))
    if priority == "memory":
        return (tier == 3, r.needs.high_bytes, *less)
    if priority == "speed":
        return (tier == 3, *_pace(r.candidate, r.needs)[:1], *less)
    return (tier, worst, *less)


def quality_tier(q: Quality) -> tuple[int, float]:
    """Tier and, among what is not shown to be within the margin, the worst that it may be: in margins, which differ
    between measured and published qualities. An interval of one seed orders nothing."""
    worst = math.inf if q.high is None else 0.0 if q.enough else q.high / (q.margin or 1.0)
    if q.behind or q.enough is False:
        return 3, worst
    if q.shown is not None and not q.shown.repeated:
        return 2, math.inf
    if q.high is None or q.against != FULL:
        return 2, worst
    return (0 if q.enough else 1), worst


def _pace(candidate: Candidate, needs: Needs) -> tuple[float, ...]:
    """Time of an optimizer step where it is known; else the plain optimizer, and checkpointing and small micro-batches
    are held to be slower."""
    time = math.inf if needs.seconds is None else sum(needs.seconds) / 2
    return (
        time,
        candidate.optimizer != "adamw",
        candidate.gradient_checkpointing,
        candidate.gradient_accumulation,
        needs.peak_bytes,
    )
