"""The priors of priors.yaml, typed, and what follows from them: rates by size, ranks by the information in the data,
published differences.

    a rank is large enough where   bits_per_parameter * trainable parameters >= bits_per_token * training tokens

An upper bound of what is to be learned against a lower bound of what an adapter can hold; ranks below the floor are
taken only where a study measured them. Where the data bring more, published differences speak: those of continued
pretraining grow with its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import Field

from lorabench.advice.evidence import FULL
from lorabench.advice.types import EvidenceItem, Quality
from lorabench.analysis.difference import Difference, difference
from lorabench.config.frozen import Frozen
from lorabench.config.settings import ComparisonSpec
from lorabench.formatting import count

POINTS = "points"
MARGIN = 100 * ComparisonSpec().accuracy_margin  # points of a published score that do not matter: a study's own default


class LearningRate(Frozen):
    """A learning rate for models below a size."""

    value: float
    """the rate"""
    parameters_below: float = float("inf")
    """of the model"""


class Adapters(Frozen):
    """Settings of LoRA that the literature recommends."""

    alpha: float
    """lora_alpha"""
    target_modules: str
    """which modules"""
    source: str
    """where it is from"""


class LearningRates(Frozen):
    """Published learning rates, by method and size of the model."""

    lora: tuple[LearningRate, ...]
    """by size"""
    lora_source: str
    """where they are from"""
    schedule: Literal["cosine", "linear", "constant"]
    """course after warm-up"""
    schedule_warmup: float
    """share of the steps"""
    schedule_source: str
    """where they are from"""
    full_over_lora: float
    """ratio"""
    full_source: str
    """where it is from"""


class Update(Frozen):
    """What else an optimizer step has."""

    weight_decay: float
    """of matrices"""
    max_grad_norm: float
    """gradients are clipped to it"""
    source: str
    """where they are from"""


class RankRule(Frozen):
    """Which rank holds what is to be learned."""

    floor: int
    """smallest rank that is taken unmeasured"""
    floor_source: str
    """where it is from"""
    bits_per_parameter: float
    """what a parameter of an adapter was seen to learn: a lower bound, since its loss still fell"""
    bits_per_parameter_interval: tuple[float, float]
    """95 %, over seeds"""
    bits_per_parameter_source: str
    """where it is from"""
    bits_per_parameter_whole: float
    """what a parameter of a whole model holds after ten times as many exposures: an upper bound"""
    bits_per_parameter_whole_source: str
    """where it is from"""
    bits_per_token: float
    """what a training token brings at most"""
    bits_per_token_source: str
    """where it is from"""


class Fact(Frozen):
    """Published scores in pairs, in points."""

    varies: Literal["method", "quantization", "both"]
    """in what the two of a pair differ"""
    name: str
    """its value on this side"""
    reference_name: str
    """and on the other"""
    tokens: tuple[float, float] = (0.0, float("inf"))
    """training tokens for which it speaks"""
    what: str
    """metric, task and models"""
    draws: tuple[str, ...]
    """of each pair what it is a draw of; pairs of one draw share their base weights and are averaged first"""
    unit: Literal["model", "task"]
    """what a draw is"""
    common: str
    """what all draws share: an interval over them says nothing of another"""
    source: str
    """paper and table"""
    scores: Annotated[tuple[float, ...], Field(min_length=2)]
    """points"""
    reference_scores: tuple[float, ...]
    """points of the same models and tasks"""

    @property
    def worse(self) -> Difference:
        """How much worse the scores are than the reference's: t over the means of the draws, since pairs of one draw
        are not independent (cluster means: Donner and Klar 2000)."""
        places = {name: [i for i, n in enumerate(self.draws) if n == name] for name in self.draws}
        scores, reference_scores = (
            np.array([np.mean([scores[i] for i in at]) for at in places.values()])
            for scores in (self.scores, self.reference_scores)
        )
        return difference(reference_scores, scores)


class Rules(Frozen):
    """Everything in priors.yaml."""

    ranks: tuple[int, ...]
    """that are thought of"""
    lora: Adapters
    """settings"""
    learning_rate: LearningRates
    """rates"""
    update: Update
    """clipping and decay"""
    rank: RankRule
    """capacity"""
    facts: tuple[Fact, ...]
    """published scores"""


@cache
def rules() -> Rules:
    """The rules that are shipped, read once."""
    return Rules.model_validate(yaml.safe_load(Path(__file__).with_name("priors.yaml").read_text(encoding="utf-8")))


def learning_rate(method: str, parameters: int) -> tuple[float, EvidenceItem]:
    """The published rate for a model of a size."""
    rate_rules = rules().learning_rate
    value = next(r.value for r in rate_rules.lora if parameters < r.parameters_below)
    if method != "full":
        return value, EvidenceItem("published", f"learning rate {value:g}", rate_rules.lora_source)
    return value * rate_rules.full_over_lora, EvidenceItem(
        "published", f"learning rate {value * rate_rules.full_over_lora:g}, a tenth of LoRA's", rate_rules.full_source
    )


def rank_by_capacity(trainable: Mapping[int, int], tokens: int | None) -> tuple[int, EvidenceItem, str]:
    """The smallest rank, from the floor on, that holds what the data bring; the highest, with a caveat, where none
    does. `trainable` is parameters by rank."""
    rule = rules().rank
    able = sorted(r for r in trainable if r >= rule.floor)
    if not able:
        return (
            max(trainable),
            EvidenceItem("rule", f"rank {max(trainable)}", "the smallest matrix of the model"),
            f"no layer may be left out, and one allows no rank above {max(trainable)}",
        )
    floor = EvidenceItem("published", f"rank {able[0]}", rule.floor_source)
    if tokens is None:
        return (
            able[0],
            floor,
            "how much is to be learned is not known (--tokens): data beyond what the adapter holds need a higher rank",
        )
    bits_needed = rule.bits_per_token * tokens
    fit = next((r for r in able if rule.bits_per_parameter * trainable[r] >= bits_needed), None)
    rank = able[-1] if fit is None else fit
    low, high = rule.bits_per_parameter_interval
    text = (
        f"rank {rank}: {count(trainable[rank])} parameters were seen to learn"
        f" {count(round(rule.bits_per_parameter * trainable[rank]))} bits ({rule.bits_per_parameter:g} each,"
        f" [{low:g}, {high:g}]), up to {count(tokens)} tokens carry about {count(round(bits_needed))}"
    )
    evidence = EvidenceItem("rule", text, f"{rule.bits_per_parameter_source}; {rule.bits_per_token_source}")
    if fit is not None:
        doubt = (
            f"where every detail of the data must be kept, a higher rank is safer: at {low:g} bits a parameter, the low"
            " end of what was measured, this one holds less"
        )
        return rank, evidence, "" if low * trainable[rank] >= bits_needed else doubt
    if rule.bits_per_parameter_whole * trainable[rank] < bits_needed:
        return (
            rank,
            evidence,
            f"the data may hold more than rank {rank} can learn, even at the {rule.bits_per_parameter_whole:g} bits a"
            f" parameter of whole models ({rule.bits_per_parameter_whole_source}): LoRA may fall behind full"
            " fine-tuning here",
        )
    return (
        rank,
        evidence,
        f"the data may hold more than rank {rank} was seen to learn, and less than it could at the"
        f" {rule.bits_per_parameter_whole:g} bits a parameter of whole models"
        f" ({rule.bits_per_parameter_whole_source})",
    )


def published(method: str, quantization: str, tokens: int | None) -> tuple[Quality, tuple[EvidenceItem, ...]]:
    """How much worse than full fine-tuning a method and quantization are by published scores: directly, or the sum of
    their differences, half-widths in quadrature."""
    if method == "full":
        return Quality("rule", FULL, "", 0.0, 0.0, 0.0, 0.0, MARGIN), ()
    direct = _fact("both", f"{method} {quantization}", tokens)
    axes = [("method", method)] + ([("quantization", quantization)] if quantization != "none" else [])
    candidates = [direct] if direct else [_fact(varies, value, tokens) for varies, value in axes]
    facts = [f for f in candidates if f is not None]
    if len(facts) < len(candidates):
        return Quality("none"), ()
    worse, ci_half_width, one_sided = 0.0, 0.0, 0.0
    evidence = []
    for f in facts:
        d = f.worse
        bound = d.bound("high")
        assert d.interval is not None and bound is not None  # two pairs at least, which differ
        worse, ci_half_width, one_sided = (
            worse + d.value,
            math.hypot(ci_half_width, d.interval[1] - d.value),
            math.hypot(one_sided, bound - d.value),
        )
        numbers = f"{-d.value:+.1f} points [{-d.interval[1]:+.1f}, {-d.interval[0]:+.1f}]".replace(
            "-0.0", "0.0"
        ).replace("-", "−")
        pairs = f" ({len(f.scores)} pairs)" if len(f.scores) > d.pairs else ""
        evidence.append(
            EvidenceItem(
                "published",
                f"{f.name} against {f.reference_name}: {numbers} over {d.pairs} {f.unit}s{pairs} that share {f.common},"
                f" {f.what}",
                f.source,
            )
        )
    return Quality(
        "published", FULL, POINTS, worse, worse - ci_half_width, worse + ci_half_width, worse + one_sided, MARGIN
    ), tuple(evidence)


def _fact(varies: str, value: str, tokens: int | None) -> Fact | None:
    return next(
        (
            f
            for f in rules().facts
            if f.varies == varies and f.name == value and f.tokens[0] <= (tokens or 0) < f.tokens[1]
        ),
        None,
    )
