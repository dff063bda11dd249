"""How time and memory are measured, so that a number means the same on a CPU and on a GPU.

Time: clocks that wait for the device before they are read. Memory on CUDA: the allocator's own peak, reset
at the start of each phase. Memory on a CPU: the peak of live tensor bytes, followed by a dispatch mode
that sees every tensor an operator takes or gives and every storage's end. It slows the steps it watches,
so it runs in a probe of its own (two training steps, one evaluation batch), never in a timed phase.
Scratch space within one operator is not seen.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Clock:
    """Seconds since it was made, read only when the device has finished its work."""

    def __init__(self, where: torch.device) -> None:
        self._where = where
        self._synchronise()
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Waits for the device first."""
        self._synchronise()
        return time.perf_counter() - self._start

    def _synchronise(self) -> None:
        if self._where.type == "cuda":
            torch.cuda.synchronize(self._where)


@dataclass
class PhaseMeter:
    """A part of a cell with its own clock and, on CUDA, its own memory peaks; read after the `with` block."""

    where: torch.device
    seconds: float = 0.0
    peak_bytes: int | None = None
    reserved_bytes: int | None = None

    def __enter__(self) -> PhaseMeter:
        if self.where.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.where)
        self._clock = Clock(self.where)
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._clock.seconds()
        if self.where.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(self.where)
            self.reserved_bytes = torch.cuda.max_memory_reserved(self.where)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensor storages; `existing` are tensors made before (weights, optimizer state)."""

    def __init__(self, existing: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self.now = 0
        self.peak = 0
        for tensor in existing:
            self._count(tensor)

    def _count(self, tensor: torch.Tensor) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        self._live[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.now -= self._live.pop(key, 0)

    def __torch_dispatch__(  # type: ignore[override]  # torch hints nothing of it
        self,
        operator: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)
        return result


def held_tensors(model: PreTrainedModel) -> list[torch.Tensor]:
    """All tensors that a model keeps: parameters, their gradients and quantization constants, buffers."""
    from lorabench.engine.quantized_weights import quantization_tensors

    tensors: list[torch.Tensor] = [*model.buffers(), *quantization_tensors(model)]
    for parameter in model.parameters():
        tensors.append(parameter)
        if parameter.grad is not None:
            tensors.append(parameter.grad)
    return tensors


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had, on a GPU or on the host."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or any(
        words in str(error)
        for words in (
            *("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"),
            *("Cannot allocate memory", "bad_alloc"),  # of the system, of C++
        )
    )
