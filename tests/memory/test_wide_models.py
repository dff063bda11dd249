"""Models with an image tower, with latent attention, with experts behind dense layers: what is traced and what is
held."""

import pytest
import torch
from transformers import DeepseekV3Config, Gemma3Config, MllamaConfig, Qwen2_5_VLConfig, Qwen2Config

from lorabench.commands.estimate_text import preset_text, tower_text
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.engine.adapt import linear_modules, resolve_targets
from lorabench.memory.layer_pattern import Pattern, pattern
from lorabench.memory.meta_model import build, configuration, quantized, with_layers
from lorabench.memory.step_profile import predict_step
from lorabench.memory.train_config import TrainConfig
from lorabench.memory.validate import setting_from

SMALL = {
    "vocab_size": 500,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28}
CONFIGS = {
    "deepseek": DeepseekV3Config(
        num_hidden_layers=9,
        first_k_dense_replace=2,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
        n_routed_experts=8,
        moe_intermediate_size=32,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        **(SMALL | {"num_key_value_heads": 4}),
    ),
    "gemma3": Gemma3Config(
        text_config=dict(
            num_hidden_layers=9,
            head_dim=16,
            sliding_window=32,
            layer_types=["sliding_attention", "full_attention"] * 4 + ["sliding_attention"],
            **SMALL,
        ),
        vision_config=dict(patch_size=14, **TOWER),
        mm_tokens_per_image=4,
    ),
    "qwen2.5-vl": Qwen2_5_VLConfig(
        text_config=dict(
            num_hidden_layers=7,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            **SMALL,
        ),
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 64},
    ),
    "mllama": MllamaConfig(
        text_config=dict(num_hidden_layers=10, cross_attention_layers=[0, 2, 4, 6, 8], pad_token_id=0, **SMALL),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "image_size": 28,
            "vision_output_dim": 96,
            "intermediate_layers_indices": [0, 1],
        },
    ),
}


@pytest.fixture(params=CONFIGS, scope="module")
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    CONFIGS[request.param].save_pretrained(folder)
    return ModelSpec(name=str(folder))


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_few_layers_tell_the_whole(model, device):
    asked = TrainConfig(
        model,
        QuantizationSpec(name="nf4"),
        MethodSpec(rank=4, target_modules="attention"),
        TrainingSpec(sequence_length=64),
        device,
    )
    assert predict_step(asked) == predict_step(asked, whole=True)


def test_the_first_layers_may_be_of_another_kind():
    assert pattern(CONFIGS["deepseek"]) == Pattern(1, first=2)
    assert pattern(CONFIGS["mllama"]) == Pattern(2)


@pytest.mark.parametrize("name", ["gemma-3-4b", "qwen2.5-vl-7b", "qwen2-vl-2b", "llama-3.2-11b", "mistral-small-3.1"])
def test_the_tower_is_held_and_not_adapted(name):
    setting = setting_from({"model": name, "quantization": "nf4", "training": {"sequence_length": 16}})
    whole = build(with_layers(setting.shape.config, 5), torch.bfloat16)
    assert linear_modules(whole) and not any("vis" in n or "projector" in n for n in linear_modules(whole))
    assert not any("vis" in n for n in resolve_targets(whole, "all-linear"))
    everything = sum(p.numel() for p in whole.parameters())
    text = sum(p.numel() for n, p in whole.named_parameters() if "language_model" in n or "lm_head" in n)
    assert setting.shape.tower_parameters == everything - text
    assert "language model on text alone" in tower_text(setting)


def test_the_tower_of_gemma_3_is_as_its_report_counts_it():
    """Gemma team 2025, table 1: a vision encoder of 417M; the projection to a width of 2,560 and its norm are not
    in it."""
    tower = setting_from({"model": "gemma-3-4b", "training": {"sequence_length": 16}}).shape.tower_parameters
    assert tower - (1152 * 2560 + 1152) == pytest.approx(417e6, abs=0.5e6)


