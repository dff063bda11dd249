"""One process of a sharded training (engine.sharded): python -m lorabench.engine.sharded_rank CELL.json WEIGHTS

    rows       process i of n takes rows i, i + n, ... of each micro-batch; one that has none passes a row of which
               nothing is predicted, since all take part in gathering
    loss       sum of -log p over its predicted tokens / the predicted tokens of the whole step; times n, since FSDP
               takes the mean of the processes' gradients where one process has their sum
    norm       of the whole gradient, by accelerate

accelerate shards the model layer by layer (fully_shard); it does so on GPUs alone, so that on a CPU its state is told
that it shall. Precision is that of `train`: weights as the cell resolves them, autocast around the loss.

Standard output carries JSON lines: events, of the first process, then what was learned, or a fault. What libraries
print goes to standard error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from safetensors.torch import save_file

from lorabench import plugins
from lorabench.config.study import Cell
from lorabench.engine.attention_backward import float32_attention_backward
from lorabench.engine.batches import Layout, batches, collate
from lorabench.engine.checkpoint import StepRecord, TrainingProgress
from lorabench.engine.data import Example, task_data
from lorabench.engine.events import Event
from lorabench.engine.library_messages import quiet
from lorabench.engine.loss import LOSSES, Loss
from lorabench.engine.measure import Clock, PhaseMeter, is_out_of_memory
from lorabench.engine.model import load_base, load_tokenizer, resolve_autocast
from lorabench.engine.train import CausalModel, Diverged, learning_rate, make_optimizer, mixed_precision
from lorabench.formatting import error_line

Tell = Callable[[dict[str, Any]], None]


def main(cell_file: Path, weights: Path, tell: Tell) -> None:
    """Trains, tells what came of it, and leaves the weights in a file."""
    cell = Cell.model_validate_json(cell_file.read_text(encoding="utf-8"))
    accelerator = sharding_accelerator()
    where, rank = accelerator.device, accelerator.process_index
    if where.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)  # as a cell alone
    data = task_data(cell, load_tokenizer(cell.model)).train
    model = _alone_first(accelerator, lambda: _trainable(cell))
    layout = Layout(int(load_tokenizer(cell.model).pad_token_id), labelled=cell.training.loss != "full")
    progress, diverged = TrainingProgress(), None
    try:
        with PhaseMeter(where) as meter:
            model = _train(cell, model, data, layout, progress, accelerator, tell)
        _save(model, accelerator, weights)
    except Diverged as e:  # in all processes at the same step
        diverged = {"step": e.step, "what": e.what}
    peaks = {"train_peak_bytes": meter.peak_bytes, "train_reserved_bytes": meter.reserved_bytes}
    tell(
        {
            "rank": rank,
            "peaks": {name: peak for name, peak in peaks.items() if peak is not None},
            "curve": [dataclasses.astuple(s) for s in progress.curve],
            "tokens": progress.tokens,
            "positions": progress.positions,
            "diverged": diverged,
        }
    )
    torch.distributed.destroy_process_group()


def sharding_accelerator() -> Accelerator:
    """accelerate's, for fully_shard on GPUs or CPUs."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), fsdp_plugin=plugin)
    if accelerator.device.type == "cpu":
        accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    return accelerator


def _alone_first(accelerator: Accelerator, load: Callable[[], CausalModel]) -> CausalModel:
    """Loads in one process after another, so that the files are read from the system's cache from the second on."""
    for rank in range(accelerator.num_processes):
        if rank == accelerator.process_index:
            model = load()
        accelerator.wait_for_everyone()
    return model


def _trainable(cell: Cell) -> CausalModel:
    """On the host: sharding moves it to the GPU layer by layer."""
    with quiet():
        model: CausalModel = plugins.load("methods", cell.method.name).attach(
            load_base(cell, torch.device("cpu")), cell.method, []
        )
    return model


def _train(
    cell: Cell,
    model: CausalModel,
    data: Sequence[Example],
    layout: Layout,
    progress: TrainingProgress,
    accelerator: Accelerator,
    tell: Tell,
) -> CausalModel:
    """The steps of engine.train, each process with its own rows; ends alike in all of them."""
    spec, where = cell.training.over(len(data)), accelerator.device
    autocast, rows = resolve_autocast(cell, where), batches(data, spec.batch_size, cell.seed)
    model.train()
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model, optimizer = accelerator.prepare(model, make_optimizer(list(model.parameters()), spec))
    torch.manual_seed(cell.seed)
    loss_of, clock = LOSSES[cell.training.loss], Clock(where)
    for step in range(1, spec.steps + 1):
        rate = learning_rate(spec, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        micro = [next(rows) for _ in range(spec.gradient_accumulation)]
        with float32_attention_backward(where):
            loss, norm = _take_step(model, optimizer, micro, spec.max_grad_norm, layout, accelerator, autocast, loss_of)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(step, "loss" if not math.isfinite(loss) else "gradient")
        tokens = sum(len(e.ids) for part in micro for e in part)
        progress.tokens += tokens
        progress.positions += sum(len(part) * max(len(e.ids) for e in part) for part in micro)
        progress.curve.append(StepRecord(step, loss, rate, norm, clock.seconds(), tokens))
        if accelerator.is_main_process:
            speed = progress.tokens / progress.seconds
            tell({"event": dataclasses.asdict(Event(cell.id, "train", step, spec.steps, loss, speed))})
    return model


def _take_step(
    model: CausalModel,
    optimizer: Any,
    micro: Sequence[Sequence[Example]],
    max_grad_norm: float,
    layout: Layout,
    accelerator: Accelerator,
    autocast: torch.dtype | None,
    loss_of: Loss,
) -> tuple[float, float]:
    """One optimizer step; (loss, gradient norm before clipping) of all processes' rows."""
    where, processes = accelerator.device, accelerator.num_processes
    predicted = max(1, sum(int(e.predicted[1:].sum()) for part in micro for e in part))
    total = torch.zeros((), device=where)
    for part in micro:
        own = part[accelerator.process_index :: processes] or [_silent(part[0])]
        with mixed_precision(where, autocast):
            loss = loss_of(model, collate(own, layout, where)) / predicted
        accelerator.backward(loss * processes)
        total += loss.detach()
        del loss
    norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    torch.distributed.all_reduce(total)
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    loss_now, norm_now = torch.stack([total, whole.float().to(where)]).tolist()
    if math.isfinite(loss_now) and math.isfinite(norm_now):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss_now, norm_now


def _silent(example: Example) -> Example:
    """The same row with nothing to be predicted."""
    return dataclasses.replace(example, predicted=np.zeros_like(example.predicted))


def _save(model: CausalModel, accelerator: Accelerator, weights: Path) -> None:
    """Every weight whole, one after another, by the first process; tied ones once."""
    whole: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        gathered = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        if accelerator.is_main_process:
            whole[name] = gathered.detach().cpu().contiguous()
        del gathered
    if accelerator.is_main_process:
        save_file(whole, weights)


def _end_with_parent() -> None:
    """Standard input is the runner's: its end is the runner's death."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log

    def tell(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), tell)
    except Exception as e:
        traceback.print_exc()
        kind = "OutOfMemoryError" if is_out_of_memory(e) else type(e).__name__
        with contextlib.suppress(BrokenPipeError):
            tell({"fault": {"kind": kind, "message": error_line(e, 500)}})
        os._exit(1)
