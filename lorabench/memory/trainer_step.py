"""What a trainer does to a model and to its step, done to the model on the meta device.

In the order of a run: `prepared` between quantization and adapter, `with_adapter_dtype` after it, `checkpointed`,
`forward`, and the optimizer's tensors. PEFT's, accelerate's and torch's own functions are called where the trainer
calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.checkpoint

from lorabench.config.trainer import Trainer
from lorabench.engine.library_messages import quiet
from lorabench.memory import optimizers
from lorabench.memory.autocast import DeviceAutocast
from lorabench.memory.liger import liger_layers
from lorabench.memory.losses import PROGRAMS, Inputs, Loss

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from lorabench.memory.train_config import TrainConfig


def set_attention(config: PretrainedConfig, trainer: Trainer) -> None:
    """Writes the attention that is asked for into a configuration; flash is torch's own flash kernel, which keeps what
    FlashAttention-2 keeps."""
    if trainer.attention is not None:
        config._attn_implementation = "eager" if trainer.attention == "eager" else "sdpa"


def prepared(setting: TrainConfig, model: PreTrainedModel) -> PreTrainedModel:
    """The base before its adapter: PEFT's prepare_model_for_kbit_training where the trainer calls it."""
    kind = setting.quantization.name
    if setting.method.name == "full" and setting.trainer.widens_full and setting.training.autocast != "none":
        return _widened(model)
    if not setting.trainer.kbit_preparation or kind == "none":
        return model
    import peft

    marked: Any = model
    marked.is_loaded_in_8bit, marked.is_loaded_in_4bit = kind == "int8", kind != "int8"
    with quiet():
        return peft.prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=setting.training.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": setting.trainer.reentrant},
        )


_EMBEDDINGS = {
    "gpt_neox": ("embed_in", "embed_out"),
    "falcon": ("word_embeddings", "lm_head"),
    "nemotron_h": ("embeddings", "lm_head"),
}


def _widened(model: PreTrainedModel) -> PreTrainedModel:
    """axolotl/loaders/model.py (0.17, 0.19), _convert_embedding_modules_dtype: whatever is named a norm, a gate (a
    mixture's router), an embedding or a head goes to float32 when a model is loaded; _configure_embedding_dtypes turns
    it back for adapters, kernels of flash attention and cut cross entropy, and not for full fine-tuning with sdpa."""
    embeddings = _EMBEDDINGS.get(model.config.model_type, ("embed_tokens", "lm_head"))
    for name, module in model.named_modules():
        is_embedding = any(part in name for part in embeddings) and hasattr(module, "weight")
        if "norm" in name or name.endswith(".gate") or is_embedding:
            module.to(torch.float32)
    return model


def with_adapter_dtype(setting: TrainConfig, model: PreTrainedModel, base: torch.dtype) -> PreTrainedModel:
    """Trained weights of adapters in the trainer's dtype; PEFT has made them float32."""
    kind, quantized = setting.trainer.adapter_dtype, setting.quantization.name != "none"
    if setting.method.rank is None or kind == "float32" or (kind == "bfloat16 on quantized" and not quantized):
        return model
    dtype = base if kind == "base" else torch.bfloat16
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (kind == "base" or "lora_magnitude_vector" not in name):
            parameter.data = parameter.data.to(dtype)
    return model


def checkpointed(setting: TrainConfig, model: PreTrainedModel, mixed: DeviceAutocast | None) -> None:
    """Turns checkpointing on, as the trainer does it."""
    trainer = setting.trainer
    again = {"context_fn": mixed.again} if mixed and not trainer.reentrant else {}
    with quiet():
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": trainer.reentrant, **again})
        if trainer.offloads_checkpoints:
            model._set_gradient_checkpointing(gradient_checkpointing_func=_offloaded(mixed))
        elif trainer.reentrant and mixed:
            model._set_gradient_checkpointing(gradient_checkpointing_func=_reentrant(mixed))
        if trainer.loss_program != "own":
            model.enable_input_require_grads()


def _reentrant(mixed: DeviceAutocast) -> Callable[..., Any]:
    """torch's reentrant checkpoint, which recomputes under autocast again; it takes no contexts."""

    def checkpoint(function: Callable[..., Any], *args: Any) -> Any:
        def run(*inputs: Any) -> Any:
            with mixed.again()[torch.is_grad_enabled()]:  # the first pass is without gradients
                return function(*inputs)

        return torch.utils.checkpoint.checkpoint(run, *args, use_reentrant=True)

    return checkpoint


