"""Several adapters trained at once on one frozen base: the steps that `train` takes with each alone.

    loss_k = sum of -log p over the predicted tokens of adapter k / their number      from one forward pass of all
    one backward pass of their sum: no parameter belongs to two adapters, so each gets the gradient of its own loss
    clipping by each adapter's own norm; one AdamW or SGD with groups of its own, and so with rates and decay

The rows of a pass are those of all adapters, each in the order of its own seed; they lie end to end where attention is
computed row by row and none has dropout, padded to the longest of all elsewhere. An adapter whose loss or gradient is
not finite stops with the weights it had; its rows stay in the passes, so that its neighbours' numbers are the same to
the last bit whether it stopped or not.

What sees more than one row at once would break that, and is refused by `unpackable`: experts (their products take the
rows of all), rotary embeddings that follow the longest row, dropout of the base's own. 8-bit optimizers are, too: the
blocks that share a constant would be others.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from lorabench.config.settings import TrainingSpec
from lorabench.engine.attention_backward import float32_attention_backward
from lorabench.engine.batches import Batch, Layout, batches, collate, lies_end_to_end, skip_batches
from lorabench.engine.checkpoint import StepRecord, TrainingProgress
from lorabench.engine.data import Example
from lorabench.engine.experts import has_experts
from lorabench.engine.loss import Loss, token_loss
from lorabench.engine.measure import Clock
from lorabench.engine.pack_checkpoint import PackCheckpoint
from lorabench.engine.packed_adapters import AdapterStart, Bucket, Learned, bucketed
from lorabench.engine.packed_joined import joined_packs
from lorabench.engine.packed_layers import Streams, packed
from lorabench.engine.row_attention import attention_by_rows
from lorabench.engine.train import CausalModel, Diverged, learning_rate, mixed_precision
from lorabench.errors import ModelError

if TYPE_CHECKING:
    from lorabench.engine.packed_evaluation import HeldOut


@dataclass
class PackedTraining:
    """What became of one adapter of a pack."""

    learned: Learned
    """its parameters after the last step that it took"""
    progress: TrainingProgress
    """seconds are those of the whole pack"""
    diverged: Diverged | None
    cells: int
    """adapters of the pack"""
    held_out: HeldOut | None = None
    """what it was measured at beside the others, where that paid"""

    def on_host(self) -> PackedTraining:
        """The same with its parameters off the device."""
        return replace(self, learned=self.learned.on_host())


@dataclass
class Member:
    """An adapter while it trains."""

    start: AdapterStart
    spec: TrainingSpec
    layout: Layout
    """of its rows alone"""
    order: Iterator[list[Example]]
    bucket: Bucket
    place: int
    """in the bucket"""
    progress: TrainingProgress = field(default_factory=TrainingProgress)
    diverged: Diverged | None = None

    def __post_init__(self) -> None:
        own, grads, matrices = self.bucket.values[self.place], self.bucket.grads[self.place], self.bucket.matrices
        self.parameters = [torch.nn.Parameter(own[:matrices]), torch.nn.Parameter(own[matrices:])]
        """its matrices, which decay, and its magnitudes, which do not and of which there may be none"""
        self.grads = [grads[:matrices], grads[matrices:]]

    def training(self, cells: int) -> PackedTraining:
        return PackedTraining(self.bucket.learned(self.place), self.progress, self.diverged, cells)


def unpackable(model: CausalModel) -> str | None:
    """Why adapters of a model have to be trained one by one; None where they can be packed."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    if has_experts(config):
        return "its experts compute with the rows of all adapters at once"
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if any("dynamic" in str(kind) or "longrope" in str(kind) for kind in _kinds(rotary)):
        return "its rotary embedding follows the longest row of a batch"
    own = [n for n, v in vars(config).items() if "drop" in n and isinstance(v, float) and v > 0]
    own += [n for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    return f"it has dropout of its own ({own[0]})" if own else None


def _kinds(rotary: object) -> Iterator[object]:
    if isinstance(rotary, dict):
        for name, value in rotary.items():
            if name in ("rope_type", "type"):
                yield value
            yield from _kinds(value)


def train_packed(
    model: CausalModel,
    adapters: Sequence[AdapterStart],
    examples: Sequence[Example],
    specs: Sequence[TrainingSpec],
    *,
    seeds: Sequence[int],
    layout: Layout,
    where: torch.device,
    autocast: torch.dtype | None,
    on_step: Callable[[int, int, float], None] = lambda step, tokens, seconds: None,
    loss_of: Loss = token_loss,
    checkpoint: PackCheckpoint | None = None,
) -> list[PackedTraining]:
    """Trains adapters on a bare frozen model, which is as it was afterwards; in their order what became of each.

    specs: of each adapter; they agree in config.packs.SHARED.
    seeds: of the order of each adapter's rows.
    on_step: gets each step, the tokens of all adapters so far and the seconds.
    checkpoint: what a killed pack goes on from, and what is left of this one.
    """
    spec = specs[0]
    padded = replace(layout, end_to_end=None)
    layouts = [padded if adapter.dropout else layout for adapter in adapters]
    together = padded if not layout.by_rows or padded in layouts else layout
    order, buckets = bucketed(adapters, spec.batch_size * max(len(e.ids) for e in examples))
    members = [
        Member(adapters[i], specs[i], layouts[i], batches(examples, specs[i].batch_size, seeds[i]), b, p)
        for i, (b, p) in zip(order, ((b, p) for b in buckets for p in range(len(b.adapters))), strict=True)
    ]
    optimizer = _optimizer(members)
    streams = Streams.seeded([m.start.seed for m in members], where)
    model.train()
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with packed(model, buckets, streams), joined_packs(model, int(examples[0].ids[0])):
        begun = checkpoint.resume(members, optimizer, streams) if checkpoint is not None else 0
        for member in members:
            skip_batches(member.order, begun * spec.gradient_accumulation)
        before, clock = max(m.progress.seconds for m in members), Clock(where)
        for step in range(begun + 1, spec.steps + 1):
            micro = [_pass(members, together, where) for _ in range(spec.gradient_accumulation)]
            losses, norms = _step(model, members, buckets, micro, streams, optimizer, step, autocast, loss_of)
            _record(members, micro, losses, norms, step, before + clock.seconds())
            if all(m.diverged for m in members):
                break
            on_step(step, sum(m.progress.tokens for m in members), before + clock.seconds())
            if checkpoint is not None:
                checkpoint.after(step, members, optimizer, streams)
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_disable()
    model.eval()
    trained = {index: member.training(len(members)) for index, member in zip(order, members, strict=True)}
    results = [trained[index] for index in range(len(adapters))]
    if checkpoint is not None:
        checkpoint.done(results)
    return results


@dataclass(frozen=True)
class _Pass:
    """The rows of one forward pass: those of an adapter beside each other."""

    batch: Batch
    drawn: list[list[Example]]
    """by adapter"""
    layouts: list[Layout]
    """of each adapter's rows alone"""

    def begin(self, streams: Streams) -> None:
        """Tells the layers of it."""
        if self.batch.positions is None:
            longest = [max(len(e.ids) for e in rows) for rows in self.drawn]
            streams.begin(len(self.drawn[0]), self.batch.ids.shape[1], longest)
        else:
            streams.begin_end_to_end(self.tokens)

    @cached_property
    def tokens(self) -> list[int]:
        """of each adapter"""
        return [sum(len(e.ids) for e in rows) for rows in self.drawn]

    @cached_property
    def positions(self) -> list[int]:
        """of each adapter, with the padding that it would have alone"""
        lengths = [[len(e.ids) for e in rows] for rows in self.drawn]
        each = zip(lengths, self.layouts, strict=True)
        return [sum(own) if lies_end_to_end(own, layout) else len(own) * max(own) for own, layout in each]

    @property
    def predicted(self) -> torch.Tensor:
        """(adapters,) labels"""
        return torch.tensor([sum(int(e.predicted[1:].sum()) for e in rows) for rows in self.drawn])

    def losses(self, table: torch.Tensor) -> torch.Tensor:
        """(adapters,) the sums of a table of losses (rows, length)"""
        if self.batch.positions is None:
            return table.view(len(self.drawn), -1).sum(1)
        return torch.stack([own.sum() for own in table.flatten().split(self.tokens)])


def _pass(members: Sequence[Member], layout: Layout, where: torch.device) -> _Pass:
    drawn = [next(m.order) for m in members]
    return _Pass(collate([e for rows in drawn for e in rows], layout, where), drawn, [m.layout for m in members])


def _step(
    model: CausalModel,
    members: Sequence[Member],
    buckets: Sequence[Bucket],
    micro: Sequence[_Pass],
    streams: Streams,
    optimizer: torch.optim.Optimizer,
    step: int,
    autocast: torch.dtype | None,
    loss_of: Loss,
) -> tuple[list[float], list[float]]:
    """One optimizer step; loss and gradient norm before clipping of each adapter."""
    where = micro[0].batch.ids.device
    predicted = torch.stack([p.predicted for p in micro]).sum(0).clamp(min=1).to(where)
    total = torch.zeros(len(members), device=where)
    for bucket in buckets:
        bucket.grads.zero_()
    for part in micro:
        part.begin(streams)
        with float32_attention_backward(where), attention_by_rows(part.batch.lengths) as by_rows:
            with mixed_precision(where, autocast):
                table = loss_of(model, part.batch, "none")
                losses = part.losses(table) / predicted
            streams.forget()
            if by_rows is not None and by_rows.left:
                raise ModelError("rows end to end see each other in its attention, so that adapters cannot be packed")
            with warnings.catch_warnings():  # that gradients are views of a buffer, which they are meant to be
                warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract")
                losses.sum().backward()
        streams.forget()
        total = total + losses.detach()
        del table, losses  # their graph: bitsandbytes' int8 layers keep their inputs in it, beyond the backward pass
    norms = torch.cat([torch.linalg.vector_norm(b.grads, dim=1) for b in buckets])
    limits = torch.tensor([m.spec.max_grad_norm for m in members], dtype=norms.dtype, device=where)
    clip = (limits / (norms + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
    for bucket in buckets:
        bucket.grads.mul_(clip[bucket.first : bucket.last, None])
    losses_now, norms_now = torch.stack([total.double(), norms.double()]).tolist()  # one synchronisation for all
    for member, loss, norm in zip(members, losses_now, norms_now, strict=True):
        if member.diverged is None and not (math.isfinite(loss) and math.isfinite(norm)):
            member.diverged = Diverged(step, "loss" if not math.isfinite(loss) else "gradient")
        for parameter, grad in zip(member.parameters, member.grads, strict=True):
            parameter.grad = None if member.diverged else grad
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(members[group["member"]].spec, step)
    optimizer.step()
    return losses_now, norms_now


def _record(
    members: Sequence[Member],
    micro: Sequence[_Pass],
    losses: Sequence[float],
    norms: Sequence[float],
    step: int,
    seconds: float,
) -> None:
    for place, member in enumerate(members):
        if member.diverged is None:
            done = member.progress
            tokens = sum(p.tokens[place] for p in micro)
            done.tokens += tokens
            done.positions += sum(p.positions[place] for p in micro)
            lr = learning_rate(member.spec, step)
            done.curve.append(StepRecord(step, losses[place], lr, norms[place], seconds, tokens))


def _optimizer(members: Sequence[Member]) -> torch.optim.Optimizer:
    groups = [
        {"params": [parameter], "lr": m.spec.fixed_learning_rate, "weight_decay": decay, "member": place}
        for place, m in enumerate(members)
        for parameter, decay in zip(m.parameters, (m.spec.weight_decay, 0.0), strict=True)
        if parameter.numel()
    ]
    if members[0].spec.optimizer == "sgd":
        return torch.optim.SGD(groups)
    return torch.optim.AdamW(groups, fused=True)
