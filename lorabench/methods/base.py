"""no adaptation: the pretrained model as it is, evaluated only"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


FIELDS = ()
TRAINS = False
TRAINS_BASE = False
SAVED_RANKS = 1
UNQUANTIZED_ONLY = ""


def attach(model: PreTrainedModel, spec: Any, targets: Any) -> Any:
    """The model itself, no parameter trainable."""
    return model.requires_grad_(False)
