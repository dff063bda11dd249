"""The tensors of one module's factors in an adapter's file, checked as they are read."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lorabench.errors import ModelError
from lorabench.spectra.layouts import Entry
from lorabench.spectra.tensor_file import TensorFile


def factor_shape(file: TensorFile, entry: Entry, of_b: bool) -> tuple[int, ...]:
    """The shape of a module's A or B as stored; ModelError where it is no matrix, or the other is of another kind."""
    shape = file.shape(entry.b if of_b else entry.a)
    if len(shape) < 2:
        raise ModelError(
            f"{file.path}: {entry.b if of_b else entry.a} is {by(shape) or 'a single number'}; a matrix of"
            " floating-point numbers is needed"
        )
    dims = len(file.shape(entry.a)), len(file.shape(entry.b))
    if (
        entry.layout != "mlx" and dims[0] != dims[1] and not (dims[0] == 2 and set(file.shape(entry.b)[2:]) == {1})
    ):  # old PEFT's merged B is a convolution of one point
        raise ModelError(
            f"{file.path}: {entry.module}: lora_A is {by(file.shape(entry.a))} and lora_B is"
            f" {by(file.shape(entry.b))}; both must belong to a linear layer, or both to a convolution"
        )
    return shape


def own_alpha(file: TensorFile, name: str) -> float:
    """A module's own .alpha tensor; ModelError where it is not one positive number."""
    alpha = finite(file, name).flatten()
    if alpha.numel() != 1 or not float(alpha) > 0:
        raise ModelError(f"{file.path}: {name} is {alpha.tolist()[:4]}; one positive number is needed")
    return float(alpha)


def finite(file: TensorFile, name: str) -> torch.Tensor:
    """A tensor of finite numbers; what is stored in 8 bits as float32, since torch does not calculate in it. ModelError
    where it holds other numbers."""
    tensor = file.tensor(name)
    if not tensor.is_floating_point():
        raise ModelError(
            f"{file.path}: {name} is {by(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}; a matrix"
            " of floating-point numbers is needed"
        )
    try:
        tensor = tensor.float() if tensor.element_size() < 2 else tensor
    except (RuntimeError, NotImplementedError):
        raise ModelError(
            f"{file.path}: {name} is of {str(tensor.dtype).removeprefix('torch.')}, which torch cannot turn"
            " into numbers; save the adapter in another precision"
        ) from None
    if not bool(torch.isfinite(tensor).all()):
        raise ModelError(f"{file.path}: {name} holds values that are not finite; the training diverged")
    return tensor


def by(shape: Iterable[int]) -> str:
    """A shape in words, 4 x 8."""
    return " x ".join(str(n) for n in shape)
