"""full fine-tuning: every parameter is trained, no adapter"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lorabench.config.settings import MethodSpec


FIELDS = ()
TRAINS = True
TRAINS_BASE = True
SAVED_RANKS = 1
UNQUANTIZED_ONLY = "it trains the base weights themselves, which quantization freezes"


def attach(model: PreTrainedModel, spec: MethodSpec, targets: list[str] | str) -> PreTrainedModel:
    """The model itself, every parameter trainable."""
    return model.requires_grad_(True)
