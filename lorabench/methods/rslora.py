"""LoRA scaled by alpha/sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorabench.config.settings import MethodSpec
from lorabench.engine.adapt import attach_lora

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


FIELDS = ("rank", "alpha", "dropout", "target_modules")
TRAINS = True
TRAINS_BASE = False
SAVED_RANKS = 1
UNQUANTIZED_ONLY = ""


def attach(model: PreTrainedModel, spec: MethodSpec, targets: list[str] | str) -> PeftModel:
    """The model with adapters on the target modules, as PEFT's PeftModel."""
    return attach_lora(model, spec, targets, use_rslora=True)
