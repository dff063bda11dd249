"""Tensors of one file, read one at a time and without running anything that stands in it.

safetensors by safe_open; pickled files by torch.load with weights_only=True, which refuses everything that is no
tensor. What is corrupt, cut off or unreadable is one sentence (ModelError).
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lorabench.config.checkpoint_files import refuse_pointer
from lorabench.errors import ModelError
from lorabench.formatting import error_line

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
READABLE = (".safetensors", *PICKLED)


class TensorFile:
    """One file of named tensors; opened when first asked."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix not in READABLE:
            reason = (
                "holds weights as GGUF, which are not read here"
                if self.path.suffix == ".gguf"
                else "is no file of tensors"
            )
            raise ModelError(f"{path} {reason}; allowed: {', '.join(READABLE)}")
        if not self.path.is_file():
            raise ModelError(f"there is no file {path}")
        refuse_pointer(self.path)

    def names(self) -> tuple[str, ...]:
        """The names of its tensors, sorted."""
        return tuple(sorted(self._opened.keys()))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it where the format allows."""
        if isinstance(self._opened, Mapping):
            return tuple(self._opened[name].shape)
        return tuple(self._opened.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor, as `shape`."""
        if isinstance(self._opened, Mapping):
            return self._opened[name].dtype
        return self._opened.get_slice(name)[:0].dtype if self.shape(name) else self.tensor(name).dtype

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor by name, on the CPU."""
        try:
            return self._opened[name] if isinstance(self._opened, Mapping) else self._opened.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as e:
            raise ModelError(
                f"{self.path}: {name} cannot be read ({error_line(e, 160)}); the file is damaged, get it anew"
            ) from None

    @cached_property
    def _opened(self) -> Any:
        return self._safe() if self.path.suffix == ".safetensors" else self._pickled()

    def _safe(self) -> Any:
        try:
            return safe_open(self.path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as e:
            raise ModelError(
                f"{self.path} is no whole safetensors file ({error_line(e, 160)});"
                " it is damaged or cut off, get it anew"
            ) from None

    def _pickled(self) -> Mapping[str, torch.Tensor]:
        try:
            zipped = zipfile.is_zipfile(self.path)  # the format since torch 1.6: only that can be mapped
            content = torch.load(self.path, weights_only=True, map_location="cpu", mmap=zipped)
        except pickle.UnpicklingError as e:
            if "weights_only" in str(e).lower() or "Unsupported" in str(e):
                raise ModelError(
                    f"{self.path} holds more than tensors; reading it would run code that stands in it: convert it to"
                    " safetensors where you trust it"
                ) from None
            raise ModelError(
                f"{self.path} is no whole file of tensors ({error_line(e, 160)}); it is damaged or cut off, get it anew"
            ) from None
        except (
            RuntimeError,
            OSError,
            EOFError,
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            UnicodeDecodeError,
        ) as e:
            raise ModelError(
                f"{self.path} is no whole file of tensors ({error_line(e, 160)}); it is damaged or cut off, get it anew"
            ) from None
        for wrapper in (
            "state_dict",
            "model_state_dict",
            "model",
            "module",
        ):  # training scripts and DeepSpeed wrap them
            if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
                content = content[wrapper]
        tensors = (
            {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, dict) else {}
        )
        if not tensors:
            raise ModelError(f"{self.path} holds no named tensors")
        return tensors
