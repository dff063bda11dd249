"""One training step of a setting, traced on the meta device: where its bytes go, segment by segment.

The model, the loss, the optimizer's rules and PEFT's layers are the ones that train (engine.train); only the bytes are
missing. The optimizer's state is held from the start, as it is from the second step on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.hooks import RemovableHandle

from lorabench.engine.adapt import is_adapter, language_model
from lorabench.engine.library_messages import quiet
from lorabench.engine.quantized_weights import logical_numel, quantization_tensors
from lorabench.memory import kernels, optimizers, trainer_step
from lorabench.memory.autocast import DeviceAutocast
from lorabench.memory.kernels import device_kernels
from lorabench.memory.tensor_tracker import Segment, TensorTracker
from lorabench.memory.train_config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UPDATE = "update"  # the segment of what comes once an optimizer step


@dataclass(frozen=True)
class Trace:
    """The segments of one step, in order, and the counts of the model that took it."""

    layers: int
    segments: tuple[Segment, ...]
    total_parameters: int
    trainable_parameters: int
    trainable_bytes: int


def trace(setting: TrainConfig, model: PreTrainedModel, autocast: torch.dtype | None) -> Trace:
    """Follows one step of a model on the meta device; its last micro-batch where gradients are accumulated.

    The inputs are (batch_size, sequence_length) token ids without padding; `autocast` is the dtype of mixed precision.
    """
    training = setting.training
    parameters = [p for p in model.parameters() if p.requires_grad]
    shape = (training.batch_size, training.sequence_length)
    if setting.trainer.packing:
        shape = (1, training.batch_size * training.sequence_length)
    ids, labels = (torch.empty(shape, dtype=torch.int64, device="meta") for _ in range(2))
    tracker = TensorTracker(
        setting.device, model.config.get_text_config().vocab_size, training.batch_size * training.sequence_length
    )
    base = [p for n, p in model.named_parameters() if not is_adapter(n)]
    tracker.hold((*base, *model.buffers()), "weights")
    tracker.hold(quantization_tensors(model), "quantization_state")
    tracker.hold((p for n, p in model.named_parameters() if is_adapter(n)), "adapters")
    if setting.device == "cuda":
        size = kernels.cublas_bytes(setting.capability) // kernels.CUBLAS_HANDLES
        workspaces = [torch.empty(size, dtype=torch.uint8, device="meta") for _ in range(kernels.CUBLAS_HANDLES)]
        tracker.hold(workspaces, "workspace")
    state, optimizer = trainer_step.optimizer_state(setting, model, parameters)
    tracker.hold(state, "optimizer")
    tracker.hold((ids, labels), "activations")
    if training.gradient_accumulation > 1:
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        tracker.hold((p.grad for p in parameters), "gradients")  # type: ignore[misc]  # set the line above
    layers = layers_of(model)
    steps = _Marks(tracker, layers, parameters)
    mixed = DeviceAutocast(setting.device, autocast) if autocast else None
    if setting.evaluates:
        model.eval()
    elif training.gradient_checkpointing:
        trainer_step.checkpointed(setting, model, mixed)
    with device_kernels(setting.device, setting.bf16), trainer_step.layer_kernels(setting, model), quiet(), tracker:
        tracker.enter("embed")
        with torch.set_grad_enabled(not setting.evaluates):
            loss = trainer_step.forward(setting, model, ids, labels, mixed)
        if not setting.evaluates:
            steps.backward = True
            loss.value.backward()
            if loss.outputs is None and not setting.trainer.loss_program.startswith("own"):
                del loss  # Trainer returns a detached one; own loops keep theirs until the next step
            tracker.enter(UPDATE)
            if setting.trainer.clips:
                torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
            if optimizer is None:
                optimizers.update(parameters, training, setting.device)
            else:
                optimizer.step()
            tracker.count(*optimizers.work(parameters, training, setting.device))
    steps.remove()
    del state, optimizer
    trainable = sum(p.numel() for p in parameters)
    for parameter in parameters:
        parameter.grad = None
    total = sum(logical_numel(p) for p in model.parameters())
    return Trace(
        len(layers), tuple(tracker.segments), total, trainable, sum(p.numel() * p.element_size() for p in parameters)
    )


class _Marks:
    """Hooks that tell the tracker where the step is, and which storages are gradients."""

    def __init__(
        self, tracker: TensorTracker, layers: list[torch.nn.Module], parameters: list[torch.nn.Parameter]
    ) -> None:
        self.backward = False
        self._tracker = tracker
        self._handles: list[RemovableHandle] = []
        for index, layer in enumerate(layers):
            self._handles.append(layer.register_forward_pre_hook(lambda m, a, i=index: self._forward(i)))
            self._handles.append(
                layer.register_forward_hook(lambda m, a, out, i=index: self._leave(out, i, i == len(layers) - 1))
            )
        for parameter in parameters:
            self._handles.append(
                parameter.register_post_accumulate_grad_hook(lambda p: tracker.call(p.grad, "gradients"))
            )

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _forward(self, index: int) -> None:
        if not self.backward:  # not when a checkpoint is recomputed
            self._tracker.enter(f"forward {index}")

    def _leave(self, out: torch.Tensor | tuple[torch.Tensor, ...], index: int, last: bool) -> None:
        if self.backward:
            return
        hidden = out[0] if isinstance(out, tuple) else out
        if hidden.requires_grad:
            self._handles.append(hidden.register_hook(lambda grad: self._tracker.enter(f"backward {index}")))
        if last:
            self._tracker.enter("head")


def layers_of(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The numbered layers of the model, of a multimodal one those of its language model."""
    count = model.config.get_text_config().num_hidden_layers
    language = language_model(model)
    for module in language.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    return []
