"""Small models and adapters made by PEFT itself, and the file of the LoRA paper where it lies beside the project."""

from pathlib import Path

import peft
import pytest
import torch
import transformers as t

from tests.engine.conftest import small_model

REAL = Path(__file__).parents[3] / "shared" / "adapters" / "roberta-base-mnli-loralib" / "roberta_base_lora_mnli.bin"


def peft_adapter(folder, kind="llama", **config):
    """A PEFT adapter with random factors on a small model, saved; gives (base, adapted model, folder)."""
    torch.manual_seed(0)
    base = small_model(kind)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | config
    model = peft.get_peft_model(base, peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            elif "magnitude" in name:
                parameter.mul_(1.1)
    model.save_pretrained(folder)
    return base, model.eval(), folder


def dense_changes(model):
    """Module to W after - W before in float64, by PEFT's own get_delta_weight."""
    found = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight") and "default" in getattr(layer, "lora_A", {}):
            delta = layer.get_delta_weight("default").detach().double()
            found[name.removeprefix("base_model.model.")] = (
                delta.T if getattr(layer, "fan_in_fan_out", False) else delta
            )
    return found


@pytest.fixture
def real():
    if not REAL.is_file():
        pytest.skip("the LoRA paper's adapter does not lie beside the project")
    return REAL


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Folders of two small models, of which GPT-2 stores its matrices turned."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("plain")
    sizes = {"vocab_size": 128, "num_attention_heads": 4}
    t.LlamaForCausalLM(
        t.LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, **sizes)
    ).save_pretrained(place / "llama")
    t.GPT2LMHeadModel(t.GPT2Config(n_embd=64, n_layer=1, n_head=4, vocab_size=128, n_positions=32)).save_pretrained(
        place / "gpt2"
    )
    return place
