"""Many settings from few traces: between two batches, or two ranks, every moment of a step lies on a straight line.

Activations are linear in the batch and, where they belong to an adapter, in the rank; adapters, gradients and optimizer
state are linear in the rank; weights in neither. So a course at batch b and rank r follows from the four corners of a
family of settings that differ in nothing else:

    bytes(b, r) = b(b0, r0) + s * [b(b1, r0) - b(b0, r0)] + t * [...] + s * t * [...]
    s = (b - b0) / (b1 - b0), t alike

A setting is traced by itself where that is no shorter, and where the line would leave the whole numbers: the allocator
rounds each tensor up to blocks of 512 bytes, so odd lengths make steps of it (a step that is missed is below 512 bytes
a tensor). Optimizers with a smallest tensor (8-bit, paged) are not linear in the rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from lorabench.memory.loading import BLOCK
from lorabench.memory.losses import linear_in_batch
from lorabench.memory.step_profile import Course, StepProfile, along, course, summed
from lorabench.memory.train_config import TrainConfig, traced_as

SMOOTH_OPTIMIZERS = ("adamw", "sgd")
SMOOTH_LENGTH = BLOCK // 2  # tokens: an entry of 2 bytes for each fills whole blocks, whatever the batch and the rank


@dataclass
class Reuse:
    """Steps of settings, with what was traced before; `plan` first, so that the corners are known."""

    traced: dict[TrainConfig, Course] = field(default_factory=dict)
    corners: dict[TrainConfig, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)
    """family: its lowest and highest batch, its lowest and highest rank"""

    def plan(self, settings: Iterable[TrainConfig]) -> None:
        """Finds the families in what is going to be asked."""
        families: dict[TrainConfig, set[TrainConfig]] = {}
        for setting in map(traced_as, settings):
            families.setdefault(family(setting), set()).add(setting)
        for name, members in families.items():
            batches, ranks = {m.training.batch_size for m in members}, {m.method.rank or 0 for m in members}
            if len(members) > min(2, len(batches)) * min(2, len(ranks)):
                self.corners[name] = (min(batches), max(batches)), (min(ranks), max(ranks))

    def extend(self, setting: TrainConfig) -> None:
        """Lets all batches of a setting follow from its own and the next one."""
        setting = traced_as(setting)
        batch, rank = setting.training.batch_size, setting.method.rank or 0
        if family(setting) != setting:
            self.corners[family(setting)] = (batch, batch + 1), (rank, rank)

    def step(self, setting: TrainConfig) -> StepProfile:
        """The step of a setting: between the corners of its family where it has some, else traced."""
        traced_setting = traced_as(setting)
        return summed(self._between(traced_setting) or self._trace(traced_setting))

    def _between(self, setting: TrainConfig) -> Course | None:
        corners = self.corners.get(family(setting))
        if corners is None or setting.trainer.packing:  # whose mask is a square of all tokens
            return None
        batches, ranks = corners
        tokens = [b * setting.training.sequence_length for b in (setting.training.batch_size, *batches)]
        if not linear_in_batch(setting.trainer.loss_program, min(tokens)):
            return None
        if setting.training.batch_size in batches and (setting.method.rank or 0) in ranks:
            return None  # a corner itself
        s, t = _share(setting.training.batch_size, batches), _share(setting.method.rank or 0, ranks)
        sides = [self._along_batch(setting, batches, rank, s) for rank in dict.fromkeys(ranks)]
        if len(sides) == 1 or sides[0] is None or sides[1] is None:
            return sides[0]
        return along(sides[0], sides[1], t)

    def _along_batch(self, setting: TrainConfig, batches: tuple[int, int], rank: int, share: Fraction) -> Course | None:
        low, high = (self._trace(_at(setting, b, rank)) for b in batches)
        return along(low, high, share)

    def _trace(self, setting: TrainConfig) -> Course:
        if setting not in self.traced:
            self.traced[setting] = course(setting)
        return self.traced[setting]


def family(setting: TrainConfig) -> TrainConfig:
    """The setting that stands for all that lie on lines with it."""
    if setting.training.sequence_length % SMOOTH_LENGTH and setting.device == "cuda":
        return setting
    return _at(
        setting,
        0,
        (
            0
            if setting.method.rank is not None and setting.training.optimizer in SMOOTH_OPTIMIZERS
            else setting.method.rank or 0
        ),
    )


def between_ranks(setting: TrainConfig, traced: Mapping[TrainConfig, Course]) -> Course | None:
    """The course of a setting from traced ones of a lower and a higher rank that differ in nothing else; None where
    there are no such ones, or the line does not hold."""
    rank, own = setting.method.rank, family(setting)
    if rank is None or own.method.rank != 0:
        return None
    alike = {
        s.method.rank or 0: c
        for s, c in traced.items()
        if s.training.batch_size == setting.training.batch_size and s.method.rank is not None and family(s) == own
    }
    low, high = (r for r in alike if r < rank), (r for r in alike if r > rank)
    ends = min(low, default=None), max(high, default=None)
    if ends[0] is None or ends[1] is None:
        return None
    return along(alike[ends[0]], alike[ends[1]], _share(rank, (ends[0], ends[1])))


def _at(setting: TrainConfig, batch: int, rank: int) -> TrainConfig:
    method = setting.method if setting.method.rank is None else setting.method.model_copy(update={"rank": rank})
    return replace(setting.trained(batch_size=batch), method=method)


def _share(value: int, ends: tuple[int, int]) -> Fraction:
    return Fraction(value - ends[0], (ends[1] - ends[0]) or 1)
