"""What a GPU must have for a setting: the step's own bytes, what CUDA keeps beside them, and how sure that is.

`bytes` adds up to `peak_bytes`. `framework` is what no tensor holds: the CUDA context with its kernels, and
what the caching allocator cannot hand out again because blocks do not match. cuBLAS's workspaces are in `workspace`:
the allocator counts them. low_bytes and high_bytes are the residual error of
the prediction against published and own measurements (benchmarks/memory.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lorabench.config.gpus import Gpu
from lorabench.memory.interpolate import Reuse
from lorabench.memory.step_profile import StepProfile
from lorabench.memory.train_config import TrainConfig, on_card

CONTEXT_BYTES = 500 * 2**20
FRAGMENTED = 0.02  # of the allocated bytes
SURE = 0.05  # of a chord's step: how much of it the allocator's rounding may hide
MOST = 65_536  # batch sizes beyond this are not looked for


@dataclass(frozen=True)
class Estimate:
    """The prediction for one setting; the last three are absent where no GPU was named."""

    step: StepProfile
    bytes: dict[str, int]
    """by category, and framework"""
    peak_bytes: int
    low_bytes: int
    high_bytes: int
    fits: bool | None = None
    """whether high_bytes fits"""
    largest_batch_size: int | None = None
    """0 where not even one sequence fits"""
    largest_sequence_length: int | None = None
    """at the given batch size; the model's positions at most; 0 where none fits"""


def estimate(
    setting: TrainConfig, gpu: Gpu | None = None, positions: int | None = None, steps: Reuse | None = None
) -> Estimate:
    """Predicts the memory of a setting's training step in bytes, and with a GPU what fits on it.

    `positions` is the longest sequence that the model takes, `steps` keeps what was traced. ModelError where the step
    cannot be traced.
    """
    setting = on_card(setting, gpu)
    steps = Reuse() if steps is None else steps
    steps.extend(setting)
    step = steps.step(setting)
    parts = with_framework(step, setting)
    peak = sum(parts.values())
    prediction = Estimate(step, parts, peak, *bounds(peak, setting))
    if gpu is None:
        return prediction
    training = setting.training

    def high(**changes: int) -> int:
        other = setting.trained(**changes)
        return bounds(sum(with_framework(steps.step(other), other).values()), other)[1]

    return replace(
        prediction,
        fits=prediction.high_bytes <= gpu.memory_bytes,
        largest_batch_size=largest(
            lambda n: high(batch_size=n), gpu.memory_bytes, MOST, training.batch_size, prediction.high_bytes
        ),
        largest_sequence_length=largest(
            lambda n: high(sequence_length=n),
            gpu.memory_bytes,
            positions or MOST,
            training.sequence_length,
            prediction.high_bytes,
        ),
    )


def bounds(peak: int, setting: TrainConfig) -> tuple[int, int]:
    """The least and the most bytes that a predicted peak stands for, by the errors found for the trainer."""
    low, high = setting.trainer.errors
    return round(low * peak), round(high * peak)


def with_framework(step: StepProfile, setting: TrainConfig) -> dict[str, int]:
    """The step's bytes by category and what the framework keeps beside them: nothing that is counted on a CPU."""
    if setting.device == "cpu":
        return {**step.parts, "framework": 0}
    return {**step.parts, "framework": CONTEXT_BYTES + round(FRAGMENTED * step.peak_bytes)}


def largest(height: Callable[[int], int], limit: int, most: int, start: int, height_at_start: int) -> int:
    """The largest n with height(n) <= limit, 0 where there is none.

    height grows with n. Where it is a straight line, three or four looks find the end, each of which costs a trace: a
    chord tells where it is at least from there on. Where it bends (an attention matrix grows with the square of the
    length), a chord goes too far each time; a look that has not halved the interval is therefore followed by one at its
    middle.
    """
    heights = {start: height_at_start}

    def fits(n: int) -> bool:
        if n not in heights:
            heights[n] = height(n)
        return heights[n] <= limit

    if not fits(start) and not fits(1):
        return 0
    if fits(start):
        fits(min(most, max(start + 1, start * limit // height_at_start)))
    before = None
    while True:
        low = max(n for n, h in heights.items() if h <= limit)
        if low >= most:
            return most
        above = [n for n, h in heights.items() if h > limit]
        high = min(above, default=most + 1)
        below = [n for n in heights if n < low]
        a = max(below) if below else low
        b = low if below else min(above, default=low)
        slope = (heights[b] - heights[a]) / (b - a) if b > a else 0.0
        further = (limit - heights[low]) / slope if slope > 0 else float(low)
        if high - low <= 1 or (below and slope > 0 and further < 1 - SURE):
            return low
        slow = before is not None and 2 * (high - low) > before
        before = high - low
        fits((low + high) // 2 if slow else min(max(low + int(further), low + 1), high - 1, most))
