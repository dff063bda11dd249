"""Adapters as kohya, diffusers, mlx, torchtune and loralib save them: the change is what a unit input shows, computed
here from each format's own rule."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lorabench.errors import LorabenchError, ModelError
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.analyse import analyse
from lorabench.spectra.source import open_learned
from lorabench.spectra.truncate import truncate
from tests.engine.conftest import small_model
from tests.spectra.adapter_layouts import A, B, only, written
from tests.spectra.conftest import dense_changes, peft_adapter

CONV_A, CONV_B = (
    torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(3)),
    torch.randn(10, 4, 1, 1, generator=torch.Generator().manual_seed(4)),
)


@pytest.mark.parametrize(
    ("metadata", "tensors", "scaling"),
    [
        (None, {"alpha": torch.tensor(2.0)}, 0.5),
        (None, {"alpha": torch.tensor([8.0], dtype=torch.bfloat16)}, 2.0),
        ({"ss_network_alpha": "2", "ss_network_dim": "4"}, {}, 0.5),
        ({"ss_network_alpha": "2.0", "ss_network_dim": "4"}, {"alpha": torch.tensor(1.0)}, 0.25),
        ({"ss_network_alpha": "None"}, {}, 1.0),
        (None, {}, 1.0),
    ],
)
def test_kohyas_factors_with_alpha_as_a_tensor_or_in_the_header(metadata, tensors, scaling, tmp_path):
    name = "lora_unet_down_blocks_0_attentions_0_to_q"
    file = written(
        tmp_path / "k.safetensors",
        {f"{name}.lora_down.weight": A, f"{name}.lora_up.weight": B} | {f"{name}.{k}": v for k, v in tensors.items()},
        metadata,
    )
    delta = only(file)
    assert delta.module == name
    torch.testing.assert_close(delta.matrix(), scaling * B.double() @ A.double())
    assert any("alpha is unknown" in n for n in Adapter(file).notes()) == (
        not tensors and metadata != {"ss_network_alpha": "2", "ss_network_dim": "4"}
    )
    torch.testing.assert_close(only(file, alpha=16).matrix(), 4 * B.double() @ A.double())


def test_a_convolution_of_kohya_has_the_headers_alpha_of_convolutions(tmp_path):
    tensors = {
        "lora_unet_c.lora_down.weight": CONV_A,
        "lora_unet_c.lora_up.weight": CONV_B,
        "lora_unet_l.lora_down.weight": A,
        "lora_unet_l.lora_up.weight": B,
    }
    file = written(
        tmp_path / "k.safetensors",
        tensors,
        {"ss_network_alpha": "4", "ss_network_args": json.dumps({"conv_dim": "4", "conv_alpha": "1"})},
    )
    found = {d.module: d for d in Adapter(file).deltas()}
    x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(5))
    by_hand = 0.25 * nn.functional.conv2d(nn.functional.conv2d(x, CONV_A), CONV_B)
    torch.testing.assert_close(
        nn.functional.conv2d(x, found["lora_unet_c"].matrix().float().reshape(10, 3, 3, 3)),
        by_hand,
        rtol=1e-4,
        atol=1e-4,
    )
    assert found["lora_unet_l"].scaling == 1.0


def test_kohyas_names_are_a_bases_where_one_reads_so(tmp_path):
    written(
        tmp_path / "base" / "model.safetensors",
        {"down.0.to_q.weight": torch.ones(10, 12), "down.1.to_q.weight": torch.zeros(10, 12)},
    )
    file = written(
        tmp_path / "k.safetensors",
        {"lora_unet_down_0_to_q.lora_down.weight": A, "lora_unet_down_0_to_q.lora_up.weight": B},
    )
    (found,) = analyse(open_learned(str(file), base=str(tmp_path / "base")))
    assert found.alignment.base_norm == pytest.approx(120**0.5)
    with pytest.raises(LorabenchError, match="kohya's names, with _ for every dot"):
        truncate(Adapter(file), tmp_path / "cut", rank=2)


@pytest.mark.parametrize(
    ("names", "module"),
    [
        (
            ("unet.down.0.attn1.processor.to_q_lora.down.weight", "unet.down.0.attn1.processor.to_q_lora.up.weight"),
            "unet.down.0.attn1.to_q",
        ),
        (
            (
                "unet.down.0.attn1.processor.to_out_lora.down.weight",
                "unet.down.0.attn1.processor.to_out_lora.up.weight",
            ),
            "unet.down.0.attn1.to_out.0",
        ),
        (
            ("unet.down.0.attn1.to_q.lora.down.weight", "unet.down.0.attn1.to_q.lora.up.weight"),
            "unet.down.0.attn1.to_q",
        ),
        (
            (
                "text_encoder.layers.0.q_proj.lora_linear_layer.down.weight",
                "text_encoder.layers.0.q_proj.lora_linear_layer.up.weight",
            ),
            "text_encoder.layers.0.q_proj",
        ),
        (("unet.down.0.attn1.to_q.lora_A.weight", "unet.down.0.attn1.to_q.lora_B.weight"), "unet.down.0.attn1.to_q"),
        (
            ("transformer.blocks.0.to_q.lora_A.weight", "transformer.blocks.0.to_q.lora_B.weight"),
            "transformer.blocks.0.to_q",
        ),
    ],
)
@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"r": 4, "lora_alpha": 2},
        {"r": 4, "lora_alpha": 2, "use_rslora": True},
        {"r": 4, "lora_alpha": 2, "alpha_pattern": {"to_q": 12, "to_out.0": 12, "q_proj": 12}},
    ],
)
def test_diffusers_names_and_the_words_of_its_header(names, module, metadata, tmp_path):
    front = module.split(".")[0]
    header = metadata and {
        "lora_adapter_metadata": json.dumps({f"{front}.{k}": v for k, v in metadata.items()} | {"other.lora_alpha": 99})
    }
    file = written(tmp_path / "d" / "pytorch_lora_weights.safetensors", dict(zip(names, (A, B), strict=True)), header)
    scaling = (
        1.0 if metadata is None else 1.0 if metadata.get("use_rslora") else 3.0 if "alpha_pattern" in metadata else 0.5
    )
    delta = only(file.parent)
    assert delta.module == module
    torch.testing.assert_close(delta.matrix(), scaling * B.double() @ A.double())
    made = truncate(Adapter(file.parent), tmp_path / "cut", rank=2)
    assert set(load_file(made.folder / "adapter_model.safetensors")) == {
        f"base_model.model.{module.removeprefix(front + '.')}.lora_{p}.weight" for p in "AB"
    }


@pytest.mark.parametrize(
    ("metadata", "scaling"),
    [
        ({"alpha": "2"}, 0.5),
        ({"lora_alpha": "2"}, 0.5),
        ({"lora_alpha": "2", "use_rslora": "True"}, 1.0),
        ({"lora_config": json.dumps({"r": 4, "lora_alpha": 2})}, 0.5),
        ({"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 2, "alpha_pattern": {"(": 3, "q": "x"}})}, 0.5),
        ({"lora_adapter_metadata": "{"}, 1.0),
        ({"alpha": "nan"}, 1.0),
    ],
)
def test_other_words_for_alpha_in_a_header(metadata, scaling, tmp_path):
    assert (
        only(written(tmp_path / "h.safetensors", {"x.q.lora_A.weight": A, "x.q.lora_B.weight": B}, metadata)).scaling
        == scaling
    )


def test_a_language_model_that_begins_with_transformer_is_no_pipeline(tmp_path):
    file = written(
        tmp_path / "m.safetensors",
        {"transformer.blocks.0.attn.Wqkv.lora_A": A, "transformer.blocks.0.attn.Wqkv.lora_B": B},
    )
    made = truncate(Adapter(file, alpha=4), tmp_path / "cut", rank=2)
    assert set(load_file(made.folder / "adapter_model.safetensors")) == {
        f"base_model.model.transformer.blocks.0.attn.Wqkv.lora_{p}.weight" for p in "AB"
    }


def test_a_pipeline_of_several_models_is_read_whole_and_not_cut(tmp_path):
    tensors = {f"{part}.x.lora_{s}.weight": t for part in ("unet", "text_encoder") for s, t in (("A", A), ("B", B))}
    file = written(
        tmp_path / "d.safetensors",
        tensors,
        {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "text_encoder.lora_alpha": 2})},
    )
    assert {d.module: d.scaling for d in Adapter(file).deltas()} == {"unet.x": 2.0, "text_encoder.x": 0.5}
    with pytest.raises(LorabenchError, match="adapters of several models"):
        truncate(Adapter(file), tmp_path / "cut", rank=2)


def test_peft_files_with_kohyas_alpha_tensors(tmp_path):
    """As ComfyUI and ai-toolkit write them: PEFT's factors under dotted names, alpha beside them."""
    file = written(
        tmp_path / "c.safetensors",
        {
            "diffusion_model.x.to_q.lora_A.weight": A,
            "diffusion_model.x.to_q.lora_B.weight": B,
            "diffusion_model.x.to_q.alpha": torch.tensor(2.0),
        },
    )
    assert only(file).scaling == 0.5
    written(tmp_path / "f" / "adapter_model.safetensors", load_file(file), config={"r": 4, "lora_alpha": 16})
    with pytest.raises(ModelError, match=r"to_q.alpha is 2, adapter_config.json says 16; choose one with --alpha"):
        Adapter(tmp_path / "f")
    assert only(tmp_path / "f", alpha=16).scaling == 4.0


