"""Adapters of every format are read as PEFT means them; what is damaged or dangerous is one sentence and runs
nothing."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorabench.errors import ModelError
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.analyse import analyse
from lorabench.spectra.files import Weights
from lorabench.spectra.source import open_learned
from tests.engine.conftest import small_model
from tests.spectra.conftest import dense_changes, peft_adapter


def assert_same_values(spectrum, dense):
    n = min(len(spectrum.singular_values), min(dense.shape))
    exact = torch.linalg.svdvals(dense)[:n].numpy()
    kept = exact > 1e-5 * exact[0]  # what a float32 product of PEFT's own still holds
    assert spectrum.singular_values[:n][kept] == pytest.approx(exact[kept], rel=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "opt", "roberta"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {
            "rank_pattern": {"q_proj|c_attn|query_key_value|query": 2},
            "alpha_pattern": {"q_proj|c_attn|query_key_value|query": 32},
        },
    ],
    ids=["lora", "rslora", "patterns"],
)
def test_values_are_those_of_pefts_own_change(kind, config, tmp_path):
    if kind == "roberta":
        config = config | {"task_type": "SEQ_CLS"}
    _, model, folder = peft_adapter(tmp_path, kind, fan_in_fan_out=kind == "gpt2", **config)
    dense = dense_changes(model)
    deltas = {d.module: d for d in Adapter(folder).deltas()}
    assert set(deltas) == set(dense)
    for name, delta in deltas.items():
        assert tuple(delta.matrix().shape) == tuple(dense[name].shape)
        torch.testing.assert_close(delta.matrix().float(), dense[name].float(), rtol=1e-4, atol=1e-5)
        assert_same_values(delta.spectrum(), dense[name])
    ranks = {d.rank for d in deltas.values()}
    assert ranks == ({2, 4} if config.get("rank_pattern") else {4})


def test_dora_is_whole_with_its_base_and_the_product_alone_without(tmp_path):
    base, model, folder = peft_adapter(tmp_path / "a", use_dora=True)
    base_folder = tmp_path / "base"
    state = {
        k.replace(".base_layer", "").removeprefix("base_model.model."): v.contiguous()
        for k, v in model.state_dict().items()
        if "lora_" not in k
    }
    base_folder.mkdir()
    save_file(state, base_folder / "model.safetensors")
    before = {k: v.clone() for k, v in state.items()}
    adapter = Adapter(folder)
    assert adapter.is_dora
    whole = {d.module: d for d in adapter.deltas(Weights(base_folder))}
    product = {d.module: d for d in adapter.deltas()}
    merged = model.merge_and_unload().state_dict()
    for name, delta in whole.items():
        torch.testing.assert_close(
            delta.matrix(), merged[f"{name}.weight"].double() - before[f"{name}.weight"].double(), rtol=1e-3, atol=1e-5
        )
        assert delta.rank > product[name].rank == 4
    del base
    small = tmp_path / "other"
    small.mkdir()
    save_file({"model.x.weight": torch.zeros(2, 2)}, small / "model.safetensors")
    with pytest.raises(
        ModelError,
        match=(
            r"has no weight model.layers.0.mlp.down_proj of 32 x 48 \(its names are like model.x.weight\); the change"
            r" of DoRA depends on"
        ),
    ):
        list(adapter.deltas(Weights(small)))


def test_a_pickled_adapter_and_one_with_named_keys_read_the_same(tmp_path):
    _, _, folder = peft_adapter(tmp_path / "safe")
    tensors = load_file(folder / "adapter_model.safetensors")
    old, named = tmp_path / "old", tmp_path / "named"
    for other, state in (
        (old, tensors),
        (
            named,
            {
                k.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): v
                for k, v in tensors.items()
            },
        ),
    ):
        other.mkdir()
        torch.save(state, other / "adapter_model.bin")
        (other / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    values = [[d.spectrum().singular_values.tolist() for d in Adapter(f).deltas()] for f in (folder, old, named)]
    assert values[0] == values[1] == values[2]


def test_embeddings_and_their_values(tmp_path):
    _, model, folder = peft_adapter(tmp_path, target_modules=["embed_tokens", "q_proj"])
    embedded = next(d for d in Adapter(folder).deltas() if "embed_tokens" in d.module)
    layer = next(m for n, m in model.named_modules() if n.endswith("embed_tokens"))
    assert_same_values(embedded.spectrum(), layer.get_delta_weight("default").detach().double())


def test_merged_projections_are_block_diagonal(tmp_path):
    """loralib's MergedLinear of query and value: F.conv1d with two groups, here done by hand."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2 * 3, 10, generator=generator), torch.randn(2 * 8, 3, generator=generator)
    torch.save({"h.0.attn.c_attn.lora_A": a, "h.0.attn.c_attn.lora_B": b}, tmp_path / "merged.bin")
    (delta,) = Adapter(tmp_path / "merged.bin", alpha=6).deltas()
    by_hand = torch.nn.functional.conv1d(a.unsqueeze(0), b.unsqueeze(-1), groups=2).squeeze(0) * (6 / 3)
    torch.testing.assert_close(delta.matrix().float(), by_hand)
    assert delta.rank == 6


