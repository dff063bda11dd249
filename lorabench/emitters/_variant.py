"""What a user may ask of a trainer beside its defaults: loss, attention, preparation of a quantized base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from lorabench.advice.types import Candidate, Workload
from lorabench.config.trainer import Attention, Loss, Trainer

T = TypeVar("T")
ATTENTIONS: dict[Attention, str] = {"sdpa": "sdpa", "flash": "flash_attention_2", "eager": "eager"}
"""transformers' names"""


def attention(workload: Workload, names: Mapping[Attention, T]) -> T | None:
    """A tool's word for the attention that is asked for; None where it is left to the model."""
    asked = workload.trainer.attention if workload.trainer else None
    return names[asked] if asked else None


def loss(workload: Workload, own: Trainer) -> Loss:
    """The loss that is asked for, else a tool's own."""
    return (workload.trainer or own).loss_in_force


def kbit_preparation(workload: Workload, candidate: Candidate) -> bool:
    """Whether PEFT's preparation of a quantized base is asked for."""
    asked = workload.trainer is not None and workload.trainer.kbit_preparation
    return asked and candidate.quantization.name != "none"
