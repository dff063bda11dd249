"""A GGUF file as the folder that describes it says (config.gguf makes that folder): its type, its names and shapes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "gguf.json"


@dataclass(frozen=True)
class GgufFile:
    """What the header of a GGUF file says."""

    file: str
    """absolute path"""
    type: str
    """how most of its weights are stored, by llama.cpp's names: Q4_1, Q4_K_M, F16, F32"""
    architecture: str
    """llama, qwen2, ..."""
    tensors: Mapping[str, tuple[int, ...]]
    """llama.cpp's name: shape, outermost first as torch has it"""
    stored: Mapping[str, int]
    """type of a tensor: how many numbers are stored in it"""

    @property
    def numbers(self) -> int:
        """How many weights there are."""
        return sum(math.prod(shape) for shape in self.tensors.values())

    @property
    def is_exact(self) -> bool:
        """Whether the weights are plain numbers, not codes."""
        return set(self.stored) <= {"F32", "F16", "BF16"}

    @property
    def words(self) -> str:
        """How it is stored, and what becomes of it: the sentence of a dry run."""
        if self.is_exact:
            return f"is a GGUF file in {self.type}, read as plain weights"
        return (
            f"is a GGUF file in {self.type}: its weights are dequantized as they load, and every result on it carries"
            " the error of that form"
        )


def gguf_of(folder: str | Path) -> GgufFile | None:
    """The file that a folder describes; None where it is an ordinary folder."""
    try:
        fields = json.loads((Path(folder) / NAME).read_text(encoding="utf-8"))
        shapes = {name: tuple(shape) for name, shape in fields.pop("tensors").items()}
        return GgufFile(**fields, tensors=shapes)
    except (OSError, ValueError, TypeError, KeyError):
        return None
