"""The weights that a quantized checkpoint stands for, from its codes and the constants beside them.

    bitsandbytes int8     W = code * SCB / 127                    <module>.SCB: the largest value of each row (Dettmers
                                                                  et al. 2022, section 2.1)
    bitsandbytes 4 bit    W = quant_map[code] * absmax of its block, two codes a byte, the first in the high half
                          (Dettmers et al. 2023, section 3)
      double quantized    absmax = nested_quant_map[code] * nested_absmax of its block + nested_offset
    scaled float8         W = code * scale                        one scale for all, a row, a column or a block
                                                                  (DeepSeek-V3: 128 x 128; the last may be cut)
    scaled int8           W = (code - zero point) * scale         compressed-tensors: one scale for all, a row, or a
                                                                  group of columns

A float8 weight that nothing stands beside is a plain number. Everything else (GPTQ, AWQ, HQQ, mxfp4, torchao, ...) is
refused by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypedDict

import torch

from lorabench.errors import ModelError

FLOAT8 = tuple(getattr(torch, n) for n in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"))
SCALES = (
    "weight_scale_inv",
    "weight_scale",
    "qscale_weight",
    "scale",
)  # all of them factors, the "inverse" one too (DeepSeek, compressed-tensors, Mistral, DeepSeek-V4)
BLOCK = (128, 128)  # of DeepSeek-V3, where nothing says another
METHODS = (
    "bitsandbytes",
    "fp8",
    "mxfp8",
    "fbgemm_fp8",
    "compressed-tensors",
)  # by config.json; what of them cannot be read is seen by the tensors
_STATE = "quant_state.bitsandbytes__"
_BESIDE = {
    *SCALES, "SCB", "weight_format", "weight_zero_point", "weight_shape", "weight_g_idx", "input_scale",
    "activation_scale", "output_scale", "input_zero_point", "input_global_scale", "input_scale_ub", "weight_scale_2",
    "weight_global_scale", "k_scale", "v_scale",
}  # fmt: skip
_FOREIGN = {
    "qweight": "GPTQ or AWQ", "weight_packed": "compressed-tensors in packed codes", "W_q": "HQQ", "codebooks": "AQLM",
    "_data": "quanto", "_blocks": "mxfp4", "weight_scales": "EETQ", "weight_qdata": "torchao", "qdata": "torchao",
    "bitmask": "compressed-tensors with sparse weights",
}  # fmt: skip

Read = Callable[[str], torch.Tensor]


class QuantState(TypedDict):
    """bitsandbytes' state of a 4-bit weight; the nested fields where its constants are quantized, too."""

    shape: list[int]
    blocksize: int
    dtype: str
    nested_blocksize: int
    nested_offset: float


@dataclass(frozen=True)
class Codes:
    """A weight that is stored as codes: its name, its constants by what they are, its form."""

    name: str
    beside: Mapping[str, str]
    """what -> name of the tensor"""
    form: str
    """int8, nf4, fp4, fp8 or "scaled int8" """

    @property
    def double_quant(self) -> bool:
        """Whether the 4-bit constants are quantized, too."""
        return "nested_absmax" in self.beside


def foreign(names: Collection[str]) -> str | None:
    """The method that stored tensors of such names, where it is one that is not read; None otherwise."""
    for name in names:
        last = name.rpartition(".")[2]
        for part, method in _FOREIGN.items():
            if last == part or (
                part == "_blocks" and last.endswith(part) and name.removesuffix(part) + "_scales" in names
            ):
                return method
    return None


def beside(name: str, names: Collection[str]) -> str | None:
    """The weight that a tensor is a constant of; None for a tensor that stands for itself."""
    head, mark, _ = name.partition(".weight.")
    if mark and f"{head}.weight" in names:
        return f"{head}.weight"
    module, _, last = name.rpartition(".")
    return f"{module}.weight" if last in _BESIDE and f"{module}.weight" in names else None


def codes(name: str, constants: Collection[str], dtype: torch.dtype, place: object, scaled: str | None) -> Codes | None:
    """How a weight with these constants is stored; None for a plain one. `scaled` is the method of the checkpoint's
    scales, by its config.json.

    ModelError, in one sentence, for codes that are not understood.
    """
    what = {c.removeprefix(f"{name}.") if c.startswith(f"{name}.") else c.rpartition(".")[2]: c for c in constants}
    state = next((w for w in what if w.startswith(_STATE)), None)
    if state is not None:
        return Codes(name, {**what, "state": what[state]}, state.removeprefix(_STATE))
    if dtype == torch.int8 and "SCB" in what:
        return Codes(name, what, "int8")
    scales, odd = (
        [s for s in SCALES if s in what],
        {"weight_g_idx", "weight_scale_2", "weight_global_scale"} & set(what),
    )
    of_integers = dtype == torch.int8 and scaled == "compressed-tensors" and scales == ["weight_scale"]
    if len(scales) == 1 and not odd and (dtype in FLOAT8 or of_integers):
        return Codes(name, {**what, "scale": what[scales[0]]}, "scaled int8" if of_integers else "fp8")
    if dtype.is_floating_point and not scales and (dtype not in FLOAT8 or scaled in (None, "bitsandbytes")):
        return None
    kind = str(dtype).removeprefix("torch.")
    reason = f"with {', '.join(sorted(what))} beside it" if what else "without a scale beside it"
    raise ModelError(f"{place}: {name} holds {kind} codes {reason}, a form that lorabench does not know; {ADVICE}")


