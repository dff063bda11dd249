"""no adaptation: the pretrained model as it is, evaluated only"""

from __future__ import annotations

from typing import Any

FIELDS = ()
TRAINS = False
TRAINS_BASE = False
SAVED_RANKS = 1
UNQUANTIZED_ONLY = ""


def attach(model: Any, spec: Any, targets: Any) -> Any:
    """The model itself, no parameter trainable."""
    return model.requires_grad_(False)
