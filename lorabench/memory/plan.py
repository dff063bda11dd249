"""What a whole study needs on a card: every condition's parameters, memory and time, and the sum of GPU hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorabench import plugins
from lorabench.config.gpus import Gpu
from lorabench.config.study import Condition
from lorabench.engine.adapt import linear_modules, resolve_targets
from lorabench.engine.data import steps_of
from lorabench.memory.beside import Whole, beside, guessed
from lorabench.memory.calibration import Calibration, time_of
from lorabench.memory.estimate import bounds, with_framework
from lorabench.memory.interpolate import Reuse
from lorabench.memory.roofline import Seconds
from lorabench.memory.step_profile import StepProfile
from lorabench.memory.train_config import TrainConfig, on_card, setting_of
from lorabench.memory.validate import check


@dataclass(frozen=True)
class PlannedCondition:
    """One condition on a card; step, bytes and seconds are absent where nothing is trained."""

    condition: Condition
    step: StepProfile | None = None
    peak_bytes: int | None = None
    low_bytes: int | None = None
    high_bytes: int | None = None
    seconds: Seconds | None = None
    """training of one seed"""
    other: Seconds | None = None
    """all else of a seed: loading, evaluation, decomposition and the rest"""

    @property
    def whole(self) -> Seconds | None:
        """A seed from its start to its result; None where the one or the other is not known."""
        if self.other is None or (self.seconds is None and self.step is not None):
            return None
        return self.other if self.seconds is None else self.seconds.then(self.other)

    def fits(self, gpu: Gpu) -> bool | None:
        """Whether the high end fits; None where only the low end does, and where nothing is trained."""
        if self.high_bytes is None or self.low_bytes is None:
            return None
        if self.high_bytes <= gpu.memory_bytes:
            return True
        return None if self.low_bytes <= gpu.memory_bytes else False


def plan_conditions(
    conditions: Sequence[Condition], gpu: Gpu, calibration: Calibration | None = None, wholes: Sequence[Whole] = ()
) -> tuple[PlannedCondition, ...]:
    """A row per condition, with what stored cells took beside their training; conditions that differ in nothing that
    takes memory are traced once. LorabenchError where one cannot be."""
    settings = [
        (
            on_card(setting_of(c, gpu.kind), gpu)
            if plugins.load("methods", c.method.name).TRAINS and c.training.steps
            else None
        )
        for c in conditions
    ]
    distinct = list(dict.fromkeys(s for s in settings if s is not None))
    for one_setting in distinct:
        check(one_setting)
    reuse = Reuse()
    reuse.plan(distinct)
    steps = {one_setting: reuse.step(one_setting) for one_setting in distinct}
    rows = []
    for condition, setting in zip(conditions, settings, strict=True):
        if setting is None:
            rows.append(PlannedCondition(condition, other=beside(condition, wholes)))
            continue
        step = steps[setting]
        peak = sum(with_framework(step, setting).values())
        one = time_of(step, setting, gpu, calibration)
        other = beside(condition, wholes)
        if other is None and one is not None:
            weight_bytes = sum(step.persistent_bytes.values())
            other = guessed(condition, one, _sides(setting), weight_bytes, gpu)
        rows.append(
            PlannedCondition(
                condition,
                step,
                peak,
                *bounds(peak, setting),
                one.times(optimizer_steps) if one and (optimizer_steps := steps_of(condition)) else None,
                other,
            )
        )
    return tuple(rows)


def _sides(setting: TrainConfig) -> list[tuple[int, int]]:
    """(in, out) of the matrices whose change is decomposed."""
    model, modules = setting.shape.model, setting.method.target_modules
    linear = linear_modules(model)
    return [linear[n] for n in (resolve_targets(model, modules) if modules is not None else linear) if n in linear]
