"""Mixed precision on the meta device, which has no autocast of its own.

torch's autocast casts the inputs of listed operators on their way in, and remembers the cast copy of a trainable
float32 leaf until its context ends (docs: Automatic Mixed Precision, op reference). This function mode does the same
for the lists of CUDA and of the CPU, so that the copies live as long as the real ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from lorabench.config.precision import DeviceKind

T = torch.Tensor
LOWER = {
    F.linear, torch.matmul, T.matmul, T.__matmul__, T.__rmatmul__, torch.mm, T.mm, torch.bmm, T.bmm, torch.addmm,
    T.addmm, torch.baddbmm, T.baddbmm,
    torch.conv1d, F.conv1d,
}  # fmt: skip
FLOAT32 = {
    "cuda": {
        torch.pow, T.pow, T.__pow__, torch.rsqrt, T.rsqrt, torch.exp, T.exp, torch.log, T.log, torch.sum, T.sum,
        torch.cumsum, T.cumsum, torch.prod, T.prod,
        torch.norm, T.norm, torch.softmax, T.softmax, F.softmax, torch.log_softmax, T.log_softmax, F.log_softmax,
        F.layer_norm, F.cross_entropy, F.nll_loss,
        F.softplus, F.mse_loss, torch.reciprocal, T.reciprocal, torch.cosh, torch.sinh,
    },
    "cpu": {F.cross_entropy, F.mse_loss},
}  # fmt: skip


class DeviceAutocast(TorchFunctionMode):
    """Casts what torch.autocast(device, dtype) would."""

    def __init__(self, device: DeviceKind, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._float32 = FLOAT32[device]
        self._copies: dict[int, torch.Tensor] = {}
        self._device = device

    def __enter__(self) -> DeviceAutocast:
        torch.set_autocast_enabled(
            self._device, True
        )  # without effect on meta tensors; PEFT and kernels._attention ask for it
        torch.set_autocast_dtype(self._device, self._dtype)
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        torch.set_autocast_enabled(self._device, False)
        super().__exit__(*error)

    def again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The two contexts of a checkpoint: nothing more in the forward pass, autocast with copies of its own in the
        recomputation."""
        return contextlib.nullcontext(), self._alone()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with self:
                yield
        finally:  # a recomputation ends by an exception when all it needs is there
            self.forget()

    def forget(self) -> None:
        """Lets the cast copies go, as the end of an autocast context does."""
        self._copies.clear()

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        plain = getattr(function, "__wrapped__", function)  # of one that kernels have replaced
        if plain in LOWER:
            args, kwargs = tree_map(self._lower, (args, kwargs or {}))
        elif plain in self._float32:
            args, kwargs = tree_map(self._raise, (args, kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _lower(self, value: object) -> object:
        if not _eligible(value) or value.dtype == self._dtype:
            return value
        if not (value.is_leaf and value.requires_grad and value.dtype == torch.float32):
            return value.to(self._dtype)
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(self._dtype)
        return self._copies[id(value)]

    def _raise(self, value: object) -> object:
        return value.float() if _eligible(value) else value


def _eligible(value: object) -> TypeGuard[torch.Tensor]:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64
