"""What forward and backward passes over training data tell of each linear module, before anything is trained.

Of a module y = x W^T with the inputs x (tokens, in) and the gradients d (tokens, out) of the loss in its outputs, one
batch b gives the gradient of its weight, G_b = d^T x, whether W is stored in floats or in quantized codes:

    gradient           mean of G_b                   of each half of the batches, so that their difference is noise
    squared_norm       mean of ||G_b||_F^2           trace of the empirical Fisher information, by batches
    activations        sum of x x^T over tokens      the Gram matrix of the inputs at predicted tokens
    output_gradients   sum of d d^T over tokens      that of the outputs, for labels drawn from the model itself
    learned            singular values of delta W    after some steps of an adapter, where there were any

Passes update nothing: no optimizer, no adapter, and the frozen weights need no gradient of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from lorabench.engine.batches import IGNORED, Batch, batches, collate
from lorabench.engine.cell_context import CellContext, LoadedCell
from lorabench.engine.loss import Loss, token_loss
from lorabench.engine.train import CausalModel, mixed_precision
from lorabench.record.spectrum import Values

Reading = Literal["gradients", "activations", "output-gradients", "short-training"]
"""what a probe asks for: the last is `learned`"""


@dataclass(eq=False)
class ModuleStatistics:
    """One linear module; matrices in float32 on the CPU."""

    shape: tuple[int, int]
    """(out, in) features"""
    weight: Callable[[], torch.Tensor]
    """the base's weight (out, in), dequantized where it is quantized"""
    halves: tuple[torch.Tensor, torch.Tensor]
    """mean gradients (out, in) of the even and of the odd batches"""
    squared_norm: float = 0.0
    """mean of the batches' squared Frobenius norms"""
    activations: torch.Tensor | None = None
    """sum of x x^T (in, in)"""
    activation_sum: torch.Tensor | None = None
    """sum of x (in,)"""
    tokens: int = 0
    """how many x were summed"""
    output_gradients: torch.Tensor | None = None
    """sum of d d^T (out, out)"""
    learned: Values = field(default_factory=lambda: np.zeros(0))
    """singular values of what short training learned, descending"""

    @property
    def gradient(self) -> torch.Tensor:
        """Mean gradient (out, in) over all batches."""
        return (self.halves[0] + self.halves[1]) / 2

    @property
    def noise(self) -> torch.Tensor:
        """Half the difference of the halves (out, in): as much noise as the mean gradient has, and no signal."""
        return (self.halves[0] - self.halves[1]) / 2

    @property
    def explained_variance(self) -> list[float]:
        """Shares of the inputs' variance (about their mean) that their principal components explain, descending."""
        assert self.activations is not None and self.activation_sum is not None  # a probe that asks for them has them
        total = self.activation_sum.double()
        scatter = self.activations.double() - torch.outer(total, total) / max(1, self.tokens)
        values = torch.linalg.eigvalsh(scatter).flip(0).clamp_min(0)
        shares: list[float] = (values / values.sum().clamp_min(1e-300)).tolist()
        return shares


@dataclass
class _Pass:
    """What the hooks of one batch write to."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)

    def rows(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(x, d) of a module, (rows x length, features), padding included; they are forgotten."""
        x, d = self.inputs.pop(name).flatten(0, -2).float(), self.gradients.pop(name).flatten(0, -2).float()
        return x, d


