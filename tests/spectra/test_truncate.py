"""A cut adapter is the nearest of its rank, loads with PEFT, and at full rank gives the adapter's own logits back."""

import itertools
import json

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lorabench.errors import LorabenchError, ModelError
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.allocate import ModuleCandidate, by_energy, least_by_energy, least_uniform, uniform
from lorabench.spectra.truncate import truncate
from tests.engine.conftest import small_model
from tests.spectra.conftest import dense_changes, peft_adapter

KINDS = ("llama", "gpt2", "gpt_neox", "roberta")
CONFIGS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {
        "rank_pattern": {"q_proj|c_attn|query_key_value|query": 2},
        "alpha_pattern": {"q_proj|c_attn|query_key_value|query": 32},
    },
}


def adapter_of(folder, kind="llama", **config):
    task = {"task_type": "SEQ_CLS"} if kind == "roberta" else {}
    return peft_adapter(folder, kind, fan_in_fan_out=kind == "gpt2", **task, **config)


def logits(model):
    torch.manual_seed(0)
    with torch.no_grad():
        return model(input_ids=torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(2))).logits


def loaded(kind, folder):
    return peft.PeftModel.from_pretrained(small_model(kind), folder).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_at_full_rank_the_logits_are_the_adapters_own(kind, config, tmp_path):
    _, model, folder = adapter_of(tmp_path / "a", kind, **config)
    truncate(Adapter(folder), tmp_path / "cut", rank=4)
    torch.testing.assert_close(logits(loaded(kind, tmp_path / "cut")), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_change_is_the_nearest_of_its_rank(kind, tmp_path):
    _, model, folder = adapter_of(tmp_path / "a", kind)
    made = truncate(Adapter(folder), tmp_path / "cut", rank=2)
    kept = total = 0.0
    before = dense_changes(model)
    for name, delta in dense_changes(loaded(kind, tmp_path / "cut")).items():
        u, s, vh = torch.linalg.svd(before[name], full_matrices=False)
        torch.testing.assert_close(delta.float(), ((u[:, :2] * s[:2]) @ vh[:2]).float(), rtol=1e-3, atol=1e-4)
        kept, total = kept + float(s[:2].square().sum()), total + float(s.square().sum())
    assert made.allotment.kept_energy == pytest.approx(kept / total, rel=1e-4)
    saved = load_file(tmp_path / "cut" / "adapter_model.safetensors")
    assert made.allotment.parameters == sum(v.numel() for k, v in saved.items() if "lora_" in k)


@pytest.mark.parametrize("asked", [{"rank": 2}, {"energy": 0.8}])
def test_per_module_ranks_load_with_peft_and_mean_what_they_say(asked, tmp_path):
    """One module much stronger than the others gets more ranks; those that get none are left out."""
    _, model, folder = adapter_of(tmp_path / "a")
    tensors = load_file(folder / "adapter_model.safetensors")
    from safetensors.torch import save_file

    save_file(
        {
            k: v * (30.0 if "layers.1.mlp.up_proj.lora_B" in k else 0.01 if "k_proj.lora_B" in k else 1.0)
            for k, v in tensors.items()
        },
        folder / "adapter_model.safetensors",
    )
    even = truncate(Adapter(folder), tmp_path / "even", **asked)
    made = truncate(Adapter(folder), tmp_path / "cut", per_module=True, **asked)
    assert made.allotment.parameters <= even.allotment.parameters
    if "rank" in asked:
        assert made.allotment.kept_energy > even.allotment.kept_energy
    else:
        assert min(made.allotment.kept_energy, even.allotment.kept_energy) >= 0.8
    ranks = made.allotment.ranks
    assert ranks["model.layers.1.mlp.up_proj"] > ranks["model.layers.0.self_attn.k_proj"] == 0
    cut = loaded("llama", tmp_path / "cut")
    layers = {n.removeprefix("base_model.model."): m for n, m in cut.named_modules() if hasattr(m, "lora_A")}
    assert {n: m.r["default"] for n, m in layers.items()} == {n: r for n, r in ranks.items() if r}
    assert {m.scaling["default"] for m in layers.values()} == {1.0}
    whole = dense_changes(loaded("llama", folder))
    for name, delta in dense_changes(cut).items():
        u, s, vh = torch.linalg.svd(whole[name], full_matrices=False)
        k = ranks[name]
        torch.testing.assert_close(delta.float(), ((u[:, :k] * s[:k]) @ vh[:k]).float(), rtol=1e-3, atol=1e-3)
    del model


def test_other_trained_weights_travel_along(tmp_path):
    _, model, folder = adapter_of(
        tmp_path / "a", "roberta", target_modules=["query", "value"], modules_to_save=["classifier"]
    )
    truncate(Adapter(folder), tmp_path / "cut", rank=4)
    torch.testing.assert_close(logits(loaded("roberta", tmp_path / "cut")), logits(model), rtol=1e-4, atol=1e-4)
    cut, own = (json.loads((f / "adapter_config.json").read_text()) for f in (tmp_path / "cut", folder))
    for field in ("modules_to_save", "target_modules", "task_type", "base_model_name_or_path"):
        assert cut[field] == own[field], "the adapter's own words, where every module is kept"


def test_the_papers_own_adapter_becomes_a_peft_adapter(real, tmp_path):
    """On RoBERTa base's shapes with random weights: base + scaling * B @ A and the classifier that was trained
    along."""
    import transformers

    truncate(Adapter(real), tmp_path / "cut", rank=8)
    torch.manual_seed(0)
    model = transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(num_labels=3, max_position_embeddings=514, type_vocab_size=1, vocab_size=200)
    ).eval()
    state = torch.load(real, weights_only=True, map_location="cpu")
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "cut").eval()
    found = logits(adapted)
    by_hand = transformers.RobertaForSequenceClassification(model.config).eval()
    plain = {
        k.replace("base_model.model.", "").replace(".base_layer", "").replace(".original_module", ""): v
        for k, v in adapted.state_dict().items()
        if "lora_" not in k and "modules_to_save" not in k
    }
    by_hand.load_state_dict(plain)
    with torch.no_grad():
        for key in (k for k in state if k.endswith("lora_A")):
            name = key.removesuffix(".lora_A")
            by_hand.get_submodule(name).weight += state[f"{name}.lora_B"] @ state[key]
        for key in (k for k in state if k.startswith("classifier")):
            by_hand.get_parameter(key).copy_(state[key])
    torch.testing.assert_close(found, logits(by_hand), rtol=1e-4, atol=1e-4)


