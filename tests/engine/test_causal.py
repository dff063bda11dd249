"""A model that sees what it predicts is refused, on its configuration alone and on its weights."""

import pytest
import torch
import transformers as t

from lorabench.engine.causal import refuse_lookahead, sees_ahead
from lorabench.engine.check import check_cells
from lorabench.engine.model import load_base
from lorabench.errors import ModelError
from tests.engine.checkpoints import SMALL, configured, copied, put, random_model, weights
from tests.engine.conftest import cell_of, faults, small_model

CPU = torch.device("cpu")
LLAMA_LIKE = {**SMALL, "num_key_value_heads": 2}
BLIND = {
    "bert": lambda: t.BertConfig(**SMALL),
    "roberta": lambda: t.RobertaConfig(**{**SMALL, "max_position_embeddings": 130}),
    "electra": lambda: t.ElectraConfig(**SMALL, embedding_size=64),
    "bidirectional gemma": lambda: t.Gemma3TextConfig(**LLAMA_LIKE, head_dim=16, use_bidirectional_attention=True),
    "xlnet": lambda: t.XLNetConfig(d_model=64, n_layer=2, n_head=4, d_inner=96, vocab_size=1024),
}


@pytest.mark.parametrize("kind", BLIND)
def test_models_that_see_later_tokens_are_refused_before_any_cell_and_when_loaded(tmp_path, kind):
    path = random_model(tmp_path / "m", BLIND[kind]())
    cell = cell_of(f"model={path}")
    (problem,) = check_cells((cell,))
    assert problem.fatal
    assert (
        "is not a causal language model: a later token changes what it predicts at earlier positions" in problem.message
    )
    with pytest.raises(ModelError, match="is not a causal language model"):
        load_base(cell, CPU)


def test_attention_that_is_zero_so_far_does_not_hide_it(tmp_path):
    path = random_model(tmp_path / "m", t.BertConfig(**SMALL))
    put(path, {n: torch.zeros_like(w) if "attention.output.dense" in n else w for n, w in weights(path).items()})
    model = t.AutoModelForCausalLM.from_pretrained(path)
    refuse_lookahead(model, "m")  # the weights alone do not tell
    (problem,) = check_cells((cell_of(f"model={path}"),))
    assert "is not a causal language model" in problem.message


KINDS = ["llama", "gemma2", "gemma3", "mixtral", "falcon", "bloom", "gptj", "gpt2", "gpt_neox", "opt", "phi3"]


@pytest.mark.parametrize("kind", KINDS)
def test_decoders_pass_in_every_precision(kind):
    model = small_model(kind)
    assert not sees_ahead(model)
    for dtype in (torch.float32, torch.bfloat16):
        refuse_lookahead(model.to(dtype).eval(), kind)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantized_decoders_pass(quantization):
    assert load_base(cell_of(f"quantization={quantization}"), CPU) is not None


def test_several_end_tokens_and_padding_that_is_none_do_not_mislead(tmp_path):
    path = configured(copied(tmp_path / "m"), eos_token_id=[1, 2, 900], pad_token_id=-1, return_dict=False)
    cell = cell_of(f"model={path}")
    assert faults((cell,)) == ()
    assert load_base(cell, CPU) is not None


def test_bert_as_a_decoder_passes(tmp_path):
    path = random_model(tmp_path / "m", t.BertConfig(**SMALL, is_decoder=True))
    assert faults((cell_of(f"model={path}", "training.sequence_length=32"),)) == ()
    assert load_base(cell_of(f"model={path}"), CPU) is not None
