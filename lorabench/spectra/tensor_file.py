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

import torch
from safetensors import SafetensorError, safe_open

from lorabench.config.checkpoint_files import refuse_pointer
from lorabench.errors import ModelError
from lorabench.formatting import error_line

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
READABLE = (".safetensors", *PICKLED)
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # of training scripts and DeepSpeed


class TensorFile:
    """One file of named tensors; opened when first asked."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix not in READABLE:
            reason = (
                "holds GGUF weights, which lorabench does not read"
                if self.path.suffix == ".gguf"
                else "is not a file of tensors"
            )
            raise ModelError(f"{path} {reason}; allowed: {', '.join(READABLE)}")
        if not self.path.is_file():
            raise ModelError(f"there is no file {path}")
        refuse_pointer(self.path)

    def names(self) -> tuple[str, ...]:
        """The names of its tensors, sorted."""
        return tuple(sorted(self._reader.keys()))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it where the format allows."""
        if isinstance(self._reader, Mapping):
            return tuple(self._reader[name].shape)
        return tuple(self._reader.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor, as `shape`."""
        if isinstance(self._reader, Mapping):
            return self._reader[name].dtype
        return self._reader.get_slice(name)[:0].dtype if self.shape(name) else self.tensor(name).dtype

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor by name, on the CPU."""
        try:
            return self._reader[name] if isinstance(self._reader, Mapping) else self._reader.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as e:
            raise ModelError(
                f"{self.path}: {name} cannot be read ({error_line(e, 160)}); the file is damaged, download it again"
            ) from None

    @cached_property
    def _reader(self) -> safe_open | Mapping[str, torch.Tensor]:
        if self.path.suffix != ".safetensors":
            return read_pickled(self.path)
        try:
            return safe_open(self.path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as e:
            raise ModelError(
                f"{self.path} is not a complete safetensors file ({error_line(e, 160)}); it is damaged or cut off,"
                " download it again"
            ) from None


def read_pickled(path: Path, device: str = "cpu", unwrap: bool = True) -> dict[str, torch.Tensor]:
    """Name to tensor of a pickled file, mapped and not read where its format allows (that of torch since 1.6).

    device     "meta" gives shapes and dtypes alone
    unwrap     also looks into the state_dict that a training script or DeepSpeed puts around the tensors
    ModelError where the file is damaged, holds anything that would have to be run, or no named tensors.
    """
    try:
        mapped = device == "cpu" and zipfile.is_zipfile(path)
        content = torch.load(path, weights_only=True, map_location=device, mmap=mapped)
    except Exception as e:  # whatever a damaged pickle leads to: KeyError, TypeError, ...
        if isinstance(e, pickle.UnpicklingError) and ("weights_only" in str(e).lower() or "Unsupported" in str(e)):
            raise ModelError(
                f"{path} holds more than tensors, and reading it would run code from the file; if you trust it, convert"
                " it to safetensors"
            ) from None
        raise ModelError(
            f"{path} is not a complete file of tensors ({error_line(e, 160)}); it is damaged or cut off, get a fresh"
            " copy"
        ) from None
    for wrapper in _WRAPPERS if unwrap else ():
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = (
        {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, dict) else {}
    )
    if not tensors:
        where = "" if unwrap else " at its top; save the model with save_pretrained"
        raise ModelError(f"{path} holds no named tensors{where}")
    return tensors