def test_every_module_of_the_papers_own_adapter_has_the_values_of_a_dense_svd(real):
    adapter = Adapter(real)
    state = torch.load(real, weights_only=True, map_location="cpu")
    assert len(adapter.entries) == 24
    assert "alpha is unknown" in adapter.notes()[0]
    for delta in adapter.deltas():
        a, b = (state[f"{delta.module}.lora_{part}"].double() for part in "AB")
        dense = torch.linalg.svdvals(b @ a)[:8].numpy()
        assert delta.spectrum().singular_values == pytest.approx(dense, rel=1e-5)
    assert {d.scaling for d in Adapter(real, alpha=16).deltas()} == {2.0}


def test_an_unconverted_pissa_adapter_says_what_its_values_are(tmp_path):
    _, _, folder = peft_adapter(tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa_niter_4"}))
    assert "starts from pissa_niter_4" in Adapter(folder).notes()[0]


def test_a_dora_embedding_is_its_product_and_a_wrong_magnitude_is_told(tmp_path):
    _, _, folder = peft_adapter(tmp_path / "a", use_dora=True)
    (tmp_path / "base").mkdir()
    small_model("llama").save_pretrained(tmp_path / "base")
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(n for n in tensors if "magnitude" in n)
    for bad in (torch.ones(3), torch.full_like(tensors[name], float("inf"))):
        save_file({**tensors, name: bad}, folder / "adapter_model.safetensors")
        with pytest.raises(ModelError, match="finite magnitudes are needed"):
            list(Adapter(folder).deltas(Weights(tmp_path / "base")))


def test_an_embeddings_change_lies_beside_its_weight(tmp_path):
    base, model, folder = peft_adapter(tmp_path / "a", target_modules=["embed_tokens", "q_proj"])
    (tmp_path / "base").mkdir()
    small_model("llama").save_pretrained(tmp_path / "base")
    found = {s.module: s for s in analyse(open_learned(str(folder), base=str(tmp_path / "base")))}
    embedded = found["model.embed_tokens"]
    delta = (
        next(m for n, m in model.named_modules() if n.endswith("embed_tokens"))
        .get_delta_weight("default")
        .detach()
        .double()
    )
    weight = small_model("llama").model.embed_tokens.weight.detach().double()
    assert embedded.relative_norm == pytest.approx(float(delta.norm() / weight.norm()), rel=1e-5)
    u, _, vh = torch.linalg.svd(delta, full_matrices=False)
    assert embedded.alignment.projected_norm == pytest.approx(float((u[:, :4].T @ weight @ vh[:4].T).norm()), rel=1e-3)
    del base


def test_peft_finds_the_same_pattern(tmp_path):
    from peft.utils.other import get_pattern_key

    patterns = {"layers.1.self_attn.q_proj": 3, "q_proj": 5, "^model.layers.0.mlp.*": 7}
    _, _, folder = peft_adapter(tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": patterns}))
    adapter = Adapter(folder)
    for entry in adapter.entries:
        key = get_pattern_key(patterns.keys(), entry.module)
        assert adapter.scaling(entry) == patterns.get(key, 8) / 4
    assert peft.PeftConfig.from_pretrained(folder).alpha_pattern == patterns
