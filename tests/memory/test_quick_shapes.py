"""What is answered by shape alone is what torch's own meta kernels answer: shape, dtype and strides."""

import itertools

import pytest
import torch

from lorabench.memory.quick_shapes import ANSWERS, quick_answer

aten = torch.ops.aten


def tensor(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


def tensors():
    """As they come in a step: plain, transposed heads, halves of heads, one row for all, columns, expanded, scalars."""
    for dtype in (torch.bfloat16, torch.float32):
        heads = tensor(2, 16, 4, 8, dtype=dtype)
        yield from (heads, heads.transpose(1, 2), heads.transpose(1, 2)[..., :4], tensor(2, 4, 16, 8, dtype=dtype))
        yield from (tensor(1, 1, 16, 8, dtype=dtype), tensor(2, 16, 1, dtype=dtype), tensor(8, dtype=dtype))
        yield from (tensor(dtype=dtype), tensor(1, dtype=dtype), tensor(2, 16, 1, dtype=dtype).expand(2, 16, 8))
        yield from (tensor(16, 4, dtype=dtype), tensor(4, 16, dtype=dtype), tensor(16, 4, dtype=dtype).t())
    yield from (tensor(2, 16, dtype=torch.int64), tensor(3, 1, 1, 5).permute(3, 1, 0, 2))


def questions(operator):
    if operator in (aten.mul.Tensor, aten.add.Tensor, aten.mm.default):
        yield from ((pair, {}) for pair in itertools.product(tensors(), repeat=2))
    if operator in (aten.mul.Tensor, aten.add.Tensor, aten.mul.Scalar, aten.div.Scalar, aten.pow.Tensor_Scalar):
        yield from (((a, number), {}) for a, number in itertools.product(tensors(), (2, 0.5)))
    if operator in (aten.neg.default, aten.rsqrt.default, aten.linalg_vector_norm.default):
        yield from (((a,), {}) for a in tensors())
    if operator is aten.linalg_vector_norm.default:
        yield from (((a, 2.0), {"dtype": torch.float32}) for a in tensors())
        yield from (((a, 2.0, [-1], True), {}) for a in tensors())
    if operator is aten.mean.dim:
        yield from (((a, [-1], keep), {}) for a, keep in itertools.product(tensors(), (True, False)))
    if operator is aten.add.Tensor:
        yield (tensor(4, 4), tensor(4, 4)), {"alpha": 2}


@pytest.mark.parametrize("operator", ANSWERS, ids=str)
def test_an_answer_by_shape_is_torchs(operator):
    answered = 0
    for args, kwargs in questions(operator):
        quick = quick_answer(operator, args, kwargs)
        if quick is None:
            continue
        own = operator(*args, **kwargs)
        told = [(t.shape, t.dtype, _strides(t), t.untyped_storage().nbytes(), t.device) for t in (quick, own)]
        assert told[0] == told[1], (args, kwargs)
        answered += 1
    assert answered >= 8


def _strides(t):
    """Those of a side of one move nothing."""
    return [s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1]


def test_what_shapes_alone_do_not_tell_is_left_to_torch():
    whole, half = tensor(4, 4, dtype=torch.float32), tensor(4, 4)
    for operator, args in (
        (aten.mul.Tensor, (whole, half)),  # types are promoted
        (aten.add.Tensor, (tensor(4, 1), tensor(1, 4))),  # the result has the shape of neither
        (aten.mul.Scalar, (tensor(4, dtype=torch.int64), 0.5)),
        (aten.mm.default, (whole, half)),
        (aten.sub.Tensor, (whole, whole)),
    ):
        assert quick_answer(operator, args, {}) is None
