"""What many settings of one model need on a card, from few traces: batches of one and of two, and the line through
them; a rank between two that are known lies on the line of these (memory.interpolate).

Where the line does not hold (memory.step_profile.along says when) a setting is traced by itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from lorabench.config.gpus import Gpu
from lorabench.memory.calibration import Calibration, time_of
from lorabench.memory.estimate import bounds, largest, with_framework
from lorabench.memory.interpolate import between_ranks
from lorabench.memory.roofline import Seconds
from lorabench.memory.step_profile import Course, StepProfile, along, course, summed
from lorabench.memory.trace_workers import TraceWorkers
from lorabench.memory.train_config import TrainConfig, on_card, traced_as

WORTH_WORKERS = 16  # traces of 0.25 s: half of them are done before another process has its imports (~2 s of a core)


@dataclass(frozen=True)
class Need:
    """What one optimizer step of a setting takes on the card: bytes and seconds."""

    step: StepProfile
    peak_bytes: int
    low_bytes: int
    high_bytes: int
    seconds: Seconds | None
    """all micro-batches and the update"""


@dataclass
class CardPlanner:
    """A card, and what was traced for it."""

    gpu: Gpu
    calibration: Calibration | None = None
    traced: dict[TrainConfig, Course] = field(default_factory=dict)
    _workers: TraceWorkers | None = None

    def need(self, setting: TrainConfig) -> Need:
        """What an optimizer step of a setting takes; ModelError where it cannot be traced."""
        setting = on_card(setting, self.gpu)
        step = summed(self._course(traced_as(setting)))
        peak = sum(with_framework(step, setting).values())
        return Need(step, peak, *bounds(peak, setting), time_of(step, setting, self.gpu, self.calibration))

    def beyond(self, setting: TrainConfig) -> bool:
        """Whether a step of one micro-batch is known not to fit from the traces of one that accumulates: it needs no
        less than that without its gradients."""
        setting = on_card(setting, self.gpu)
        if setting.training.gradient_accumulation > 1 or setting.training.batch_size <= 2:
            return False
        step = self.need(setting.trained(gradient_accumulation=2)).step
        least = replace(
            step, parts={**step.parts, "gradients": 0}, peak_bytes=step.peak_bytes - step.parts["gradients"]
        )
        return bounds(sum(with_framework(least, setting).values()), setting)[1] > self.gpu.memory_bytes

    def prefetch(self, settings: Sequence[TrainConfig]) -> None:
        """Traces settings side by side: here and in processes beside this one, which last until `close`."""
        untraced = list(
            dict.fromkeys(
                s
                for setting in settings
                for s in _told_by(traced_as(on_card(setting, self.gpu)))
                if not self._is_known(s)
            )
        )
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        if self._workers is None and cores > 1 and len(untraced) >= WORTH_WORKERS:
            self._workers = TraceWorkers(min(len(untraced), cores) - 1)
        if self._workers is not None:
            self.traced.update(self._workers.trace(untraced, course))

    def close(self) -> None:
        """Ends the tracing processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def longest(self, setting: TrainConfig, positions: int) -> int:
        """The longest sequence at which a setting fits; 0 where none does, which is plain where what it holds between
        steps is too much."""
        setting = on_card(setting, self.gpu)
        now = self.need(setting)
        if bounds(sum(now.step.persistent_bytes.values()), setting)[1] > self.gpu.memory_bytes:
            return 0

        def high(length: int) -> int:
            return self.need(setting.trained(sequence_length=length)).high_bytes

        return largest(high, self.gpu.memory_bytes, positions, setting.training.sequence_length, now.high_bytes)

    def _course(self, setting: TrainConfig) -> Course:
        traced = [self._trace(s) for s in _told_by(setting)]
        if len(traced) == 1:
            return traced[0]
        one, two = traced
        return along(one, two, Fraction(setting.training.batch_size - 1)) or self._trace(setting)

    def _trace(self, setting: TrainConfig) -> Course:
        if not self._is_known(setting):
            self.traced[setting] = course(setting)
        return self.traced[setting]

    def _is_known(self, setting: TrainConfig) -> bool:
        """Whether it was traced, or lies between two ranks that were."""
        if setting not in self.traced and (between := between_ranks(setting, self.traced)):
            self.traced[setting] = between
        return setting in self.traced


def _told_by(setting: TrainConfig) -> tuple[TrainConfig, ...]:
    """The settings that are traced for it: itself, or batches of one and of two."""
    if setting.training.batch_size <= 2 or setting.trainer.packing:
        return (setting,)
    return tuple(setting.trained(batch_size=n) for n in (1, 2))
