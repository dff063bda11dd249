"""Every way in which PEFT lets a change be more than scaling * B @ A gives the change of PEFT's own merge, or is
refused by its name."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lorabench.errors import LorabenchError, ModelError
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.analyse import analyse
from lorabench.spectra.files import Weights
from lorabench.spectra.source import open_learned
from lorabench.spectra.truncate import truncate
from tests.engine.conftest import small_model

BD = {
    "target_modules_bd_a": ["o_proj", "down_proj"],
    "target_modules_bd_b": ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"],
    "nblocks": 2,
}


def randomised(model, seed=1):
    """Random values in everything that the adapter holds; magnitudes a tenth longer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "magnitude" in name:
                p.mul_(1.1)
            elif "lora_" in name or "trainable_tokens_delta" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


def merged(config, folder, model=None):
    """An adapter of that configuration with random values, saved with its base; gives module to W after - W before, by
    PEFT's own merge."""
    torch.manual_seed(0)
    model = small_model("llama") if model is None else model
    before = {k: v.clone().double() for k, v in model.state_dict().items()}
    (folder / "base").mkdir(parents=True)
    save_file({k: v.float().contiguous().clone() for k, v in before.items()}, folder / "base" / "model.safetensors")
    adapted = randomised(peft.get_peft_model(model, config)).eval()
    adapted.save_pretrained(folder / "adapter")
    after = adapted.merge_and_unload().state_dict()
    return {
        k.removesuffix(".weight"): after[k].double() - before[k]
        for k in before
        if bool((after[k].double() != before[k]).any())
    }


def assert_change(delta, expected):
    """(out, in) of a layer as PEFT stores it: an embedding's the other way round, a convolution's flat."""
    expected = expected.T if delta.is_embedding else expected.reshape(expected.shape[0], -1)
    torch.testing.assert_close(delta.matrix().float(), expected.float(), rtol=1e-3, atol=2e-5)


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONFIGS = {
    "plain": {},
    "rslora and patterns": {
        "use_rslora": True,
        "rank_pattern": {"^model.layers.0.*q_proj": 2, "layers.1.mlp.up_proj": 6},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 3, "^model.layers.1.mlp.*": 5},
    },
    "dora": {"use_dora": True},
    "dora rslora": {"use_dora": True, "use_rslora": True, "alpha_pattern": {"q_proj": 1}},
    "kasa": {"kasa_config": peft.tuners.lora.config.KasaConfig()},
    "kasa patterns": {
        "kasa_config": peft.tuners.lora.config.KasaConfig(),
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"q_proj": 1},
    },
    "bdlora": {"use_bdlora": peft.tuners.lora.config.BdLoraConfig(**BD)},
    "bdlora in part": {
        "use_bdlora": peft.tuners.lora.config.BdLoraConfig(
            target_modules_bd_b=["q_proj"], nblocks=4, match_strict=False
        ),
        "use_rslora": True,
    },
    "velora": {"velora_config": peft.tuners.lora.config.VeloraConfig(num_groups=4)},
    "monteclora": {"monteclora_config": peft.tuners.lora.config.MontecloraConfig(num_samples=2)},
    "mica": {"init_lora_weights": "mica"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "no start": {"init_lora_weights": False},
    "layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "exclude": {"target_modules": "all-linear", "exclude_modules": ["lm_head", "o_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"], "use_rslora": True},
    "embedding dora": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "lm_head": {"target_modules": ["lm_head", "q_proj"]},
    "trained along": {"modules_to_save": ["lm_head"], "trainable_token_indices": {"embed_tokens": [1, 5]}},
}


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_the_change_is_that_of_pefts_merge(fields, tmp_path):
    expected = merged(
        peft.LoraConfig(**({"r": 4, "lora_alpha": 9, "target_modules": LINEAR, "task_type": "CAUSAL_LM"} | fields)),
        tmp_path,
    )
    deltas = {d.module: d for d in Adapter(tmp_path / "adapter").deltas(Weights(tmp_path / "base"))}
    trained_along = {"model.embed_tokens"} if fields.get("trainable_token_indices") else set()
    assert set(deltas) == set(expected) - trained_along
    for name, delta in deltas.items():
        assert_change(delta, expected[name])


@pytest.mark.parametrize("alpha", [9, 32])
def test_adalora_has_its_diagonal_and_is_divided_by_its_first_rank(alpha, tmp_path):
    config = peft.AdaLoraConfig(
        init_r=4,
        target_r=2,
        lora_alpha=alpha,
        total_step=10,
        target_modules=["q_proj", "up_proj"],
        task_type="CAUSAL_LM",
    )
    expected = merged(config, tmp_path)
    deltas = {d.module: d for d in Adapter(tmp_path / "adapter").deltas()}
    assert set(deltas) == set(expected)
    for name, delta in deltas.items():
        assert_change(delta, expected[name])


