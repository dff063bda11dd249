"""The highest point of a training step, for a model of any number of layers.

A model of N equal layers is not traced whole. Within a segment, the peak of the step is linear in the layer's
place and in the number of layers: every layer before it has left the same activations, every layer has the same
weights. Traces of two and of three layers give the slopes (first layers differ: nothing before them is
trained; so the slopes are taken from the others), and the peak of the whole is the highest of

    peak(segment of layer k, N layers) = p(k=1, n=2) + (k - 1) * [p(2, 3) - p(1, 3)] + (N - 2) * [p(1, 3) - p(1, 2)]

over all segments; each category follows the same line. Models whose layers are of several kinds are
traced with whole periods of the pattern, and traced whole where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lorabench import plugins
from lorabench.engine.model import FLOAT32_BELOW
from lorabench.memory.ledger import CATEGORIES, Segment
from lorabench.memory.setting import Setting
from lorabench.memory.skeleton import adapted, build, configuration, with_layers
from lorabench.memory.trace import Trace, trace


@dataclass(frozen=True)
class Step:
    """A training step of the whole model: its highest point by category, its work, and the counts."""

    parts: dict[str, int]
    """bytes by category at the peak"""
    held: dict[str, int]
    """bytes by category between steps"""
    peak_bytes: int
    peak_at: str
    """the segment of the peak"""
    flops: int
    moved_bytes: int
    kernels: int
    total_parameters: int
    trainable_parameters: int
    adapter_bytes: int


@dataclass(frozen=True)
class Line:
    """A segment's numbers as a base value and what each further layer adds."""

    name: str
    parts: dict[str, int]
    flops: int
    moved: int
    kernels: int

    @property
    def peak(self) -> int:
        return sum(self.parts.values())


def predict_step(setting: Setting, *, whole: bool = False) -> Step:
    """Traces as few layers as tell the whole (whole: all of them). ModelError as of the engine."""
    config = configuration(setting.model)
    text = config.get_text_config()
    layers, period = text.num_hidden_layers, pattern(text)
    dtype = resolve_dtype(setting, config)
    autocast = resolve_autocast(setting)
    declared = setting.quantization.compute_dtype
    compute = getattr(torch, declared) if declared != "auto" else autocast or dtype

    def of(count: int) -> Trace:
        return trace(setting, adapted(setting, with_layers(config, count), dtype, compute), autocast)

    if whole or period is None or layers <= 3 * period:
        full = of(layers)
        return _summed([_line(s) for s in full.segments], full.total_parameters, full.trainable_parameters, full.trainable_bytes)
    short, longer = of(2 * period), of(3 * period)
    return _extended(short, longer, layers, period)


def pattern(config: Any) -> int | None:
    """After how many layers the kinds of layers repeat; None where they do not."""
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return 1
    for period in range(1, len(kinds) // 3 + 1):
        if all(kind == kinds[i % period] for i, kind in enumerate(kinds)):
            return period if len(kinds) % period == 0 else None
    return None


def resolve_dtype(setting: Setting, config: Any) -> torch.dtype:
    """The dtype of the weights, as engine.model resolves it for a cell."""
    if setting.model.dtype != "auto":
        return getattr(torch, setting.model.dtype)  # type: ignore[no-any-return]  # names of torch dtypes
    if plugins.load("methods", setting.method.name).TRAINS_BASE:
        return torch.float32
    for part in (with_layers(config, 1), config):  # one layer and the embeddings tell most models apart: 80 layers take 0.3 s to build
        if sum(p.numel() for p in build(part, torch.bfloat16, setting.model.trust_remote_code).parameters()) >= FLOAT32_BELOW:
            return torch.bfloat16
    return torch.float32


def resolve_autocast(setting: Setting) -> torch.dtype | None:
    """The dtype of mixed precision: on GPUs by default, on CPUs where it is asked for."""
    wanted = setting.training.autocast
    return torch.bfloat16 if wanted == "bfloat16" or (wanted == "auto" and setting.device == "cuda") else None


def _line(segment: Segment) -> Line:
    return Line(segment.name, segment.parts, segment.flops, segment.moved, segment.kernels)


def _extended(short: Trace, longer: Trace, layers: int, period: int) -> Step:
    """The step of `layers` layers from traces of two and three periods."""
    two = {s.name: _line(s) for s in short.segments}
    three = {s.name: _line(s) for s in longer.segments}
    lines: list[Line] = []
    periods = layers // period
    for name, line in three.items():
        phase, _, number = name.partition(" ")
        if not number:
            lines.append(_along(name, line, two[name], line, periods - 3))
            continue
        index = int(number)
        block, place = divmod(index, period)
        if block == 0:  # the first period: it grows with the number of layers alone
            lines.append(_along(name, line, two[name], line, periods - 3))
        elif block == 1:
            later = three[f"{phase} {index + period}"]
            grown = _along(name, line, two[name], line, periods - 3)
            for k in range(1, periods):  # place k of the pattern's k-th repetition
                lines.append(_along(f"{phase} {k * period + place}", grown, line, later, k - 1))
    total = short.total_parameters + (longer.total_parameters - short.total_parameters) * (periods - 2)
    trainable = short.trainable_parameters + (longer.trainable_parameters - short.trainable_parameters) * (periods - 2)
    saved = short.trainable_bytes + (longer.trainable_bytes - short.trainable_bytes) * (periods - 2)
    return _summed(lines, total, trainable, saved)


def _along(name: str, start: Line, low: Line, high: Line, steps: int) -> Line:
    """start + steps * (high - low), number by number."""
    parts = {c: start.parts[c] + steps * (high.parts[c] - low.parts[c]) for c in CATEGORIES}
    flops, moved, kernels = (getattr(start, n) + steps * (getattr(high, n) - getattr(low, n)) for n in ("flops", "moved", "kernels"))
    return Line(name, parts, flops, moved, kernels)


def _summed(lines: list[Line], total: int, trainable: int, saved: int) -> Step:
    top = max(lines, key=lambda line: line.peak)
    held = next(line for line in lines if line.name == "held")
    return Step(
        parts=top.parts, held=held.parts, peak_bytes=top.peak, peak_at=top.name, flops=sum(line.flops for line in lines),
        moved_bytes=sum(line.moved for line in lines), kernels=sum(line.kernels for line in lines), total_parameters=total, trainable_parameters=trainable, adapter_bytes=saved,
    )  # fmt: skip
