"""Tensors of a checkpoint's files as they lie: what headers say of them, and whether a stored number is finite.

safetensors are described by their headers alone (config.checkpoint_files). Pickled files (.bin) are read with
weights_only=True, which refuses everything that is no tensor, and are mapped, so that what is not asked for is not
read.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from lorabench.config.checkpoint_files import Stored, stored_tensors, weight_files
from lorabench.errors import ModelError

Described = Mapping[str, Stored | torch.Tensor]
"""name to what is known of a tensor: from the header of safetensors, or its shape on the meta device"""


def described(files: tuple[Path, ...]) -> Described:
    """Name to Stored of safetensors, to a tensor of the meta device of pickled files."""
    if files[0].suffix == ".safetensors":
        return dict(stored_tensors(files))
    return {n: t for f in files for n, t in read_pickled(f, "meta").items()}


def read_pickled(file: Path, where: str = "cpu") -> dict[str, torch.Tensor]:
    """The tensors of a .bin file, mapped and not read; on the device "meta" their shapes alone. ModelError where it
    holds anything that would have to be run.
    """
    try:
        content = torch.load(
            file, weights_only=True, map_location=where, mmap=zipfile.is_zipfile(file) and where == "cpu"
        )
    except pickle.UnpicklingError:
        raise ModelError(
            f"{file} is damaged, or holds more than tensors, and loading it would run the code in it; use safetensors"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError):
        raise ModelError(
            f"{file} is not a complete file of tensors; it is damaged or truncated, download it again"
        ) from None
    tensors = (
        {str(n): t for n, t in content.items() if isinstance(t, torch.Tensor)} if isinstance(content, dict) else {}
    )
    if not tensors:
        raise ModelError(f"{file} holds no named tensors at its top level; save the model with save_pretrained")
    return tensors


def refuse_infinite(folder: Path) -> None:
    """ModelError where a stored weight is not finite: for quantisers that lose it (bitsandbytes on a GPU takes a NaN
    for a code like any other).
    """
    for file in weight_files(folder):
        with contextlib.ExitStack() as stack:
            if file.suffix == ".safetensors":
                opened = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
                names, read = list(opened.keys()), opened.get_tensor
            else:
                tensors = read_pickled(file)
                names, read = list(tensors), tensors.__getitem__
            if bad := [n for n in names if not is_finite(read(n))]:
                raise ModelError(infinite(folder, bad))


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; without a copy of it."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(float(t)) for t in torch.aminmax(tensor))


def infinite(model: Path | str, names: Iterable[str], dtype: str | None = None) -> str:
    """The sentence for weights that are not finite."""
    precision = f" in {dtype}" if dtype else ""
    return (
        f"{model} holds weights that are not finite{precision} ({some(names)}); the checkpoint is damaged, its "
        "training diverged, or its values exceed the range of the dtype: use another checkpoint or model.dtype"
    )


def some(names: Iterable[str], most: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
