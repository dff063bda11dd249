"""Bad words for a prediction end as one sentence."""

import pytest

from lorabench.errors import LorabenchError
from lorabench.memory.validate import model_from, setting_from


def asked(model="llama-3.1-8b", **parts):
    return {"model": {"name": model}, **parts}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (asked("nowhere/at/all"), "there is no directory nowhere/at/all"),
        (asked(method={"name": "lroa"}), "did you mean 'lora'?"),
        (
            asked(method={"rank": 4097}),
            r"rank 4097 is above the smaller side of model.layers.0.self_attn.k_proj \(1024 x 4096\); at most 1024",
        ),
        (asked(method={"rank": "x"}), "method.rank is 'x'; it must be a whole number"),
        (asked(method={"target_modules": ("q_porj",)}), "unknown target module 'q_porj'; did you mean 'q_proj'?"),
        (asked(method={"name": "base"}), "method base trains nothing"),
        (
            asked(method={"name": "pissa"}, quantization={"name": "nf4"}),
            "pissa cannot be combined with quantization nf4",
        ),
        (asked(quantization={"name": "nf5"}), "did you mean 'nf4'?"),
        (asked("gpt2", training={"sequence_length": 1025}), "beyond the 1024 positions of gpt2; at most 1024"),
        (asked(training={"optimizer": "adam"}), "did you mean 'adamw'?"),
        (asked(training={"batch_size": 0}), "training.batch_size is 0; it must be at least 1"),
        (asked("falcon-7b", quantization={"name": "nf4"}), "this model's are of class FalconLinear"),
        (asked("t5-small"), "but a training step cannot be predicted: it is not a causal language model"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(words, told):
    with pytest.raises(LorabenchError, match=told):
        setting_from(words)


@pytest.mark.parametrize("read", [model_from, lambda name: setting_from(asked(name))])
def test_a_model_that_is_nowhere_is_told_without_a_fields_name(read):
    with pytest.raises(LorabenchError, match=r"^there is no directory /nowhere/model; give a shipped model"):
        read("/nowhere/model")


def test_numbers_may_be_text_as_a_command_line_gives_them():
    setting = setting_from(asked(method={"rank": "16"}, training={"batch_size": "2", "sequence_length": "128"}))
    assert (setting.method.rank, setting.training.batch_size, setting.training.sequence_length) == (16, 2, 128)
