"""What the libraries made of a cell's settings, recorded beside what was declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lorabench.config.checkpoint import local_folder
from lorabench.config.gguf_file import gguf_of
from lorabench.config.study import Cell
from lorabench.engine.data import TaskData
from lorabench.engine.model import check_stored, meta_model, resolve_dtype, resolve_product_dtype
from lorabench.engine.parameter_targets import resolve_parameters
from lorabench.engine.precision import resolve_eval_dtype
from lorabench.engine.weight_deltas import adapted_layers
from lorabench.record.result import Resolved
from lorabench.record.unreached import Unreached

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def resolved(
    cell: Cell,
    model: PreTrainedModel,
    targets: tuple[str, ...],
    data: TaskData,
    autocast: torch.dtype | None,
    left: Unreached | None,
    base_kept: bool,
    padding_free: bool,
) -> Resolved:
    """The facts of an adapted model; `left` is what of its base neither bitsandbytes nor LoRA reaches, recorded where
    either was asked for; `base_kept` whether the process had the base of an earlier cell; `padding_free` whether rows
    may lie end to end in training.
    """
    quantized = cell.quantization.name != "none"
    scaling = next((layer.scaling["default"] for _, layer in adapted_layers(model)), None)
    return Resolved(
        dtype=_name(resolve_dtype(cell)),
        compute_dtype=_name(resolve_product_dtype(cell)) if quantized else None,
        autocast=_name(autocast) if autocast else None,
        eval_dtype=_name(resolve_eval_dtype(cell)),
        steps=cell.training.over(len(data.train)).steps or None,
        optimizer=cell.training.optimizer if cell.training.steps else None,
        scaling=scaling,
        target_modules=targets,
        target_parameters=tuple(resolve_parameters(meta_model(cell.model), cell.method.target_parameters)),
        packing=data.packing,
        train_examples=len(data.train),
        test_examples=len(data.test),
        data=data.facts,
        model_class=type(meta_model(cell.model)).__name__,
        stored_quantised=check_stored(cell) is not None or None,
        stored_type=_gguf_type(cell),
        unreached=left if quantized or targets else None,
        base_kept=base_kept or None,
        padding_free=padding_free or None,
    )


def _gguf_type(cell: Cell) -> str | None:
    folder = local_folder(cell.model.name, cell.model.revision)
    gguf = gguf_of(folder) if folder else None
    return gguf.type if gguf else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
