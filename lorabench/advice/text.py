"""A recommendation as text and as JSON, built from its values."""

from __future__ import annotations

import json
import textwrap

from lorabench import formatting
from lorabench.advice.priors import POINTS
from lorabench.advice.types import Candidate, Excluded, Needs, Quality, RankedCandidate, Recommendation, Workload
from lorabench.config.condition_labels import method_label
from lorabench.config.trainer import OWN, find_trainer
from lorabench.formatting import one_line, size
from lorabench.record.metrics import metric

_WIDTH = 150


def as_text(recommendation: Recommendation) -> str:
    """A recommendation as lines for a terminal."""
    w = recommendation.workload
    data = "".join(
        f", {formatting.count(n)} {what}" for n, what in ((w.examples, "examples"), (w.tokens, "tokens")) if n
    )
    lines = [
        (
            f"{one_line(w.model.name)} on {one_line(recommendation.gpu)} ({size(recommendation.memory_bytes)} usable):"
            f" {w.sequence_length:,} tokens, {formatting.plural(w.batch_size, 'sequence')} a step{data}; priority:"
            f" {recommendation.priority}"
        ),
        *([] if recommendation.trainer == find_trainer(OWN) else [f"trained by {recommendation.trainer.words()}"]),
        "",
    ]
    for i, r in enumerate(recommendation.ranked, 1):
        lines += [f"{i}. {title(r.candidate)}", *_indented(_entry(r, w)), ""]
    if not recommendation.ranked:
        lines += ["Nothing that was tried fits.", ""]
    lines += [*_wrapped(recommendation.notes, ""), *([""] if recommendation.notes else [])]
    if recommendation.excluded:
        lines.append("ruled out")
        lines += _indented([out_of_room(e) for e in recommendation.excluded])
    return "\n".join(lines).rstrip()


def title(c: Candidate) -> str:
    """ "LoRA r=8, alpha 16, all-linear, base in NF4 with double quantization\""""
    m = c.method
    modules = m.target_modules if isinstance(m.target_modules, str) else " + ".join(m.target_modules or ())
    if m.target_parameters is not None:
        named = m.target_parameters if isinstance(m.target_parameters, str) else " + ".join(m.target_parameters)
        modules += f" and {named}"
    of = "" if m.rank is None else f" r={m.rank}, alpha {m.alpha:g}, {one_line(modules)}"
    stored = (
        ""
        if c.quantization.name == "none"
        else f", base in {c.quantization.name.upper()}"
        + (" with double quantization" if c.quantization.double_quant else "")
    )
    dtype = "" if c.dtype == "auto" else f" in {c.dtype}"
    name = f"full fine-tuning{dtype}" if m.name == "full" else method_label(m.name)
    return f"{name}{of}{stored}"


def quality(q: Quality) -> str:
    """How good it is expected to be, and how sure that is."""
    if q.basis == "none" or q.worse is None:
        return "no evidence"
    if q.basis == "rule" or (q.basis == "measured" and q.worse == q.bound == 0):
        return f"it is {q.against} itself"
    unit = POINTS if q.metric == POINTS else formatting.head_unit(metric(q.metric).unit, signed=True)

    def number(value: float) -> str:
        return (
            f"{value:.1f}".replace("-0.0", "0.0").replace("-", "−")
            if q.metric == POINTS
            else formatting.number(value, metric(q.metric).unit)
        )

    better = number(q.worse)[0] in "-−"  # as it is printed: a zero is no better
    value, low, high = (-q.worse, q.high, q.low) if better else (q.worse, q.low, q.high)
    if better:
        low, high = (None if end is None else -end for end in (low, high))
    ends = "" if low is None or high is None else f" [{number(low)}, {number(high)}]"
    claim = {True: "shown to be within", False: "shown to be beyond", None: "not shown to be within"}[q.enough]
    margin = "" if q.margin is None or q.low is None else f", {claim} {number(q.margin)} {unit}"
    if q.shown is not None and not q.shown.repeated:
        margin = ", one seed: not decisive"
    elif q.shown is not None and q.enough is None and q.margin is not None and q.low is not None and q.low > q.margin:
        margin = f", not decisive once corrected for the {q.shown.family} comparisons of the study"
    if q.enough and q.bound is not None and q.high is not None and q.margin is not None and q.high > q.margin:
        margin += f" by its one-sided 95 % bound, {number(q.bound)}{' worse' if better else ''}"
    word = "better" if better else "worse"
    basis = f"{q.basis}, 95 % interval" if ends else q.basis
    return f"{number(value)}{ends} {unit} {word} than {q.against} ({basis}{margin})".replace("  ", " ")


