"""The training loop: plain PyTorch, readable top to bottom.

    loss = sum of -log p(token) over the predicted tokens of all micro-batches / their number
    lr(step) = learning_rate * warm-up(step) * course(step), set before the step

The mean is over the tokens of the whole step, so gradient accumulation gives the gradient of one large
batch (a mean of means does not, where rows have different numbers of labels).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lorabench.config.settings import TrainingSpec
from lorabench.engine.attention_backward import float32_attention_backward
from lorabench.engine.batches import Batch, Layout, batches, collate, skip_batches
from lorabench.engine.checkpoint import Checkpoints, StepRecord, TrainingProgress
from lorabench.engine.data import Example
from lorabench.engine.joined_adapters import joined_adapters
from lorabench.engine.loss import Loss, token_loss
from lorabench.engine.measure import Clock, LiveBytes, held_tensors
from lorabench.engine.row_attention import attention_by_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


FEW = 8  # tokens of the pass in which adapters with the same input are found


class Diverged(Exception):
    """A loss or gradient that is not finite; the step is counted from 1."""

    def __init__(self, step: int, what: str) -> None:
        remedy = (
            "before any learning rate took effect: the base, its dtype or the data are at fault"
            if step == 1
            else "a lower learning rate is the usual remedy"
        )
        super().__init__(f"the {what} was not finite at step {step}{',' if step == 1 else ';'} {remedy}")
        self.step, self.what = step, what


CausalModel = Any
"""a transformers model that generates text, or PEFT's PeftModel around one, which passes on its attributes: no type
of either library says so"""


def train(
    model: PreTrainedModel,
    examples: Sequence[Example],
    spec: TrainingSpec,
    *,
    loss_of: Loss = token_loss,
    seed: int,
    layout: Layout,
    where: torch.device,
    autocast: torch.dtype | None,
    on_step: Callable[[StepRecord, int], None],
    checkpoints: Checkpoints | None = None,
) -> TrainingProgress:
    """Takes the steps that a checkpoint has not; returns the progress at the end. Diverged where loss or gradient is
    not finite.

    on_step gets each step that is taken and the tokens so far.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, spec)
    rows = batches(examples, spec.batch_size, seed)
    checkpoints = checkpoints or Checkpoints.none(where)
    done = checkpoints.resume(model, optimizer)
    skip_batches(rows, done.step * spec.gradient_accumulation)
    model.train()
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    few = torch.from_numpy(examples[0].ids[:FEW])[None].to(where)
    with joined_adapters(model, few):
        before, clock, told = done.seconds, Clock(where), 0.0
        for step in range(done.step + 1, spec.steps + 1):
            lr = learning_rate(spec, step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            micro = [collate(next(rows), layout, where) for _ in range(spec.gradient_accumulation)]
            loss, norm = take_step(model, micro, parameters, optimizer, spec.max_grad_norm, autocast, loss_of)
            if not math.isfinite(loss):
                raise Diverged(step, "loss")
            if not math.isfinite(norm):
                raise Diverged(step, "gradient")
            tokens, now = sum(b.tokens for b in micro), clock.seconds()
            done.tokens += tokens
            done.positions += sum(b.ids.numel() for b in micro)
            done.curve.append(StepRecord(step, loss, lr, norm, before + now - checkpoints.seconds - told, tokens))
            on_step(done.curve[-1], done.tokens)
            told += clock.seconds() - now  # whoever listens is no part of a step
            checkpoints.after(done, model, optimizer)
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_disable()
    model.eval()
    return done


def take_step(
    model: PreTrainedModel,
    micro: Sequence[Batch],
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float,
    autocast: torch.dtype | None,
    loss_of: Loss = token_loss,
) -> tuple[float, float]:
    """One optimizer step over its micro-batches; returns (loss, gradient norm before clipping)."""
    predicted = max(1, sum(b.predicted for b in micro))
    total = torch.zeros((), device=micro[0].ids.device)
    with float32_attention_backward(total.device):
        for batch in micro:
            with attention_by_rows(batch.lengths):  # the backward pass too, which may compute layers again
                with mixed_precision(batch.ids.device, autocast):
                    loss = loss_of(model, batch) / predicted
                loss.backward()
            total += loss.detach()
            del loss  # its graph: bitsandbytes' int8 layers keep their inputs in it, beyond the backward pass
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    loss_now, norm_now = torch.stack([total, norm.float().to(total.device)]).tolist()  # one synchronisation for both
    if math.isfinite(loss_now) and math.isfinite(norm_now):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss_now, norm_now


def peak_of_two_steps(
    model: PreTrainedModel,
    micro: Sequence[Batch],
    spec: TrainingSpec,
    autocast: torch.dtype | None,
    loss_of: Loss = token_loss,
) -> int | None:
    """The peak of live tensor bytes on a CPU over two optimizer steps, of which the second has the optimizer's state;
    None where a loss or gradient is not finite, so that no step is taken; changes weights.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.train()
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with LiveBytes(held_tensors(model)) as live:
        optimizer = make_optimizer(parameters, spec)
        for _ in range(2):
            found = take_step(model, micro, parameters, optimizer, spec.max_grad_norm, autocast, loss_of)
            if not all(map(math.isfinite, found)):
                return None
    return live.peak


def mixed_precision(where: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """Autocast to a dtype, or nothing."""
    return torch.autocast(where.type, dtype) if dtype else contextlib.nullcontext()


def learning_rate(spec: TrainingSpec, step: int) -> float:
    """The rate of a step, counted from 1: linear warm-up to the peak, then constant, or linear or half a cosine down to
    zero at the end.
    """
    warm = round(spec.warmup * spec.steps)
    if step <= warm:
        return spec.fixed_learning_rate * step / warm
    done = (step - 1 - warm) / max(1, spec.steps - warm)
    course = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[spec.schedule]
    return spec.fixed_learning_rate * course


def make_optimizer(parameters: list[torch.nn.Parameter], spec: TrainingSpec) -> torch.optim.Optimizer:
    """torch's AdamW or SGD, or bitsandbytes' 8-bit and paged AdamW; weight decay on matrices only."""
    matrices, others = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=spec.fixed_learning_rate, fused=True)
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=spec.fixed_learning_rate)
    import bitsandbytes

    kind = {"adamw-8bit": "AdamW8bit", "paged-adamw": "PagedAdamW", "paged-adamw-8bit": "PagedAdamW8bit"}[
        spec.optimizer
    ]
    return getattr(bitsandbytes.optim, kind)(groups, lr=spec.fixed_learning_rate)
