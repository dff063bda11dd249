"""What the device's kernels do that the meta device does not show.

- Attention: on the meta device torch takes the path that keeps the whole attention matrix. Here it takes the
  operator that the device would: flash attention for half precision on CUDA without a mask, the
  memory-efficient kernel with a mask, in float32, or in float16 on cards before compute capability 8 (which is where
  bfloat16 begins; in bfloat16 those keep the whole matrix, too), the flash kernel of the CPU. Their meta kernels and
  derivatives are torch's own, so what is kept for the backward pass is what they keep: q, k, v, the output
  and a log-sum-exp per row and head (Dao et al. 2022, arXiv:2205.14135).
- Quantized products: bitsandbytes 0.50 multiplies with a dequantized copy of the weight when there are many rows;
  the copy lives within the operator.
- Softmax's backward pass has a matrix of scratch, softmax from float16 to float32 has no copy, and dropout keeps a mask
  of one byte an entry, on CUDA.
- Questions to the data (`.item()`, outlier columns) are answered as for ordinary data: positions run on, no outliers.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial, wraps
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry

from lorabench.config.precision import DeviceKind
from lorabench.memory.meta_model import TRACING

NO_ANSWER = object()
Arguments = tuple[Any, ...]  # of an operator: tensors, numbers, lists of them
Keywords = dict[str, Any]
CUBLAS_WORKSPACE = 8_519_680  # bytes a handle (CUDABlas' CublasHandlePool.cpp): CUBLAS_WORKSPACE_CONFIG's :4096:2:16:8
CUBLAS_WORKSPACE_SINCE_9 = 32 * 2**20  # the same from compute capability 9 (Hopper) on
CUBLAS_HANDLES = 2  # forward and backward run in threads of their own, each with its handle
HALF_PRECISION = (torch.float16, torch.bfloat16)
aten = torch.ops.aten
_torchs_own = torch.nn.functional.scaled_dot_product_attention


def _attention(
    device: DeviceKind,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    bf16: bool = True,
) -> torch.Tensor:
    if torch.is_autocast_enabled(device):
        query, key, value = (t.to(torch.get_autocast_dtype(device)) for t in (query, key, value))
    alone = (
        query.shape[-3] != key.shape[-3] and not enable_gqa
    )  # one key head broadcast to all (Falcon): no fast kernel takes that
    emulated = (
        device == "cuda" and not bf16 and query.dtype == torch.bfloat16
    )  # sdp_utils.cpp: before compute capability 8 no fast kernel takes bfloat16, and the slow one computes in float32
    narrow = query.shape[-1] != value.shape[-1]  # latent attention (DeepSeek): flash kernels want one width for all
    if alone or emulated or (device == "cpu" and (dropout_p or narrow)):  # its flash kernel has no dropout
        return _torchs_own(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    fast = not narrow and query.dtype in HALF_PRECISION and query.shape[-1] <= 256
    flash = device == "cuda" and bf16 and fast and attn_mask is None
    if enable_gqa and device == "cuda" and not flash:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    bias = attn_mask
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # torch's own conversion, which every call makes anew
        bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), -float("inf"))
    if device == "cpu":
        results = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=bias, scale=scale
        )
    elif flash:
        results = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)
    else:
        if bias is not None:
            bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        results = aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, True, dropout_p, is_causal, scale=scale
        )
    out: torch.Tensor = results[0]
    return out


def _softmax(
    original: Callable[..., torch.Tensor],
    input: torch.Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """SoftMax.cpp: float16 in and float32 out is one kernel (half_to_float); bfloat16 is copied to float32 first."""
    if dim is not None and input.dtype == torch.float16 and dtype == torch.float32:
        whole: torch.Tensor = aten._softmax(input, dim, True)
        return whole
    return original(input, dim, _stacklevel, dtype)


def _dropout(
    original: Callable[..., torch.Tensor],
    input: torch.Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    """Dropout.cpp: one kernel (native_dropout), which keeps a mask of one byte an entry."""
    if training and 0 < p < 1 and not inplace:
        return torch.native_dropout(input, p, True)[0]
    return original(input, p, training, inplace)


def cublas_bytes(capability: int) -> int:
    """What cuBLAS holds from the first product on, on a card of a (major) compute capability; the allocator counts
    it."""
    return CUBLAS_HANDLES * (CUBLAS_WORKSPACE_SINCE_9 if capability >= 9 else CUBLAS_WORKSPACE)


def answer(operator: OpOverload, args: Arguments, kwargs: Keywords) -> object:
    """What an operator gives that the meta device cannot compute; NO_ANSWER for all others."""
    name = operator._schema.name
    if name == "aten::_local_scalar_dense":
        return args[0].dtype == torch.bool or 1
    if name == "aten::_grouped_mm":  # experts; torch's meta kernel knows bfloat16 alone
        a, b, *rest = args
        offsets = (*rest, kwargs.get("offs"))[0]
        shapes = {
            (2, 3): lambda: (a.shape[0], b.shape[2]),
            (3, 2): lambda: (a.shape[1], b.shape[1]),
            (2, 2): lambda: (offsets.shape[0], a.shape[0], b.shape[1]),
            (3, 3): lambda: (*a.shape[:2], b.shape[2]),
        }
        return a.new_empty(shapes[a.dim(), b.dim()]())
    if name == "bitsandbytes::int8_vectorwise_quant":
        rows = args[0]
        threshold = args[1] if len(args) > 1 else kwargs.get("threshold", 0.0)
        stats = rows.new_empty(rows.numel() // rows.shape[-1], dtype=torch.float32)
        outliers = rows.new_empty(0, dtype=torch.int64) if threshold else None
        return rows.new_empty(rows.shape, dtype=torch.int8), stats, outliers
    if name == "bitsandbytes::int8_mixed_scaled_mm":
        a, _, weight = args[:3]
        return a.new_empty((*a.shape[:-1], weight.shape[0])), a.new_empty(0)
    return NO_ANSWER


def scratch_bytes(operator: OpOverload, args: Arguments, device: DeviceKind) -> int:
    """Bytes that an operator's CUDA kernel holds besides its inputs and outputs. On a CPU they are not counted: the
    probe sees none."""
    if device == "cpu":
        return 0
    name = operator._schema.name
    if name == "aten::_softmax_backward_data":  # SoftMax.cu: tmp = grad * output, before the kernel
        return int(args[0].numel()) * args[0].element_size()
    if name == "bitsandbytes::gemm_4bit":  # A, packed weight, shape of the weight
        return int(args[2][0] * args[2][1]) * args[0].element_size()
    if name == "bitsandbytes::int8_mixed_scaled_mm":
        a, _, weight = args[:3]
        return int(a.numel() // a.shape[-1] * weight.shape[0]) * 4  # the int32 product
    return 0


def flops(operator: OpOverload, args: Arguments, kwargs: Keywords, result: object) -> int:
    """Floating-point operations as torch's own flop counter has them; quantized products as dense ones."""
    if operator._overloadpacket in flop_registry:
        return int(flop_registry[operator._overloadpacket](*args, **kwargs, out_val=result))
    name = operator._schema.name
    if name == "bitsandbytes::gemm_4bit":
        return int(2 * args[0].numel() * args[2][0])
    if name == "bitsandbytes::int8_mixed_scaled_mm":
        return int(2 * args[0].numel() * args[2].shape[0])
    return 0


