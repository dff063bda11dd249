"""Models that PEFT adapted and merged, as the oracle of a change."""

import peft
import torch
from safetensors.torch import save_file
from torch import nn

from tests.engine.conftest import small_model


def randomised(model, seed=1):
    """Random values in everything that the adapter holds; magnitudes a tenth longer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "magnitude" in name:
                p.mul_(1.1)
            elif "lora_" in name or "trainable_tokens_delta" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


def merged(config, folder, model=None):
    """An adapter of that configuration with random values, saved with its base; gives module to W after - W before, by
    PEFT's own merge."""
    torch.manual_seed(0)
    model = small_model("llama") if model is None else model
    before = {k: v.clone().double() for k, v in model.state_dict().items()}
    (folder / "base").mkdir(parents=True)
    save_file({k: v.float().contiguous().clone() for k, v in before.items()}, folder / "base" / "model.safetensors")
    adapted = randomised(peft.get_peft_model(model, config)).eval()
    adapted.save_pretrained(folder / "adapter")
    after = adapted.merge_and_unload().state_dict()
    return {
        k.removesuffix(".weight"): after[k].double() - before[k]
        for k in before
        if bool((after[k].double() != before[k]).any())
    }


def assert_change(delta, expected):
    """(out, in) of a layer as PEFT stores it: an embedding's the other way round, a convolution's flat."""
    expected = expected.T if delta.is_embedding else expected.reshape(expected.shape[0], -1)
    torch.testing.assert_close(delta.matrix().float(), expected.float(), rtol=1e-3, atol=2e-5)


BD = {
    "target_modules_bd_a": ["o_proj", "down_proj"],
    "target_modules_bd_b": ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"],
    "nblocks": 2,
}

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


CONFIGS = {
    "plain": {},
    "rslora and patterns": {
        "use_rslora": True,
        "rank_pattern": {"^model.layers.0.*q_proj": 2, "layers.1.mlp.up_proj": 6},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 3, "^model.layers.1.mlp.*": 5},
    },
    "dora": {"use_dora": True},
    "dora rslora": {"use_dora": True, "use_rslora": True, "alpha_pattern": {"q_proj": 1}},
    "kasa": {"kasa_config": peft.tuners.lora.config.KasaConfig()},
    "kasa patterns": {
        "kasa_config": peft.tuners.lora.config.KasaConfig(),
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"q_proj": 1},
    },
    "bdlora": {"use_bdlora": peft.tuners.lora.config.BdLoraConfig(**BD)},
    "bdlora in part": {
        "use_bdlora": peft.tuners.lora.config.BdLoraConfig(
            target_modules_bd_b=["q_proj"], nblocks=4, match_strict=False
        ),
        "use_rslora": True,
    },
    "velora": {"velora_config": peft.tuners.lora.config.VeloraConfig(num_groups=4)},
    "monteclora": {"monteclora_config": peft.tuners.lora.config.MontecloraConfig(num_samples=2)},
    "mica": {"init_lora_weights": "mica"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "no start": {"init_lora_weights": False},
    "layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "exclude": {"target_modules": "all-linear", "exclude_modules": ["lm_head", "o_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"], "use_rslora": True},
    "embedding dora": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "lm_head": {"target_modules": ["lm_head", "q_proj"]},
    "trained along": {"modules_to_save": ["lm_head"], "trainable_token_indices": {"embed_tokens": [1, 5]}},
}


class Convolutions(nn.Module):
    """One layer of each kind that PEFT adapts beside linear ones."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Conv1d(6, 8, 3)
        self.two = nn.Conv2d(6, 8, 3)
        self.point = nn.Conv2d(6, 8, 1)
        self.three = nn.Conv3d(6, 8, 3)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.plain = nn.Linear(6, 8)
        self.words = nn.Embedding(10, 6)


def mixtral():
    import transformers as t

    torch.manual_seed(0)
    config = t.MixtralConfig(
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        num_local_experts=3,
    )
    return t.MixtralForCausalLM(config)