def test_merged_projections_are_read_and_not_cut(tmp_path):
    """As loralib has them, and as PEFT 0.2 wrote them with a convolution for B."""
    a, b = torch.randn(8, 12), torch.randn(20, 4)
    for name, tensors in (
        ("l", {"h.0.c_attn.lora_A": a, "h.0.c_attn.lora_B": b}),
        ("p", {"h.0.c_attn.lora_A.weight": a, "h.0.c_attn.lora_B.weight": b[..., None]}),
    ):
        file = written(tmp_path / f"{name}.safetensors", tensors)
        by_hand = nn.functional.conv1d(a.unsqueeze(0), b.unsqueeze(-1), groups=2).squeeze(0) * (2 / 4)
        torch.testing.assert_close(only(file, alpha=2).matrix().float(), by_hand)
        with pytest.raises(LorabenchError, match="merged from several projections"):
            truncate(Adapter(file, 2), tmp_path / "cut", rank=2)


def test_litgpts_query_key_and_value_in_one_matrix_are_refused(tmp_path):
    torch.save(
        {
            "model": {
                "transformer.h.0.attn.qkv.lora_A": torch.ones(6, 8),
                "transformer.h.0.attn.qkv.lora_B": torch.ones(24, 2),
            }
        },
        tmp_path / "lit_model.pth",
    )
    with pytest.raises(ModelError, match="query, key and value of litgpt in one matrix"):
        list(Adapter(tmp_path / "lit_model.pth").deltas())


