"""The losses of trainers, as the programs that they are in memory: what is kept for the backward pass, what is held at
once. Their values mean nothing; they run on the meta device.

Where a library's own code runs there, it is called. Kernels that it has for a GPU alone (Triton) are written here as
the tensors that they take and give; tests compare each with the library itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from lorabench.engine.batches import Batch
from lorabench.engine.loss import CHUNK, chunked_loss, token_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

TILE_TOKENS, TILE_VOCABULARY = 4096, 32_768  # trl/kernels/chunked_logprob.py, trl/trainer/utils.py (1.16)
TILE_ON_CPU = (13, 29)  # bytes an element that TRL's torch code for a tile holds at once, forward and backward
UNSLOTH_CHUNKS = 4  # unsloth_zoo/fused_losses/cross_entropy_loss.py, get_chunk_size: the least
TORCHTUNE_CHUNKS = 8  # torchtune/modules/loss/ce_chunked_output_loss.py (0.6), num_output_chunks


@dataclass(frozen=True)
class Inputs:
    """A micro-batch on the meta device: (batch, tokens), int64."""

    ids: torch.Tensor
    labels: torch.Tensor
    items: torch.Tensor | None
    """the number of labels, for trainers that divide the loss by it; None for loops that do not"""
    predicting: torch.Tensor | None = None
    """(labels,) int64: the positions that alone go through the head of lorabench's own loss; None: all"""
    packed: dict[str, torch.Tensor] = field(default_factory=dict)
    """what tells packed examples apart: their positions (1, tokens), and for attention without boundaries a mask
    (1, 1, tokens, tokens)"""


@dataclass(frozen=True)
class Loss:
    """A scalar to call backward on, and the outputs of the model that a loop may go on holding."""

    value: torch.Tensor
    outputs: ModelOutput | None = None


def own(model: PreTrainedModel, inputs: Inputs) -> Loss:
    """lorabench's: the sum over labels in float32, from their logits (engine.loss)."""
    return Loss(token_loss(model, _batch(inputs)) / inputs.ids.numel())


def own_chunked(model: PreTrainedModel, inputs: Inputs) -> Loss:
    """lorabench's with training.loss: chunked."""
    return Loss(chunked_loss(model, _batch(inputs)) / inputs.ids.numel())


def _batch(inputs: Inputs) -> Batch:
    return Batch(inputs.ids, inputs.labels, inputs.ids.numel(), inputs.predicting)


def transformers(model: PreTrainedModel, inputs: Inputs) -> Loss:
    """transformers' own: the model called with labels (ForCausalLMLoss: all logits, a float32 copy, cross entropy)."""
    more = {} if inputs.items is None else {"num_items_in_batch": inputs.items}
    outputs = model(input_ids=inputs.ids, labels=inputs.labels, **more, **inputs.packed)
    return Loss(outputs.loss, outputs)


def trl(model: PreTrainedModel, inputs: Inputs) -> Loss:
    """TRL's head: log-probabilities from tiles of logits, which the backward pass makes again (add_fused_lm_head)."""
    hidden, weight = _hidden_and_head(model, inputs)
    predicting = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    log_probabilities = TiledHead.apply(predicting, weight)
    return Loss(-log_probabilities.sum() / (inputs.ids.numel() if inputs.items is None else inputs.items))


def torchtune(model: PreTrainedModel, inputs: Inputs) -> Loss:
    """torchtune's CEWithChunkedOutputLoss as its configurations have it (compile: False): all chunks of logits in the
    model's dtype are there until the last one's loss is taken, and cross entropy keeps float32 log-probabilities."""
    chunks = _torchtune_chunks(model, inputs)
    labels = [part.reshape(-1) for part in inputs.labels.chunk(TORCHTUNE_CHUNKS, dim=1)]
    entropy = torch.nn.functional.cross_entropy
    losses = [entropy(chunk.float(), part, reduction="sum") for chunk, part in zip(chunks, labels, strict=True)]
    return Loss(torch.stack(losses).sum() / inputs.ids.numel())


def torchtune_compiled(model: PreTrainedModel, inputs: Inputs) -> Loss:
    """The same with compile: True: all chunks are kept in the model's dtype, and a chunk's float32 copy lives within
    the kernel of its cross entropy."""
    losses = [InPlaceCrossEntropy.apply(chunk).sum() for chunk in _torchtune_chunks(model, inputs)]
    return Loss(torch.stack(losses).sum() / inputs.ids.numel())


