"""The highest point of a training step, for a model of any number of layers.

A model of N equal layers is not traced whole. At each moment of a layer's part of the step, the live bytes are linear
in the layer's place and in the number of layers: every layer before it has left the same activations, every layer has
the same weights. Traces of two and of three layers give the slopes (first layers differ: nothing before them is
trained; so the slopes are taken from the others):

    bytes(layer k of N) = b(k=1, n=2) + (k - 1) * [b(2, 3) - b(1, 3)] + (N - 2) * [b(1, 3) - b(1, 2)]

for every category, and the peak is the highest moment of all. Models whose layers are of several kinds are
traced with whole periods of the pattern (and what is left over) after the first layers that are of another kind
(DeepSeek's dense ones before the mixtures), and traced whole where there is no pattern.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from lorabench import plugins
from lorabench.errors import UnpredictableError
from lorabench.memory.layer_pattern import Pattern, pattern, skips_by_number
from lorabench.memory.meta_model import TRACING, adapted, with_layers
from lorabench.memory.step_dtypes import resolve_autocast, resolve_compute_dtype, resolve_dtype
from lorabench.memory.tensor_tracker import CATEGORIES
from lorabench.memory.trace import UPDATE, Trace, trace
from lorabench.memory.train_config import TrainConfig

if TYPE_CHECKING:
    pass

EVALUATION_BATCH = 8  # transformers/training_args.py, per_device_eval_batch_size


@dataclass(frozen=True)
class Work:
    """What takes time: operations, bytes read and written, kernels started."""

    flops: int
    moved_bytes: int
    kernels: int


@dataclass(frozen=True)
class StepProfile:
    """A training step of the whole model: its highest point by category, its work, and the counts."""

    parts: dict[str, int]
    """bytes by category at the peak"""
    persistent_bytes: dict[str, int]
    """bytes by category between steps"""
    peak_bytes: int
    peak_at: str
    """the segment of the peak"""
    flops: int
    """of one micro-batch and the update, as the two that follow"""
    moved_bytes: int
    kernels: int
    update: Work
    """of these the part that comes once an optimizer step, whatever is accumulated: clipping and the optimizer"""
    total_parameters: int
    trainable_parameters: int
    adapter_bytes: int

    @property
    def micro_batch(self) -> Work:
        """One forward and backward pass."""
        return Work(
            self.flops - self.update.flops,
            self.moved_bytes - self.update.moved_bytes,
            self.kernels - self.update.kernels,
        )

    def work(self, accumulation: int = 1) -> Work:
        """An optimizer step of so many micro-batches."""
        one, last = self.micro_batch, self.update
        return Work(
            accumulation * one.flops + last.flops,
            accumulation * one.moved_bytes + last.moved_bytes,
            accumulation * one.kernels + last.kernels,
        )


@dataclass(frozen=True)
class SegmentProfile:
    """A segment of the whole model's step."""

    name: str
    moments: np.ndarray
    """(operators, categories), bytes"""
    work: np.ndarray
    """flops, bytes moved, kernels"""


@dataclass(frozen=True)
class Course:
    """A step of the whole model, moment by moment; `summed` tells its highest point."""

    lines: tuple[SegmentProfile, ...]
    counts: np.ndarray
    """total parameters, trainable parameters, bytes of the trainable ones"""


def predict_step(setting: TrainConfig, *, whole: bool = False) -> StepProfile:
    """Traces as few layers as tell the whole (whole: all of them). ModelError as of the engine."""
    return summed(course(setting, whole=whole))


def predict_evaluation(setting: TrainConfig, batch_size: int = EVALUATION_BATCH) -> StepProfile:
    """A micro-batch of the evaluation between steps: without gradients, beside the optimizer's state. ModelError as of
    the engine."""
    other = setting.trained(batch_size=batch_size, gradient_accumulation=1)
    return predict_step(replace(other, evaluates=True))


def course(setting: TrainConfig, *, whole: bool = False) -> Course:
    """The traced step of a setting, moment by moment; as of predict_step."""
    config = setting.shape.config
    layers, layer_pattern = (
        config.get_text_config().num_hidden_layers,
        None if skips_by_number(config) else pattern(config),
    )
    dtype, compute, autocast = resolve_dtype(setting), resolve_compute_dtype(setting), resolve_autocast(setting)
    saved = plugins.load("methods", setting.method.name).SAVED_RANKS

    def of(count: int) -> Course:
        try:
            with TRACING:
                model = adapted(setting, with_layers(config, count), dtype, compute)
                return _as_course(trace(setting, model, autocast), saved)
        except (
            AttributeError,
            TypeError,
            RuntimeError,
            NotImplementedError,
            KeyError,
            IndexError,
            AssertionError,
        ) as e:
            reason = " ".join(str(e).split())[:160] or type(e).__name__
            raise UnpredictableError(
                f"a training step of {setting.model.name} (model type {config.model_type}) cannot be traced without"
                f" weights: {reason}; this kind of model cannot be predicted yet"
            ) from e

    if whole or layer_pattern is None or layers < layer_pattern.first + 4 * layer_pattern.period:
        return of(layers)
    rest = layer_pattern.first + (layers - layer_pattern.first) % layer_pattern.period
    return _extended(of(2 * layer_pattern.period + rest), of(3 * layer_pattern.period + rest), layers, layer_pattern)


