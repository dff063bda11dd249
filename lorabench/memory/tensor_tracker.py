"""Follows the bytes of one traced step: every storage from its first to its last tensor, by what it is for.

The trace runs on the meta device, where tensors have shapes and no bytes. A dispatch mode sees each
operator's inputs and outputs; a storage counts from the operator that makes it until Python lets go of it,
which is when the real one would be freed. Operators that need scratch space on the device, and those that
ask the data a question, are answered from `kernels`.

The step is cut into segments (embedding, each layer forward, head, each layer backward, update). Each keeps every
moment, the live bytes after each operator, so that a model of many layers can be read off one of few (see `step`), and
a batch or a rank off two others (see `reuse`).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from lorabench.config.precision import DeviceKind
from lorabench.memory import kernels
from lorabench.memory.loading import BLOCK
from lorabench.memory.quick_shapes import quick_answer

CATEGORIES = (
    "weights",
    "quantization_state",
    "adapters",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "workspace",
)
PLACE = {c: i for i, c in enumerate(CATEGORIES)}
ADD, ADD_IN_PLACE = torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor


@dataclass
class Segment:
    """One part of the step: its moments, and the work done in it."""

    name: str
    moments: list[list[int]] = field(default_factory=list)
    """live bytes after each operator, one number a category"""
    flops: int = 0
    moved: int = 0
    """bytes read and written by its operators"""
    kernels: int = 0
    """operators that do work; views do none"""


class TensorTracker(TorchDispatchMode):
    """Counts live bytes on the meta device; `segments` in the order in which they were entered."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled here, and the wrapper that would tell the compiler so takes a tenth of a trace."""
        return False

    def __init__(self, device: DeviceKind, logits_width: int, logits_rows: int) -> None:
        super().__init__()
        self._block = BLOCK if device == "cuda" else 1
        self._device = device
        self._logits = (logits_width, logits_width * logits_rows)
        self._live: dict[int, tuple[int, str]] = {}
        self._totals = [0] * len(CATEGORIES)
        self.segments: list[Segment] = []
        self.enter("held")

    def hold(self, tensors: Iterable[torch.Tensor], category: str) -> None:
        """Counts tensors that exist before the step."""
        for tensor in tensors:
            self._see(tensor, category)
        self._mark(0)

    def enter(self, name: str) -> None:
        """Begins a segment."""
        self.segments.append(Segment(name))
        self._mark(0)

    def count(self, moved: int, kernels: int) -> None:
        """Adds work of operators that are not traced: a fused optimizer's."""
        self.segments[-1].moved += moved
        self.segments[-1].kernels += kernels

    def call(self, tensor: torch.Tensor, category: str) -> None:
        """Gives a live tensor another category: a gradient, which is known to be one only when it is complete."""
        key = tensor.untyped_storage()._cdata
        if key in self._live:
            size, before = self._live[key]
            self._totals[PLACE[before]] -= size
            self._totals[PLACE[category]] += size
            self._live[key] = size, category

    def _see(self, tensor: torch.Tensor, category: str | None = None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = -(-storage.nbytes() // self._block) * self._block
        category = category or self._kind(tensor)
        self._live[key] = size, category
        self._totals[PLACE[category]] += size
        weakref.finalize(storage, self._release, key)

    def _kind(self, tensor: torch.Tensor) -> str:
        width, numel = self._logits
        return "logits" if tensor.numel() == numel and tensor.shape[-1] == width else "activations"

    def _release(self, key: int) -> None:
        size, category = self._live.pop(key, (0, "activations"))
        self._totals[PLACE[category]] -= size

    def _mark(self, scratch: int) -> None:
        moment = self._totals.copy()
        moment[PLACE["workspace"]] += scratch
        self.segments[-1].moments.append(moment)

    def __torch_dispatch__(
        self, operator: OpOverload, types: object, args: kernels.Arguments = (), kwargs: kernels.Keywords | None = None
    ) -> object:
        kwargs = kwargs or {}
        if self._device == "cuda" and operator is ADD and _is_gradient_sum(args):
            operator = ADD_IN_PLACE
        result: object = quick_answer(operator, args, kwargs)
        if result is None:
            result = kernels.answer(operator, args, kwargs)
        if result is kernels.NO_ANSWER:
            result = operator(*args, **kwargs)
        inputs, outputs = _tensors((*args, *kwargs.values())), _tensors((result,))
        for tensor in (*inputs, *outputs):
            self._see(tensor)
        scratch = kernels.scratch_bytes(operator, args, self._device)
        self._mark(scratch)
        segment = self.segments[-1]
        segment.flops += kernels.flops(operator, args, kwargs, result)
        if not kernels.is_view(operator):
            segment.kernels += 1
            segment.moved += (
                sum(t.numel() * t.element_size() for t in (*inputs, *outputs)) + 2 * scratch
            )  # written and read again
        return result


def _is_gradient_sum(args: kernels.Arguments) -> bool:
    """Whether autograd adds a second gradient to one that it may write over.

    torch/csrc/autograd/input_buffer.cpp, accumulate: in place where gradients are not followed and the first one is no
    view. It never does so under a dispatch mode (isTensorSubclassLike), so the traced engine asks for a new tensor.
    """
    first, second = args[0], args[1]
    if torch.is_grad_enabled() or not isinstance(second, torch.Tensor) or first._is_view():
        return False
    frame = sys._getframe(2)
    while frame.f_back is not None and "dispatch" in frame.f_code.co_filename:
        frame = frame.f_back
    by_engine = frame.f_code.co_name == "_engine_run_backward"
    return by_engine and first.shape == second.shape and first.dtype == second.dtype


def _tensors(values: Iterable[object]) -> list[torch.Tensor]:
    """Those among an operator's arguments or results, one list deep; torch's own tree_leaves takes a tenth of a trace
    for it."""
    tensors = []
    for value in values:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            tensors += [v for v in value if isinstance(v, torch.Tensor)]
    return tensors
