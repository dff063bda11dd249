"""What blocks hold beyond their tensors after a base was quantized while it was loaded."""

import pytest
import torch

from lorabench.config.settings import ModelSpec, QuantizationSpec
from lorabench.memory.loading import MIB, Allocator, Loaded, beyond_tensors, loaded_tensors
from lorabench.memory.meta_model import build, configuration, quantized, with_layers


def test_a_large_block_is_cut_only_where_more_than_a_mebibyte_remains():
    allocator = Allocator()
    allocator.release(allocator.allocate(30 * MIB))
    assert allocator.allocate(29 * MIB).size == 30 * MIB, "1 MiB remains: kept"
    other = Allocator()
    other.release(other.allocate(30 * MIB))
    assert other.allocate(29 * MIB - 512).size == 29 * MIB - 512


def test_small_blocks_are_cut_to_512_bytes_and_neighbours_join_again():
    allocator = Allocator()
    first, second = allocator.allocate(1000), allocator.allocate(1)
    assert (first.size, second.size, allocator.allocated) == (1024, 512, 1536)
    allocator.release(first)
    allocator.release(second)
    assert allocator.allocated == 0 and allocator.allocate(MIB).size == MIB, "the whole segment of 2 MiB is one again"


def test_a_packed_weight_lies_in_what_the_one_before_it_left():
    """8 MiB and 2.5 MiB are warmed up as 5.25 in one segment; a 16-bit tensor that does not fit takes another of 20."""
    weights = [Loaded("model.layers.0.a.weight", 8 * MIB, (2 * MIB,)), Loaded("model.layers.0.b.weight", 2 * MIB)]
    assert 0 <= beyond_tensors(weights) <= 2 * MIB


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 15.5, 23.4),  # 13 published peaks lie so much above their tensors (MiB)
        ("HuggingFaceTB/SmolLM2-1.7B", 0, 1),
        ("meta-llama/Llama-3.2-1B", 0, 1),
        ("meta-llama/Llama-3.1-8B", 31, 33),
        ("Qwen/Qwen2.5-1.5B", 8, 13),
    ],
)
def test_peaks_of_nf4_bases_show_what_is_found(name, least, most):
    config = configuration(ModelSpec(name=name))
    model = quantized(
        build(with_layers(config, 2), torch.bfloat16), QuantizationSpec(name="nf4"), *[torch.bfloat16] * 2
    )
    found = beyond_tensors(loaded_tensors(model, config.num_hidden_layers)) / MIB
    assert least <= found <= most