def along(low: Course, high: Course, share: Fraction) -> Course | None:
    """low + share * (high - low), number by number; None where that is not known to hold: a number would be no whole
    one, or the highest point lies in a segment in which the two took different operators (a batch of one needs fewer in
    the embedding)."""
    if [line.name for line in low.lines] != [line.name for line in high.lines]:
        return None
    try:
        course_between = Course(
            tuple(_along(a.name, a, a, b, share) for a, b in zip(low.lines, high.lines, strict=True)),
            _step_along(low.counts, low.counts, high.counts, share),
        )
    except _Uneven:
        return None
    other = {a.name for a, b in zip(low.lines, high.lines, strict=True) if len(a.moments) != len(b.moments)}
    return None if summed(course_between).peak_at in other else course_between


def summed(course: Course) -> StepProfile:
    """The highest point of a course, and its sums."""
    heights = [line.moments.sum(axis=1) for line in course.lines]
    top = max(range(len(heights)), key=lambda i: int(heights[i].max()))
    moment = course.lines[top].moments[int(heights[top].argmax())]
    persistent = next(line for line in course.lines if line.name == "held").moments[-1]
    flops, moved, kernels = (int(n) for n in np.sum([line.work for line in course.lines], axis=0))
    updates = [line.work for line in course.lines if line.name == UPDATE]
    update = Work(*(int(n) for n in np.sum(updates, axis=0))) if updates else Work(0, 0, 0)
    total, trainable, saved = (int(n) for n in course.counts)
    return StepProfile(
        parts=_named(moment),
        persistent_bytes=_named(persistent),
        peak_bytes=int(moment.sum()),
        peak_at=course.lines[top].name,
        flops=flops,
        moved_bytes=moved,
        kernels=kernels,
        update=update,
        total_parameters=total,
        trainable_parameters=trainable,
        adapter_bytes=saved,
    )


def _as_course(traced: Trace, saved: int) -> Course:
    lines = tuple(
        SegmentProfile(
            s.name, np.array(s.moments, dtype=np.int64), np.array([s.flops, s.moved, s.kernels], dtype=object)
        )
        for s in traced.segments
    )
    return Course(
        lines,
        np.array([traced.total_parameters, traced.trainable_parameters, saved * traced.trainable_bytes], dtype=object),
    )


def _extended(short: Course, longer: Course, layers: int, layer_pattern: Pattern) -> Course:
    """The step of `layers` layers from traces of two and of three periods, the first layers and the rest."""
    period, settled = (
        layer_pattern.period,
        layer_pattern.first + layer_pattern.period,
    )  # from there on only equal periods came before a layer
    two, three = ({line.name: line for line in c.lines} for c in (short, longer))
    lines: list[SegmentProfile] = []
    further = (layers - layer_pattern.first) // period - 3
    for name, line in three.items():
        phase, _, number = name.partition(" ")
        index = int(number) if number else 0
        if index < settled:  # the first layers and period, and what is no layer: they grow with their number alone
            lines.append(_along(name, line, two[name], line, further))
        elif index < settled + period:
            grown = _along(name, line, two[name], line, further)
            later = three[f"{phase} {index + period}"]
            for place in range(index, layers, period):
                lines.append(
                    _along(f"{phase} {place}", grown, line, later, (place - layer_pattern.first) // period - 1)
                )
    return Course(tuple(lines), _step_along(longer.counts, short.counts, longer.counts, further))


class _Uneven(Exception):
    """A number lies between whole ones."""


def _along(
    name: str, start: SegmentProfile, low: SegmentProfile, high: SegmentProfile, steps: int | Fraction
) -> SegmentProfile:
    """start + steps * (high - low), number by number; of segments with different operators (the update has some for
    each layer), the highest moments alone."""
    first, second, third = (line.moments for line in (start, low, high))
    if not len(first) == len(second) == len(third):
        first, second, third = (m[m.sum(axis=1).argmax()][None] for m in (first, second, third))
    return SegmentProfile(
        name, _step_along(first, second, third, steps), _step_along(start.work, low.work, high.work, steps)
    )


def _step_along(start: np.ndarray, low: np.ndarray, high: np.ndarray, steps: int | Fraction) -> np.ndarray:
    times, parts = Fraction(steps).as_integer_ratio()
    grown = (high - low) * times
    if parts != 1 and (grown % parts).any():
        raise _Uneven
    stepped: np.ndarray = start + grown // parts
    return stepped


def _named(moment: np.ndarray) -> dict[str, int]:
    return {c: int(n) for c, n in zip(CATEGORIES, moment, strict=True)}