def gather(
    context: CellContext, loaded: LoadedCell, targets: Sequence[str], count: int, readings: Collection[Reading]
) -> dict[str, ModuleStatistics]:
    """Statistics of the target modules over the first batches of a cell's training.

    Args:
        context: of the cell.
        loaded: its base and data; the base is as it was afterwards.
        targets: full names of linear modules, as `resolve_targets` gives them.
        count: batches, an even number so that the halves weigh the same, each one micro-batch of the cell; 0 where
            nothing but the shapes is wanted.
        readings: what is wanted. Gradients are always gathered; Gram matrices take (in, in) and (out, out) float32 a
            module, and those of the outputs as many passes again.
    Returns:
        dict: by module, in the order of targets.
    """
    modules = {name: loaded.model.get_submodule(name) for name in targets}
    statistics = {name: _empty(module) for name, module in modules.items()}
    rows = batches(loaded.data.train, context.cell.training.batch_size, context.cell.seed)
    generator = torch.Generator(context.device).manual_seed(context.cell.seed)
    one = _Pass()
    with _watched(loaded.model, modules, one):
        for index in range(count):
            batch = collate(next(rows), loaded.padded, context.device)
            predicted = (batch.labels != IGNORED).flatten()
            _backward(context, loaded, batch, loaded.loss)
            for name, module in statistics.items():
                x, d = one.rows(name)
                gradient = (d.T @ x).cpu()
                module.halves[index % 2].add_(gradient, alpha=2 / count)
                module.squared_norm += float(gradient.square().sum()) / count
                if "activations" in readings:
                    module.activations = _sum(module.activations, x[predicted].T @ x[predicted])
                    module.activation_sum = _sum(module.activation_sum, x[predicted].sum(dim=0))
                    module.tokens += int(predicted.sum())
            if "output-gradients" in readings:
                _backward(context, loaded, _with_sampled_labels(context, loaded, batch, generator), token_loss)
                for name, module in statistics.items():
                    d = one.rows(name)[1]
                    module.output_gradients = _sum(module.output_gradients, d.T @ d)
    return statistics


def _backward(context: CellContext, loaded: LoadedCell, batch: Batch, loss_of: Loss) -> None:
    predicted = max(1, int((batch.labels[:, 1:] != IGNORED).sum()))
    with mixed_precision(batch.ids.device, context.autocast):
        loss = loss_of(loaded.model, batch) / predicted
    loss.backward()


@torch.no_grad()
def _with_sampled_labels(context: CellContext, loaded: LoadedCell, batch: Batch, generator: torch.Generator) -> Batch:
    """The batch with labels drawn from the model's own predictions, as the Fisher information asks; the ids stay."""
    with mixed_precision(batch.ids.device, context.autocast):
        logits = loaded.model(input_ids=batch.ids).logits
    p = F.softmax(logits[:, :-1].float(), dim=-1)
    sampled = torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(p.shape[:2])
    labels = batch.labels.clone()
    labels[:, 1:] = torch.where(labels[:, 1:] == IGNORED, IGNORED, sampled)
    return Batch(batch.ids, labels, batch.tokens)


def _sum(total: torch.Tensor | None, added: torch.Tensor) -> torch.Tensor:
    return added.cpu() if total is None else total + added.cpu()


@contextmanager
def _watched(model: CausalModel, modules: Mapping[str, torch.nn.Module], one: _Pass) -> Iterator[None]:
    """Hooks that keep each module's input and output gradient. The embedding's output asks for gradients, as no weight
    does, and dropout rests: the gradient is that of the base as it is."""

    def keep(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if output.requires_grad:
                one.inputs[name] = args[0].detach()
                output.register_hook(lambda d: one.gradients.__setitem__(name, d.detach()))

        return hook

    trainable = [p for p in model.parameters() if p.requires_grad]
    was_training = model.training
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    embedding = model.get_input_embeddings()
    handles.append(
        embedding.register_forward_hook(lambda module, args, output: output.requires_grad_(torch.is_grad_enabled()))
    )
    try:
        for p in trainable:
            p.requires_grad_(False)
        model.eval()
        yield
    finally:
        for handle in handles:
            handle.remove()
        for p in trainable:
            p.requires_grad_(True)
        model.train(was_training)


def _empty(module: torch.nn.Module) -> ModuleStatistics:
    from peft.utils.integrations import dequantize_module_weight

    def weight() -> torch.Tensor:
        stored = dequantize_module_weight(module).detach().float().cpu()
        return stored if stored.shape == _shape(module) else stored.T  # Conv1D's (in, out)

    shape = _shape(module)
    return ModuleStatistics(shape, weight, (torch.zeros(shape), torch.zeros(shape)))


def _shape(module: torch.nn.Module) -> tuple[int, int]:
    """(out, in) features, of bitsandbytes' layers too."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return module.nf, module.nx
    assert isinstance(module, torch.nn.Linear)  # only such are targets
    return module.out_features, module.in_features