def test_a_quantized_tower_has_the_bytes_that_bitsandbytes_gives_it(tmp_path):
    """nf4 stores two weights a byte in linear layers alone: embeddings, norms, biases and the projection, which is a
    parameter of its own, stay in 16 bits."""
    config = configuration(ModelSpec(name="gemma-3-4b"))
    config.text_config.save_pretrained(tmp_path)
    words = {"quantization": "nf4", "training": {"sequence_length": 16, "batch_size": 1}}
    whole, text = (predict_step(setting_from({"model": m, **words})) for m in ("gemma-3-4b", str(tmp_path)))
    width, inner, layers, patches = 1152, 4304, 27, (896 // 14) ** 2
    linear = layers * (4 * width * width + 2 * width * inner)
    biases = layers * (4 * width + inner + width)
    norms = layers * 4 * width + 2 * width
    embedding = 3 * 14 * 14 * width + width + patches * width
    joint = width * 2560 + width
    extra = linear // 2 + 2 * (biases + norms + embedding + joint)
    rounded = 512 * (16 * layers + 7) + 8 * patches  # each tensor to the allocator's block; ids of positions
    assert 0 <= whole.persistent_bytes["weights"] - text.persistent_bytes["weights"] - extra <= rounded


def test_gates_of_one_output_are_left_to_themselves():
    step = predict_step(setting_from({"model": "qwen1.5-moe", "training": {"sequence_length": 16}}))
    bare = build(with_layers(configuration(ModelSpec(name="qwen1.5-moe")), 1), torch.bfloat16)
    assert not any(n.endswith("shared_expert_gate") for n in resolve_targets(bare, "all-linear"))
    assert step.trainable_parameters == 24 * 8 * (4 * (2048 + 2048) + 3 * (2048 + 5632))


@pytest.mark.parametrize(
    "name", ["gpt-oss-20b", "qwen3-30b", "mixtral-8x7b", "olmoe", "phi-3.5-moe", "deepseek-v2-lite"]
)
def test_experts_are_neither_quantized_nor_adapted(name):
    method = {"name": "lora", "target_modules": "attention"}
    asked = {"model": name, "quantization": "nf4", "method": method, "training": {"sequence_length": 16}}
    setting = setting_from(asked)
    left = setting.shape.unreached(torch.bfloat16)
    assert left is not None and any("experts" in n for n in left.names)
    assert (
        predict_step(setting).persistent_bytes["weights"] > left.bytes >= 2 * left.parameters
    )  # DeepSeek's routers are in float32


def test_what_the_hub_stores_otherwise_is_told():
    setting = setting_from({"model": "gpt-oss-20b", "training": {"sequence_length": 16}})
    assert "MXFP4" in preset_text(setting)


def test_biases_of_quantized_layers_are_loaded_in_the_models_dtype(tmp_path):
    import transformers

    config = Qwen2Config(num_hidden_layers=1, **SMALL)
    transformers.Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    stored = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, quantization_config=stored
    )
    built = quantized(build(config, torch.bfloat16), QuantizationSpec(name="nf4"), torch.bfloat16, torch.bfloat16)
    kinds = [{n: p.dtype for n, p in model.named_parameters()} for model in (loaded, built)]
    assert kinds[0] == kinds[1]


def test_a_local_copy_is_believed_before_a_preset(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--Qwen--Qwen2.5-0.5B"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    Qwen2Config(num_hidden_layers=3, **SMALL).save_pretrained(cached / "snapshots" / "abc")
    name = ModelSpec(name="Qwen/Qwen2.5-0.5B")
    monkeypatch.setattr(
        "lorabench.memory.meta_model.load_config",
        lambda spec: Qwen2Config.from_pretrained(cached / "snapshots" / "abc"),
    )  # the hub's own client has read the cache's place already
    assert configuration(name).num_hidden_layers == 3
