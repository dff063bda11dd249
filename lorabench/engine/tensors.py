"""Tensors of a checkpoint's files as they lie: what headers say of them, and whether a stored number is finite.

safetensors are described by their headers alone (config.checkpoint_files), pickled files (.bin) by spectra.tensor_file:
their tensors are mapped, so that what is not asked for is not read. Neither looks into what a training script wraps
around its tensors, since transformers does not either.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from lorabench.config.checkpoint_files import Stored, stored_tensors, weight_files
from lorabench.errors import ModelError
from lorabench.formatting import first_names
from lorabench.spectra.tensor_file import read_pickled

Described = Mapping[str, Stored | torch.Tensor]
"""name to what is known of a tensor: from the header of safetensors, or its shape on the meta device"""


def described(files: tuple[Path, ...]) -> Described:
    """Name to Stored of safetensors, to a tensor of the meta device of pickled files."""
    if files[0].suffix == ".safetensors":
        return dict(stored_tensors(files))
    return {n: t for f in files for n, t in read_pickled(f, "meta", unwrap=False).items()}


def refuse_infinite(folder: Path) -> None:
    """ModelError where a stored weight is not finite: for quantizers that lose it (bitsandbytes on a GPU takes a NaN
    for a code like any other).
    """
    for file in weight_files(folder):
        with contextlib.ExitStack() as stack:
            if file.suffix == ".safetensors":
                opened = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
                names, read = list(opened.keys()), opened.get_tensor
            else:
                tensors = read_pickled(file, unwrap=False)
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
    place = f" in {dtype}" if dtype else ""
    return (
        f"{model} holds weights that are not finite{place} ({some(names)}); the checkpoint is damaged, its "
        "training diverged, or they are beyond the range of the dtype: take another checkpoint or model.dtype"
    )


def some(names: Iterable[str], most: int = 4) -> str:
    """The first names by the alphabet, and how many more there are."""
    return first_names(sorted(names), most)
