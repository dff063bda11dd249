"""LoRA begun from the principal singular vectors of W (Meng et al. 2024, arXiv:2404.02948)"""

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
SAVED_RANKS = 2
UNQUANTIZED_ONLY = "it begins from the singular vectors of unquantized weights"


def attach(model: PreTrainedModel, spec: MethodSpec, targets: list[str] | str) -> PeftModel:
    """The model with adapters on the target modules, as PEFT's PeftModel."""
    return attach_lora(model, spec, targets, init_lora_weights="pissa")
