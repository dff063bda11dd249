"""Every way in which PEFT lets a change be more than scaling * B @ A gives the change of PEFT's own merge, or is
refused by its name."""

import json

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lorabench.errors import LorabenchError, ModelError
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.analyse import analyse
from lorabench.spectra.files import Weights
from lorabench.spectra.source import open_learned
from lorabench.spectra.truncate import truncate
from tests.engine.conftest import small_model
from tests.spectra.peft_variants import CONFIGS, LINEAR, Convolutions, assert_change, merged, randomised


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
