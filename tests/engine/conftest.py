"""Real models small enough for any test: the shipped 300k model, and random ones of other architectures."""

from pathlib import Path

import pytest
import torch

from lorabench.config import expand
from lorabench.config.load import read_study
from lorabench.config.source import override, parse_source
from lorabench.engine.check import check_cells

MODEL = Path(__file__).parents[2] / "lorabench" / "models" / "tiny-300k"
STUDY = """
schema: 1
name: s
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 4, alpha: 16}
training: {steps: 6, batch_size: 4, sequence_length: 48, learning_rate: 5e-3}
evaluation: {lm_eval: [], max_sequences: 8, forgetting: none}
"""


def cells_of(*settings, text=STUDY):
    """The cells of a small study with KEY=VALUE settings over it."""
    return expand(read_study(override(parse_source(text, "s.yaml", Path.cwd()), settings)))


def cell_of(*settings):
    (cell,) = cells_of(*settings)
    return cell


def faults(cells):
    """What keeps cells from running, without what is only told before the run."""
    return tuple(p for p in check_cells(cells) if p.fatal)


def told(cells):
    """What is told of their models before the run, without what becomes of the rows."""
    return tuple(p for p in check_cells(cells) if p.field == "model")


def small_config(kind):
    """A configuration of an architecture with a hidden size of 32 and two layers."""
    import transformers as t

    llama_like = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
    }
    return {
        "llama": lambda: t.LlamaConfig(**llama_like),
        "mistral": lambda: t.MistralConfig(**llama_like),
        "qwen2": lambda: t.Qwen2Config(**llama_like),
        "gemma2": lambda: t.Gemma2Config(**llama_like, head_dim=8),
        "gemma3": lambda: t.Gemma3TextConfig(
            **llama_like, head_dim=8, sliding_window=16, layer_types=["sliding_attention", "full_attention"]
        ),
        "mixtral": lambda: t.MixtralConfig(**llama_like, num_local_experts=4, num_experts_per_tok=2),
        "qwen3": lambda: t.Qwen3Config(**llama_like, head_dim=8),
        "phi": lambda: t.PhiConfig(**llama_like),
        "phi3": lambda: t.Phi3Config(**llama_like, pad_token_id=0),
        "falcon": lambda: t.FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=64),
        "bloom": lambda: t.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=64),
        "gptj": lambda: t.GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, vocab_size=64, n_positions=64),
        "gpt2": lambda: t.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=64),
        "gpt_neox": lambda: t.GPTNeoXConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64
        ),
        "opt": lambda: t.OPTConfig(
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=64,
            word_embed_proj_dim=32,
            max_position_embeddings=64,
        ),
        "roberta": lambda: t.RobertaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=64,
            max_position_embeddings=66,
            num_labels=3,
        ),
    }[kind]()


def small_model(kind):
    """A random model of that architecture; RoBERTa as a classifier."""
    import transformers as t

    torch.manual_seed(0)
    maker = t.AutoModelForSequenceClassification if kind == "roberta" else t.AutoModelForCausalLM
    return maker.from_config(small_config(kind))


@pytest.fixture
def folder(tmp_path):
    """A cell's folder, two levels below the results directory as in a store."""
    path = tmp_path / "cells" / "x.partial"
    path.mkdir(parents=True)
    return path