ADVICE = (
    "allowed: plain weights, bitsandbytes int8, fp4 and nf4, and scaled float8; take the unquantized checkpoint, or"
    " dequantize this one with its own library"
)


def logical_shape(stored: Codes, shape: tuple[int, ...], read: Read) -> tuple[int, ...]:
    """The shape of the weight that is meant, without reading its codes."""
    return tuple(_state(stored, read)["shape"]) if stored.form in ("nf4", "fp4") else shape


def dequantized(stored: Codes, read: Read, block: tuple[int, int] | None, place: object) -> torch.Tensor:
    """The weight (out, in), float32; of 4-bit ones in the precision that they were quantized from, as bitsandbytes
    gives them back.

    `block` are the rows and columns that share a scale, where that is known. ModelError where constants are missing or
    of another size.
    """
    try:
        if stored.form in ("nf4", "fp4"):
            return _four_bits(stored, read)
        if stored.form == "int8":
            return _rows(stored, read)
        return _scaled(stored, read, block)
    except (KeyError, ValueError, RuntimeError, IndexError, TypeError) as e:
        raise ModelError(
            f"{place}: the codes of {stored.name} and the constants beside them do not match"
            f" ({' '.join(str(e).split())[:120]}); download the checkpoint again"
        ) from None


def _rows(stored: Codes, read: Read) -> torch.Tensor:
    values, rows = read(stored.name), read(stored.beside["SCB"]).float().flatten()
    if "weight_format" in stored.beside and int(read(stored.beside["weight_format"])):
        raise ValueError("they are tiled for one kind of GPU")
    if len(rows) != values.shape[0]:
        raise ValueError(f"{len(rows)} row constants for {values.shape[0]} rows")
    return values.float() * rows[:, None] / 127


def _four_bits(stored: Codes, read: Read) -> torch.Tensor:
    state = _state(stored, read)
    shape, size = tuple(state["shape"]), int(state["blocksize"])
    count = math.prod(shape)
    packed = read(stored.name).contiguous().view(torch.uint8).flatten()  # quant_storage may call the bytes bfloat16
    absmax = read(stored.beside["absmax"])
    if stored.double_quant:
        outer, inner = read(stored.beside["nested_absmax"]).float(), read(stored.beside["nested_quant_map"]).float()
        each = outer.repeat_interleave(int(state["nested_blocksize"]))[: absmax.numel()]
        absmax = inner[absmax.flatten().long()] * each + float(state["nested_offset"])
    if packed.numel() < (count + 1) // 2 or absmax.numel() != -(-count // size):
        raise ValueError(f"{packed.numel()} bytes and {absmax.numel()} block constants for {count} weights")
    table = read(stored.beside["quant_map"]).float()
    pairs = torch.stack([table.repeat_interleave(16), table.repeat(16)], dim=1)  # (256, 2): both weights of a byte
    flat = pairs[packed[: (count + 1) // 2].long()].flatten()[:count]
    padded = torch.nn.functional.pad(flat, (0, -count % size)).view(-1, size) * absmax.float().flatten()[:, None]
    return padded.flatten()[:count].view(shape).to(getattr(torch, str(state["dtype"])))


def _state(stored: Codes, read: Read) -> QuantState:
    state: QuantState = json.loads(bytes(read(stored.beside["state"]).to(torch.uint8).flatten().tolist()))
    if not isinstance(state, dict):
        raise ValueError("its quant_state is not a JSON object")
    return state


def _scaled(stored: Codes, read: Read, block: tuple[int, int] | None) -> torch.Tensor:
    values, scale = read(stored.name).float(), _factors(read(stored.beside["scale"]))
    if "weight_zero_point" in stored.beside:
        zero = read(stored.beside["weight_zero_point"]).float()
        values = values - (zero if zero.numel() == 1 else _spread(zero, tuple(values.shape), block))
    return values * (scale if scale.numel() == 1 else _spread(scale, tuple(values.shape), block))


def _factors(scale: torch.Tensor) -> torch.Tensor:
    """Scales as numbers: a byte is an exponent (E8M0: 2 to the power of byte - 127)."""
    if scale.dtype == torch.uint8:
        return torch.exp2(scale.float() - 127)
    return scale.float()


def _spread(scale: torch.Tensor, shape: tuple[int, ...], block: tuple[int, int] | None) -> torch.Tensor:
    """A grid of constants as one for each entry; blocks at the lower and right edge may be cut."""
    if scale.dim() == 1 and len(scale) == shape[0]:
        scale = scale[:, None]  # a row's
    if scale.dim() != 2 or len(shape) != 2:
        raise ValueError(f"scales of shape {tuple(scale.shape)} for a weight of {tuple(shape)}")
    for axis in (0, 1):
        size = _shared(shape[axis], scale.shape[axis], block[axis] if block else None)
        scale = scale.repeat_interleave(size, axis).narrow(axis, 0, shape[axis])
    return scale


def _shared(side: int, parts: int, declared: int | None) -> int:
    """How many rows or columns share a constant: all, one, as declared, else equal shares."""
    for size in (side, 1, declared):
        if size and parts == -(-side // size):
            return size
    if not parts or side % parts:
        raise ValueError(f"{parts} scales for {side} rows or columns")
    return side // parts
