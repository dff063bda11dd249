"""Targets mean the modules that PEFT finds, on every architecture, and each method trains on each of them."""

import peft
import pytest
import torch

from lorabench import plugins
from lorabench.config import MethodSpec
from lorabench.engine.adapt import linear_modules, peft_targets, resolve_targets
from lorabench.engine.weight_deltas import adapted_layers
from lorabench.errors import ModelError
from tests.engine.conftest import small_model

KINDS = ("llama", "mistral", "qwen2", "gemma2", "gpt2", "gpt_neox", "opt", "roberta")
ADAPTERS = tuple(m for m in plugins.names("methods") if m not in ("base", "full"))


def adapted_by_peft(kind, targets):
    task = "SEQ_CLS" if kind == "roberta" else "CAUSAL_LM"
    model = peft.get_peft_model(small_model(kind), peft.LoraConfig(r=2, target_modules=targets, task_type=task))
    return {name for name, _ in adapted_layers(model)}


@pytest.mark.parametrize("kind", KINDS)
def test_all_linear_is_what_peft_means_by_it(kind):
    model = small_model(kind)
    assert set(resolve_targets(model, "all-linear")) == adapted_by_peft(kind, "all-linear")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", ["all-linear", "attention", "mlp"])
def test_peft_adapts_exactly_the_resolved_modules(kind, group):
    model = small_model(kind)
    targets = resolve_targets(model, group)
    assert adapted_by_peft(kind, peft_targets(model, targets)) == set(targets)


@pytest.mark.parametrize(
    ("kind", "attention", "mlp"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}),
        ("gpt2", {"attn.c_attn", "attn.c_proj"}, {"mlp.c_fc", "mlp.c_proj"}),
        ("gpt_neox", {"query_key_value", "attention.dense"}, {"dense_h_to_4h", "dense_4h_to_h"}),
        ("opt", {"q_proj", "k_proj", "v_proj", "out_proj"}, {"fc1", "fc2"}),
        (
            "roberta",
            {"query", "key", "value", "attention.output.dense"},
            {"intermediate.dense", "1.output.dense", "0.output.dense"},
        ),
    ],
)
def test_groups_hold_the_modules_that_a_reader_expects(kind, attention, mlp):
    model = small_model(kind)
    for group, names in (("attention", attention), ("mlp", mlp)):
        found = resolve_targets(model, group)
        expected = {n for n in linear_modules(model) if any(n.endswith("." + s) for s in names)}
        assert set(found) == expected, group
    assert not set(resolve_targets(model, "attention")) & set(resolve_targets(model, "mlp"))


def test_names_are_suffixes_and_unknown_ones_are_told_with_the_nearest():
    model = small_model("llama")
    assert set(resolve_targets(model, ("q_proj", "1.mlp.up_proj"))) == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    }
    with pytest.raises(ModelError, match="did you mean 'q_proj'") as caught:
        resolve_targets(model, ("q_prj",))
    assert "down_proj" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ADAPTERS)
def test_each_method_trains_its_adapters_and_leaves_the_base_alone(kind, method):
    model = small_model(kind)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    targets = peft_targets(model, resolve_targets(model, "all-linear"))
    adapted = plugins.load("methods", method).attach(
        model.requires_grad_(False), MethodSpec(name=method, rank=2, alpha=4), targets
    )
    ids = torch.randint(3, 64, (2, 12))
    labels = torch.tensor([0, 2]) if kind == "roberta" else ids
    adapted.train()
    adapted(input_ids=ids, labels=labels).loss.backward()
    trained = {n for n, p in adapted.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("lora_" in n for n in trained)
    assert all("lora_" in n or "classifier" in n for n in trained), (
        "an encoder's classifier head is trained as PEFT does"
    )
    if method != "pissa":  # pissa takes its start off the base weights
        for name, p in adapted.named_parameters():
            original = name.removeprefix("base_model.model.").replace("base_layer.", "").replace("original_module.", "")
            if original in before and "lora_" not in name:
                assert torch.equal(p, before[original]), name


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("method", ADAPTERS)
def test_an_untrained_adapter_leaves_the_logits_alone(kind, method):
    model = small_model(kind).eval()
    ids = torch.randint(3, 64, (2, 12))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        adapted = plugins.load("methods", method).attach(
            model, MethodSpec(name=method, rank=2, alpha=4), peft_targets(model, resolve_targets(model, "all-linear"))
        )
        torch.testing.assert_close(adapted.eval()(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_rslora_scales_by_the_root_of_the_rank():
    for method, scaling in (("lora", 16 / 4), ("rslora", 16 / 4**0.5)):
        model = small_model("llama")
        adapted = plugins.load("methods", method).attach(model, MethodSpec(name=method, rank=4, alpha=16), ["q_proj"])
        assert {layer.scaling["default"] for _, layer in adapted_layers(adapted)} == {scaling}
