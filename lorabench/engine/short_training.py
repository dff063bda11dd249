"""What a few steps of an adapter learn: the cell's own training, cut short."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorabench import plugins
from lorabench.engine.adapt import peft_targets
from lorabench.engine.cell_context import CellContext, LoadedCell
from lorabench.engine.library_messages import quiet
from lorabench.engine.train import train
from lorabench.engine.weight_deltas import adapter_deltas, start_factors
from lorabench.record.spectrum import Values
from lorabench.spectra.decompose import factor_singular_values


def learned_values(
    context: CellContext, loaded: LoadedCell, targets: Sequence[str], steps: int, rank: int
) -> dict[str, Values]:
    """Singular values (rank,) of what LoRA of a rank learns in some steps, by module; the base is as it was afterwards.

    Learning rate, batch, seed and alpha are the cell's; the schedule is constant, since the end of a training that is
    cut short is no end. Diverged where a loss is not finite.
    """
    cell = context.cell
    method = cell.method.model_copy(update={"name": "lora", "rank": rank})
    spec = cell.training.over(len(loaded.data.train))
    spec = spec.model_copy(update={"steps": steps, "epochs": None, "schedule": "constant", "warmup": 0.0})
    torch.manual_seed(cell.seed)
    with quiet():
        model = plugins.load("methods", "lora").attach(loaded.model, method, peft_targets(loaded.model, tuple(targets)))
    start = start_factors(model)
    train(
        model,
        loaded.data.train,
        spec,
        seed=cell.seed,
        layout=loaded.layout,
        where=context.device,
        autocast=context.autocast,
        on_step=lambda step, tokens: None,
        loss_of=loaded.loss,
    )
    values = {
        delta.module: factor_singular_values(delta.a, delta.b, delta.scaling).detach().cpu().numpy()
        for delta in adapter_deltas(model, start)
        if delta.a is not None and delta.b is not None
    }
    with quiet():
        model.unload()
    return values
