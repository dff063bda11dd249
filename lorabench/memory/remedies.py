"""What makes a setting fit a card that it does not fit: the changes that do it alone, or else the smallest combinations
of them.

Each figure is that of the traced step of the changed setting (card_planner.CardPlanner), never of a formula. Only what
is hopeless is left out untraced: the moment of the present peak stays in the changed step, so it needs no less than
that moment without the parts that a change can shrink.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from lorabench import plugins
from lorabench.config.checkpoint import stored_quantization
from lorabench.config.gpus import gpus
from lorabench.config.settings import MethodSpec, QuantizationSpec
from lorabench.config.validity import takes_quantized_base
from lorabench.memory.card_planner import CardPlanner, Need
from lorabench.memory.estimate import bounds, with_framework
from lorabench.memory.step_dtypes import resolve_dtype
from lorabench.memory.train_config import TrainConfig, on_card

LISTED = 4  # of combinations
TOGETHER = 3  # changes at most, before all of them are tried
MOST_TRACED = 12  # combinations of each size that are traced: a trace is about half a second
USUAL_LENGTH = 64  # tokens: lengths are named as multiples of it, and none below it
_SHRINKS = {
    "micro_batch": ("activations", "logits", "workspace"),
    "checkpointing": ("activations", "workspace"),
    "paged-adamw": ("optimizer",),
    "adamw-8bit": ("optimizer",),
    "paged-adamw-8bit": ("optimizer",),
    "bfloat16": ("weights", "gradients", "optimizer", "activations", "workspace"),
    "nf4": ("weights", "activations"),
    "int8": ("weights", "activations"),
    "rank": ("adapters", "gradients", "optimizer", "activations"),
    "lora": ("weights", "gradients", "optimizer", "activations", "workspace"),
}
"""change, those first that do not touch the result: the parts of a step that it can make smaller"""
_EXCLUSIVE = (("paged-adamw", "adamw-8bit", "paged-adamw-8bit"), ("nf4", "int8"), ("bfloat16", "lora"))


@dataclass(frozen=True)
class Remedy:
    """A changed setting that fits, or the least that a setting can need."""

    setting: TrainConfig
    changes: dict[str, object]
    """dotted keys of a study: what they become"""
    peak_bytes: int
    high_bytes: int
    headroom_bytes: int
    """below zero where it does not fit"""

    @property
    def flags(self) -> str:
        """As typed after `lorabench estimate`: "--gradient-checkpointing --quantization nf4"."""
        words = {
            (
                "micro_batch_size"
                if k == "training.batch_size"
                else k.removesuffix(".name")
                if k.endswith(".name")
                else k.rpartition(".")[2]
            ): v
            for k, v in self.changes.items()
        }
        return " ".join(f"--{k.replace('_', '-')}" + ("" if v is True else f" {v}") for k, v in words.items())

    @property
    def keys(self) -> str:
        """As a study has them: "training.gradient_checkpointing: true, quantization.name: nf4"."""
        return ", ".join(f"{k}: {str(v).lower() if isinstance(v, bool) else v}" for k, v in self.changes.items())


@dataclass(frozen=True)
class Remedies:
    """What can be done about a setting that does not fit."""

    fitting: tuple[Remedy, ...]
    least: Remedy | None = None
    """where nothing fits: all changes together; where only another method fits: the least that the method asked for
    needs"""
    card: str | None = None
    """the smallest known card that holds the least"""
    length: int | None = None
    """the longest sequence at which the least would fit; absent below 64 tokens"""


def remedies(setting: TrainConfig, planner: CardPlanner, length: int | None = None, most: int = LISTED) -> Remedies:
    """The changes that make a setting fit the planner's card, those that keep its method first; `length` is the longest
    sequence that fits without any other change, where known."""
    if fitting := _fitting(setting, planner, length, most, with_lora=False):
        return Remedies(fitting)
    own = _remedy_of(setting, _all(setting, planner, with_lora=False), planner) or _remedy(setting, setting, planner)
    if own.headroom_bytes >= 0:
        return Remedies((own,))
    if "lora" in _possible(setting, planner):
        if fitting := _fitting(setting, planner, None, most, with_lora=True):
            return Remedies(fitting, own, _smallest_card(own))
        least = _remedy_of(setting, _all(setting, planner, with_lora=True), planner) or own
        if least.headroom_bytes >= 0:
            return Remedies((least,), own, _smallest_card(own))
        own = least
    longest = planner.longest(own.setting, setting.training.sequence_length)
    return Remedies((), own, _smallest_card(own), longest // USUAL_LENGTH * USUAL_LENGTH or None)


def _fitting(
    setting: TrainConfig, planner: CardPlanner, length: int | None, most: int, with_lora: bool
) -> tuple[Remedy, ...]:
    """The smallest sets of changes that fit: those that keep the method, or those with LoRA in its place."""
    at_first, fitting = planner.need(setting), list[Remedy]()
    for size in range(1, TOGETHER + 1):
        traced = 0
        for names in _sets(setting, planner, size):
            if (
                ("lora" in names) != with_lora
                or _hopeless(at_first, names, setting, planner)
                or traced >= MOST_TRACED
                or len(fitting) >= most
            ):
                continue
            traced += 1
            remedy = _remedy_of(setting, names, planner)
            if remedy is not None and remedy.headroom_bytes >= 0:
                fitting.append(remedy)
        shorter = (length or 0) // USUAL_LENGTH * USUAL_LENGTH
        if (
            size == 1 and 2 * shorter >= setting.training.sequence_length and len(fitting) < most
        ):  # less than half is another training
            fitting.append(_remedy(setting, setting.trained(sequence_length=shorter), planner))
        if fitting:
            break
    return tuple(fitting)


def _smallest_card(least: Remedy) -> str | None:
    return next((c.name for c in gpus().values() if c.memory_bytes >= least.high_bytes), None)


def _sets(setting: TrainConfig, planner: CardPlanner, size: int) -> Iterator[tuple[str, ...]]:
    for names in itertools.combinations(_possible(setting, planner), size):
        if any(len(set(names) & set(group)) > 1 for group in _EXCLUSIVE):
            continue
        if setting.method.name == "full" and set(names) & {"nf4", "int8"} and "lora" not in names:
            continue
        yield names


def _all(setting: TrainConfig, planner: CardPlanner, with_lora: bool) -> tuple[str, ...]:
    possible = _possible(setting, planner)
    method: tuple[str, ...] = ("lora", "nf4") if with_lora else ("bfloat16",)
    if "lora" not in possible:  # adapters are
        method = ("nf4", "bfloat16")
    names = (*method, "checkpointing", "paged-adamw-8bit", "adamw-8bit", "rank", "micro_batch")
    return tuple(n for n in names if n in possible and not (n == "adamw-8bit" and "paged-adamw-8bit" in possible))


def _possible(setting: TrainConfig, planner: CardPlanner) -> list[str]:
    """The changes that this setting leaves open, in the order of _SHRINKS."""
    training, method = setting.training, plugins.load("methods", setting.method.name)
    stored = stored_quantization(setting.model.name, setting.model.revision) is not None
    adapters = not method.TRAINS_BASE
    smaller = setting.quantization.name == "none" and not stored and takes_quantized_base(setting.method.name)
    states = ("adamw", "paged-adamw", "adamw-8bit", "paged-adamw-8bit")
    on_cpu, wide = planner.gpu.kind == "cpu", resolve_dtype(on_card(setting, planner.gpu)) == torch.float32
    able = {
        "micro_batch": training.batch_size > 1,
        "checkpointing": not training.gradient_checkpointing,
        "paged-adamw": planner.gpu.kind == "cuda" and training.optimizer == "adamw",
        "adamw-8bit": training.optimizer == "adamw",
        "paged-adamw-8bit": planner.gpu.kind == "cuda" and training.optimizer in states[:3],
        "bfloat16": wide and (on_cpu and setting.shape.is_large if adapters else on_cpu or planner.gpu.bf16),
        "nf4": smaller or (not stored and (not adapters or setting.quantization.name == "int8")),
        "int8": smaller or (not stored and not adapters),
        "rank": adapters and (setting.method.rank or 0) > 8,
        "lora": not adapters,
    }
    return [name for name in _SHRINKS if able[name] and name not in setting.trainer.unavailable]


def _hopeless(need: Need, names: tuple[str, ...], setting: TrainConfig, planner: CardPlanner) -> bool:
    setting, shrunk = on_card(setting, planner.gpu), {part for name in names for part in _SHRINKS[name]}
    parts = {part: 0 if part in shrunk else value for part, value in need.step.parts.items()}
    least = replace(need.step, parts=parts, peak_bytes=sum(parts.values()))
    return bounds(sum(with_framework(least, setting).values()), setting)[1] > planner.gpu.memory_bytes


def _remedy_of(setting: TrainConfig, names: tuple[str, ...], planner: CardPlanner) -> Remedy | None:
    """The setting with changes; the micro-batch is the largest that fits with the others, else 1."""
    changed = setting
    for name in ("lora", "bfloat16", "nf4", "int8", "rank", "checkpointing", *_EXCLUSIVE[0]):
        if name in names:
            changed = _changed(changed, name)
    if "micro_batch" not in names:
        return _remedy(setting, changed, planner)
    whole, best = setting.training.batch_size, None
    for batch in (n for n in range(1, whole) if whole % n == 0):
        one = _remedy(
            setting,
            changed.trained(
                batch_size=batch, gradient_accumulation=setting.training.gradient_accumulation * whole // batch
            ),
            planner,
        )
        if best is not None and one.headroom_bytes < 0:
            break
        best = one
        if one.headroom_bytes < 0:
            break
    return best


def _changed(setting: TrainConfig, name: str) -> TrainConfig:
    if name == "checkpointing":
        return setting.trained(gradient_checkpointing=True)
    if name in ("nf4", "int8"):
        return replace(setting, quantization=QuantizationSpec(name=name))
    if name == "bfloat16":
        return replace(setting, model=setting.model.model_copy(update={"dtype": "bfloat16"}))
    if name == "lora":
        return replace(setting, method=MethodSpec())
    if name == "rank":
        return replace(setting, method=setting.method.model_copy(update={"rank": 8}))
    return setting.trained(optimizer=name)


def _remedy(before: TrainConfig, after: TrainConfig, planner: CardPlanner) -> Remedy:
    need = planner.need(after)
    return Remedy(
        after, _differences(before, after), need.peak_bytes, need.high_bytes, planner.gpu.memory_bytes - need.high_bytes
    )


def _differences(before: TrainConfig, after: TrainConfig) -> dict[str, object]:
    old, new = _plain(before), _plain(after)
    return {
        key: value
        for key, value in new.items()
        if value != old[key] and not (key == "method.rank" and old[key] is None)
    }  # lora in place of full: its default rank needs no word


def _plain(s: TrainConfig) -> dict[str, object]:
    fields = ("gradient_checkpointing", "optimizer", "batch_size", "gradient_accumulation", "sequence_length")
    named = {
        "method.name": s.method.name,
        "model.dtype": s.model.dtype,
        "quantization.name": s.quantization.name,
        "method.rank": s.method.rank,
    }
    return {**named, **{f"training.{f}": getattr(s.training, f) for f in fields}}
