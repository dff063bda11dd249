"""Attention row by row against transformers' own, over each row alone and over all of them with a mask."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lorabench.engine import row_attention
from lorabench.engine.batches import Layout, collate
from lorabench.engine.causal import keeps_rows_apart
from lorabench.engine.data import Example
from lorabench.engine.row_attention import SHORT, RowAttention, attends_by_rows, attention_by_rows
from lorabench.engine.train import take_step
from tests.engine.conftest import small_config, small_model

CPU, LENGTHS = torch.device("cpu"), (5, 2, 7, 1, 4)


def examples(lengths):
    chance = np.random.default_rng(0)
    return [Example(chance.integers(3, 64, n).astype(np.int32), np.arange(n) > 0, n) for n in lengths]


ROWS = examples(LENGTHS)
BATCH = collate(ROWS, Layout(0, 10_000, by_rows=True), CPU)  # beside so wide layers attention costs nothing
IDS = [torch.from_numpy(one.ids)[None].long() for one in ROWS]


def exact(kind, **settings):
    torch.manual_seed(0)
    config = small_config(kind)
    config.update(settings)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    model.config._experts_implementation = "eager"  # transformers' grouped product has no float64
    return model


def found(model, logits):
    """Logits of all tokens, and the gradients of a loss that every one of them has a share in."""
    model.zero_grad()
    logits.log_softmax(-1)[:, 7].sum().backward()
    return [logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def together(model):
    with attention_by_rows(BATCH.lengths) as own:
        return own, found(model, model(**BATCH.inputs).logits[0])


def assert_those_of_each_row_alone(model, results):
    alone = found(model, torch.cat([model(input_ids=one).logits[0] for one in IDS]))
    for ours, true in zip(results, alone, strict=True):
        assert (ours - true).norm() <= 1e-9 * true.norm()


TAKEN = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "mixtral", "phi", "phi3", "gptj", "gpt2", "gpt_neox")


@pytest.mark.parametrize("kind", TAKEN)
def test_outputs_and_gradients_are_those_of_each_row_alone(kind, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # by which Gemma's norms sum gradients in float32
    model = exact(kind)
    own, results = together(model)
    assert (own.taken, own.left) == (2, 0)
    assert_those_of_each_row_alone(model, results)


@pytest.mark.parametrize(
    ("kind", "window", "taken"),
    [("mistral", 4, 0), ("mistral", 7, 2), ("gemma3", 4, 1), ("gemma3", 7, 2), ("phi3", 4, 0), ("phi3", 7, 2)],
)
def test_a_window_shorter_than_a_row_is_left_to_transformers(kind, window, taken, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    model = exact(kind, sliding_window=window)
    own, results = together(model)
    assert (own.taken, own.left) == (taken, 2 - taken)
    assert_those_of_each_row_alone(model, results)


def test_so_is_dropout():
    model = exact("llama", attention_dropout=0.5).train()
    results = []
    for lengths in (BATCH.lengths, ()):
        torch.manual_seed(1)
        with attention_by_rows(lengths) as own:
            results.append(model(**BATCH.inputs).logits)
        assert own is None or (own.taken, own.left) == (0, 2)
    assert torch.equal(*results)


def attended(attend, dtype, lengths, across=False):
    """Output and gradients of attention with grouped heads and the mask of rows."""
    torch.manual_seed(0)
    shapes = [(1, heads, sum(lengths), 16) for heads in (4, 2, 2)]
    inputs = [torch.randn(shape).bfloat16().to(dtype).requires_grad_() for shape in shapes]
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    mask = ((row[:, None] == row) & torch.ones(len(row), len(row)).tril().bool())[None, None]
    read = [t.mT.contiguous().mT for t in inputs] if across else inputs
    out, _ = attend(SimpleNamespace(num_key_value_groups=2, is_causal=True), *read, mask, scaling=0.3)
    out.backward(torch.randn(out.shape).bfloat16().to(dtype))
    return [out.detach(), *(t.grad for t in inputs)]


@pytest.mark.parametrize("lengths", [LENGTHS, (90, 200, 130), (SHORT + 1, 60)])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_it_is_no_farther_from_the_truth_than_a_mask(lengths, dtype, near):
    truth = attended(sdpa_attention_forward, torch.float64, lengths)
    own = RowAttention(lengths)
    ours, masked = (attended(attend, dtype, lengths) for attend in (own, sdpa_attention_forward))
    assert own.taken == 1
    for our, other, true in zip(ours, masked, truth, strict=True):
        assert our.dtype == dtype
        assert (our - true).norm() < near * true.norm()
        assert dtype == torch.float64 or (our - true).norm() <= 1.2 * (other - true).norm()


def test_numbers_of_a_head_that_are_no_neighbours_are_left_to_transformers():
    own = RowAttention(LENGTHS)
    ours, theirs = (attended(attend, torch.float64, LENGTHS, across=True) for attend in (own, sdpa_attention_forward))
    assert (own.taken, own.left) == (0, 1)
    assert all(torch.equal(our, their) for our, their in zip(ours, theirs, strict=True))


def test_autocast_is_transformers_own():
    model = small_model("llama").eval()
    truth, errors = torch.cat([model(input_ids=one).logits[0] for one in IDS]), []
    for lengths in (BATCH.lengths, ()):
        with attention_by_rows(lengths) as own, torch.autocast("cpu", torch.bfloat16):
            errors.append((model(**BATCH.inputs).logits[0].float() - truth).norm() / truth.norm())
        assert own is None or own.taken == 2
    assert 0 < errors[0] <= 1.2 * errors[1] < 0.02


def test_one_row_and_rows_with_padding_change_nothing():
    padded = collate(ROWS, Layout(0), CPU)
    for lengths in (padded.lengths, [7]):
        with attention_by_rows(lengths) as own:
            assert own is None
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
    model = small_model("llama").eval()
    expected = model(**padded.inputs).logits
    with attention_by_rows(LENGTHS) as own:
        assert torch.equal(model(**padded.inputs).logits, expected), "as a teacher may read them beside"
    assert (own.taken, own.left) == (0, 2)


def test_it_ends_with_its_block():
    with attention_by_rows(LENGTHS) as own:
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is own
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
    with pytest.raises(ZeroDivisionError), attention_by_rows(LENGTHS):
        raise ZeroDivisionError
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_has_the_loss_and_the_gradients_of_the_rows_alone(checkpointing, monkeypatch):
    made = []
    monkeypatch.setattr(row_attention, "RowAttention", lambda n: made.append(RowAttention(n)) or made[-1])
    model = exact("llama")
    parameters, kept = list(model.parameters()), []
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    monkeypatch.setattr(optimizer, "step", lambda: kept.extend(p.grad.clone() for p in parameters))

    def loss_of(model, batch):
        logits = model(**batch.inputs).logits[:, :-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, batch.labels[:, 1:].flatten(), reduction="sum")

    how = (parameters, optimizer, 1e9, None, loss_of)
    alone, _ = take_step(model, [collate([one], Layout(0), CPU) for one in ROWS], *how)
    if checkpointing:
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    assert take_step(model, [BATCH, BATCH], *how)[0] == pytest.approx(alone, rel=1e-6)
    assert [(own.taken, own.left) for own in made] == [(4 if checkpointing else 2, 0)] * 2
    for true, ours in zip(kept[: len(parameters)], kept[len(parameters) :], strict=True):
        assert (ours - true).norm() <= 1e-9 * true.norm()


@pytest.mark.parametrize("kind", [*TAKEN, "falcon", "gemma2"])  # attention of its own, a soft cap
def test_a_model_attends_by_rows_where_all_its_layers_do(kind):
    model = small_model(kind).train()
    assert keeps_rows_apart(model)
    assert attends_by_rows(model, 4) == (kind in TAKEN)
    model.config._attn_implementation = "eager"
    assert not attends_by_rows(model, 4)
    assert all(m.training for m in model.modules())


def test_rows_lie_end_to_end_where_only_attention_by_rows_makes_it_cheaper():
    rows = examples((60, 59))
    assert collate(rows, Layout(0, 16), CPU).lengths == []
    batch = collate(rows, Layout(0, 16, by_rows=True), CPU)
    assert batch.ids.shape == (1, 119)
    assert batch.lengths == [60, 59]
    assert BATCH.lengths == list(LENGTHS)
