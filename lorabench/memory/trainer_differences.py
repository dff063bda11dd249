"""What a trainer does otherwise than lorabench's own loop, as far as it touches one setting: of all that
`lorabench trainers NAME` lists, the part that moves this prediction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from lorabench import plugins
from lorabench.config.trainer import OWN, find_trainer
from lorabench.memory.step_dtypes import resolve_autocast, resolve_dtype
from lorabench.memory.train_config import TrainConfig


@dataclass(frozen=True)
class Difference:
    """One of them."""

    words: str
    """a few, for a table"""
    sentence: str


LOSSES = {
    "trl": Difference(
        "no logits kept", "The loss computes the head in tiles, which the backward pass recomputes: no logits are kept."
    ),
    "trl and liger": Difference(
        "no logits kept",
        "The loss takes the head in tiles, which the backward pass makes again: no logits are kept; Liger's kernels in"
        " the layers keep fewer activations.",
    ),
    "liger": Difference(
        "no logits kept",
        "Liger's fused loss computes logits and their gradients together, chunk by chunk: no logits are kept.",
    ),
    "cut": Difference(
        "no logits kept", "Cut cross entropy has blocks of logits inside its kernel only: none are kept."
    ),
    "torchtune": Difference(
        "logits in chunks",
        "The loss takes logits in eight chunks, which all exist at once; their float32 log-probabilities are kept.",
    ),
    "torchtune-compiled": Difference(
        "logits in chunks",
        "The loss takes logits in eight chunks, all kept in the model's dtype; one at a time is cast to float32.",
    ),
    "unsloth": Difference(
        "logits in chunks",
        "The loss takes logits in chunks, at least four, and computes their gradients along with them.",
    ),
}
"""by the program of the loss (memory.losses); what is absent makes all logits, as the own loop does"""


def differences(setting: TrainConfig) -> tuple[Difference, ...]:
    """Of the setting's trainer, those that touch it, the largest first by rule; none of the own loop as it is."""
    return tuple(_differences(setting))


def _differences(setting: TrainConfig) -> Iterator[Difference]:
    trainer, training = setting.trainer, setting.training
    own = replace(setting, trainer=find_trainer(OWN))
    base = plugins.load("methods", setting.method.name).TRAINS_BASE
    quantized = setting.quantization.name != "none"
    weights, own_weights = _dtype_name(resolve_dtype(setting)), _dtype_name(resolve_dtype(own))
    if weights != own_weights:
        if base:
            sentence = f"All weights, gradients and optimizer states are {weights}, not {own_weights}."
            yield Difference(f"{weights} weights and states", sentence)
        else:
            yield Difference(f"{weights} base", f"Weights of the base are {weights}, not {own_weights}.")
    if trainer.kbit_preparation and quantized:
        yield Difference(
            "float32 hidden states",
            "PEFT's prepare_model_for_kbit_training casts norms, embeddings and head to float32, and with them the"
            " hidden states between layers.",
        )
    if trainer.widens_full and setting.method.name == "full" and weights != "float32" and training.autocast != "none":
        yield Difference(
            "float32 hidden states",
            "Norms, embeddings and head stay in float32 unless flash attention or a fused loss is switched on, and with"
            " them the hidden states between layers.",
        )
    if trainer.loss_program in LOSSES:
        yield LOSSES[trainer.loss_program]
    if trainer.offloads_checkpoints and training.gradient_checkpointing:
        yield Difference("checkpoints on the host", "Checkpointed activations are kept in the host's memory.")
    adapters = {"base": weights, "bfloat16 on quantized": "bfloat16" if quantized else "float32"}
    if not base and (dtype := adapters.get(trainer.adapter_dtype, "float32")) != "float32":
        yield Difference(
            f"{dtype} adapters", f"Adapters, their gradients and optimizer states are {dtype}, not float32."
        )
    if trainer.packing:
        mask = "" if trainer.attention == "flash" else ", under a mask of tokens by tokens"
        yield Difference("one packed row", f"A micro-batch of packed examples is one row{mask}.")
    if trainer.attention == "eager":
        yield Difference("eager attention", "Eager attention keeps a matrix of tokens x tokens for every head.")
    if resolve_autocast(setting) != resolve_autocast(own):
        mixed = resolve_autocast(setting)
        yield (
            Difference(
                f"{_dtype_name(mixed)} autocast", f"The forward pass runs under autocast to {_dtype_name(mixed)}."
            )
            if mixed
            else Difference("no autocast", "Matrix products run in the weights' dtype, without autocast.")
        )
    if trainer.reentrant and training.gradient_checkpointing:
        yield Difference("reentrant checkpoints", "Activation checkpointing is of torch's older, reentrant kind.")
    if trainer.outputs == "held":
        yield Difference(
            "outputs held", "The model's outputs, all logits among them, are held through the backward pass."
        )
    if trainer.wide_embedding_state and base and training.optimizer == "adamw-8bit":
        yield Difference("32-bit states of embeddings", "The optimizer keeps the states of embeddings in 32 bits.")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