def test_an_adapter_whose_start_moved_its_base_is_refused(tmp_path):
    _, _, folder = adapter_of(tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa"}))
    with pytest.raises(LorabenchError, match="starts from pissa, which changed its base"):
        truncate(Adapter(folder), tmp_path / "cut", rank=2)


def test_dora_keeps_a_rank_and_its_magnitude_in_every_module(tmp_path):
    _, model, folder = adapter_of(tmp_path / "a", use_dora=True)
    tensors = load_file(folder / "adapter_model.safetensors")
    from safetensors.torch import save_file

    save_file(
        {k: v * (1e-4 if "v_proj.lora_B" in k else 1.0) for k, v in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    for asked in ({"energy": 0.999}, {"rank": 1}):
        made = truncate(Adapter(folder), tmp_path / f"cut{len(asked)}{next(iter(asked))}", per_module=True, **asked)
        assert min(made.allotment.ranks.values()) >= 1
        assert sum("magnitude" in k for k in load_file(made.folder / "adapter_model.safetensors")) == 14
    del model


def test_biases_of_b_keep_their_part_of_the_output(tmp_path):
    _, _, folder = adapter_of(tmp_path / "a", lora_bias=True)
    truncate(Adapter(folder), tmp_path / "cut", rank=4)
    torch.testing.assert_close(
        logits(loaded("llama", tmp_path / "cut")), logits(loaded("llama", folder)), rtol=1e-4, atol=1e-4
    )


def test_biases_of_a_file_without_configuration_are_left_out_and_told(tmp_path):
    torch.save(
        {
            "h.0.q.lora_A": torch.ones(2, 8),
            "h.0.q.lora_B": torch.ones(8, 2),
            "h.0.q.bias": torch.ones(8),
            "score.weight": torch.ones(2, 8),
        },
        tmp_path / "a.bin",
    )
    made = truncate(Adapter(tmp_path / "a.bin"), tmp_path / "cut", rank=1)
    assert made.left_out == ("h.0.q.bias",)
    assert made.before == 32
    assert json.loads((tmp_path / "cut" / "adapter_config.json").read_text())["modules_to_save"] == ["score"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "give either --rank K or --energy SHARE"),
        ({"rank": 2, "energy": 0.5}, "give either"),
        ({"rank": 0}, "rank 0 leaves nothing"),
        ({"energy": 1.5}, "energy 1.5 is not a share"),
        ({"energy": 0.0}, "energy 0 is not a share"),
        ({"energy": float("nan")}, "energy nan is not a share"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(asked, words, tmp_path):
    _, _, folder = adapter_of(tmp_path / "a")
    with pytest.raises(LorabenchError, match=words):
        truncate(Adapter(folder), tmp_path / "cut", **asked)
    assert not (tmp_path / "cut").exists()


def test_nothing_is_overwritten_and_nothing_is_made_of_nothing(tmp_path):
    _, _, folder = adapter_of(tmp_path / "a")
    with pytest.raises(LorabenchError, match="already exists and is not empty"):
        truncate(Adapter(folder), folder, rank=2)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="cannot be written"):
        truncate(Adapter(folder), tmp_path / "file" / "x", rank=2)
    peft.get_peft_model(small_model("llama"), peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(
        tmp_path / "zero"
    )
    with pytest.raises(LorabenchError, match="change of zero"):
        truncate(Adapter(tmp_path / "zero"), tmp_path / "cut", rank=2)


MODULES = st.lists(
    st.tuples(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=4), st.integers(1, 5)), min_size=1, max_size=3
)


def made(drawn):
    return {
        str(i): ModuleCandidate(np.array(sorted(values, reverse=True)), cost) for i, (values, cost) in enumerate(drawn)
    }


@given(MODULES, st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_an_allocation_by_energy_holds_as_much_as_any_of_so_many_parameters_but_for_one_rank(drawn, rank):
    """Against all allocations there are: greedy is short of the best by less than the energy of the first rank that did
    not fit."""
    modules = made(drawn)
    budget = uniform(modules, rank).parameters
    found = by_energy(modules, budget)
    assert found.parameters <= budget
    total = sum(c.energy for c in modules.values())
    best = 0.0
    for ranks in itertools.product(*(range(len(c.values) + 1) for c in modules.values())):
        if sum(c.cost * r for c, r in zip(modules.values(), ranks, strict=True)) <= budget:
            best = max(
                best, sum(float((c.values[:r] ** 2).sum()) for c, r in zip(modules.values(), ranks, strict=True))
            )
    left = [float(c.values[found.ranks[n]] ** 2) for n, c in modules.items() if found.ranks[n] < len(c.values)]
    assert found.kept_energy * total >= best - max(left, default=0.0) - 1e-9


@given(MODULES, st.floats(0.05, 1.0))
@settings(max_examples=100, deadline=None)
def test_the_least_that_keeps_a_share_keeps_it_and_one_less_does_not(drawn, share):
    modules = made(drawn)
    if not sum(c.energy for c in modules.values()):
        return
    even, spread = least_uniform(modules, share), least_by_energy(modules, share)
    for found in (even, spread):
        assert found.kept_energy >= share * (1 - 1e-9)
    rank = max(even.ranks.values())
    assert rank == 1 or uniform(modules, rank - 1).kept_energy < share
    if len({c.cost for c in modules.values()}) == 1:
        assert spread.parameters <= even.parameters, "where ranks cost the same, greedy is exact"


def test_energy_beyond_the_listed_values_counts():
    modules = {"m": ModuleCandidate(np.array([3.0, 1.0]), 10, rest=6.0)}
    assert uniform(modules, 1).kept_energy == pytest.approx(9 / 16)
    assert uniform(modules, 9).kept_energy == pytest.approx(10 / 16)
