"""Learning from a teacher that differs from the base by a planted change (tasks.planted).

    delta = sigma * U V^T,   U (out, K) and V (in, K) with orthonormal columns,   sigma = scale * ||W||_F / sqrt(K)

so every change has K equal singular values and the same Frobenius norm whatever its rank; one of full rank is Gaussian,
scaled to that norm. The loss is the Kullback-Leibler divergence of Hinton et al. 2015 (temperature 1),
KL(teacher || student), summed over the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from lorabench.config.settings import QuantizationSpec
from lorabench.config.study import Cell
from lorabench.engine.adapt import resolve_targets
from lorabench.engine.batches import IGNORED, Batch
from lorabench.engine.data import Example, Planted, TaskData
from lorabench.engine.evaluate import base_text, losses, ratio_stderr
from lorabench.engine.model import load_base
from lorabench.errors import ModelError
from lorabench.record.items import Items
from lorabench.record.result import Reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_LAST: dict[tuple[object, ...], tuple[TaskData, Teacher]] = {}


class Teacher:
    """A frozen model whose distributions are learned."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def divergence(self, student: PreTrainedModel, batch: Batch, reduction: str = "sum") -> torch.Tensor:
        """KL(teacher || student) in nats over the predicted tokens: their sum, or with reduction "none" the (rows,
        length) table; the counterpart of loss.token_loss.
        """
        with torch.no_grad():
            teacher_log_probs = F.log_softmax(self.model(input_ids=batch.ids).logits.float(), dim=-1)
        student_log_probs = F.log_softmax(student(input_ids=batch.ids).logits.float(), dim=-1)
        counted = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED) != IGNORED
        each = F.kl_div(student_log_probs, teacher_log_probs, reduction="none", log_target=True).sum(-1) * counted
        return each if reduction == "none" else each.sum()

    def readings(
        self, student: PreTrainedModel, examples: Sequence[Example], batch_size: int, padding: int, where: torch.device
    ) -> tuple[list[Reading], dict[str, Items]]:
        """What is left between the two on held-out text, and its items; nothing where it is not finite."""
        divergences = losses(student, examples, batch_size, padding, where, self.divergence)
        if not math.isfinite(divergences.mean):
            return [], {}
        items = Items(divergences.nats, divergences.tokens.astype(float))
        return [
            Reading(
                metric="divergence",
                value=divergences.mean,
                stderr=ratio_stderr(divergences.nats, divergences.tokens),
                count=int(divergences.tokens.sum()),
            )
        ], {"divergence": items}


def distilled(
    cell: Cell, data: TaskData, tokenizer: PreTrainedTokenizerBase, where: torch.device
) -> tuple[TaskData, Teacher | None]:
    """The task's places filled with text of the unquantized base, and its teacher; any other task as it is.

    The last teacher is kept, since cells in a row mostly share it, until a cell of another task.
    """
    planted = data.planted
    if planted is None:
        _LAST.clear()
        return data, None
    key = (cell.fingerprints, cell.model.name, cell.task.model_dump_json(), cell.training.sequence_length, where)
    if key not in _LAST:
        _LAST.clear()
        exact = cell.model.model_copy(
            update={"dtype": "float32"}
        )  # whatever the student's: sixteen bits would blur the rank, and cells of other methods share the teacher
        base = load_base(cell.model_copy(update={"model": exact, "quantization": QuantizationSpec()}), where)
        filled = _filled(data, base, tokenizer, cell.training.sequence_length, planted.seed, where)
        plant(base, planted)
        _LAST[key] = filled, Teacher(base)
    return _LAST[key]


@torch.no_grad()
def plant(model: PreTrainedModel, planted: Planted) -> dict[str, int]:
    """Adds the changes to a model's weights; returns the rank in each module. ModelError where a rank is above a
    module's smaller side.
    """
    generator = torch.Generator().manual_seed(planted.seed)
    done = {}
    for target, rank in planted.ranks:
        for name in resolve_targets(model, target):
            weight = model.get_parameter(f"{name}.weight")
            if odd := excess_rank(rank, name, *weight.shape):
                raise ModelError(f"task.{odd}")
            change = _change(weight.shape, rank, generator)
            change *= planted.scale * weight.double().norm().cpu() / change.norm()
            weight.add_(change.to(weight.device, weight.dtype))
            done[name] = rank or min(weight.shape)
    return done


def excess_rank(rank: int | None, name: str, n_out: int, n_in: int) -> str:
    """The sentence for a rank that a module cannot hold; empty where it can."""
    most = min(n_out, n_in)
    return (
        f"rank {rank} is more than {name} ({n_out} x {n_in}) allows; at most {most}, or full"
        if rank is not None and rank > most
        else ""
    )


def _change(shape: torch.Size, rank: int | None, generator: torch.Generator) -> torch.Tensor:
    n_out, n_in = shape
    if rank is None:
        return torch.randn(n_out, n_in, generator=generator, dtype=torch.float64)
    u, v = (torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64))[0] for n in (n_out, n_in))
    return u @ v.T / math.sqrt(rank)


def _filled(
    data: TaskData,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    seed: int,
    where: torch.device,
) -> TaskData:
    sizes = [len(part) for part in (data.train, data.validation, data.test)]
    texts: Sequence[Example] = base_text(base, tokenizer, length, where, sum(sizes), seed)
    train, validation = sizes[0], sizes[0] + sizes[1]
    return replace(
        data, train=tuple(texts[:train]), validation=tuple(texts[train:validation]), test=tuple(texts[validation:])
    )
