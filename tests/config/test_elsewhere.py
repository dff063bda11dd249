"""Words of other tools are answered by what they mean here, typing errors by the nearest spelling."""

import pytest

from lorabench import plugins
from lorabench.config.elsewhere import unknown_choice

OPTIMIZERS = ("adamw", "adamw-8bit", "paged-adamw", "paged-adamw-8bit", "sgd")


@pytest.mark.parametrize("word", ["4bit", "4-bit", "int4", "bnb-4bit", "qlora", "load_in_4bit"])
def test_four_bits_are_nf4(word):
    assert "here: nf4" in unknown_choice("quantization", word, plugins.names("quantizations"))


@pytest.mark.parametrize("word", ["8bit", "8-bit", "llm.int8"])
def test_eight_bits_are_int8(word):
    assert "here: int8" in unknown_choice("quantization", word, plugins.names("quantizations"))


@pytest.mark.parametrize(("word", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")])
def test_a_precision_is_no_quantization(word, dtype):
    assert f"quantization none and model.dtype {dtype}" in unknown_choice(
        "quantization", word, plugins.names("quantizations")
    )


@pytest.mark.parametrize(
    "word",
    [
        "adalora",
        "AdaLoRA",
        "vera",
        "loha",
        "ia3",
        "prefix-tuning",
        "p_tuning",
        "oft",
        "lora+",
        "galore",
        "ln_tuning",
        "x-lora",
    ],
)
def test_a_method_of_elsewhere_is_not_built_in_and_no_slip_for_another(word):
    told = unknown_choice("method", word, plugins.names("methods"))
    assert told.startswith(
        f"method '{word}' is not built into lorabench; allowed: base, dora, full, lora, pissa, rslora; nearest: "
    )
    assert "did you mean" not in told


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("adamw_8bit", "adamw-8bit"),
        ("adamw_bnb_8bit", "adamw-8bit"),
        ("paged_adamw_32bit", "paged-adamw"),
        ("adamw_torch", "adamw"),
        ("PAGED_ADAMW_8BIT", "paged-adamw-8bit"),
    ],
)
def test_an_optimizer_of_transformers_is_told_by_its_name_here(word, ours):
    told = unknown_choice("optimizer", word, OPTIMIZERS)
    assert f"here: {ours};" in told or told.endswith(f"is written {ours}")


def test_a_typing_error_is_still_answered_by_the_nearest_spelling():
    assert "did you mean 'lora'?" in unknown_choice("method", "lroa", plugins.names("methods"))
    assert "did you mean 'nf4'?" in unknown_choice("quantization", "nf5", plugins.names("quantizations"))
