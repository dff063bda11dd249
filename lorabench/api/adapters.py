"""Adapters trained on a model that the caller has loaded, several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lorabench.config.adapter import AdapterSetting
    from lorabench.workflows.adapter_training import TrainedAdapter


def train_adapters(
    model: PreTrainedModel,
    adapters: Sequence[AdapterSetting],
    rows: Sequence[Mapping[str, Any]],
    *,
    out: str | Path,
) -> list[TrainedAdapter]:
    """Trains adapters on one frozen base, all at once where they may: each learns what it would learn alone.

    Settings that agree in steps, batch size, accumulation, sequence length, checkpointing, precision, loss and
    optimizer (adamw or sgd) share every pass over the base; they may differ in method, rank, alpha, dropout, target
    modules, learning rate, schedule, decay, clipping and seed. The others are trained one by one, and so is pissa over
    a base in 16 bits. An adapter whose loss or gradient is not finite stops alone.

    Args:
        model: what transformers.AutoModelForCausalLM.from_pretrained returned, quantized or not; it is as it was
            afterwards.
        adapters: what is to be trained, one setting each.
        rows: tokenized, with input_ids, and labels where not every token is predicted (-100 for those that are not).
        out: folder; each adapter is saved in PEFT's format in a folder of it that is named by its place, 0, 1, 2.
    Returns:
        list: a TrainedAdapter for each setting, in their order, with its curve, final loss and folder.
    Raises:
        LorabenchError: a setting, a row or the model cannot be trained.
    Example:
        >>> import tempfile, transformers, lorabench as lb
        >>> model = transformers.AutoModelForCausalLM.from_pretrained("lorabench/models/tiny-300k")
        >>> rows = [{"input_ids": [5, 9, 11, 30, 7, 12]}, {"input_ids": [8, 4, 6, 10]}]
        >>> settings = [
        ...     lb.AdapterSetting(method={"rank": r}, training={"steps": 2, "batch_size": 2}) for r in (2, 8)
        ... ]
        >>> [t.pack for t in lb.train_adapters(model, settings, rows, out=tempfile.mkdtemp())]
        [2, 2]
    """
    from lorabench.workflows import adapter_training

    return adapter_training.train_adapters(model, adapters, rows, Path(out))
