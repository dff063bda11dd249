"""The weights of a checkpoint, one at a time: its folder of shards or its one file.

They are what it means: of a quantized one the dequantized values (`dequantized`), under the names that the model itself
has (`names`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from lorabench.config import hub
from lorabench.config.checkpoint import declared_quantization, local_folder, read_config
from lorabench.config.checkpoint_files import weight_files
from lorabench.config.gguf import described
from lorabench.config.gguf_file import gguf_of
from lorabench.config.paths import model_directory
from lorabench.errors import ModelError
from lorabench.spectra.dequantized import (
    ADVICE,
    BLOCK,
    FLOAT8,
    METHODS,
    Codes,
    beside,
    codes,
    dequantized,
    foreign,
    logical_shape,
)
from lorabench.spectra.gguf_weights import GgufTensors
from lorabench.spectra.names import plain
from lorabench.spectra.tensor_file import TensorFile


class Weights:
    """The weights of a checkpoint's folder (or file), sharded or not, quantized or not.

    ModelError at once for files that are missing or no weights, for quantizations that are not read, and where two
    tensors have one name.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = Path(place)
        folder = described(self.place) if self.place.suffix == ".gguf" else self.place
        gguf = gguf_of(folder)
        self._gguf = gguf
        if gguf is not None:
            self.place = Path(gguf.file)
        elif not folder.is_dir():
            folder = folder.parent
        config = read_config(folder) if (folder / "config.json").is_file() else {}
        self.transposed = config.get("model_type") in _TRANSPOSED_TYPES
        files: Sequence[TensorFile | GgufTensors] = (
            [GgufTensors(gguf, folder)]
            if gguf
            else [TensorFile(f) for f in ([self.place] if self.place.is_file() else weight_files(self.place))]
        )
        self._stored = _by_plain_name(files)
        declared = declared_quantization(config)
        self._method = declared.method if declared else None
        self._block = _block(declared.fields if declared else {}, self._method)
        other = foreign(self._stored) or (self._method if self._method not in (None, *METHODS) else None)
        if other is not None:
            raise ModelError(
                f"{self.place} holds weights quantized by {other}, which lorabench does not read; {ADVICE}"
            )
        self._constants: dict[str, list[str]] = {}
        for name in self._stored:
            if (of := beside(name, self._stored)) is not None:
                self._constants.setdefault(of, []).append(name)

    def names(self) -> tuple[str, ...]:
        """The names of all weights, sorted, without what training wrapped around the model; constants of quantized ones
        are not listed."""
        constants = {c for group in self._constants.values() for c in group}
        return tuple(sorted(n for n in self._stored if n not in constants))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight as it is meant, (out, in) of a layer's matrix; codes are not read."""
        stored, shape = self._codes(name), self._shape(name)
        if stored is not None:
            shape = logical_shape(stored, shape, self._read)
        return shape[::-1] if self._is_turned(name, len(shape)) else shape

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor as it is meant: dequantized where it is stored as codes, float8 as float32; in the orientation of
        the file."""
        stored = self._codes(name)
        if stored is not None:
            return dequantized(stored, self._read, self._block, self.place)
        tensor = self._read(name)
        if tensor.dtype in FLOAT8 or not tensor.is_floating_point():
            scale = next(
                (n for n in self._stored if n.startswith(f"{name}_") and "scale" in n.removeprefix(name)), None
            )
            if scale is not None:
                raise ModelError(
                    f"{self.place}: {name} holds codes that {scale} belongs to, a form that lorabench does not know;"
                    f" {ADVICE}"
                )
        return tensor.float() if tensor.dtype in FLOAT8 else tensor

    def find(self, module: str) -> str | None:
        """The name of a module's weight: checkpoints may leave out the first parts of a module's name, or have one
        more; None where none or several fit."""
        parts = plain(module).split(".")
        for i in range(len(parts)):
            if (name := ".".join([*parts[i:], "weight"])) in self._stored:
                return name
        near = [n for n in self._stored if n.endswith(f".{'.'.join(parts)}.weight")]
        return near[0] if len(near) == 1 else None

    def weight(self, module: str, shape: tuple[int, int] | None = None) -> torch.Tensor | None:
        """A module's weight as (out, in), dequantized where it is stored as codes; None where the checkpoint has none
        of that name, or none of that shape."""
        name = self.find(module)
        if name is None:
            return None
        weight = self.tensor(name)
        if weight.dim() != 2:
            return None
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(
                f"{self.place}: {name} holds values that are not finite; the checkpoint is damaged, or its training"
                " diverged"
            )
        if self._is_turned(name, 2):
            weight = weight.T
        return weight if shape is None or tuple(weight.shape) == shape else None

    @cached_property
    def form(self) -> str | None:
        """How its matrices are stored where that is as codes: "int8", "nf4 with double quantization", "fp8"; None where
        they are plain numbers."""
        if self._gguf is not None:
            return None if self._gguf.is_exact else self._gguf.type
        forms = {
            c.form + (" with double quantization" if c.double_quant else "")
            for n in self._constants
            if (c := self._codes(n))
        }
        return " and ".join(sorted(forms)) or None

    def _codes(self, name: str) -> Codes | None:
        return (
            codes(name, self._constants.get(name, ()), self._dtype(name), self.place, self._method)
            if name.endswith(".weight")
            else None
        )

    def _is_turned(self, name: str, dimensions: int) -> bool:
        return (
            self.transposed and dimensions == 2 and _is_conv1d(name) and name not in self._constants
        )  # bitsandbytes turns what it quantizes

    def _read(self, name: str) -> torch.Tensor:
        file, own = self._stored[name]
        return file.tensor(own)

    def _shape(self, name: str) -> tuple[int, ...]:
        file, own = self._stored[name]
        return file.shape(own)

    def _dtype(self, name: str) -> torch.dtype:
        file, own = self._stored[name]
        return file.dtype(own)


def _by_plain_name(files: Sequence[TensorFile | GgufTensors]) -> dict[str, tuple[TensorFile | GgufTensors, str]]:
    """Each tensor by the name that the model itself has for it: its file, and its name there."""
    tensors: dict[str, tuple[TensorFile | GgufTensors, str]] = {}
    for file in files:
        for own in file.names():
            name = plain(own)
            if name in tensors and tensors[name][1] != own:
                raise ModelError(
                    f"{file.path}: {tensors[name][1]} and {own} are both {name} once the wrappers of training are"
                    " removed; the checkpoint holds two models, save only one of them"
                )
            tensors[name] = file, own
    return tensors


def checkpoint_directory(name: str, revision: str | None = None, download: bool = False) -> Path | None:
    """Where a model's files lie: its directory, or its snapshot in the local cache of the hub, fetched where asked for;
    None where it is in neither."""
    directory = model_directory(name)
    if directory is not None:
        return directory if directory.is_dir() else None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    download = download and (local_folder(name, revision) is not None or hub.answers())
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=not download,
                allow_patterns=["*.json", "*.safetensors"] if download else None,
            )
        )
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
        return None


_TRANSPOSED_TYPES = (
    "gpt2",
    "openai-gpt",
    "imagegpt",
    "decision_transformer",
)  # their Conv1D stores weights as (in, out)


def _block(quantization: Mapping[str, object], method: str | None) -> tuple[int, int] | None:
    """The rows and columns that share a scale, as quantization_config declares them; DeepSeek-V3's where it says
    nothing, None where each scale has a whole side."""
    if method == "compressed-tensors":
        groups = quantization.get("config_groups")
        group = next(iter(groups.values())) if isinstance(groups, Mapping) and len(groups) == 1 else {}
        weights = group.get("weights") or {}
        shared = weights.get("block_structure") or (1, weights.get("group_size") or 0)
    else:
        shared = quantization.get("weight_block_size", BLOCK)
    return (int(shared[0]), int(shared[1])) if isinstance(shared, list | tuple) and len(shared) == 2 else None


def _is_conv1d(name: str) -> bool:
    return name.split(".")[-2] in ("c_attn", "c_proj", "c_fc", "q_attn")
