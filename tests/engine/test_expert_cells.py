"""A cell whose adapters are on the experts of a mixture trains, is evaluated, and saves what PEFT loads."""

import shutil
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig

from lorabench.engine.cell import run_cell
from lorabench.engine.check import check_cells
from tests.engine.conftest import MODEL, cell_of
from tests.engine.test_cell import evaluated


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
    assert result.value("trainable_parameters") == sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)


def test_a_setting_that_came_later_changes_no_id_and_one_that_is_given_does():
    plain = cell_of()
    assert cell_of("method.target_parameters=null").id == plain.id
    asked = {cell_of(f"method.target_parameters={x}").id for x in ("experts", "[experts]", "[down_proj]", "down_proj")}
    assert len(asked) == 2 and plain.id not in asked
