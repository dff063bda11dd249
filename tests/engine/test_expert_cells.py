"""A cell whose adapters are on the experts of a mixture trains, is evaluated, and saves what PEFT loads."""

import shutil
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GptOssConfig, MixtralConfig

from lorabench.engine.cell import run_cell
from lorabench.engine.check import check_cells
from lorabench.engine.weight_deltas import adapter_deltas
from lorabench.record.spectrum import load_spectra
from lorabench.spectra.adapter import Adapter
from tests.engine.conftest import MODEL, cell_of
from tests.engine.test_cell import evaluated

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A random Mixtral of one layer with the tokenizer of a shipped model."""
    place = tmp_path_factory.mktemp("mixture")
    for file in Path(MODEL).glob("*token*"):
        shutil.copy(file, place)
    torch.manual_seed(0)
    config = MixtralConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        vocab_size=AutoConfig.from_pretrained(MODEL).vocab_size,
        max_position_embeddings=512,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(place)
    return place


def test_experts_are_trained_and_what_is_saved_loads_in_peft(mixture, folder):
    cell = cell_of(
        f"model={mixture}",
        "method.target_modules=[q_proj]",
        "method.target_parameters=experts",
        "training.steps=3",
        "training.learning_rate=1e-2",
    )
    assert not [p for p in check_cells((cell,)) if p.fatal or "experts" in p.message]
    result = run_cell(cell, folder)
    assert result.outcome == "finished", result.error
    assert len(result.resolved.target_parameters) == 2
    base = AutoModelForCausalLM.from_pretrained(mixture, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, folder / "adapter").eval()
    stacks = {n: p for n, p in model.named_parameters() if "experts" in n and "lora_B" in n}
    assert len(stacks) == 2 and all(bool(p.any()) for p in stacks.values()), "trained away from zero"
    assert evaluated(cell, model) == pytest.approx(result.value("eval_loss"), rel=1e-5)
    expected = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "parameter_name"):
            place = name.removeprefix("base_model.model.").replace(".base_layer", "")
            for e, change in enumerate(layer.get_delta_weight("default").detach()):
                expected[f"{place}.{e}.{layer.parameter_name}"] = torch.linalg.svdvals(change.double())
    assert len(expected) == 2 * 4
    of_adapter = [d.spectrum() for d in Adapter(folder / "adapter").deltas()]
    for found in (load_spectra(folder / "spectra.safetensors"), of_adapter):
        spectra = {s.module: s for s in found}
        assert set(spectra) == {*expected, "model.layers.0.self_attn.q_proj"}
        for name, values in expected.items():
            own = spectra[name].singular_values
            assert own == pytest.approx(values[: len(own)].numpy(), rel=1e-4, abs=1e-6 * float(values[0]))
    assert result.value("trainable_parameters") == sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)


@pytest.mark.parametrize(
    ("config", "turned"),
    [
        (MixtralConfig(**SIZES, num_local_experts=3), False),  # stacks of (experts, out, in)
        (GptOssConfig(**SIZES, num_local_experts=3, head_dim=8), True),  # of (experts, in, out)
    ],
)
def test_the_change_of_an_expert_is_the_one_that_peft_adds(config, turned):
    torch.manual_seed(0)
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    lora = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj"], target_parameters=names)
    model = peft.get_peft_model(AutoModelForCausalLM.from_config(config), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    changes = {d.stack: [] for d in adapter_deltas(model, {}) if d.stack}
    for delta in adapter_deltas(model, {}):
        if delta.stack:
            assert delta.rank == 3 and delta.expert == len(changes[delta.stack])
            changes[delta.stack].append(delta.matrix())
    wrappers = [m for m in model.modules() if hasattr(m, "parameter_name")]
    assert len(wrappers) == 2 == len(changes)
    for wrapper in wrappers:
        stack = next(n for n in changes if n.endswith(wrapper.parameter_name))
        found = torch.stack(changes[stack])
        whole = wrapper.get_delta_weight("default").detach().double()
        torch.testing.assert_close(found.mT if turned else found, whole, rtol=1e-5, atol=1e-5)


def test_a_setting_that_came_later_changes_no_id_and_one_that_is_given_does():
    plain = cell_of()
    assert cell_of("method.target_parameters=null").id == plain.id
    asked = {cell_of(f"method.target_parameters={x}").id for x in ("experts", "[experts]", "[down_proj]", "down_proj")}
    assert len(asked) == 2 and plain.id not in asked