def out_of_room(e: Excluded) -> str:
    """ "LoRA r=64, alpha 16, all-linear: 27.9 GB at most, 4.2 GB over; it would fit with ...\""""
    return (
        f"{title(e.candidate)}, at its least (micro-batch {e.candidate.micro_batch_size}, checkpointing,"
        f" {e.candidate.optimizer}): {size(e.needs.high_bytes)} at most, {size(e.over_bytes)} over; cheapest change:"
        f" {e.cheapest_change}"
    )


def _entry(r: RankedCandidate, w: Workload) -> list[str]:
    c, n = r.candidate, r.needs
    again = "checkpointing" if c.gradient_checkpointing else "no checkpointing"
    lines = [
        (
            f"train:   micro-batch {c.micro_batch_size} x accumulation {c.gradient_accumulation}, {again},"
            f" {c.optimizer}, learning rate {c.learning_rate:g} ({c.schedule}, {100 * c.warmup:g} % warm-up)"
        ),
        (
            f"memory:  {size(n.peak_bytes)}, between {size(n.low_bytes)} and {size(n.high_bytes)};"
            f" {size(r.headroom_bytes)} headroom; {formatting.count(n.trainable_parameters)} parameters are trained"
        ),
        f"time:    {time(n, w, c.micro_batch_size)}",
        (
            f"quality: {quality(r.quality)}"
            + (" of its own" if r.quality.basis == "none" and any(e.kind == "cells" for e in r.evidence) else "")
        ),
    ]
    following = [*(e.source for e in r.evidence[1:]), ""]  # a source is named after the last line that it speaks in
    lines += [
        f"why:     {e.text}" + ("" if e.source == after else f" ({e.source})")
        for e, after in zip(r.evidence, following, strict=True)
    ]
    return lines + [f"but:     {text}" for text in r.caveats]


def time(n: Needs, w: Workload, micro: int) -> str:
    """Of an epoch where the data's size is known, else of a step."""
    if n.seconds is None:
        return "not known"
    steps = steps_of_an_epoch(w)
    if steps is None:
        return f"{formatting.seconds(n.seconds[0])} to {formatting.seconds(n.seconds[1])} a step"
    least, most = epoch(n.seconds, w, steps, micro)
    return f"{formatting.seconds(least)} to {formatting.seconds(most)} an epoch of {formatting.plural(steps, 'step')}"


def epoch(step: tuple[float, float], w: Workload, steps: int, micro: int) -> tuple[float, float]:
    """Seconds. Where the data's mean length is known: at the least every sequence has it, at the most each micro-batch
    is padded to all its tokens' length."""
    share = min(1.0, w.tokens / (w.examples * w.sequence_length)) if w.tokens and w.examples else 1.0
    return steps * step[0] * share, steps * step[1] * min(1.0, micro * share)


