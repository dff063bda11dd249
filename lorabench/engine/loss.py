"""The loss of a batch, and which hidden states go through the head for it.

    full        all of them; a float32 copy of all logits            (rows * length, vocabulary)
    labelled    those that predict a label                           (labels, vocabulary)
    chunked     the same, CHUNK at a time; each chunk's logits are made again in the backward pass (Chen et al. 2016,
                "Training Deep Nets with Sublinear Memory Cost")     (CHUNK, vocabulary)

All three are the same sum of -log p(label), to rounding. A prompt is no label: of SST-2's rows one position in 25 is,
and the head is a fifth of a 135M model's products. Positions are left out by a hook on the head, so that whatever a
model does to its logits afterwards (soft capping, scaling) is done to those that are left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from lorabench.engine.batches import IGNORED, Batch
from lorabench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 1024
"""labels whose logits are held at once: 0.5 GB of float32 at a vocabulary of 128,256"""

Loss = Callable[..., torch.Tensor]
"""token_loss, or another of its parameters"""


def token_loss(model: PreTrainedModel, batch: Batch, reduction: str = "sum") -> torch.Tensor:
    """-log p of the labels, in nats, in float32 at least: their sum, or with reduction "none" the (rows, length) table.

    Labels are shifted, not logits: a slice of the logits would have to be copied (rows x length x vocabulary).
    """
    targets = _targets(batch)
    if batch.predicting is None:
        logits = model(**batch.inputs).logits.flatten(0, 1)
    else:
        logits, targets = labelled_logits(model, batch, batch.predicting), targets[batch.predicting]
    loss = F.cross_entropy(single(logits), targets, ignore_index=IGNORED, reduction=reduction)
    return loss if reduction == "sum" else _table(loss, batch)


def single(logits: torch.Tensor) -> torch.Tensor:
    """Logits in float32, where they are not wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def labelled_logits(model: PreTrainedModel, batch: Batch, predicting: torch.Tensor) -> torch.Tensor:
    """The logits (labels, vocabulary) at flat positions of a batch, which may come more than once."""
    seen = _Head(batch, predicting)
    with seen.on(model):
        logits: torch.Tensor = model(**batch.inputs).logits
    # a model that multiplies by the head's weight itself calls no head
    return logits.flatten(0, 1) if seen.called else logits.flatten(0, 1).index_select(0, predicting)


def chunked_loss(model: PreTrainedModel, batch: Batch, reduction: str = "sum") -> torch.Tensor:
    """token_loss, CHUNK labels at a time; for models in which nothing follows the head (`refuse_chunks`)."""
    predicting, targets = batch.predicting, _targets(batch)
    if predicting is None:
        predicting = torch.arange(batch.ids.numel(), device=batch.ids.device)
    seen = _Head(batch, predicting, withheld=True)
    with seen.on(model):
        model(**batch.inputs)
    head = _head(model)

    def losses(hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(single(head(hidden).flatten(0, 1)), labels, ignore_index=IGNORED, reduction="none")

    parts = zip(seen.hidden.split(CHUNK, dim=1), targets[predicting].split(CHUNK), strict=True)
    each = torch.cat([checkpoint(losses, hidden, labels, use_reentrant=False) for hidden, labels in parts])
    if reduction == "sum":
        return each.sum()
    return _table(each, batch, predicting)


LOSSES: dict[str, Loss] = {"full": token_loss, "labelled": token_loss, "chunked": chunked_loss}
"""by training.loss; full and labelled differ in what the batch says (batches.Layout)"""


@torch.no_grad()
def refuse_chunks(model: PreTrainedModel, name: str) -> None:
    """ModelError where a model does more to a hidden state than to multiply it by its head's weight."""
    ids = torch.arange(1, 5, device=model.device)[None]
    batch = Batch(ids, ids, 4, torch.arange(4, device=model.device))
    assert batch.predicting is not None
    seen = _Head(batch, batch.predicting)
    with seen.on(model):
        logits = model(input_ids=ids).logits
    if not (seen.called and torch.equal(_head(model)(seen.hidden), logits)):
        raise ModelError(
            f"{name} does more to its logits than its head does (soft capping or scaling), which training.loss: "
            "chunked would leave out; use labelled or full"
        )


class _Head:
    """Lets given positions alone pass a model's head, or none of them, and keeps the hidden states (1, n, hidden)."""

    def __init__(self, batch: Batch, positions: torch.Tensor, withheld: bool = False) -> None:
        self._shape, self._positions, self._withheld = batch.ids.shape, positions, withheld
        self.called = False
        self.hidden: torch.Tensor

    def on(self, model: PreTrainedModel) -> torch.utils.hooks.RemovableHandle:
        """The hook, for as long as a `with` lasts."""
        return _head(model).register_forward_pre_hook(self._pick)

    def _pick(self, head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        hidden, *more = inputs
        if hidden.shape[:2] != self._shape:
            return None
        self.called = True
        self.hidden = hidden.flatten(0, 1).index_select(0, self._positions)[None]
        return (self.hidden[:, :0] if self._withheld else self.hidden, *more)


def _head(model: PreTrainedModel) -> Any:
    return model.get_output_embeddings()


def _targets(batch: Batch) -> torch.Tensor:
    return F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED).flatten()


def _table(losses: torch.Tensor, batch: Batch, predicting: torch.Tensor | None = None) -> torch.Tensor:
    """Losses of labels at their places in a (rows, length) table."""
    positions = batch.predicting if predicting is None else predicting
    if positions is None:
        return losses.view(batch.labels.shape)
    return losses.new_zeros(batch.labels.numel()).index_copy(0, positions, losses).view(batch.labels.shape)
