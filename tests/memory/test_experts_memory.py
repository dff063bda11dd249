"""Adapters on stacks of experts: what is held is what the real step holds, what is trained is what PEFT trains."""

from dataclasses import replace

import pytest
import torch
import transformers as t

from lorabench.config.settings import MethodSpec, ModelSpec
from lorabench.config.trainer import find_trainer
from lorabench.errors import LorabenchError
from lorabench.memory.parameters import count_parameters
from lorabench.memory.step_profile import predict_step
from lorabench.memory.validate import check, setting_from
from tests.memory.test_trace import measured, setting

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
CONFIGS = {
    "mixtral": lambda: t.MixtralConfig(**SMALL, intermediate_size=48, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: t.Qwen3MoeConfig(
        **SMALL, intermediate_size=48, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2, head_dim=8
    ),
    "gpt_oss": lambda: t.GptOssConfig(
        **SMALL, intermediate_size=16, num_local_experts=4, num_experts_per_tok=2, head_dim=8
    ),
}
EXPERTS = MethodSpec(name="lora", rank=4, target_modules="attention", target_parameters="experts")


def stored(kind, folder):
    torch.manual_seed(0)
    t.AutoModelForCausalLM.from_config(CONFIGS[kind]()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "checkpointing"),
    [
        ("mixtral", True),
        *(pytest.param(kind, on, marks=pytest.mark.slow) for kind in CONFIGS for on in (False, True)),
    ],
)
def test_the_predicted_peak_is_the_probes_peak(kind, checkpointing, tmp_path):
    asked = setting(EXPERTS, model=stored(kind, tmp_path), gradient_checkpointing=checkpointing)
    assert predict_step(asked).peak_bytes == pytest.approx(measured(asked), rel=0.001)


def test_every_expert_has_a_pair_of_the_rank_that_is_asked_for(tmp_path):
    """Mixtral: 2 layers of 4 experts, gate and up (96, 32), down (32, 48); attention q, o (32, 32), k, v (16, 32)."""
    experts = 2 * 4 * 4 * ((96 + 32) + (32 + 48))
    attention = 2 * 4 * (2 * (32 + 32) + 2 * (16 + 32))
    CONFIGS["mixtral"]().save_pretrained(tmp_path)
    (counted,) = count_parameters(ModelSpec(name=str(tmp_path)), [4], "attention", "lora", "experts")
    assert counted.trainable_parameters == experts + attention
    (down,) = count_parameters(ModelSpec(name=str(tmp_path)), [4], "attention", "lora", ["down_proj"])
    assert down.trainable_parameters == 2 * 4 * 4 * (32 + 48) + attention


@pytest.mark.slow
def test_experts_of_qwen3_30b_by_hand():
    """48 layers of 128 experts, hidden 2048, 768 each (Qwen3-30B-A3B's config.json): rank 8 is 8 (1536 + 2048) and
    8 (2048 + 768) an expert; the folded copy of a layer's stacks is what a checkpointed step holds beside them."""
    asked = {
        "model": "qwen3-30b-a3b",
        "method": {"rank": 8, "target_modules": "attention", "target_parameters": "experts"},
        "training": {"sequence_length": 256, "batch_size": 1, "gradient_checkpointing": True},
    }
    of_experts, without = setting_from(asked), {**asked, "method": {"rank": 8, "target_modules": "attention"}}
    step, plain = predict_step(of_experts), predict_step(setting_from(without))
    added = 48 * 128 * 8 * ((1536 + 2048) + (2048 + 768))
    assert step.trainable_parameters - plain.trainable_parameters == added
    assert step.persistent_bytes["adapters"] - plain.persistent_bytes["adapters"] == 4 * added
    assert step.parts["activations"] - plain.parts["activations"] > 2 * 128 * 2048 * (1536 + 768), "a layer, folded"


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (EXPERTS.model_copy(update={"name": "dora"}), "method dora cannot adapt target_parameters"),
        (EXPERTS.model_copy(update={"name": "pissa"}), "allowed: lora, rslora"),
        (EXPERTS.model_copy(update={"dropout": 0.1}), "dropout 0.1 cannot be combined with target_parameters"),
        (EXPERTS.model_copy(update={"target_parameters": ("up_proj",)}), "unknown target parameter 'up_proj'"),
        (EXPERTS.model_copy(update={"rank": 30, "target_modules": ("q_proj",)}), ""),
    ],
)
def test_what_peft_s_layer_of_parameters_cannot_do_is_one_sentence(method, says, tmp_path):
    CONFIGS["mixtral"]().save_pretrained(tmp_path)
    asked = setting(method, model=tmp_path)
    if not says:
        check(asked)
        return
    with pytest.raises(LorabenchError) as caught:
        check(asked)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_dense_model_has_no_experts_and_some_trainers_have_no_parameters(tmp_path):
    with pytest.raises(LorabenchError, match="keeps no experts as stacks"):
        check(setting(EXPERTS))
    CONFIGS["gpt_oss"]().save_pretrained(tmp_path)
    asked = setting(EXPERTS.model_copy(update={"rank": 20}), model=tmp_path)
    with pytest.raises(LorabenchError, match="rank 20 is above the smaller side of model"):
        check(replace(asked, method=asked.method.model_copy(update={"target_modules": ("q_proj",)})))
    with pytest.raises(LorabenchError, match="LLaMA-Factory has no target_parameters"):
        check(replace(asked, trainer=find_trainer("llamafactory")))
    assert check(replace(asked, method=EXPERTS, trainer=find_trainer("trl"))) is None
