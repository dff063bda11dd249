"""Each method and quantization that is worth a thought, with its settings and what speaks for it: measured, else
published, else by the capacity rule.

A quantization that the comparison group did not measure takes rank, alpha and learning rate of the same method in the
quantization that it did measure, and is not called better than that one. What was measured with one seed is shown and
decides nothing: settings and quality are then published ones, or follow from rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lorabench.advice.evidence import FULL, REACH, WHOLE, ComparisonGroup, Key, MethodResult
from lorabench.advice.priors import learning_rate, published, rank_by_capacity, rules
from lorabench.advice.types import EvidenceItem, Quality
from lorabench.config.gpus import Gpu
from lorabench.config.imported import knows
from lorabench.config.precision import trainer_holds_bfloat16
from lorabench.config.settings import Dtype, MethodSpec, QuantizationSpec
from lorabench.config.trainer import OWN, Trainer
from lorabench.formatting import plural

THOUGHT_OF: tuple[Key, ...] = (("lora", "none"), ("lora", "int8"), ("lora", "nf4"), WHOLE)
"""without any measurement"""
PAGED = ("adamw", "paged-adamw-8bit")
EIGHT_BIT = ("adamw", "adamw-8bit", "paged-adamw-8bit")
BFLOAT16 = (
    "its weights and optimizer states are bfloat16 themselves: at small learning rates most updates round to nothing"
    " (measured: at 2e-5, 20 steps of tiny-300k move the weights 0.2 times as far as in float32)"
)
"""reports/LOG.md: norms of the change 0.0082 and 0.0389"""


@dataclass(frozen=True)
class CandidateSpec:
    """A method and quantization with its settings and what speaks for them."""

    method: MethodSpec
    quantization: QuantizationSpec
    learning_rate: float
    schedule: str
    warmup: float
    weight_decay: float
    max_grad_norm: float
    quality: Quality
    evidence: tuple[EvidenceItem, ...]
    caveats: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ("adamw",)
    """that are tried, by rising saving: an adapter's state is small, that of a whole model is twice its weights"""
    dtype: Dtype = "auto"
    """of unquantized weights, as Candidate has it"""
    rate_range: tuple[float, float] | None = None
    """that the best learning rate is expected in; absent where a study measured it"""
    rate_grid: tuple[float, ...] = ()
    """learning rates to try"""
    measured: bool = False
    """settings are those of a study that decides"""
    doubts: tuple[str, ...] = ()
    """caveats that the rules themselves bring: they go where published tables say more"""

    @property
    def key(self) -> Key:
        """What tells candidates apart."""
        return self.method.name, self.quantization.name


def candidate_specs(
    parameters: int,
    tokens: int | None,
    trainable: Mapping[int, int],
    group: ComparisonGroup | None = None,
    others: Sequence[ComparisonGroup] = (),
    batch_size: int | None = None,
) -> tuple[CandidateSpec, ...]:
    """The ones that are thought of, and those that the comparison group measured.

    `trainable` is parameters by rank, `others` may be named for what the comparison group did not measure, `batch_size`
    is what learning rates are told to be for.
    """
    keys = dict.fromkeys((*THOUGHT_OF, *(w.key for w in group.results))) if group else dict.fromkeys(THOUGHT_OF)
    return tuple(_candidate_spec(k, parameters, tokens, trainable, group, others, batch_size) for k in keys)


def for_trainer(specs: Sequence[CandidateSpec], trainer: Trainer, large: bool, card: Gpu) -> list[CandidateSpec]:
    """The same with weights in the dtypes that a trainer is told: full fine-tuning in float32, and beside it, where the
    trainer takes a checkpoint's dtype, all in bfloat16. A small model's base (`large` is false) is float32, as any
    on a CPU that does not compute in bfloat16, but for trainers that leave frozen weights as they are stored.

    Unchanged for lorabench's own loop, whose rule is the same.
    """
    if trainer.name == OWN:
        return list(specs)
    candidates = []
    large &= card.bf16 or card.kind != "cpu"
    for spec in specs:
        if spec.key != WHOLE:
            candidates.append(spec if large or trainer.full_dtype == "float32" else replace(spec, dtype="float32"))
            continue
        candidates.append(replace(spec, dtype="float32"))
        if trainer.full_dtype == "bfloat16" and trainer_holds_bfloat16(card.kind, card.bf16):
            measured = any(item.kind == "cells" for item in spec.evidence)
            caveats = (BFLOAT16, *(("what was measured is of float32 weights",) if measured else ()), *spec.caveats)
            candidates.append(
                replace(spec, dtype="bfloat16", optimizers=EIGHT_BIT, quality=Quality("none"), caveats=caveats)
            )
    return candidates


def with_parameters(
    specs: Sequence[CandidateSpec], target_parameters: str | tuple[str, ...] | None
) -> list[CandidateSpec]:
    """The same with adapters on stacks of experts, too; methods without adapters as they are."""
    if target_parameters is None:
        return list(specs)
    asked = MethodSpec(target_parameters=target_parameters).target_parameters
    return [
        replace(s, method=s.method.model_copy(update={"target_parameters": asked})) if s.method.rank is not None else s
        for s in specs
    ]


