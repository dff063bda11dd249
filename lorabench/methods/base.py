"""no adaptation: the pretrained model as it is, evaluated only"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lorabench.config.settings import MethodSpec


FIELDS = ()
TRAINS = False
TRAINS_BASE = False
SAVED_RANKS = 1
UNQUANTIZED_ONLY = ""


def attach(model: PreTrainedModel, spec: MethodSpec, targets: list[str] | str) -> PreTrainedModel:
    """The model itself, no parameter trainable."""
    return model.requires_grad_(False)
