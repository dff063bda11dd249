"""Adapters of experts: each has its own change, whether a checkpoint stacks them or holds them apart."""

import peft
import pytest
import torch
from safetensors.torch import load_file

from lorabench.spectra.analyse import analyse
from lorabench.spectra.files import Weights
from lorabench.spectra.source import open_learned
from tests.spectra.peft_variants import assert_change, merged, mixtral, randomised


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "use_rslora": True,
            "rank_pattern": {"experts.gate_up_proj": 2},
            "alpha_pattern": {"layers.1.mlp.experts.down_proj": 3},
        },
        {"target_parameters": ["mlp.experts.down_proj"]},
    ],
)
def test_each_expert_of_a_stack_has_its_own_change(fields, tmp_path):
    settings = {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        "task_type": "CAUSAL_LM",
    } | fields
    expected = merged(peft.LoraConfig(**settings), tmp_path, mixtral())
    learned = open_learned(str(tmp_path / "adapter"), base=str(tmp_path / "base"))
    deltas = {d.module: d for d in learned.deltas()}
    stacks = [n for n, d in expected.items() if d.dim() == 3]
    assert stacks
    assert len(deltas) == 2 + 3 * len(stacks)
    base = load_file(tmp_path / "base" / "model.safetensors")
    for name in stacks:
        front, _, last = name.rpartition(".")
        for e in range(3):
            delta = deltas[f"{front}.{e}.{last}"]
            assert_change(delta, expected[name][e])
            assert torch.equal(learned.weight(delta), base[name][e])
    assert all(s.alignment for s in analyse(learned))


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_a_checkpoint_that_holds_its_experts_apart_is_a_base_of_stacks(kind, tmp_path):
    """transformers saves experts under the names that the model was published with, and stacks them when it loads."""
    import transformers as t

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
    }
    model = {
        "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**sizes, num_local_experts=3)),
        "qwen3_moe": lambda: t.Qwen3MoeForCausalLM(
            t.Qwen3MoeConfig(**sizes, head_dim=8, num_experts=3, moe_intermediate_size=24, num_experts_per_tok=2)
        ),
    }[kind]()
    model.save_pretrained(tmp_path / "base")
    held = {k: v.clone() for k, v in model.state_dict().items()}
    assert any(".experts.0." in n for n in Weights(tmp_path / "base").names()), "apart on disk"
    config = peft.LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=["q_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    randomised(peft.get_peft_model(model, config)).save_pretrained(tmp_path / "adapter")
    learned = open_learned(str(tmp_path / "adapter"), base=str(tmp_path / "base"))
    deltas = list(learned.deltas())
    assert len(deltas) == 2 * (1 + 2 * 3)
    for delta in deltas:
        name = delta.stack or f"{delta.module}.weight"
        assert torch.equal(learned.weight(delta), held[name][delta.expert] if delta.stack else held[name])


def test_the_router_of_mixtral_is_found_under_both_of_its_names(tmp_path):
    small = mixtral()
    small.save_pretrained(tmp_path / "base")
    before = small.model.layers[0].mlp.gate.weight.detach().clone()
    randomised(
        peft.get_peft_model(small, peft.LoraConfig(r=2, target_modules=[], target_parameters=["mlp.gate.weight"]))
    ).save_pretrained(tmp_path / "adapter")
    learned = open_learned(str(tmp_path / "adapter"), base=str(tmp_path / "base"))
    assert torch.equal(learned.weight(next(learned.deltas())), before)
