"""The gradients of attention in float32 are the true ones, rounded once."""

from __future__ import annotations

import pytest
import torch

from lorabench.engine.attention_backward import FORWARD, SHORT, float32_attention_backward

CPU = torch.device("cpu")


def gradients(dtype: torch.dtype, length: int, masked: bool, within: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    tensors = [torch.randn(2, 3, length, 16).bfloat16().to(dtype).requires_grad_() for _ in range(3)]
    mask = torch.randn(2, 1, length, length).bfloat16().to(dtype) if masked else None

    def attend() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*tensors, attn_mask=mask, is_causal=not masked)

    if within:
        with float32_attention_backward(CPU):
            out = attend()
    else:
        out = attend()
    torch.manual_seed(1)
    out.backward(torch.randn(out.shape).bfloat16().to(dtype))
    return [t.grad for t in tensors]


@pytest.mark.parametrize("masked", [False, True])
def test_half_precision_gradients_are_nearer_to_the_truth_than_the_kernels_own(masked):
    truth = gradients(torch.float64, 40, masked, within=False)
    ours, kernels = (gradients(torch.bfloat16, 40, masked, within) for within in (True, False))
    for true, our, kernel in zip(truth, ours, kernels, strict=True):
        assert our.dtype == torch.bfloat16
        assert (our - true).norm() <= (kernel - true).norm()
        assert (our - true).norm() < 0.01 * true.norm()


@pytest.mark.parametrize(("dtype", "length"), [(torch.float32, 40), (torch.bfloat16, SHORT + 1)])
def test_elsewhere_nothing_changes(dtype, length):
    for ours, kernels in zip(
        gradients(dtype, length, False, True), gradients(dtype, length, False, False), strict=True
    ):
        torch.testing.assert_close(ours, kernels, rtol=0, atol=0)


def test_it_ends_with_its_block():
    def node() -> str:
        q = torch.randn(1, 1, 4, 8, dtype=torch.bfloat16, requires_grad=True)
        return type(getattr(torch.ops.aten, FORWARD)(q, q, q, 0.0, True)[0].grad_fn).__name__

    before = node()
    with float32_attention_backward(CPU):
        assert node() == "_AttentionBackward"
    assert node() == before != "_AttentionBackward"