def test_adalora_with_ranks_cut_off_down_to_none(tmp_path):
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=9, total_step=10, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"
    )
    model = randomised(peft.get_peft_model(small_model("llama"), config))
    kept = {
        "layers.0.self_attn.q_proj": [True, False, True, True],
        "layers.1.self_attn.q_proj": [False] * 4,
        "layers.0.mlp.up_proj": [True] * 4,
        "layers.1.mlp.up_proj": [False, False, True, False],
    }
    model.peft_config["default"].rank_pattern = {f"model.{m}.lora_E": ranks for m, ranks in kept.items()}
    model.save_pretrained(tmp_path / "adapter")
    before = {k: v.clone().double() for k, v in small_model("llama").state_dict().items()}
    after = peft.PeftModel.from_pretrained(small_model("llama"), tmp_path / "adapter").merge_and_unload().state_dict()
    deltas = {d.module: d for d in Adapter(tmp_path / "adapter").deltas()}
    assert {name.removeprefix("model."): d.rank for name, d in deltas.items()} == {
        m: sum(ranks) for m, ranks in kept.items()
    }
    for name, delta in deltas.items():
        assert_change(delta, after[f"{name}.weight"].double() - before[f"{name}.weight"])
    found = {s.module: s for s in analyse(open_learned(str(tmp_path / "adapter")))}
    assert found["model.layers.1.self_attn.q_proj"].frobenius_norm == 0


class Convolutions(nn.Module):
    """One layer of each kind that PEFT adapts beside linear ones."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Conv1d(6, 8, 3)
        self.two = nn.Conv2d(6, 8, 3)
        self.point = nn.Conv2d(6, 8, 1)
        self.three = nn.Conv3d(6, 8, 3)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.plain = nn.Linear(6, 8)
        self.words = nn.Embedding(10, 6)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_convolutions_and_embeddings_with_and_without_dora(dora, rslora, tmp_path):
    targets = ["one", "two", "point", "three", "plain", "words"]
    expected = merged(
        peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, use_dora=dora, use_rslora=rslora),
        tmp_path,
        Convolutions(),
    )
    deltas = {d.module: d for d in Adapter(tmp_path / "adapter").deltas(Weights(tmp_path / "base"))}
    assert set(deltas) == set(targets) == set(expected)
    for name, delta in deltas.items():
        assert_change(delta, expected[name])


def test_an_attention_layer_with_one_input_projection(tmp_path):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    before = {k: v.clone().double() for k, v in Attention().state_dict().items()}
    (tmp_path / "base").mkdir()
    save_file({k: v.float() for k, v in before.items()}, tmp_path / "base" / "model.safetensors")
    model = randomised(
        peft.get_peft_model(Attention(), peft.LoraConfig(r=4, lora_alpha=6, target_modules=["attn"]))
    ).eval()
    model.save_pretrained(tmp_path / "adapter")
    outer = model.base_model.model.attn
    learned = open_learned(str(tmp_path / "adapter"), base=str(tmp_path / "base"))
    deltas = {d.module: d for d in learned.deltas()}
    assert set(deltas) == {"attn", "attn.out_proj"}
    for module, name, layer in (
        ("attn", "attn.in_proj_weight", outer),
        ("attn.out_proj", "attn.out_proj.weight", outer.base_layer.out_proj),
    ):
        assert_change(deltas[module], layer.get_delta_weight("default").detach().double())
        assert torch.equal(learned.weight(deltas[module]).double(), before[name])
    with pytest.raises(LorabenchError, match="part of a layer that is adapted as a whole"):
        truncate(learned.adapter, tmp_path / "cut", rank=2)


def test_a_convolution_in_groups_changes_its_output_as_peft_does(tmp_path):
    model = randomised(
        peft.get_peft_model(Convolutions(), peft.LoraConfig(r=8, lora_alpha=6, target_modules=["grouped"]))
    ).eval()
    model.save_pretrained(tmp_path)
    (delta,) = Adapter(tmp_path).deltas()
    layer, base = model.base_model.model.grouped, Convolutions().grouped
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(3))
    changed = base(x) + nn.functional.conv2d(
        x, delta.matrix().float().reshape(12, 8, 3, 3)
    )  # A reads all channels, B alone is grouped
    torch.testing.assert_close(changed, layer(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(LorabenchError, match="a grouped convolution"):
        truncate(Adapter(tmp_path), tmp_path / "cut", rank=2)


@pytest.mark.parametrize("rslora", [False, True])
def test_layers_made_of_others_are_held_against_the_layer_they_were_made_of(rslora, tmp_path):
    small_model("llama").save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=LINEAR,
        task_type="CAUSAL_LM",
        layer_replication=[[0, 2], [0, 1], [1, 2]],
        use_dora=True,
        use_rslora=rslora,
    )
    model = randomised(peft.get_peft_model(small_model("llama"), config))
    model.save_pretrained(tmp_path / "adapter")
    learned = open_learned(str(tmp_path / "adapter"), base=str(tmp_path / "base"))
    deltas = list(learned.deltas())
    assert len(deltas) == 4 * 7
    for delta in deltas:
        layer = model.get_submodule(f"base_model.model.{delta.module}")
        before = layer.base_layer.weight.detach().clone()
        after = layer.lora_variant["default"].merge_safe(
            layer, "default", before.clone()
        )  # before replicated layers share what is merged
        assert_change(delta, after.double() - before.double())
        assert torch.equal(learned.weight(delta), before)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config | {"layer_replication": [[0, 2]]}))
    with pytest.raises(ModelError, match="layer_replication makes 2 layers of the base"):
        list(open_learned(str(tmp_path / "adapter")).deltas())


def mixtral():
    import transformers as t

    torch.manual_seed(0)
    config = t.MixtralConfig(
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        num_local_experts=3,
    )
    return t.MixtralForCausalLM(config)


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