def by_rules(key: Key, parameters: int, tokens: int | None, trainable: Mapping[int, int]) -> CandidateSpec:
    """One of them without any measurement."""
    method, quantization = key
    value, rated = learning_rate(method, parameters)
    quality, facts = published(method, quantization, tokens)
    rate_rules, update = rules().learning_rate, rules().update
    training = (value, rate_rules.schedule, rate_rules.schedule_warmup, update.weight_decay, update.max_grad_norm)
    kind = stored_as(quantization)
    if method == "full":
        spec = MethodSpec(name="full", rank=None, alpha=None, dropout=None, target_modules=None)
        return CandidateSpec(spec, kind, *training, quality, (rated,), optimizers=PAGED)
    rank, ranked, caveat = rank_by_capacity(trainable, tokens)
    settings = rules().lora
    spec = MethodSpec(name=method, rank=rank, alpha=settings.alpha, target_modules=settings.target_modules)
    quiet = "no evidence of its quality" if quality.basis == "none" else ""
    added = "its quality adds differences of two benchmarks" if len(facts) > 1 else ""
    doubts = tuple(filter(None, (quiet, added, caveat)))
    return CandidateSpec(spec, kind, *training, quality, (*facts, ranked, rated), doubts, doubts=doubts)


def stored_as(quantization: str) -> QuantizationSpec:
    """4-bit types with double quantization, which saves 0.37 bits a weight and costs nothing that was measured (QLoRA,
    section 3)."""
    return QuantizationSpec(name=quantization, double_quant=quantization in ("nf4", "fp4"))


def _candidate_spec(
    key: Key,
    parameters: int,
    tokens: int | None,
    trainable: Mapping[int, int],
    group: ComparisonGroup | None,
    others: Sequence[ComparisonGroup],
    batch_size: int | None,
) -> CandidateSpec:
    if group is None:
        return by_rules(key, parameters, tokens, trainable)
    own = group.result(key)
    if own is not None and own.decides:
        return _measured(group, own, key, parameters, batch_size)
    if own is not None:
        spec = by_rules(key, parameters, tokens, trainable)
        caveat = (
            f"{group.study} had one seed: its numbers are shown and decide nothing, a repetition may land elsewhere"
        )
        shown = own.evidence[:1]  # its numbers; the second witness speaks of a choice, which there is none of
        return replace(spec, evidence=(*spec.evidence, *shown), caveats=(caveat, *spec.caveats))
    parent = group.result((key[0], "none")) or next((w for w in group.results if w.key[0] == key[0]), None)
    if parent is None or not parent.decides:
        return by_rules(key, parameters, tokens, trainable)
    family = _measured(group, parent, key, parameters, batch_size)
    facts = published(key[0], key[1], tokens)[1]
    own_facts = tuple(w for w in facts if w.text.startswith(key[1]))
    quality = Quality("none", behind=parent.quality.enough is False)
    elsewhere = list(dict.fromkeys(c.study for c in others if c.distance <= REACH and not c.made_up and c.result(key)))
    named = f"; {', '.join(elsewhere[:3])} did (--from)" if elsewhere else ""
    caveat = f"{group.study} did not measure this quantization: settings are those of {parent.option.label}{named}"
    return replace(
        family,
        quantization=stored_as(key[1]),
        quality=quality,
        evidence=(*family.evidence, *own_facts),
        caveats=(caveat, *family.caveats),
    )


def _measured(
    group: ComparisonGroup, result: MethodResult, key: Key, parameters: int, batch_size: int | None
) -> CandidateSpec:
    setting, training = result.group.setting, result.group.setting.training
    value, evidence, caveats = training.fixed_learning_rate, result.evidence, []
    if setting.method.rank is not None and not result.decided:
        standing = "the only one" if result.alone else "the best of those"
        caveats.append(
            f"rank {setting.method.rank} is {standing} that {group.study} tried"
            + (", and the highest: a higher one may do better" if result.at_the_edge else "")
        )
    if result.quality.against != FULL:
        caveats.append(f"{group.study} has no full fine-tuning to compare it with")
    if group.made_up:
        caveats.append(f"{group.study}'s task is made up: its answer says nothing about other tasks")
    if group.distance > REACH:
        caveats.append(f"{group.study} is far from this model ({group.far}): what holds there need not hold here")
    elif group.far:
        caveats.append(f"{group.study} had {group.far}")
    if group.distance > REACH or training.optimizer != "adamw":
        value, rated = learning_rate(key[0], parameters)
        evidence = (*evidence, rated)
        caveats.append(
            f"the learning rate is not {group.study}'s, which was for"
            f" {'a model far from this one' if group.distance > REACH else training.optimizer}"
        )
    else:
        sequences = training.batch_size * training.gradient_accumulation
        other = batch_size not in (None, sequences) and knows(setting, "training.batch_size")
        beside = f"for {plural(sequences, 'sequence')} a step (here {batch_size})" if other else ""
        if odd := " and ".join(filter(None, (beside, "" if result.tuned else "not tuned"))):
            caveats.append(f"its learning rate was {odd}")
    quantization = setting.quantization if setting.quantization.name == key[1] else stored_as(key[1])
    rate_rules, update = rules().learning_rate, rules().update
    return CandidateSpec(
        setting.method,
        quantization,
        value,
        training.schedule if knows(setting, "training.schedule") else rate_rules.schedule,
        training.warmup if knows(setting, "training.warmup") else rate_rules.schedule_warmup,
        training.weight_decay if knows(setting, "training.weight_decay") else update.weight_decay,
        training.max_grad_norm if knows(setting, "training.max_grad_norm") else update.max_grad_norm,
        result.quality,
        evidence,
        tuple(caveats),
        PAGED if key[0] == "full" else ("adamw",),
        measured=True,
    )