def _torchtune_chunks(model: PreTrainedModel, inputs: Inputs) -> list[torch.Tensor]:
    """Logits (batch * tokens of a chunk, vocabulary) of each chunk along the sequence."""
    hidden, weight = _hidden_and_head(model, inputs)
    chunks = [part @ weight.to(part.dtype).t() for part in hidden.chunk(TORCHTUNE_CHUNKS, dim=1)]
    return [chunk.reshape(-1, chunk.shape[-1]) for chunk in chunks]


def liger(model: PreTrainedModel, inputs: Inputs) -> Loss:
    """Liger's fused linear cross entropy: gradients are made chunk by chunk in the forward pass."""
    hidden, weight = _hidden_and_head(model, inputs)
    return Loss(FusedLinearCrossEntropy.apply(hidden.reshape(-1, hidden.shape[-1]), weight))


def unsloth(model: PreTrainedModel, inputs: Inputs) -> Loss:
    """unsloth_zoo's fused loss: chunks of logits in float32, gradients made in the forward pass, then scaled anew."""
    hidden, weight = _hidden_and_head(model, inputs)
    return Loss(ChunkedLinearCrossEntropy.apply(hidden.reshape(-1, hidden.shape[-1]), weight))


def cut(model: PreTrainedModel, inputs: Inputs) -> Loss:
    """Apple's cut cross entropy (Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models"): blocks of
    logits live in a kernel's own memory alone."""
    hidden, weight = _hidden_and_head(model, inputs)
    return Loss(CutCrossEntropy.apply(hidden.reshape(-1, hidden.shape[-1]), weight).sum())


PROGRAMS: dict[str, Callable[[PreTrainedModel, Inputs], Loss]] = {
    "own": own,
    "own-chunked": own_chunked,
    "transformers": transformers,
    "trl": trl,
    "trl and liger": trl,  # Liger's layers under TRL's head
    "torchtune": torchtune,
    "torchtune-compiled": torchtune_compiled,
    "liger": liger,
    "unsloth": unsloth,
    "cut": cut,
}


def linear_in_batch(program: str, tokens: int) -> bool:
    """Whether a loss's bytes lie on a line from so many tokens a micro-batch on: tiles grow until one is full, Liger's
    chunks are powers of two."""
    if program == "own-chunked":
        return tokens >= CHUNK
    return program != "liger" and (PROGRAMS[program] is not trl or tokens >= 2 * TILE_TOKENS)