@cache
def is_view(operator: OpOverload) -> bool:
    """Whether an operator moves no bytes: its results alias its arguments and nothing is written."""
    schema = operator._schema
    return bool(schema.returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)


@contextlib.contextmanager
def device_kernels(device: DeviceKind, bf16: bool = True) -> Iterator[None]:
    """Attention and int8 products as on the device (with bfloat16 or without), for the length of a `with` block.

    The functions are replaced where they are, since a checkpoint recomputes outside of all function modes. bitsandbytes
    trains int8 layers on a CPU through a dequantized copy, and asks the tensor's device for that. One thread traces at
    a time, the others wait. A replaced function acts on meta tensors alone, so a thread that trains meanwhile is not
    touched.
    """
    bnb, functional = sys.modules.get("bitsandbytes"), torch.nn.functional
    with TRACING, contextlib.ExitStack() as stack:
        attention = functional.scaled_dot_product_attention
        stack.callback(setattr, functional, "scaled_dot_product_attention", attention)
        functional.scaled_dot_product_attention = _on_meta(partial(_attention, device, bf16=bf16), attention)
        if device == "cuda":
            for name, replacement in (("softmax", _softmax), ("dropout", _dropout)):
                original = getattr(functional, name)
                stack.callback(setattr, functional, name, original)
                setattr(functional, name, _on_meta(partial(replacement, original), original))
        if bnb is not None and device == "cpu":
            stack.callback(setattr, bnb, "matmul", bnb.matmul)
            bnb.matmul = _on_meta(_int8_on_cpu, bnb.matmul)  # type: ignore[attr-defined]  # a module
        if proxy := getattr(sys.modules.get("peft.tuners.lora.layer"), "_LoraFactorsProxy", None):
            stack.callback(setattr, proxy, "forward", proxy.forward)
            proxy.forward = _folded(proxy.forward)
        yield


def _on_meta(
    replacement: Callable[..., torch.Tensor], original: Callable[..., torch.Tensor]
) -> Callable[..., torch.Tensor]:
    """The replacement for meta tensors, the original for all others."""

    @wraps(original)
    def call(*args: object, **kwargs: object) -> torch.Tensor:
        first = args[0] if args else next(iter(kwargs.values()))
        return (replacement if isinstance(first, torch.Tensor) and first.is_meta else original)(*args, **kwargs)

    return call


def _folded(original: Callable[[Any, torch.Tensor], torch.Tensor]) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """PEFT's fold of an expert stack's factors into its weights, which it does without autocast: torch has no autocast
    of the meta device that could be left."""

    def forward(proxy: Any, weight: torch.Tensor) -> torch.Tensor:
        if not weight.is_meta:
            return original(proxy, weight)
        folded: torch.Tensor = aten.baddbmm(weight, proxy.lhs, proxy.rhs, alpha=proxy.scaling)
        return folded

    return forward


def _int8_on_cpu(
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor | None = None,
    state: object = None,
    threshold: float = 0.0,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    from bitsandbytes.autograd._functions import MatMul8bitFp

    product: torch.Tensor = MatMul8bitFp.apply(a, b, out, bias, state)
    return product
