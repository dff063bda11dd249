"""What tables of the literature state of models that nobody need train: one function a quantity.

Counts come from the shapes of the real model, bytes of a training step from its trace, and bits of quantized weights
from the tensors that bitsandbytes keeps. `square_matrix_parameters` is the teaching table's own idealisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch

from lorabench.config.published_tables import Paper, PaperRow, Reproduced
from lorabench.config.settings import ModelSpec
from lorabench.engine.quantized_weights import quantization_tensors
from lorabench.errors import LorabenchError
from lorabench.memory.estimate import with_framework
from lorabench.memory.meta_model import build, quantized, with_layers
from lorabench.memory.model_shape import ModelShape
from lorabench.memory.parameters import count_parameters
from lorabench.memory.step_profile import StepProfile, predict_step
from lorabench.memory.train_config import TrainConfig
from lorabench.memory.validate import check, used


def reproduce(paper: Paper) -> tuple[Reproduced, ...]:
    """The value of each row; LorabenchError, which names the row, where one cannot be had."""
    reproduced = []
    for row in paper.rows:
        try:
            reproduced.append(Reproduced(row, float(QUANTITIES[row.quantity](row))))
        except LorabenchError as e:
            raise LorabenchError(f"row '{row.name}': {e}") from None
    return tuple(reproduced)


def trainable_parameters(row: PaperRow) -> int:
    """Trained entries, counted on the model's shapes."""
    (count,) = count_parameters(
        _shape(row), [row.method.rank or 0], row.method.target_modules or "all-linear", row.method.name
    )
    return count.trainable_parameters


def square_matrix_parameters(row: PaperRow) -> float:
    """2 * rank * sqrt(N): the N parameters of a model taken as one square matrix, of which LoRA trains a pair of
    factors."""
    return 2 * (row.method.rank or 0) * math.sqrt(row.parameters or 0)


def adapter_bytes(row: PaperRow) -> float:
    """The saved adapter, at bytes_each (4 where absent, as PEFT saves)."""
    return trainable_parameters(row) * (row.bytes_each or 4)


def parameter_bytes(row: PaperRow) -> float:
    """bytes_each for every parameter of the model: the arithmetic by which papers state training memory."""
    return _shape(row).parameters * (row.bytes_each or 0)


def weight_bytes(row: PaperRow) -> int:
    """All weights in the model's dtype, unquantized."""
    dtype = _model(row).dtype
    return _shape(row).parameters * (2 if dtype == "auto" else getattr(torch, dtype).itemsize)


def bits_per_parameter(row: PaperRow) -> float:
    """What a quantized weight takes with its block constants, over all quantized matrices: 4 + 32/64 = 4.5 bits with
    one float32 constant a block of 64, and 4 + 8/64 + 32/(64 * 256) = 4.127 with the constants quantized in blocks of
    256 (Dettmers et al. 2023, section 3)."""
    shape = _shape(row)
    whole = build(with_layers(shape.config, 1), torch.bfloat16, shape.spec.trust_remote_code)
    linear = {n: m.weight.numel() for n, m in whole.named_modules() if isinstance(m, torch.nn.Linear)}
    small = quantized(whole, row.quantization, torch.bfloat16, torch.bfloat16)
    packed = {
        n: m.weight for n, m in small.named_modules() if n in linear and m.weight.dtype in (torch.uint8, torch.int8)
    }
    if not packed:
        raise LorabenchError(
            f"quantization {row.quantization.name} stores no weight in fewer bits; allowed: int8, fp4, nf4"
        )
    packed_bytes = sum(w.numel() * w.element_size() for w in packed.values()) + sum(
        t.numel() * t.element_size() for t in quantization_tensors(small)
    )
    return 8 * packed_bytes / sum(linear[n] for n in packed)


def peak_bytes(row: PaperRow) -> int:
    """The highest point of a training step on a CUDA card, with what the framework keeps."""
    setting, step = _step(row)
    return sum(with_framework(step, setting).values())


def step_bytes(row: PaperRow) -> int:
    """The same of tensors alone, without what the framework keeps."""
    return _step(row)[1].peak_bytes


def base_bytes(row: PaperRow) -> int:
    """Base weights as stored, with their constants."""
    between_steps = _step(row)[1].persistent_bytes
    return between_steps["weights"] + between_steps["quantization_state"]


def trained_bytes(row: PaperRow) -> int:
    """Adapter weights during training."""
    return _step(row)[1].persistent_bytes["adapters"]


def optimizer_bytes(row: PaperRow) -> int:
    """The optimizer's state on the device."""
    return _step(row)[1].persistent_bytes["optimizer"]


def activation_bytes(row: PaperRow) -> int:
    """Activations and logits at the step's highest point."""
    parts = _step(row)[1].parts
    return parts["activations"] + parts["logits"]


QUANTITIES: dict[str, Callable[[PaperRow], float]] = {
    f.__name__: f
    for f in (
        trainable_parameters, square_matrix_parameters, adapter_bytes, weight_bytes, parameter_bytes,
        bits_per_parameter, peak_bytes, step_bytes,
        base_bytes, trained_bytes, optimizer_bytes, activation_bytes,
    )
}  # fmt: skip


def _model(row: PaperRow) -> ModelSpec:
    assert row.model is not None  # read_paper has seen to it
    return row.model


def _shape(row: PaperRow) -> ModelShape:
    return _shape_of(_model(row))


@cache
def _shape_of(model: ModelSpec) -> ModelShape:
    """One for all rows of a model."""
    return ModelShape(model)


def _step(row: PaperRow) -> tuple[TrainConfig, StepProfile]:
    setting = TrainConfig(_model(row), row.quantization, used(row.method), row.training, "cuda", shape=_shape(row))
    return setting, _traced(setting)


@cache
def _traced(setting: TrainConfig) -> StepProfile:
    check(setting)
    return predict_step(setting)
