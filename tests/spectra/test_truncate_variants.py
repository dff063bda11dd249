"""What is cut from an adapter of any variant, under any names, is read by PEFT as the nearest change of its rank."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorabench.errors import LorabenchError, ModelError
from lorabench.spectra import reread
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.truncate import truncate
from tests.engine.conftest import small_model
from tests.spectra.conftest import peft_adapter
from tests.spectra.peft_variants import CONFIGS, LINEAR, Convolutions, merged, mixtral, randomised

NAMES = {
    "compiled outside": lambda k: f"_orig_mod.{k}",
    "compiled inside": lambda k: k.replace("base_model.model.", "base_model.model._orig_mod."),
    "layers compiled": lambda k: k.replace(".self_attn.", "._orig_mod.self_attn.").replace(".mlp.", "._orig_mod.mlp."),
    "data parallel": lambda k: f"module.{k}",
    "twice parallel": lambda k: f"module.module.{k}",
    "parallel inside": lambda k: k.replace("base_model.model.", "base_model.model.module."),
    "fsdp": lambda k: (
        "_fsdp_wrapped_module."
        + k.replace(".self_attn.", "._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn.")
    ),
    "doubled": lambda k: f"base_model.model.{k}",
    "lightning": lambda k: f"model.{k}",
    "fabric": lambda k: f"_forward_module.{k}",
    "another adapter's name": lambda k: k.replace(".weight", ".my-task_2.weight"),
    "no prefix": lambda k: k.removeprefix("base_model.model."),
}


@pytest.mark.parametrize("renamed", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("dora", [False, True])
def test_whatever_wrappers_put_into_the_names_peft_loads_the_cut(renamed, dora, tmp_path):
    _, model, folder = peft_adapter(tmp_path / "a", use_dora=dora, target_modules=LINEAR)
    state = load_file(folder / "adapter_model.safetensors")
    save_file({renamed(k): v for k, v in state.items()}, folder / "adapter_model.safetensors")
    truncate(Adapter(folder), tmp_path / "cut", rank=4)
    assert set(load_file(tmp_path / "cut" / "adapter_model.safetensors")) == set(state), "PEFT's own names"
    loaded = peft.PeftModel.from_pretrained(small_model("llama"), tmp_path / "cut").eval()
    ids = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("per_module", [False, True])
@pytest.mark.parametrize(
    "fields",
    [f for n, f in CONFIGS.items() if "dora" not in n and "kasa" not in n],
    ids=[n for n in CONFIGS if "dora" not in n and "kasa" not in n],
)
def test_of_every_variant_the_cut_is_the_nearest(fields, per_module, tmp_path):
    expected = merged(
        peft.LoraConfig(**({"r": 4, "lora_alpha": 9, "target_modules": LINEAR, "task_type": "CAUSAL_LM"} | fields)),
        tmp_path,
    )
    made = truncate(Adapter(tmp_path / "adapter"), tmp_path / "cut", rank=2, per_module=per_module)
    assert_nearest(expected, made.allotment.ranks, tmp_path, small_model("llama"))


def assert_nearest(expected, ranks, tmp_path, model, skipped=()):
    before = {k: v.clone().double() for k, v in model.state_dict().items()}
    after = peft.PeftModel.from_pretrained(model, tmp_path / "cut").merge_and_unload().state_dict()
    trained_along = [n for n in expected if n not in ranks]
    for name, change in expected.items():
        found = (
            after[f"{name}.weight" if f"{name}.weight" in after else name].double()
            - before[f"{name}.weight" if f"{name}.weight" in before else name]
        )
        if name in trained_along:
            torch.testing.assert_close(found, change)
            continue
        for one, other in (
            zip(change, found, strict=True) if change.dim() == 3 else [(change.flatten(1), found.flatten(1))]
        ):
            u, s, vh = torch.linalg.svd(one, full_matrices=False)
            k = ranks[name]
            torch.testing.assert_close(other.float(), ((u[:, :k] * s[:k]) @ vh[:k]).float(), rtol=1e-3, atol=1e-4)


def test_convolutions_embeddings_and_adalora(tmp_path):
    expected = merged(
        peft.LoraConfig(r=4, lora_alpha=6, target_modules=["one", "two", "point", "three", "plain", "words"]),
        tmp_path,
        Convolutions(),
    )
    made = truncate(Adapter(tmp_path / "adapter"), tmp_path / "cut", energy=0.8, per_module=True)
    for name, change in expected.items():
        changed = (
            peft.PeftModel.from_pretrained(Convolutions(), tmp_path / "cut")
            .merge_and_unload()
            .state_dict()[f"{name}.weight"]
            .double()
            - Convolutions().state_dict()[f"{name}.weight"].double()
        )
        u, s, vh = torch.linalg.svd(change.flatten(1), full_matrices=False)
        k = made.allotment.ranks[name]
        torch.testing.assert_close(
            changed.flatten(1).float(), ((u[:, :k] * s[:k]) @ vh[:k]).float(), rtol=1e-3, atol=1e-4
        )
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=9, total_step=10, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"
    )
    expected = merged(config, tmp_path / "ada")
    made = truncate(Adapter(tmp_path / "ada" / "adapter"), tmp_path / "ada" / "cut", rank=3)
    assert json.loads((tmp_path / "ada" / "cut" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert_nearest(expected, made.allotment.ranks, tmp_path / "ada", small_model("llama"))


@pytest.mark.parametrize("per_module", [False, True])
def test_the_experts_of_a_stack_are_cut_to_one_rank(per_module, tmp_path):
    settings = {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        "task_type": "CAUSAL_LM",
        "rank_pattern": {"experts.down_proj": 3},
    }
    expected = merged(peft.LoraConfig(**settings), tmp_path, mixtral())
    made = truncate(Adapter(tmp_path / "adapter"), tmp_path / "cut", rank=2, per_module=per_module)
    assert len(made.allotment.ranks) == 6
    assert made.allotment.parameters == sum(
        t.numel() for t in load_file(tmp_path / "cut" / "adapter_model.safetensors").values()
    )
    assert_nearest(expected, made.allotment.ranks, tmp_path, mixtral())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_precision_is_read_and_cut(dtype, tmp_path):
    _, _, folder = peft_adapter(tmp_path / "a", target_modules=["q_proj"])
    state = {k: v.to(dtype) for k, v in load_file(folder / "adapter_model.safetensors").items()}
    save_file(state, folder / "adapter_model.safetensors")
    truncate(Adapter(folder), tmp_path / "cut", rank=4)
    by_hand = {
        k.split(".lora_A")[0].removeprefix("base_model.model."): (
            2 * state[k.replace("lora_A", "lora_B")].double() @ v.double()
        )
        for k, v in state.items()
        if "lora_A" in k
    }
    for delta in Adapter(tmp_path / "cut").deltas():
        exact = by_hand[delta.module]
        assert float((delta.matrix() - exact).norm() / exact.norm()) < 0.02
    assert all(v.element_size() > 1 for v in load_file(tmp_path / "cut" / "adapter_model.safetensors").values())


def test_names_in_the_configuration_lose_their_wrappers_too(tmp_path):
    """As EVA and a compiled model write them: full names of modules, and ranks by full name."""
    _, model, folder = peft_adapter(
        tmp_path / "a", target_modules=LINEAR, rank_pattern={"model.layers.0.self_attn.q_proj": 3}
    )
    state = load_file(folder / "adapter_model.safetensors")
    save_file({f"_orig_mod.{k}": v for k, v in state.items()}, folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    modules = sorted({k.split(".lora_")[0].removeprefix("base_model.model.") for k in state})
    config |= {
        "target_modules": [f"_orig_mod.{m}" for m in modules],
        "rank_pattern": {"_orig_mod.model.layers.0.self_attn.q_proj": 3},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    truncate(Adapter(folder), tmp_path / "cut", energy=1.0)
    loaded = peft.PeftModel.from_pretrained(small_model("llama"), tmp_path / "cut").eval()
    ids = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_modules_under_the_adapters_name_and_their_copies_become_pefts_own(tmp_path):
    """The raw state of a model, as FSDP and torch.save give it."""
    model = randomised(
        peft.get_peft_model(small_model("roberta"), peft.LoraConfig(r=4, target_modules=["query"], task_type="SEQ_CLS"))
    ).eval()
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].dense.weight.mul_(3)
    model.save_pretrained(tmp_path / "a")
    own = set(load_file(tmp_path / "a" / "adapter_model.safetensors"))
    raw = {
        f"module.{k}": v.contiguous()
        for k, v in model.state_dict().items()
        if "lora_" in k or "modules_to_save" in k or "original_module" in k
    }
    save_file(raw, tmp_path / "a" / "adapter_model.safetensors")
    truncate(Adapter(tmp_path / "a"), tmp_path / "cut", rank=4)
    assert set(load_file(tmp_path / "cut" / "adapter_model.safetensors")) == own
    loaded = peft.PeftModel.from_pretrained(small_model("roberta"), tmp_path / "cut").eval()
    ids = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_what_peft_would_read_otherwise_is_no_success(tmp_path, monkeypatch):
    """A file that is damaged between writing and reading: nothing is left that could be taken for a result."""
    _, _, folder = peft_adapter(tmp_path / "a", target_modules=["q_proj"])
    real = reread._load

    def damaged(folder, wanted, others):
        file = folder / "adapter_model.safetensors"
        state = load_file(file)
        save_file(state | {k: 0 * v for k, v in state.items() if "lora_B" in k}, file)
        return real(folder, wanted, others)

    monkeypatch.setattr(reread, "_load", damaged)
    with pytest.raises(ModelError, match="PEFT reads a different change"):
        truncate(Adapter(folder), tmp_path / "cut", rank=2)
    assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"kasa_config": peft.tuners.lora.config.KasaConfig()},
            "is a KaSA adapter, which takes as many singular values off its base",
        )
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(fields, words, tmp_path):
    merged(peft.LoraConfig(r=4, target_modules=["q_proj"], **fields), tmp_path)
    with pytest.raises(LorabenchError, match=words):
        truncate(Adapter(tmp_path / "adapter"), tmp_path / "cut", rank=2)


def test_layers_that_peft_ties_are_cut_alike(tmp_path):
    """ensure_weight_tying has PEFT adapt the output layer with the embedding's own factors, though target_modules names
    the embedding alone."""
    import transformers as t

    def model():
        torch.manual_seed(0)
        return t.LlamaForCausalLM(
            t.LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=64,
                tie_word_embeddings=True,
            )
        )

    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True, task_type="CAUSAL_LM"
    )
    whole = randomised(peft.get_peft_model(model(), config)).eval()
    whole.save_pretrained(tmp_path / "adapter")
    truncate(Adapter(tmp_path / "adapter"), tmp_path / "same", rank=4)
    ids = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        loaded = peft.PeftModel.from_pretrained(model(), tmp_path / "same").eval()
        torch.testing.assert_close(loaded(input_ids=ids).logits, whole(input_ids=ids).logits, rtol=1e-4, atol=1e-3)
    truncate(Adapter(tmp_path / "adapter"), tmp_path / "cut", rank=2)
    loaded = peft.PeftModel.from_pretrained(model(), tmp_path / "cut").base_model.model
    change = whole.base_model.model.lm_head.get_delta_weight("default").double()
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    best = ((u[:, :2] * s[:2]) @ vh[:2]).float()
    torch.testing.assert_close(loaded.lm_head.get_delta_weight("default"), best, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(loaded.model.embed_tokens.get_delta_weight("default"), best, rtol=1e-3, atol=1e-4)
