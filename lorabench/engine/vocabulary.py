"""Whether a tokenizer is there and goes with its model: every id that it can give has a row in the embedding, and texts
can be measured in bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lorabench.config.checkpoint_files import refuse_pointer
from lorabench.errors import ModelError
from lorabench.formatting import error_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_MEDIA = ("image", "boi", "eoi", "audio", "boa", "eoa", "video")  # what a tokenizer's special tokens are called by
_FILES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json")


def refuse_missing(folder: Path) -> None:
    """ModelError where a folder holds no tokenizer, or pointers of Git LFS in its place."""
    files = [f for pattern in _FILES for f in folder.glob(pattern) if f.is_file()]
    if not files:
        raise ModelError(
            f"{folder} holds no tokenizer (tokenizer.json); copy the tokenizer files of the model it was made from"
        )
    for file in files:
        refuse_pointer(file)


def broken_json(folder: Path) -> str | None:
    """A sentence on the first of a folder's JSON files that cannot be read, None where all can."""
    for file in sorted(folder.glob("*.json")):
        try:
            refuse_pointer(file)
            json.loads(file.read_text(encoding="utf-8"))
        except ModelError as e:
            return str(e)
        except (OSError, ValueError) as e:
            return f"{file} is not readable JSON ({error_line(e, 120)}); download it again"
    return None


def refuse_unfit(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """ModelError where a tokenizer is none, gives ids that the model (its meta model) has no embedding for, or has no
    offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer of {name} has no offset mapping; allowed: fast tokenizers; save the model with a "
            "tokenizer.json"
        )
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) <= len(tokenizer.get_added_vocab()):
        raise ModelError(
            f"{name} has no tokenizer of its own ({len(vocabulary)} tokens, all of them special); put its "
            "tokenizer.json beside the weights"
        )
    rows, media = embedding_rows(model), _media(tokenizer)
    excess = {i: token for token, i in vocabulary.items() if i >= rows and token not in media}
    if excess:
        highest = max(excess)
        raise ModelError(
            f"the tokenizer of {name} has {len(excess):,} token{'s' if len(excess) > 1 else ''} beyond the "
            f"{rows:,} rows of the model's embedding (up to id {highest:,}, {excess[highest]!r}); "
            "use the tokenizer that the model was trained with, or enlarge the embedding first "
            "(model.resize_token_embeddings(len(tokenizer)), then save both)"
        )


def embedding_rows(model: PreTrainedModel) -> int:
    """How many ids a model's input embedding has a row for."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


def _media(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Placeholders of images and sounds, special tokens by a name of their own (image_token): Gemma 3 of text alone has
    one beyond its embedding, which no text gives.
    """
    return {str(word) for kind, word in tokenizer.special_tokens_map.items() if kind.partition("_")[0] in _MEDIA}