def steps_of_an_epoch(w: Workload) -> int | None:
    """Optimizer steps; from the examples, else from the tokens in full sequences."""
    if w.examples is not None:
        return -(-w.examples // w.batch_size)
    return None if w.tokens is None else -(-w.tokens // (w.batch_size * w.sequence_length))


def _indented(lines: list[str]) -> list[str]:
    return [
        wrapped
        for line in lines
        for wrapped in textwrap.wrap(
            line,
            _WIDTH,
            initial_indent="   ",
            subsequent_indent="            ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]


def _wrapped(lines: tuple[str, ...], indent: str) -> list[str]:
    return [
        wrapped
        for line in lines
        for wrapped in textwrap.wrap(
            line, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False
        )
    ]


def as_plain(recommendation: Recommendation) -> dict[str, object]:
    """For programs: bytes and seconds as numbers, what is not known absent."""
    w = recommendation.workload
    return {
        "model": w.model.name,
        "gpu": recommendation.gpu,
        "memory_bytes": recommendation.memory_bytes,
        "sequence_length": w.sequence_length,
        "batch_size": w.batch_size,
        "priority": recommendation.priority,
        **({} if recommendation.trainer == find_trainer(OWN) else {"trainer": recommendation.trainer.to_dict()}),
        **{k: v for k, v in (("examples", w.examples), ("tokens", w.tokens)) if v is not None},
        "recommendations": [_recommended(r, w) for r in recommendation.ranked],
        "excluded": [
            {
                **_candidate(e.candidate),
                **_needs(e.needs, w, e.candidate),
                "over_bytes": e.over_bytes,
                "cheapest_change": e.cheapest_change,
            }
            for e in recommendation.excluded
        ],
        "notes": list(recommendation.notes),
    }


def as_json(recommendation: Recommendation) -> str:
    """`as_plain` as JSON text."""
    return json.dumps(as_plain(recommendation), indent=2)


def as_rows(recommendation: Recommendation) -> list[dict[str, object]]:
    """A flat row per ranked candidate: setting, needs, and of its quality the basis, the difference and the margin."""
    rows = []
    for r in recommendation.ranked:
        quality = {f"quality_{k}": v for k, v in _quality(r.quality).items() if k in ("basis", "worse", "margin")}
        needs = _needs(r.needs, recommendation.workload, r.candidate)
        rows.append({**_candidate(r.candidate), **needs, "headroom_bytes": r.headroom_bytes, **quality})
    return rows


def _quality(q: Quality) -> dict[str, object]:
    plain = {
        "basis": q.basis,
        "against": q.against,
        "metric": q.metric,
        "unit": _unit(q),
        "worse": q.worse,
        "low": q.low,
        "high": q.high,
        "margin": q.margin,
        "within_margin": q.enough,
    }
    return {k: v for k, v in plain.items() if v not in (None, "")}


def _recommended(r: RankedCandidate, w: Workload) -> dict[str, object]:
    evidence = [
        {"kind": e.kind, "text": e.text, "source": e.source, **({"cells": list(e.cells)} if e.cells else {})}
        for e in r.evidence
    ]
    return {
        **_candidate(r.candidate),
        **_needs(r.needs, w, r.candidate),
        "headroom_bytes": r.headroom_bytes,
        "quality": _quality(r.quality),
        **(
            {"learning_rate_range": list(r.rate_range), "learning_rate_grid": list(r.rate_grid)} if r.rate_range else {}
        ),
        "evidence": evidence,
        "caveats": list(r.caveats),
    }


def _unit(q: Quality) -> str:
    return POINTS if q.metric == POINTS else metric(q.metric).unit if q.metric else ""


def _candidate(c: Candidate) -> dict[str, object]:
    m = c.method
    modules = list(m.target_modules) if isinstance(m.target_modules, tuple) else m.target_modules
    return {
        "method": m.name,
        "rank": m.rank,
        "alpha": m.alpha,
        "target_modules": modules,
        **({"target_parameters": m.target_parameters} if m.target_parameters is not None else {}),
        "quantization": c.quantization.name,
        "double_quant": c.quantization.double_quant,
        "micro_batch_size": c.micro_batch_size,
        "gradient_accumulation": c.gradient_accumulation,
        "gradient_checkpointing": c.gradient_checkpointing,
        "optimizer": c.optimizer,
        "learning_rate": c.learning_rate,
        "schedule": c.schedule,
        "warmup": c.warmup,
        "weight_decay": c.weight_decay,
        "max_grad_norm": c.max_grad_norm,
        **({} if c.dtype == "auto" else {"dtype": c.dtype}),
    }


def _needs(n: Needs, w: Workload, c: Candidate) -> dict[str, object]:
    plain: dict[str, object] = {
        "trainable_parameters": n.trainable_parameters,
        "peak_bytes": n.peak_bytes,
        "low_bytes": n.low_bytes,
        "high_bytes": n.high_bytes,
    }
    steps = steps_of_an_epoch(w)
    if n.seconds is not None:
        plain["step_seconds"] = list(n.seconds)
        if steps is not None:
            plain["epoch_seconds"] = list(epoch(n.seconds, w, steps, c.micro_batch_size))
    return plain
