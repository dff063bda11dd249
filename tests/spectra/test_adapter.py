"""Adapters of every format are read as PEFT means them; what is damaged or dangerous is one sentence and runs
nothing."""

import json
import pickle

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorabench.errors import ModelError
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.analyse import analyse
from lorabench.spectra.files import Weights
from lorabench.spectra.source import open_learned
from lorabench.spectra.tensor_file import TensorFile
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


class Bomb:
    """What a malicious pickle runs when it is loaded without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("save", ["torch", "plain", "legacy"])
def test_a_pickle_with_code_is_refused_and_runs_nothing(save, tmp_path):
    planted, file = tmp_path / "it-ran", tmp_path / "adapter_model.bin"
    state = {"x.lora_A.weight": torch.zeros(2, 4), "x.lora_B.weight": Bomb(planted)}
    if save == "plain":
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=save == "torch")
    with pytest.raises(ModelError) as e:
        Adapter(file)
    assert not planted.exists()
    assert "more than tensors" in str(e.value)
    assert "\n" not in str(e.value)
    torch.load(file, weights_only=False) if save != "plain" else pickle.loads(file.read_bytes())
    assert planted.exists(), "the bomb is a real one"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("keep", [0, 7, 40, 0.5, 0.99])
def test_a_cut_off_file_is_one_sentence(name, keep, tmp_path):
    _, _, folder = peft_adapter(tmp_path / "whole")
    if name.endswith(".bin"):
        torch.save(load_file(folder / "adapter_model.safetensors"), folder / name)
        (folder / "adapter_model.safetensors").unlink()
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ModelError) as e:
        list(Adapter(folder).deltas())
    assert str(folder / name) in str(e.value)
    assert "\n" not in str(e.value)


def planted(**tensors):
    return {k.replace("__", "."): v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            planted(x__lora_A__weight=torch.ones(4, 8), x__lora_B__weight=torch.ones(8, 3)),
            "lora_A is 4 x 8 and lora_B is 8 x 3; the rows of A must be the columns of B",
        ),
        (planted(x__lora_A__weight=torch.ones(4, 8)), "x has no lora_B; the file is incomplete"),
        (planted(x__lora_B__weight=torch.ones(4, 8)), "x has no lora_A; the file is incomplete"),
        (
            planted(x__lora_A__weight=torch.ones(4), x__lora_B__weight=torch.ones(8, 4)),
            "a matrix of floating-point numbers is needed",
        ),
        (
            planted(x__lora_A__weight=torch.ones(4, 8, dtype=torch.int32), x__lora_B__weight=torch.ones(8, 4)),
            "of int32; a matrix of floating-point",
        ),
        (
            planted(x__lora_A__weight=torch.full((4, 8), float("nan")), x__lora_B__weight=torch.ones(8, 4)),
            "not finite; the training diverged",
        ),
        (planted(x__weight=torch.ones(4, 8)), "holds no LoRA factors (its tensors: x.weight"),
        (
            planted(x__lora_A__one__weight=torch.ones(4, 8), x__lora_B__two__weight=torch.ones(8, 4)),
            "holds several adapters (one, two)",
        ),
    ],
)
def test_wrong_shapes_and_contents_are_one_sentence(state, words, tmp_path):
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError) as e:
        list(Adapter(tmp_path).deltas())
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a PEFT configuration"),
        ('{"peft_type": "IA3"}', "the adapter's type is IA3"),
        ('{"r": 8, "lora_alpha": "much"}', "lora_alpha is 'much'; a positive number is needed"),
        ('{"r": 16, "lora_alpha": 8}', "has rank 4, adapter_config.json says 16"),
        ('{"r": 4, "rank_pattern": {"q_proj": 3}}', "has rank 4, adapter_config.json says 3"),
        ('{"r": 4, "lora_alpha": 0}', "lora_alpha is 0; a positive number is needed"),
        ('{"r": 4, "lora_alpha": NaN}', "lora_alpha is nan; a positive number is needed"),
        ('{"r": 4, "lora_alpha": 1e400}', "lora_alpha is inf; a positive number is needed"),
        ('{"r": 4, "alpha_pattern": {"q": null}}', "alpha_pattern of q is None"),
        ('{"r": 4, "alpha_pattern": [1]}', "a mapping of module names to numbers is needed"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_one_sentence(config, words, tmp_path):
    _, _, folder = peft_adapter(tmp_path)
    (folder / "adapter_config.json").write_text(config)
    with pytest.raises(ModelError) as e:
        list(Adapter(folder).deltas())
    assert words in str(e.value)


def test_an_unconverted_pissa_adapter_says_what_its_values_are(tmp_path):
    _, _, folder = peft_adapter(tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa_niter_4"}))
    assert "starts from pissa_niter_4" in Adapter(folder).notes()[0]


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ModelError, match=r"not a file of tensors; allowed: .safetensors"):
        TensorFile(tmp_path / "a.txt")
    with pytest.raises(ModelError, match="there is no file"):
        TensorFile(tmp_path / "b.bin")
    torch.save([1, 2], tmp_path / "c.bin")
    with pytest.raises(ModelError, match="holds no named tensors"):
        TensorFile(tmp_path / "c.bin").names()
    with pytest.raises(ModelError, match="no weights"):
        Weights(tmp_path)


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
