"""What the allocator counts beyond the tensors of a base that was quantized while it was loaded.

transformers 5 takes one block of the quantized model's size and lets it go (modeling_utils.py,
caching_allocator_warmup), then loads and quantizes one tensor after another, sorted by name (core_model_loading.py:
on-the-fly quantization loads synchronously). Each packed weight lies in what the 16-bit tensors before it left. torch's
allocator counts blocks, and cuts a block of the large pool only where more than 1 MiB would remain
(CUDACachingAllocator.cpp, should_split, kSmallSize), so that a weight may hold up to 1 MiB that is not its own. The
same steps are taken here with sizes alone; nothing is measured and nothing fitted.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MIB = 2**20
BLOCK = 512  # kMinBlockSize: CUDA's allocator gives multiples of this
SMALL, SMALL_SEGMENT = MIB, 2 * MIB  # kSmallSize, kSmallBuffer
LARGE_SEGMENT, LARGE = 20 * MIB, 10 * MIB  # kLargeBuffer, kMinLargeAlloc
ROUND_LARGE = 2 * MIB  # kRoundLarge
BLOCK_4BIT, BLOCK_CONSTANTS = 64, 256  # bitsandbytes' numbers a constant, and constants a nested one


@dataclass(eq=False)
class _Block:
    size: int
    small: bool
    before: _Block | None = None
    after: _Block | None = None
    free: bool = False


@dataclass
class Allocator:
    """torch's caching allocator, as far as it tells how large blocks are."""

    allocated: int = 0
    _free: dict[bool, list[tuple[int, int, _Block]]] = field(default_factory=lambda: {True: [], False: []})
    _count: int = 0

    def allocate(self, size: int) -> _Block:
        """The smallest free block that is large enough, cut where enough remains; else one of a new segment."""
        size = max(BLOCK, -(-size // BLOCK) * BLOCK)
        small = size <= SMALL
        pool = self._free[small]
        place = next((i for i, (free, _, _) in enumerate(pool) if free >= size), None)
        if place is not None:
            block = pool.pop(place)[2]
        elif small:
            block = _Block(SMALL_SEGMENT, small)
        else:
            block = _Block(LARGE_SEGMENT if size < LARGE else -(-size // ROUND_LARGE) * ROUND_LARGE, small)
        rest = block.size - size
        if rest >= BLOCK if small else rest > SMALL:
            other = _Block(rest, small, block, block.after)
            if block.after is not None:
                block.after.before = other
            block.after, block.size = other, size
            self._put(other)
        block.free = False
        self.allocated += block.size
        return block

    def release(self, block: _Block) -> None:
        """Frees a block and joins it with free neighbours."""
        self.allocated -= block.size
        if (before := block.before) is not None and before.free:
            self._drop(before)
            block.size, block.before = block.size + before.size, before.before
            if block.before is not None:
                block.before.after = block
        if (after := block.after) is not None and after.free:
            self._drop(after)
            block.size, block.after = block.size + after.size, after.after
            if block.after is not None:
                block.after.before = block
        self._put(block)

    def _put(self, block: _Block) -> None:
        block.free = True
        self._count += 1
        insort(self._free[block.small], (block.size, self._count, block))

    def _drop(self, block: _Block) -> None:
        pool = self._free[block.small]
        del pool[next(i for i, (_, _, other) in enumerate(pool) if other is block)]


@dataclass(frozen=True)
class Loaded:
    """A tensor of the checkpoint, and what becomes of it."""

    name: str
    size: int
    """bytes on the card before it is quantized"""
    packed: tuple[int, ...] = ()
    """bytes of what is kept in its place, in the order in which it is made; empty where it is kept itself"""
    passing: tuple[int, ...] = ()
    """bytes of what quantizing makes and lets go of again: the first before anything that is kept, the second after
    the first of it"""


def beyond_tensors(tensors: Sequence[Loaded]) -> int:
    """Bytes that blocks are larger than the tensors in them, after loading in the order of names."""
    allocator, own = Allocator(), 0
    allocator.release(allocator.allocate(sum(max(t.packed, default=t.size) for t in tensors)))
    for tensor in sorted(tensors, key=lambda t: _natural(t.name)):
        passing = [allocator.allocate(size) for size in (tensor.size, *tensor.passing[:1])]
        for place, size in enumerate(tensor.packed):
            allocator.allocate(size)
            passing += [allocator.allocate(size) for size in tensor.passing[1:] if place == 0]
        if tensor.packed:
            for block in reversed(passing):
                allocator.release(block)
        own += sum(-(-size // BLOCK) * BLOCK for size in tensor.packed or (tensor.size,))
    return allocator.allocated - own


def loaded_tensors(model: PreTrainedModel, layers: int) -> list[Loaded]:
    """What is loaded for a quantized model on the meta device, whose layers stand for so many."""
    import bitsandbytes as bnb

    tensors: list[Loaded] = []
    for name, parameter in model.named_parameters():
        if isinstance(parameter, bnb.nn.Params4bit):
            n = parameter.quant_state.shape.numel()
            constants = -(-n // BLOCK_4BIT)
            if parameter.quant_state.nested:  # functional.quantize_4bit: float32 constants, and those less their mean
                kept = (parameter.numel(), -(-constants // BLOCK_CONSTANTS) * 4, constants)
                tensors.append(Loaded(name, 2 * n, kept, (4 * constants, 4 * constants)))
            else:
                tensors.append(Loaded(name, 2 * n, (4 * constants, parameter.numel())))
        elif isinstance(parameter, bnb.nn.Int8Params):
            n = parameter.numel()
            tensors.append(Loaded(name, 2 * n, (4 * parameter.shape[0], n), (2 * n,)))  # quantized from float16
        else:
            tensors.append(Loaded(name, parameter.numel() * parameter.element_size()))
    traced = model.config.get_text_config().num_hidden_layers
    every: list[Loaded] = []
    for tensor in tensors:
        place = _place(tensor.name)
        if place is None:
            every.append(tensor)
        else:
            every += [replace(tensor, name=_numbered(tensor.name, i)) for i in range(place, layers, traced)]
    return every


def held_beyond(model: PreTrainedModel, layers: int) -> torch.Tensor:
    """The same as a tensor on the meta device."""
    return torch.empty(beyond_tensors(loaded_tensors(model, layers)), dtype=torch.uint8, device="meta")


_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


def _place(name: str) -> int | None:
    match = _LAYER.search(name)
    return int(match[0]) if match else None


def _numbered(name: str, place: int) -> str:
    return _LAYER.sub(str(place), name, count=1)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """transformers' dot_natural_key: numbers by value, before words."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]
