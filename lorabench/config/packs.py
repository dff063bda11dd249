"""Which cells may train together on one frozen base, as far as settings tell."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorabench.config.settings import MethodSpec, TrainingSpec
    from lorabench.config.study import Cell

METHODS = ("lora", "rslora", "dora", "pissa")
OPTIMIZERS = ("adamw", "sgd")  # of 8-bit ones the blocks that share a constant would be others
SHARED = (
    "steps",
    "epochs",
    "batch_size",
    "gradient_accumulation",
    "sequence_length",
    "gradient_checkpointing",
    "autocast",
    "optimizer",
    "loss",
    "padding_free",
)
"""fields of TrainingSpec in which the adapters of a pack agree; learning rate, schedule, warm-up, decay and clipping
are each one's own"""


def training_key(method: MethodSpec, training: TrainingSpec, wide: bool) -> tuple[Hashable, ...] | None:
    """Equal for trainings that may share their passes over one base and one set of rows; None for one that may not.

    wide: whether the base is in float32; in 16 bits each pissa has a base of its own, rounded to them.
    """
    if method.name not in METHODS or training.optimizer not in OPTIMIZERS or training.steps == 0:
        return None
    if (method.name == "pissa" and not wide) or method.target_parameters:
        return None
    return tuple(getattr(training, name) for name in SHARED)


def pack_key(cell: Cell) -> tuple[Hashable, ...] | None:
    """Equal for cells that may train as a pack: the same base, storage, data and passes; None for one that may not."""
    declared = cell.model.dtype
    wide = declared == "float32" or (declared == "auto" and not cell.fingerprints.large)
    key = training_key(cell.method, cell.training, wide)
    if key is None or cell.training.time_limit is not None:  # which a pack's first cell would spend for all
        return None
    parts = (cell.model, cell.quantization, cell.task, cell.evaluation, cell.fingerprints)
    return (*key, bool(cell.tuned_over), *(part.model_dump_json() for part in parts))
