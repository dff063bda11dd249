"""Tensors of a file or a folder of shards, read one at a time and without running anything that stands in them.

safetensors by safe_open; pickled files by torch.load with weights_only=True, which refuses everything that is no tensor.
What is corrupt, cut off or unreadable is one sentence (ModelError).
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lorabench.errors import ModelError
from lorabench.spec.paths import model_directory

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
READABLE = (".safetensors", *PICKLED)


class TensorFile:
    """One file of named tensors; opened when first asked."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix not in READABLE:
            raise ModelError(f"{path} is no file of tensors; allowed: {', '.join(READABLE)}")
        if not self.path.is_file():
            raise ModelError(f"there is no file {path}")

    def names(self) -> tuple[str, ...]:
        """The names of its tensors, sorted."""
        return tuple(sorted(self._opened.keys()))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it where the format allows."""
        if isinstance(self._opened, Mapping):
            return tuple(self._opened[name].shape)
        return tuple(self._opened.get_slice(name).get_shape())

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor by name, on the CPU."""
        try:
            return self._opened[name] if isinstance(self._opened, Mapping) else self._opened.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as e:
            raise ModelError(f"{self.path}: {name} cannot be read ({_line(e)}); the file is damaged, get it anew") from None

    @cached_property
    def _opened(self) -> Any:
        return self._safe() if self.path.suffix == ".safetensors" else self._pickled()

    def _safe(self) -> Any:
        try:
            return safe_open(self.path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as e:
            raise ModelError(f"{self.path} is no whole safetensors file ({_line(e)}); it is damaged or cut off, get it anew") from None

    def _pickled(self) -> Mapping[str, torch.Tensor]:
        try:
            zipped = zipfile.is_zipfile(self.path)  # the format since torch 1.6: only that can be mapped
            found = torch.load(self.path, weights_only=True, map_location="cpu", mmap=zipped)
        except pickle.UnpicklingError as e:
            if "weights_only" in str(e).lower() or "Unsupported" in str(e):
                raise ModelError(f"{self.path} holds more than tensors; reading it would run code that stands in it: convert it to safetensors where you trust it") from None
            raise ModelError(f"{self.path} is no whole file of tensors ({_line(e)}); it is damaged or cut off, get it anew") from None
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, UnicodeDecodeError) as e:
            raise ModelError(f"{self.path} is no whole file of tensors ({_line(e)}); it is damaged or cut off, get it anew") from None
        for wrapper in ("state_dict", "model"):  # training scripts wrap them
            if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
                found = found[wrapper]
        tensors = {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)} if isinstance(found, dict) else {}
        if not tensors:
            raise ModelError(f"{self.path} holds no named tensors")
        return tensors


class Weights:
    """The tensors of a checkpoint's folder (or file), sharded or not."""

    def __init__(self, place: str | Path) -> None:
        self.place = Path(place)
        files = [TensorFile(f) for f in ([self.place] if self.place.is_file() else _shards(self.place))]
        self._file_of = {name: file for file in files for name in file.names()}
        self.transposed = _is_transposed(self.place)

    def names(self) -> tuple[str, ...]:
        """The names of all tensors, sorted."""
        return tuple(sorted(self._file_of))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor as stored."""
        return self._file_of[name].shape(name)

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor as stored."""
        return self._file_of[name].tensor(name)

    def find(self, module: str) -> str | None:
        """The name of a module's weight: checkpoints may leave out the first parts of a module's name, or have one more; None where none or several fit."""
        parts = module.split(".")
        for i in range(len(parts)):
            if (name := ".".join([*parts[i:], "weight"])) in self._file_of:
                return name
        near = [n for n in self._file_of if n.endswith(f".{module}.weight")]
        return near[0] if len(near) == 1 else None

    def weight(self, module: str, shape: tuple[int, int] | None = None) -> torch.Tensor | None:
        """A module's weight as (out, in); None where the checkpoint has none of that name, or none of that shape."""
        name = self.find(module)
        if name is None:
            return None
        found = self.tensor(name)
        if found.dim() != 2:
            return None
        if not bool(torch.isfinite(found).all()):
            raise ModelError(f"{self.place}: {name} holds values that are not finite; the checkpoint is damaged, or its training diverged")
        if self.transposed and _is_conv1d(name):
            found = found.T
        return found if shape is None or tuple(found.shape) == shape else None


def checkpoint_directory(name: str, revision: str | None = None, download: bool = False) -> Path | None:
    """Where a model's files lie: its directory, or its snapshot in the local cache of the hub, fetched where asked for; None where it is in neither."""
    directory = model_directory(name)
    if directory is not None:
        return directory if directory.is_dir() else None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=not download, allow_patterns=["*.json", "*.safetensors"] if download else None))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
        return None


_TRANSPOSED_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")  # their Conv1D stores weights as (in, out)


def _is_transposed(place: Path) -> bool:
    folder = place if place.is_dir() else place.parent
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config.get("model_type") in _TRANSPOSED_TYPES
    except (OSError, ValueError, AttributeError):
        return False


def _is_conv1d(name: str) -> bool:
    return name.split(".")[-2] in ("c_attn", "c_proj", "c_fc", "q_attn")


def _shards(folder: Path) -> Iterable[Path]:
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index = folder / f"{stem}{suffix}.index.json"
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
                if any(Path(name).name != name for name in names):
                    raise ModelError(f"{index} names files outside its folder; get it anew")
                return [folder / name for name in names]
            except (ValueError, KeyError, TypeError, AttributeError) as e:
                raise ModelError(f"{index} cannot be read ({_line(e)}); get it anew") from None
        if (folder / f"{stem}{suffix}").is_file():
            return [folder / f"{stem}{suffix}"]
    raise ModelError(f"{folder} holds no weights (model.safetensors, pytorch_model.bin or their shards)")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
