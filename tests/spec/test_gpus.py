"""Cards are found by name, alias and size."""

import pytest

from lorabench.errors import LorabenchError
from lorabench.spec.gpus import find_gpu, gpus


def test_a_card_is_found_by_any_of_its_names():
    assert find_gpu("RTX 4090") is find_gpu("rtx4090") is find_gpu("geforce-rtx-4090")
    assert find_gpu("A100").memory_bytes == 80 * 2**30
    assert find_gpu("a100-40gb").bf16_flops == 312e12


@pytest.mark.parametrize("text", ["24GB", "24 gib", "24.0gb"])
def test_a_size_is_a_card_without_rates(text):
    card = find_gpu(text)
    assert card.memory_bytes == 24 * 2**30
    assert card.bandwidth is None
    assert card.bf16_flops is None


def test_an_unknown_card_is_told_with_the_nearest():
    with pytest.raises(LorabenchError, match=r"unknown gpu 'rtx4091'; did you mean 'rtx4090'.*a size such as 24GB"):
        find_gpu("rtx4091")


def test_names_are_unique_and_every_card_has_its_rates():
    words = [w for c in gpus().values() for w in (c.name, *c.aliases)]
    assert len(words) == len(set(words))
    assert all(c.bandwidth and c.bf16_flops and c.memory_bytes >= 8 * 2**30 for c in gpus().values())