def _hidden_and_head(model: PreTrainedModel, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """The last hidden states (batch, tokens, hidden), and the head's weight (vocabulary, hidden)."""
    wrapped: Any = model
    base = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    outputs = base.base_model(input_ids=inputs.ids, use_cache=False, **inputs.packed)
    return outputs.last_hidden_state, base.get_output_embeddings().weight


def _lower(tensor: torch.Tensor) -> torch.dtype:
    """The dtype of a custom function's products: autocast's where it is on, else the tensor's."""
    for device in ("cuda", "cpu"):
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
    return tensor.dtype


class TiledHead(torch.autograd.Function):
    """Log-probabilities (tokens,) of hidden states (tokens, hidden) under a head (vocabulary, hidden)."""

    device = "cuda"  # TRL's tiles are one Triton kernel there, torch's operators on a CPU

    @staticmethod
    def forward(ctx, hidden, weight):  # type: ignore[no-untyped-def]  # torch's interface has no types
        ctx.save_for_backward(hidden, weight)
        ctx.dtype = _lower(hidden)
        _tiles(hidden, weight, ctx.dtype, TILE_ON_CPU[0])
        return hidden.new_empty(len(hidden), dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        hidden, weight = ctx.saved_tensors
        sums = [
            torch.zeros(t.shape, dtype=torch.float32, device=t.device) if needed else None
            for t, needed in zip((hidden, weight), ctx.needs_input_grad, strict=True)
        ]
        _tiles(hidden, weight, ctx.dtype, TILE_ON_CPU[1])
        return tuple(None if s is None else s.to(t.dtype) for s, t in zip(sums, (hidden, weight), strict=True))


def _tiles(hidden: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype, on_cpu: int) -> None:
    """One tile of logits after another, in one buffer."""
    buffer = torch.empty((min(len(hidden), TILE_TOKENS), TILE_VOCABULARY), dtype=dtype, device=hidden.device)
    for rows in hidden.split(TILE_TOKENS):
        lowered = rows.to(dtype)
        for part in weight.split(TILE_VOCABULARY):
            tile = buffer[: len(rows), : len(part)]
            torch.mm(lowered, part.to(dtype).t(), out=tile)
            if TiledHead.device == "cpu":
                torch.empty(on_cpu * tile.numel(), dtype=torch.uint8, device=hidden.device)


class InPlaceCrossEntropy(torch.autograd.Function):
    """Losses (tokens,) of logits (tokens, vocabulary), whose gradient is written over them."""

    @staticmethod
    def forward(ctx, logits):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(logits)
        return logits.new_empty(len(logits), dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return ctx.saved_tensors[0]


class FusedLinearCrossEntropy(torch.autograd.Function):
    """The loss of hidden states (tokens, hidden) under a head (vocabulary, hidden), by chunks of
    ceil(tokens / ceil(vocabulary / hidden)) tokens, rounded up to a power of two (liger_kernel/ops,
    fused_linear_cross_entropy_forward)."""

    @staticmethod
    def forward(ctx, hidden, weight):  # type: ignore[no-untyped-def]
        shares = -(-len(weight) // hidden.shape[1])
        chunk = 1 << (-(-len(hidden) // shares) - 1).bit_length()
        dtype = _lower(hidden)
        of_hidden = torch.zeros_like(hidden)
        of_weight = torch.zeros_like(weight) if weight.requires_grad else None
        for start in range(0, len(hidden), chunk):
            rows = hidden[start : start + chunk].to(dtype)
            logits = rows @ weight.to(dtype).t()
            of_hidden[start : start + chunk] = logits @ weight.to(dtype)
            if of_weight is not None:
                of_weight += logits.t() @ rows
        ctx.save_for_backward(of_hidden, of_weight)
        return hidden.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return ctx.saved_tensors  # scaled in place


def _chunk_gradient(
    rows: torch.Tensor, weight: torch.Tensor, of_hidden: torch.Tensor, of_weight: torch.Tensor | None
) -> None:
    """The gradient of a chunk's loss, in float32 between logits and logits; nothing of it is kept."""
    logits = (rows @ weight.to(rows.dtype).t()).float()
    log_probabilities = torch.log_softmax(logits, -1)
    of_logits = torch.ops.aten._log_softmax_backward_data(logits, log_probabilities, -1, torch.float32)
    del logits, log_probabilities
    lower = of_logits.to(rows.dtype)
    of_hidden.copy_(lower @ weight.to(rows.dtype))
    if of_weight is not None:
        of_weight += lower.t() @ rows


class ChunkedLinearCrossEntropy(torch.autograd.Function):
    """The loss of hidden states (tokens, hidden) under a head (vocabulary, hidden), whose gradient is made by torch's
    own functions, chunk by chunk."""

    @staticmethod
    def forward(ctx, hidden, weight):  # type: ignore[no-untyped-def]
        dtype = _lower(hidden)
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight) if weight.requires_grad else None
        for rows, gradient in zip(hidden.chunk(UNSLOTH_CHUNKS), of_hidden.chunk(UNSLOTH_CHUNKS), strict=True):
            _chunk_gradient(rows.to(dtype), weight, gradient, of_weight)
        ctx.save_for_backward(of_hidden, of_weight)
        return hidden.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return tuple(None if t is None else t * 1.0 for t in ctx.saved_tensors)


class CutCrossEntropy(torch.autograd.Function):
    """Losses (tokens,) of hidden states (tokens, hidden) under a head (vocabulary, hidden)."""

    @staticmethod
    def forward(ctx, hidden, weight):  # type: ignore[no-untyped-def]
        lowered = hidden.to(_lower(hidden))
        ctx.save_for_backward(lowered, weight, hidden.new_empty(len(hidden), dtype=torch.float32))
        ctx.dtype = hidden.dtype
        return hidden.new_empty(len(hidden), dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        lowered, weight, _ = ctx.saved_tensors
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        return torch.empty_like(lowered).to(ctx.dtype), of_weight
