"""What was trained beside the factors is counted as PEFT counts it, and told in every form of the answer."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorabench.commands import main as cli
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.trained import trained
from lorabench.spectra.truncate import truncate
from tests.engine.conftest import small_model
from tests.spectra.peft_variants import randomised

LLAMA = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
CASES = {
    "alone": ("llama", LLAMA, set()),
    "classifier": ("roberta", {"target_modules": ["query"], "task_type": "SEQ_CLS"}, {"classifier"}),
    "head": ("llama", LLAMA | {"modules_to_save": ["lm_head"]}, {"lm_head"}),
    "norms": (
        "llama",
        LLAMA | {"modules_to_save": ["input_layernorm", "norm"]},
        {"model.norm", *(f"model.layers.{i}.{w}_layernorm" for i in (0, 1) for w in ("input", "post_attention"))},
    ),  # PEFT trains every name that ends so
    "tokens": ("llama", LLAMA | {"trainable_token_indices": [3, 4]}, {"tokens of model.embed_tokens"}),
    "all biases": (
        "roberta",
        {"target_modules": ["query"], "task_type": "SEQ_CLS", "bias": "all"},
        {"classifier", "biases"},
    ),
    "biases of lora_B": (
        "roberta",
        {"target_modules": ["query"], "task_type": "SEQ_CLS", "lora_bias": True},
        {"classifier", "biases of lora_B"},
    ),
    "dora": ("llama", LLAMA | {"use_dora": True}, set()),
    "mica": ("llama", LLAMA | {"init_lora_weights": "mica"}, set()),
    "embedding": ("llama", LLAMA | {"target_modules": ["embed_tokens", "q_proj"]}, set()),
    "kasa": ("llama", LLAMA | {"kasa_config": peft.tuners.lora.config.KasaConfig()}, set()),
}


@pytest.mark.parametrize(("kind", "fields", "elsewhere"), CASES.values(), ids=CASES)
def test_the_numbers_are_those_that_peft_trains(kind, fields, elsewhere, tmp_path):
    model = randomised(peft.get_peft_model(small_model(kind), peft.LoraConfig(r=4, **fields)))
    model.save_pretrained(tmp_path)
    found = trained(Adapter(tmp_path))
    trainable = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert found.total == sum(trainable.values())
    assert found.adapters == sum(c for n, c in trainable.items() if ".lora_" in n and not n.endswith(".bias"))
    assert set(found.elsewhere) == elsewhere
    assert set(found.saved_along) == (
        {"model.embed_tokens"}
        if "embed_tokens" in fields["target_modules"]
        else {"classifier"}
        if fields.get("bias")
        else set()
    )


def test_it_is_told_in_text_json_and_page_and_by_truncate(tmp_path, capsys):
    model = randomised(
        peft.get_peft_model(small_model("roberta"), peft.LoraConfig(r=4, target_modules=["query"], task_type="SEQ_CLS"))
    )
    model.save_pretrained(tmp_path / "a")
    head = sum(p.numel() for p in small_model("roberta").classifier.parameters())
    words = f"{head:,} of {head + 512:,} trained numbers are outside the adapters"
    assert cli.main(["spectrum", str(tmp_path / "a")]) == 0
    text = capsys.readouterr().out
    assert f"trained  {head + 512:,} numbers: 512 in the adapters, classifier ({head:,})" in text
    assert words in text
    assert cli.main(["spectrum", str(tmp_path / "a"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trained"] == {"adapters": 512, "elsewhere": {"classifier": head}, "saved_along": {}}
    assert any(words in n for n in found["notes"])
    assert cli.main(["spectrum", str(tmp_path / "a"), "--html", str(tmp_path / "page.html")]) == 0
    assert words in (tmp_path / "page.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["truncate", str(tmp_path / "a"), "--rank", "2", "-o", str(tmp_path / "cut")]) == 0
    assert f"{words}, and are carried over as they are: classifier ({head:,})" in capsys.readouterr().out


def test_a_file_without_configuration_holds_what_was_trained_and_nothing_else(tmp_path):
    save_file(
        {
            "h.0.q.lora_A": torch.ones(2, 8),
            "h.0.q.lora_B": torch.ones(8, 2),
            "h.0.q.bias": torch.ones(8),
            "score.weight": torch.ones(3, 8),
        },
        tmp_path / "a.safetensors",
    )
    found = trained(Adapter(tmp_path / "a.safetensors"))
    assert (found.adapters, dict(found.elsewhere), dict(found.saved_along)) == (32, {"biases": 8, "score": 24}, {})


@pytest.mark.parametrize("with_config", [True, False])
def test_the_state_of_a_whole_model_is_not_taken_for_trained(with_config, tmp_path):
    """As FSDP saves it: frozen weights beside the factors; a cut leaves the frozen ones of adapted layers out."""
    model = randomised(peft.get_peft_model(small_model("llama"), peft.LoraConfig(r=4, **LLAMA)))
    model.save_pretrained(tmp_path / "a")
    save_file(
        {k: v.contiguous().clone() for k, v in model.state_dict().items()}, tmp_path / "a" / "adapter_model.safetensors"
    )
    if not with_config:
        (tmp_path / "a" / "adapter_config.json").unlink()
    found = trained(Adapter(tmp_path / "a"))
    assert (found.adapters, found.outside) == (512, 0)
    assert sum(found.saved_along.values()) == sum(p.numel() for p in small_model("llama").parameters())
    made = truncate(Adapter(tmp_path / "a"), tmp_path / "cut", rank=4)
    assert not any("base_layer" in k for k in load_file(made.folder / "adapter_model.safetensors"))
