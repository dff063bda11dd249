"""What a trace replaces in torch acts on meta tensors alone, one thread at a time, and is put back."""

from __future__ import annotations

import threading

import torch
import torch.nn.functional as F

from lorabench.memory.kernels import device_kernels


def test_a_real_tensor_is_computed_as_ever_while_another_thread_traces():
    original = F.scaled_dot_product_attention
    query = torch.randn(1, 2, 4, 8)
    expected, seen = original(query, query, query), []
    with device_kernels("cuda"):
        assert F.scaled_dot_product_attention is not original
        thread = threading.Thread(target=lambda: seen.append(F.scaled_dot_product_attention(query, query, query)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], expected)
    assert F.scaled_dot_product_attention is original


def test_a_second_thread_waits_until_the_first_has_put_the_functions_back():
    original, entered = F.scaled_dot_product_attention, threading.Event()

    def second():
        with device_kernels("cpu"):
            entered.set()

    thread = threading.Thread(target=second)
    with device_kernels("cuda"):
        thread.start()
        assert not entered.wait(0.2)
    thread.join()
    assert entered.is_set() and F.scaled_dot_product_attention is original