class _OffloadedCheckpoint(torch.autograd.Function):
    """A layer whose input goes to the host and comes back when the layer is computed again."""

    @staticmethod
    def forward(ctx, recompute, function, hidden, *args):  # type: ignore[no-untyped-def]  # torch's interface has no types
        ctx.call, ctx.rest = (recompute, function), args
        ctx.place = hidden.shape, hidden.dtype
        with torch.no_grad():
            return function(hidden, *args)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (recompute, function), (shape, dtype) = ctx.call, ctx.place
        hidden = torch.empty(shape, dtype=dtype, device=gradient.device).requires_grad_()
        with torch.enable_grad(), recompute():
            out = function(hidden, *ctx.rest)
        torch.autograd.backward(out, gradient)
        return (None, None, hidden.grad, *(None for _ in ctx.rest))


def _offloaded(mixed: DeviceAutocast | None) -> Callable[..., Any]:
    """unsloth's checkpoint, which LLaMA-Factory has, too (model_utils/checkpointing.py)."""
    recompute = (lambda: mixed.again()[1]) if mixed else nullcontext
    return lambda function, hidden, *args: _OffloadedCheckpoint.apply(recompute, function, hidden, *args)


def layer_kernels(setting: TrainConfig, model: PreTrainedModel) -> AbstractContextManager[None]:
    """The trainer's own kernels in the model's layers, for the length of a `with` block."""
    return liger_layers(model) if "liger" in setting.trainer.loss_program else nullcontext()


def forward(
    setting: TrainConfig,
    model: PreTrainedModel,
    ids: torch.Tensor,
    labels: torch.Tensor,
    mixed: DeviceAutocast | None,
) -> Loss:
    """From the batch to the scalar; the outputs that the trainer holds through the backward pass with it."""
    trainer = setting.trainer
    items = torch.empty((), dtype=torch.int64, device="meta") if trainer.outputs == "float32" else None
    with mixed or nullcontext():
        loss = PROGRAMS[trainer.loss_program](
            model, Inputs(ids, labels, items, _predicting(setting), _packed(trainer, ids))
        )
    if mixed:
        mixed.forget()
    if trainer.outputs == "held":
        return loss
    if trainer.outputs == "float32" and mixed and loss.outputs is not None:
        from accelerate.utils.operations import convert_to_fp32

        loss = replace(loss, outputs=convert_to_fp32(loss.outputs))
    return replace(loss, outputs=None)


def _predicting(setting: TrainConfig) -> torch.Tensor | None:
    if setting.labels is None or setting.trainer.loss_in_force == "full":
        return None
    return torch.empty(setting.labels, dtype=torch.int64, device="meta")


def _packed(trainer: Trainer, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a collator of packed examples adds to ids (1, tokens); the mask is the model's own, made of the positions
    (transformers/masking_utils.py, packed_sequence_mask_function), which FlashAttention does without."""
    if not trainer.packing:
        return {}
    tokens = ids.shape[-1]
    packed = {"position_ids": torch.empty_like(ids)}
    if trainer.attention != "flash":
        packed["attention_mask"] = torch.empty((1, 1, tokens, tokens), dtype=torch.bool, device=ids.device)
    return packed


def optimizer_state(
    setting: TrainConfig, model: PreTrainedModel, parameters: list[torch.nn.Parameter]
) -> tuple[list[torch.Tensor], torch.optim.Optimizer | None]:
    """The tensors that the optimizer keeps between steps, and the optimizer where it is stepped itself: torch's foreach
    AdamW, whose temporaries are as large as what it updates."""
    trainer, training = setting.trainer, setting.training
    if trainer.optimizer_kernel == "foreach" and training.optimizer == "adamw":
        return optimizers.foreach_adamw(parameters)
    wide: list[torch.Tensor] = []
    if trainer.wide_embedding_state and training.optimizer.endswith("8bit"):
        embeddings = {
            id(p)
            for module in model.modules()
            if isinstance(module, torch.nn.Embedding)
            for p in module.parameters(recurse=False)
        }
        wide = [p for p in parameters if id(p) in embeddings]
    rest = [p for p in parameters if not any(p is w for w in wide)]
    state = optimizers.state_tensors(rest, training)
    if not training.optimizer.startswith("paged"):  # their 32-bit states are paged, too
        state += [torch.empty(p.shape, dtype=torch.float32, device="meta") for p in wide for _ in range(2)]
    return state, None
