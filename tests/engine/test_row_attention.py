"""Rows that lie end to end attend as each does alone, and what is not just theirs is left to transformers."""

import pytest
import torch
import transformers
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lorabench.engine.batches import Layout, collate
from lorabench.engine.causal import keeps_rows_apart
from lorabench.engine.loss import token_loss
from lorabench.engine.row_attention import attends_by_rows, attention_by_rows
from tests.engine.conftest import small_model
from tests.engine.test_loss import CPU, HIDDEN, KINDS, ROWS, by_hand, gradients, row

END_TO_END = collate(ROWS, Layout(0, HIDDEN), CPU)
TAKEN = [
    kind for kind in KINDS if kind not in ("bloom", "opt", "falcon", "gemma2")
]  # attention of their own, a soft cap


def made(kind, dtype=torch.float64, **settings):
    model = small_model(kind).to(dtype).eval()
    for name, value in settings.items():
        setattr(model.config, name, value)
    return model


def far(ours, theirs):
    return max(float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", TAKEN)
def test_loss_and_gradients_are_those_of_each_row_alone(kind):
    model = made(kind)
    alone = by_hand(model, ROWS)
    expected = gradients(model, alone)
    model = made(kind)
    with attention_by_rows(END_TO_END.lengths) as own:
        loss = token_loss(model, END_TO_END)
        found = gradients(model, loss)
    assert own.taken == model.config.num_hidden_layers
    assert not own.left
    torch.testing.assert_close(loss, alone.to(loss.dtype), rtol=1e-6, atol=0)
    for ours, theirs in zip(found, expected, strict=True):  # loss and norms are computed in float32
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_in_bfloat16_gradients_are_no_farther_from_the_truth_than_with_the_mask():
    truth = gradients(model := made("llama"), token_loss(model, END_TO_END))
    model = made("llama", torch.bfloat16)
    masked = gradients(model, token_loss(model, END_TO_END))
    model = made("llama", torch.bfloat16)
    with attention_by_rows(END_TO_END.lengths):
        ours = gradients(model, token_loss(model, END_TO_END))
    assert all(g.dtype == torch.bfloat16 for g in ours)
    assert far(ours, truth) <= 1.2 * far(masked, truth)


@pytest.mark.parametrize(("window", "taken"), [(3, False), (64, True)])
def test_a_window_shorter_than_a_row_is_left_to_transformers(window, taken):
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        sliding_window=window,
    )
    model = transformers.MistralForCausalLM(config).eval()
    alone = by_hand(model, ROWS)
    with attention_by_rows(END_TO_END.lengths) as own:
        loss = token_loss(model, END_TO_END)
    assert (own.taken, own.left) == ((2, 0) if taken else (0, 2))
    torch.testing.assert_close(loss, alone, rtol=1e-5, atol=0)


def test_padded_rows_and_a_single_one_change_nothing():
    padded = collate(ROWS, Layout(0), CPU)
    assert padded.lengths == []
    assert END_TO_END.lengths == [4, 2, 6, 3]
    for lengths in ([], [7]):
        with attention_by_rows(lengths) as own:
            assert own is None
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
    model = made("llama")
    expected = token_loss(model, padded)
    with attention_by_rows([4, 2]) as own:  # other rows than those that come
        assert torch.equal(token_loss(model, padded), expected)
    assert own.left == model.config.num_hidden_layers


def test_dropout_of_attention_is_left_to_transformers():
    model = small_model("llama").train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with attention_by_rows(END_TO_END.lengths) as own:
        token_loss(model, END_TO_END)
    assert not own.taken


def test_layers_that_are_computed_again_attend_as_before():
    plain, again = made("llama"), made("llama")
    again.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again.train()
    with attention_by_rows(END_TO_END.lengths):
        expected = gradients(plain, token_loss(plain, END_TO_END))
        found = gradients(again, token_loss(again, END_TO_END))
    assert far(found, expected) < 1e-9


def test_it_ends_with_its_block_whatever_ends_that():
    with pytest.raises(ValueError, match="not known"), attention_by_rows([2, 3]):
        float("not known" if ALL_ATTENTION_FUNCTIONS["sdpa"] is not sdpa_attention_forward else "0")
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_attends_by_rows_where_all_its_layers_do(kind):
    model = small_model(kind).eval()
    assert not keeps_rows_apart(model) or attends_by_rows(model) == (kind in TAKEN)
    model.config._attn_implementation = "eager"
    assert not attends_by_rows(model)


def test_where_rows_attend_alone_they_are_laid_end_to_end_for_any_padding():
    rows = [row(*range(1, 60)), row(*range(1, 59))]
    assert collate(rows, Layout(0, 16), CPU).positions is None, "attention over both costs more than a padded token"
    assert collate(rows, Layout(0, 16, by_rows=True), CPU).lengths == [59, 58]
