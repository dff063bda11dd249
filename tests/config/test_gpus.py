"""Cards are found by name, alias and size, as people type them and as drivers print them; the time of a step follows
the precision."""

from types import SimpleNamespace

import pytest
import torch

from lorabench.config.gpus import cards_named, find_gpu, gpus
from lorabench.errors import LorabenchError
from lorabench.memory.roofline import LAUNCH, step_seconds


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX 4090", "rtx4090"),
        ("4090", "rtx4090"),
        ("3090", "rtx3090"),
        ("geforce-rtx-4090", "rtx4090"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("RTX 4060 Ti", "rtx4060ti-16gb"),
        ("rtx3060", "rtx3060-12gb"),
        ("Tesla T4", "t4"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("a100 40 gb", "a100-40gb"),
        ("a100-40", "a100-40gb"),
        ("A10080GB", "a100-80gb"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"),
        ("H100", "h100"),
        ("h100-80gb", "h100"),
        ("h100-sxm", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("A6000", "rtx-a6000"),
        ("6000 Ada", "rtx-6000-ada"),
        ("A10G", "a10g"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_a_card_is_found_by_any_of_its_names(text, name):
    assert find_gpu(text) is gpus()[name]


def test_every_card_is_found_by_its_own_name_alone():
    assert all(find_gpu(name) is card for name, card in gpus().items())
    assert all(find_gpu(alias) is card for card in gpus().values() for alias in card.aliases)


@pytest.mark.parametrize(
    "text",
    [
        "RTX 4090 Laptop GPU",
        "RTX 4090 D",
        "RTX 4070 Ti SUPER",
        "H100 NVL",
        "RTX 4090 48GB",
        "V100S-PCIE-32GB",
        "",
        "NVIDIA",
        "80GB",
        "cpu",
    ],
)
def test_a_name_that_only_holds_a_cards_name_is_another_card(text):
    assert cards_named(text) == []


@pytest.mark.parametrize("text", ["a100", "nvidia a100", "A100-SXM4", "NVIDIA A100 PCIe"])
def test_a_name_of_two_cards_is_told_with_both(text):
    with pytest.raises(LorabenchError, match=f"^gpu '{text}' may be a100-40gb or a100-80gb; name one of them$"):
        find_gpu(text)


@pytest.mark.parametrize(
    ("text", "gib"),
    [
        ("24GiB", 24),
        ("24 gib", 24),
        (" 24.0gib ", 24),
        ("1TiB", 1024),
        ("0.5GiB", 0.5),
        ("12288MiB", 12),
        ("12GB", 11.6),
        ("12 gb", 11.6),
        ("12g", 11.6),
        ("24GB", 21.96),
        ("16GB", 14.56),
    ],
)
def test_a_size_is_a_card_without_rates_named_as_typed(text, gib):
    """GiB is an amount as typed; GB is a class of cards, with what the least of them can use (of 12 GB 11.6 GiB, of 24
    GB an L4's)."""
    card = find_gpu(text)
    assert card.memory_bytes == int(gib * 2**30)
    assert card.name == text.strip()
    assert (card.bandwidth, card.bf16_flops, card.fp32_flops) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no gpu is named"),
        ("  ", "no gpu is named"),
        ("24", "give 24GB"),
        ("12345", "give 24GB"),
        ("0GB", "no gpu has 0GB of memory"),
        ("-5GB", "no gpu has -5GB of memory"),
        ("9" * 400 + "GB", "up to 100TB"),
        ("9" * 400, "without a unit"),
        ("9" * 5000 + "GB", "up to 100TB"),
        ("a100 " + "9" * 5000 + "GB", "unknown gpu"),
        ("1000000GB", "up to 100TB"),
        ("rtx4091", "unknown gpu 'rtx4091'; did you mean 'rtx4090'"),
        ("no\nsuch", "unknown gpu 'no such'"),
    ],
)
def test_what_is_no_card_is_one_sentence(text, words):
    with pytest.raises(LorabenchError) as told:
        find_gpu(text)
    sentence = str(told.value)
    assert words in sentence
    assert "\n" not in sentence
    assert len(sentence) < 600
    assert "24GB" in sentence


def test_names_are_unique_and_every_card_has_its_rates():
    words = [w for c in gpus().values() for w in (c.name, *c.aliases)]
    assert len(words) == len(set(words))
    for card in gpus().values():
        assert card.bandwidth
        assert card.bf16_flops > card.fp32_flops > 1e12
        assert card.memory_bytes >= 8 * 2**30


def test_a_cards_memory_is_what_pytorch_can_use_of_it():
    """ECC takes a sixteenth of GDDR6, the driver about 2 %; nothing takes more than a tenth."""
    assert all(0.9 < c.memory_bytes / (c.nominal_gib * 2**30) < 0.995 for c in gpus().values())
    assert find_gpu("rtx4090").memory_bytes == int(23.6 * 2**30)
    assert find_gpu("a100-80gb").memory_bytes < 79.2 * 2**30


def test_turing_and_volta_have_no_bfloat16():
    assert {c.name for c in gpus().values() if not c.bf16} == {"t4", "v100-16gb", "v100-32gb"}
    assert find_gpu("24GB").bf16


def test_float32_is_computed_outside_the_tensor_cores():
    work = SimpleNamespace(flops=10**15, moved_bytes=10**6, kernels=10)
    a100, t4 = find_gpu("a100-80gb"), find_gpu("t4")
    assert step_seconds(work, a100).least == pytest.approx(1e15 / 312e12)
    assert step_seconds(work, a100, products=torch.float32).least == pytest.approx(1e15 / 19.5e12)
    assert step_seconds(work, a100, products=torch.float32).most > 10 * step_seconds(work, a100).most
    assert step_seconds(work, t4).least == pytest.approx(1e15 / 8.1e12), "no bfloat16"
    assert step_seconds(work, t4, products=torch.float16).least == pytest.approx(1e15 / 65e12), (
        "what its tensor cores take"
    )
    assert step_seconds(work, t4) == step_seconds(work, t4, products=torch.float32)
    assert step_seconds(work, find_gpu("24GB")) is None
    plain, packed = (
        step_seconds(work, a100),
        step_seconds(work, a100, quantized=True),
    )  # Qwen's README: 1.05 to 2.5 times as long, 1.3 in the median
    assert (packed.least, packed.most) == pytest.approx((1.05 * plain.least, 1.3 * plain.most))
    idle = SimpleNamespace(flops=1, moved_bytes=1, kernels=1000)
    assert step_seconds(idle, a100, products=torch.float32).least == 1000 * LAUNCH


def test_a_class_never_has_more_than_a_card_of_that_size_and_grows_with_it():
    from lorabench.config.gpus import usable_bytes

    assert all(usable_bytes(c.nominal_gib) <= c.memory_bytes for c in gpus().values())
    sizes = [usable_bytes(quarter / 4) for quarter in range(1, 1200)]
    assert sizes == sorted(sizes)
    assert usable_bytes(20) == int(20 * 2**30 * gpus()["t4"].memory_bytes / 2**34), (
        "no known card has 20 GB: the lowest known share, a T4's"
    )


def test_what_a_size_means_is_said_in_both_units():
    assert find_gpu("12GB").capacity == "12 GB card: 11.6 GiB = 12.5 GB usable"
    assert find_gpu("12GiB").capacity == "12 GiB = 12.9 GB usable"
    assert find_gpu("rtx4090").capacity == "24 GB card: 23.6 GiB = 25.3 GB usable"


@pytest.mark.parametrize(
    ("text", "one"),
    [
        ("2xrtx4090", "rtx4090"),
        ("2x4090", "rtx4090"),
        ("rtx4090x2", "rtx4090"),
        ("2 x rtx4090", "rtx4090"),
        ("8xH100", "h100"),
        ("A100-80GB:8", "a100-80gb"),
        ("4x24GB", "24GB"),
    ],
)
def test_several_cards_are_told_to_be_one_so_far(text, one):
    with pytest.raises(
        LorabenchError, match=f"cards, but memory and time are predicted for a single card; give --gpu {one},"
    ):
        find_gpu(text)


def test_one_times_a_card_is_that_card():
    assert find_gpu("1x4090") is gpus()["rtx4090"]
    assert find_gpu("mi300x") is gpus()["mi300x"]


@pytest.mark.parametrize("text", ["apple m2", "M2 Max", "mps"])
def test_apples_chips_are_told_not_to_be_known(text):
    with pytest.raises(LorabenchError, match="not on Apple's GPUs"):
        find_gpu(text)
