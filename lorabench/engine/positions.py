"""How long a sequence a model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def positions(config: PretrainedConfig) -> int | None:
    """The longest sequence in tokens, of the text part of a configuration; None where it has no end."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(longest) if longest else None
