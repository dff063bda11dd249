"""A model of many layers is read off few: the same numbers as tracing it whole."""

from dataclasses import replace

import pytest
from transformers import Gemma2Config, Gemma3TextConfig, GPT2Config, LlamaConfig, MistralConfig

from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.errors import LorabenchError
from lorabench.memory.layer_pattern import Pattern, pattern
from lorabench.memory.step_profile import predict_step
from lorabench.memory.train_config import TrainConfig

SMALL = {
    "vocab_size": 500,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
}
CONFIGS = {
    "llama": LlamaConfig(num_hidden_layers=11, num_key_value_heads=2, **SMALL),
    "mistral": MistralConfig(num_hidden_layers=7, num_key_value_heads=2, sliding_window=32, **SMALL),
    "gemma3": Gemma3TextConfig(num_hidden_layers=13, head_dim=16, num_key_value_heads=2, sliding_window=32,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 4 + ["sliding_attention"], **SMALL),
    "gemma2": Gemma2Config(num_hidden_layers=9, head_dim=16, num_key_value_heads=2, sliding_window=32,
        layer_types=["sliding_attention", "full_attention"] * 4 + ["sliding_attention"], **SMALL),
    "gpt2": GPT2Config(n_layer=9, n_embd=64, n_head=4, vocab_size=500, n_positions=256),
}  # fmt: skip
FULL = MethodSpec(name="full", rank=None, alpha=None, dropout=None, target_modules=None)


# layers of several kinds need many of them: eight tests take 40 s; mistral's are of one kind, as llama's
@pytest.fixture(
    params=[name if name in ("llama", "gpt2") else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS],
    scope="module",
)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    CONFIGS[request.param].save_pretrained(folder)
    return ModelSpec(name=str(folder))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("method", "quantization", "training"),
    [
        (MethodSpec(rank=4), "none", {"sequence_length": 128}),
        (MethodSpec(rank=4), "nf4", {"sequence_length": 64, "gradient_checkpointing": True}),
        (FULL, "none", {"sequence_length": 8, "batch_size": 1}),  # the peak is at the end of the backward pass
        (FULL, "none", {"sequence_length": 128, "optimizer": "sgd"}),
    ],
    ids=["lora", "qlora-ckpt", "full-short", "full-sgd"],
)
def test_few_layers_tell_the_whole(model, method, quantization, training, device):
    asked = TrainConfig(model, QuantizationSpec(name=quantization), method, TrainingSpec(**training), device)
    assert predict_step(asked) == predict_step(asked, whole=True)


def test_a_pattern_is_the_shortest_period_of_the_kinds_of_layers():
    assert pattern(CONFIGS["llama"]) == Pattern(1)
    assert pattern(CONFIGS["gemma3"]) == Pattern(3)
    assert pattern(LlamaConfig(num_hidden_layers=3, layer_types=["full_attention"] * 3)) == Pattern(1)
    odd = replace_types(
        ["sliding_attention", "full_attention", "full_attention", "sliding_attention", "full_attention"]
    )
    assert pattern(odd) is None


def replace_types(kinds):
    return Gemma3TextConfig(num_hidden_layers=len(kinds), layer_types=kinds)


def test_more_of_anything_never_needs_less(model):
    base = TrainConfig(
        model, QuantizationSpec(), MethodSpec(rank=4), TrainingSpec(batch_size=2, sequence_length=32), "cuda"
    )
    peak = predict_step(base).peak_bytes
    for change in ({"batch_size": 3}, {"sequence_length": 48}):
        assert predict_step(replace(base, training=base.training.model_copy(update=change))).peak_bytes > peak
    assert predict_step(replace(base, method=MethodSpec(rank=8))).peak_bytes > peak


@pytest.mark.parametrize(
    "odd", [{"mlp_only_layers": [1, 4]}, {"decoder_sparse_step": 2}], ids=["mlp-only", "every-second"]
)
def test_layers_with_and_without_experts_are_told_apart(odd, tmp_path):
    from transformers import Qwen2MoeConfig

    Qwen2MoeConfig(
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        **odd,
    ).save_pretrained(tmp_path)
    setting = TrainConfig(
        ModelSpec(name=str(tmp_path)),
        QuantizationSpec(),
        MethodSpec(rank=2, target_modules="attention"),
        TrainingSpec(batch_size=2, sequence_length=16),
        "cuda",
    )
    assert predict_step(setting) == predict_step(setting, whole=True)


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_pissa_is_saved_with_twice_its_rank(model):
    lora, pissa = (
        predict_step(
            TrainConfig(
                model,
                QuantizationSpec(),
                MethodSpec(name=n, rank=2),
                TrainingSpec(batch_size=1, sequence_length=16),
                "cpu",
            )
        )
        for n in ("lora", "pissa")
    )
    assert pissa.adapter_bytes == 2 * lora.adapter_bytes
    assert pissa.trainable_parameters == lora.trainable_parameters


def test_a_model_that_peft_cannot_adapt_is_one_sentence(tmp_path):
    from transformers import MambaConfig

    MambaConfig(hidden_size=32, num_hidden_layers=4, vocab_size=64).save_pretrained(tmp_path)
    with pytest.raises(LorabenchError) as e:
        predict_step(
            TrainConfig(
                ModelSpec(name=str(tmp_path)),
                QuantizationSpec(),
                MethodSpec(rank=2),
                TrainingSpec(batch_size=1, sequence_length=16),
                "cuda",
            )
        )
    assert "\n" not in str(e.value)
