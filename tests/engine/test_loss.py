"""The forms of the loss and the layouts of a batch against the plain sum over all logits, by hand."""

import numpy as np
import pytest
import torch
import transformers

from lorabench.engine.answers import choice_losses
from lorabench.engine.batches import IGNORED, Layout, collate
from lorabench.engine.causal import keeps_rows_apart
from lorabench.engine.data import Example
from lorabench.engine.evaluate import losses
from lorabench.engine.loss import CHUNK, LOSSES, labelled_logits, refuse_chunks
from lorabench.errors import ModelError
from tests.engine.conftest import small_model as random_model

KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi", "phi3", "falcon", "bloom", "gptj", "gpt2")
KINDS += ("gpt_neox", "opt")
CPU = torch.device("cpu")
HIDDEN = 10_000  # attention costs nothing beside it: rows lie end to end wherever there is padding


def small_model(kind):
    return random_model(kind).eval()


def row(*ids, labels=1):
    """The last `labels` tokens are predicted."""
    predicted = np.zeros(len(ids), dtype=bool)
    predicted[len(ids) - labels :] = True
    return Example(np.array(ids, dtype=np.int32), predicted, 1)


ROWS = [row(5, 9, 12, 7), row(3, 4, labels=1), row(8, 2, 6, 11, 13, 10, labels=4), row(9, 5, 4, labels=2)]


def by_hand(model, rows):
    """The sum of -log p over the predicted tokens, each row alone, all logits."""
    total = torch.zeros(())
    for one in rows:
        ids = torch.tensor(one.ids[None].astype(np.int64))
        logs = torch.log_softmax(model(input_ids=ids).logits[0].float(), dim=-1)
        total = total - sum(logs[i - 1, one.ids[i]] for i in range(1, len(one.ids)) if one.predicted[i])
    return total


def gradients(model, loss):
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_and_layout_has_the_loss_and_the_gradient_of_each_row_alone(kind):
    again = small_model(kind).double()
    expected = by_hand(again, ROWS)
    theirs = gradients(again, expected)
    for form, loss_of in LOSSES.items():
        if form == "chunked" and kind == "gemma2":
            continue  # refused
        for end_to_end in (None, HIDDEN) if keeps_rows_apart(small_model(kind)) else (None,):
            model = small_model(kind).double()
            batch = collate(ROWS, Layout(0, end_to_end, labelled=form != "full"), CPU)
            assert (batch.ids.shape == (1, 15)) == (end_to_end is not None)
            assert batch.predicted == 8
            loss = loss_of(model, batch)
            torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-6, atol=0)
            for ours, other in zip(gradients(model, loss), theirs, strict=True):
                torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", LOSSES)
def test_the_table_holds_each_rows_losses_at_their_places(form):
    model = small_model("llama")
    for layout in (Layout(0, labelled=form != "full"), Layout(0, HIDDEN, labelled=form != "full")):
        batch = collate(ROWS, layout, CPU)
        table = LOSSES[form](model, batch, "none")
        assert table.shape == batch.ids.shape
        rows = table if batch.positions is None else table[0].split([len(one.ids) for one in ROWS])
        sums = torch.stack([one.sum() for one in rows])
        expected = torch.stack([by_hand(model, [one]) for one in ROWS])
        torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-6)


def test_only_labels_go_through_the_head():
    model = small_model("llama")
    seen = []
    with model.lm_head.register_forward_hook(lambda head, inputs, output: seen.append(output.shape[1])):
        for form in LOSSES:
            LOSSES[form](model, collate(ROWS, Layout(0, labelled=form != "full"), CPU))
    assert seen == [6, 8, 0, 8], "4 rows of 6; 8 labels; of chunks none in the model's own pass, then the 8"


def test_chunks_are_no_larger_than_they_say_and_are_made_again_in_the_backward_pass():
    model = small_model("llama")
    long = [row(*(1 + np.arange(CHUNK + 9) % 40), labels=CHUNK + 5)]
    seen = []
    with model.lm_head.register_forward_hook(lambda head, inputs, output: seen.append(output.shape[1])):
        loss = LOSSES["chunked"](model, collate(long, Layout(0), CPU))
        assert seen == [0, CHUNK, 5]
        loss.backward()
    assert sorted(seen) == [0, 5, 5, CHUNK, CHUNK]


