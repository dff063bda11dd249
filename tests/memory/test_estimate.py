"""What fits on a card is what the prediction says of the next size up, and parts add up."""

import csv
import io
from dataclasses import replace

import pytest

from lorabench.config.gpus import find_gpu
from lorabench.config.trainer import find_trainer
from lorabench.memory.estimate import estimate, largest, with_framework
from lorabench.memory.step_profile import predict_step
from lorabench.memory.validate import setting_from

LLAMA = {
    "model": {"name": "llama-2-7b", "dtype": "bfloat16"},
    "method": {"rank": 8, "target_modules": ("q_proj", "v_proj")},
}

HIGH = find_trainer("lorabench").errors[1]


@pytest.mark.parametrize("limit", [0, 7, 8, 100, 1_000_003])
def test_the_largest_that_fits_is_found(limit):
    def height(n):
        return 5 + 3 * n + (n // 7) ** 2

    found = largest(height, limit, 5_000, 8, height(8))
    assert found == max((n for n in range(1, 5_001) if height(n) <= limit), default=0)


def test_one_more_sequence_would_not_fit():
    setting = setting_from({**LLAMA, "training": {"batch_size": 1, "sequence_length": 512}})
    card = find_gpu("40GB")
    made = estimate(setting, card, 4096)
    assert made.fits

    def high(**changes):
        other = replace(setting, training=setting.training.model_copy(update=changes))
        return HIGH * sum(with_framework(predict_step(other), other).values())

    assert high(batch_size=made.largest_batch_size) <= card.memory_bytes < high(batch_size=made.largest_batch_size + 1)
    assert (
        made.largest_sequence_length == 4096
        or high(sequence_length=made.largest_sequence_length + 1) > card.memory_bytes
    )


def test_the_parts_add_up_and_the_range_holds_the_peak():
    made = estimate(setting_from({**LLAMA, "training": {"batch_size": 2, "sequence_length": 256}}))
    assert sum(made.bytes.values()) == made.peak_bytes
    assert made.low_bytes < made.peak_bytes < made.high_bytes
    assert made.fits is None
    assert made.largest_batch_size is None


PUBLISHED = """model,quantization,micro_batch,sequence_length,peak_gb
llama-2-7b,none,1,1304,21.30
llama-2-7b,none,2,1304,29.07
llama-2-13b,none,1,1304,38.12
"""


@pytest.mark.parametrize(
    "row", list(csv.DictReader(io.StringIO(PUBLISHED))), ids=lambda r: f"{r['model']}-{r['micro_batch']}"
)
def test_published_measurements_of_litgpt_are_met_within_three_percent(row):
    """litgpt's resource tables (bf16-true, rank 8 on q and v, one A100), which count no CUDA context."""
    training = {"batch_size": row["micro_batch"], "sequence_length": row["sequence_length"], "autocast": "none"}
    step = predict_step(
        setting_from({**LLAMA, "model": {"name": row["model"], "dtype": "bfloat16"}, "training": training})
    )
    assert step.peak_bytes == pytest.approx(float(row["peak_gb"]) * 1e9, rel=0.03)


def test_weights_alone_are_the_papers_memory_claims():
    """QLoRA, section 3: 4.5 bits a parameter, 4.127 with double quantization; 65B in full 16-bit fine-tuning takes over
    780 GB."""
    words = {
        "model": {"name": "llama-65b"},
        "method": {"rank": 64},
        "training": {"batch_size": 1, "sequence_length": 512, "gradient_checkpointing": True},
    }
    for double, bits in ((False, 4.5), (True, 4.127)):
        step = predict_step(setting_from({**words, "quantization": {"name": "nf4", "double_quant": double}}))
        embeddings = 2 * 32000 * 8192
        packed = step.parts["weights"] + step.parts["quantization_state"] - 2 * embeddings
        assert 8 * packed / (65_285_660_672 - embeddings) == pytest.approx(bits, rel=0.002)
    full = predict_step(
        setting_from(
            {
                **words,
                "model": {"name": "llama-65b", "dtype": "bfloat16"},
                "method": {"name": "full"},
                "training": {"batch_size": 1, "sequence_length": 512},
            }
        )
    )
    assert full.parts["weights"] + full.parts["gradients"] + full.parts["optimizer"] == pytest.approx(
        4 * 2 * 65.29e9, rel=0.05
    )


@pytest.mark.parametrize("square", [0, 3, 900, 10**6])
@pytest.mark.parametrize("limit", [10**7, 10**9, 3 * 10**11])
@pytest.mark.parametrize("known", [2, 512, 8192])
def test_the_largest_length_is_found_in_few_looks_however_memory_bends(square, limit, known):
    """Attention that keeps its matrix grows with the square of the length: chords alone would creep towards the end one
    by one."""
    looks = []

    def height(n):
        looks.append(n)
        return 10**6 + 4000 * n + square * n * n

    found = largest(height, limit, 65_536, known, height(known))
    exact = max((n for n in range(1, 65_537) if 10**6 + 4000 * n + square * n * n <= limit), default=0)
    assert found == exact
    assert len(looks) <= 30


@pytest.mark.slow
def test_memory_on_a_card_without_bfloat16_is_that_of_no_mixed_precision():
    t4 = find_gpu("t4")
    small = {"name": "lorabench/tiny-300k", "dtype": "bfloat16"}
    setting = setting_from({"model": small, "training": {"batch_size": 1, "sequence_length": 128}})
    plain = replace(setting, training=setting.training.model_copy(update={"autocast": "none"}))
    assert estimate(setting, t4).peak_bytes == estimate(plain, t4).peak_bytes != estimate(setting).peak_bytes
