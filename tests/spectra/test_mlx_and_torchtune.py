"""Adapters as mlx and torchtune save them: the change is what a unit input of their own layers comes out as."""

import json

import pytest
import torch

from lorabench.errors import LorabenchError, ModelError
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.source import open_learned
from lorabench.spectra.truncate import truncate
from tests.spectra.adapter_layouts import A, B, only, written

MLX = {
    "fine_tune_type": "lora",
    "model": "someone/some-model",
    "num_layers": 16,
    "lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.0},
}


def test_mlx_multiplies_by_its_scale(tmp_path):
    tensors = {
        "model.layers.0.self_attn.q_proj.lora_a": A.T,
        "model.layers.0.self_attn.q_proj.lora_b": B.T,
        "model.embed_tokens.lora_a": A.T,
        "model.embed_tokens.lora_b": B.T,
    }
    written(tmp_path / "mlx" / "adapters.safetensors", tensors, config=MLX)
    adapter = Adapter(tmp_path / "mlx")
    found = {d.module: d for d in adapter.deltas()}
    x = torch.eye(12)
    torch.testing.assert_close(found["model.layers.0.self_attn.q_proj"].matrix().float().T, 20 * (x @ A.T) @ B.T)
    embedded = found["model.embed_tokens"]
    assert embedded.is_embedding
    torch.testing.assert_close(
        embedded.matrix().float(), (20 * A.T @ B.T).T
    )  # row i of the table changes by scale * lora_a[i] @ lora_b
    assert adapter.base == "someone/some-model"
    made = truncate(adapter, tmp_path / "cut", rank=4)
    for delta in Adapter(made.folder).deltas():
        torch.testing.assert_close(delta.matrix(), found[delta.module].matrix(), rtol=1e-4, atol=1e-3)
        assert delta.is_embedding == found[delta.module].is_embedding


def test_mlx_with_dora_is_whole_beside_its_base(tmp_path):
    name, weight, m = (
        "model.layers.0.self_attn.q_proj",
        torch.randn(10, 12, generator=torch.Generator().manual_seed(6)),
        torch.rand(10) + 1,
    )
    written(
        tmp_path / "mlx" / "adapters.safetensors",
        {f"{name}.lora_a": A.T, f"{name}.lora_b": B.T, f"{name}.m": m},
        config=MLX | {"fine_tune_type": "dora", "lora_parameters": {"rank": 4, "scale": 0.5}},
    )
    written(tmp_path / "base" / "model.safetensors", {f"{name}.weight": weight})
    (delta,) = open_learned(str(tmp_path / "mlx"), base=str(tmp_path / "base")).deltas()
    adapted = weight + 0.5 * (A.T @ B.T).T
    torch.testing.assert_close(
        delta.matrix().float(), m[:, None] * adapted / adapted.norm(dim=1, keepdim=True) - weight, rtol=1e-4, atol=1e-5
    )
    truncate(Adapter(tmp_path / "mlx"), tmp_path / "cut", rank=4)
    (cut,) = open_learned(str(tmp_path / "cut"), base=str(tmp_path / "base")).deltas()
    torch.testing.assert_close(cut.matrix(), delta.matrix(), rtol=1e-4, atol=1e-5)
    written(
        tmp_path / "e" / "adapters.safetensors",
        {"embed_tokens.lora_a": A.T, "embed_tokens.lora_b": B.T, "embed_tokens.m": torch.ones(12)},
        config=MLX | {"fine_tune_type": "dora"},
    )
    with pytest.raises(ModelError, match="one magnitude per row, as mlx writes them"):
        Adapter(tmp_path / "e")


@pytest.mark.parametrize("flat", [False, True])
def test_mlx_experts_share_two_tensors(flat, tmp_path):
    a, b = torch.randn(3, 4, 12), torch.randn(3, 10, 4)
    written(
        tmp_path / "mlx" / "adapters.safetensors",
        {
            "model.layers.0.mlp.switch_mlp.up_proj.lora_a": a.flatten(0, 1) if flat else a,
            "model.layers.0.mlp.switch_mlp.up_proj.lora_b": b,
        },
        config=MLX,
    )
    found = list(Adapter(tmp_path / "mlx").deltas())
    assert len(found) == 3
    for e, delta in enumerate(found):
        torch.testing.assert_close(delta.matrix().float(), 20 * b[e] @ a[e], rtol=1e-4, atol=1e-4)
    with pytest.raises(LorabenchError, match="a stack of experts in mlx's layout"):
        truncate(Adapter(tmp_path / "mlx"), tmp_path / "cut", rank=2)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MLX | {"fine_tune_type": "full"}, "fine_tune_type is 'full', whose file holds full weights"),
        (MLX | {"lora_parameters": {"scale": "big"}}, "lora_parameters.scale is 'big'"),
        (MLX | {"lora_parameters": None}, "lora_parameters.scale is None"),
    ],
)
def test_an_mlx_configuration_that_cannot_be_meant_is_one_sentence(config, words, tmp_path):
    written(tmp_path / "mlx" / "adapters.safetensors", {"q.lora_a": A.T, "q.lora_b": B.T}, config=config)
    with pytest.raises(ModelError, match=words):
        Adapter(tmp_path / "mlx")


def test_torchtunes_own_file_is_read_and_its_rows_are_not_held_against_a_base(tmp_path):
    name = "layers.0.attn.q_proj"
    (tmp_path / "tune").mkdir()
    torch.save({f"{name}.lora_a.weight": A, f"{name}.lora_b.weight": B}, tmp_path / "tune" / "adapter_0.pt")
    (tmp_path / "tune" / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 2, "target_modules": ["q_proj"]})
    )
    torch.testing.assert_close(only(tmp_path / "tune").matrix(), 0.5 * B.double() @ A.double())
    assert any("torchtune's own names" in n for n in Adapter(tmp_path / "tune").notes())
    with pytest.raises(LorabenchError, match="torchtune's own names and row order"):
        truncate(Adapter(tmp_path / "tune"), tmp_path / "cut", rank=2)
    torch.save({f"{name}.lora_a.weight": A, f"{name}.lora_b.weight": B}, tmp_path / "tune" / "adapter_1.pt")
    with pytest.raises(ModelError, match=r"several epochs \(adapter_0.pt, adapter_1.pt\)"):
        Adapter(tmp_path / "tune")