@pytest.mark.parametrize(
    "name",
    [
        "decoder.layers.0.self_attention.adapter.linear_in.weight",
        "prompt_embeddings",
        "x.hada_w1_a",
        "lora_unet_x.lora_mid.weight",
        "base_model.model.x.ia3_l",
    ],
)
def test_other_kinds_of_adapters_are_told_by_name(name, tmp_path):
    file = written(tmp_path / "o.safetensors", {name: A})
    with pytest.raises(
        ModelError,
        match=f"has tensors of .*{name.split('.')[-1] if 'weight' not in name else name}.*, whose change is not",
    ):
        Adapter(file)


def test_loralib_and_peft_give_one_change(tmp_path):
    _, model, folder = peft_adapter(tmp_path / "a")
    expected = dense_changes(model)
    state = {
        k.removeprefix("base_model.model.").removesuffix(".weight"): v
        for k, v in load_file(folder / "adapter_model.safetensors").items()
    }
    torch.save(state, tmp_path / "l.pt")
    for delta in Adapter(tmp_path / "l.pt", alpha=8).deltas():
        torch.testing.assert_close(delta.matrix().float(), expected[delta.module].float(), rtol=1e-4, atol=1e-5)
    assert peft.PeftModel.from_pretrained(
        small_model("llama"), truncate(Adapter(tmp_path / "l.pt", alpha=8), tmp_path / "cut", rank=4).folder
    )