def test_soft_capping_is_refused_with_chunks_and_kept_by_labelled():
    model = small_model("gemma2")
    with pytest.raises(ModelError, match="does more to its logits than its head does"):
        refuse_chunks(model, "gemma")
    refuse_chunks(small_model("llama"), "llama")
    batch = collate(ROWS, Layout(0), CPU)
    torch.testing.assert_close(LOSSES["labelled"](model, batch), by_hand(model, ROWS), rtol=1e-5, atol=0)


def test_a_row_that_predicts_everything_leaves_nothing_out():
    full = [row(*range(1, 7), labels=5), row(*range(2, 8), labels=5)]
    assert collate(full, Layout(0), CPU).predicting is None
    assert collate(full, Layout(0, HIDDEN), CPU).positions is None, "nor is there padding to save"


def test_rows_lie_end_to_end_only_where_that_costs_less():
    rows = [row(*range(1, 60)), row(*range(1, 59))]
    assert collate(rows, Layout(0, 16), CPU).positions is None, "attention over both costs more than one padded token"
    assert collate(rows, Layout(0, HIDDEN), CPU).positions is not None


def test_the_first_token_of_a_row_is_never_predicted_by_the_row_before_it():
    odd = Example(np.array([3, 4, 5], dtype=np.int32), np.array([True, True, True]), 1)
    batch = collate([odd, row(3, 4)], Layout(0, HIDDEN), CPU)
    assert batch.labels.tolist() == [[IGNORED, 4, 5, IGNORED, 4]]


def test_which_models_keep_rows_apart():
    apart = {kind for kind in KINDS if keeps_rows_apart(small_model(kind))}
    assert apart == set(KINDS) - {"bloom", "opt"}, "whose positions come from the attention mask alone"
    torch.manual_seed(0)
    mamba = transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64, state_size=4)
    for dtype in (torch.float32, torch.bfloat16):
        assert not keeps_rows_apart(transformers.MambaForCausalLM(mamba).to(dtype))


def test_what_a_deep_model_rounds_by_the_length_of_its_input_is_not_taken_for_a_row_seen():
    """Thirty layers of bfloat16 round a lone row to 5 % and more of what a row in front would change."""
    torch.manual_seed(0)
    deep = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=30, num_attention_heads=4, vocab_size=64
        )
    )
    for parameter in deep.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 2 * parameter.shape[-1] ** -0.5)
    assert keeps_rows_apart(deep)
    assert keeps_rows_apart(deep.to(torch.bfloat16))


def test_choices_of_one_token_are_one_pass_and_cost_what_each_costs_alone():
    model = small_model("llama")
    prompts = [(5, 9, 12), (3, 4, 8, 2, 6)]
    rows = []
    for prompt in prompts:
        choices = tuple(row(*prompt, last) for last in (7, 11, 13))
        rows.append(Example(choices[1].ids, choices[1].predicted, 1, choices, answer=1))
    passes = []
    with model.register_forward_hook(lambda m, i, o: passes.append(1)):
        ((right, nats),) = choice_losses(model, rows, 8, 0, CPU)
    assert len(passes) == 1
    alone = losses(model, [c for one in rows for c in one.choices], 1, 0, CPU).nats.reshape(2, 3)
    np.testing.assert_allclose(nats, alone, rtol=1e-5)
    np.testing.assert_allclose(right.nats, alone[:, 1], rtol=1e-5)
    assert right.tokens.tolist() == [1, 1]


def test_choices_of_several_tokens_are_passes_of_their_own():
    model = small_model("llama")
    choices = (row(5, 9, 7), row(5, 9, 11, 4, labels=2))
    one = Example(choices[0].ids, choices[0].predicted, 1, choices, answer=0)
    ((_, nats),) = choice_losses(model, [one], 8, 0, CPU)
    np.testing.assert_allclose(nats[0], [float(by_hand(model, [c])) for c in choices], rtol=1e-5)


def test_positions_may_be_asked_for_twice():
    model = small_model("llama")
    batch = collate(ROWS, Layout(0), CPU)
    twice = labelled_logits(model, batch, torch.tensor([2, 2]))
    torch.testing.assert_close(twice[0], twice[1])
