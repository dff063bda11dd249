"""full fine-tuning: every parameter is trained, no adapter"""

from __future__ import annotations

from typing import Any

FIELDS = ()
TRAINS = True
TRAINS_BASE = True
SAVED_RANKS = 1
UNQUANTIZED_ONLY = "it trains the base weights themselves, which quantisation freezes"


def attach(model: Any, spec: Any, targets: Any) -> Any:
    """The model itself, every parameter trainable."""
    return model.requires_grad_(True)
