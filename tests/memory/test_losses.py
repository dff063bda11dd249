"""A trainer's loss holds what the library's own holds: run beside it on this CPU, or counted by hand."""

from types import SimpleNamespace

import pytest
import torch

from lorabench.engine.measure import LiveBytes
from lorabench.memory import losses
from lorabench.memory.losses import PROGRAMS, Inputs, linear_in_batch
from lorabench.memory.tensor_tracker import TensorTracker

TOKENS, HIDDEN, VOCABULARY = 6000, 64, 70_000


class Head(torch.nn.Module):
    """A model that is nothing but hidden states and a head."""

    def __init__(self, device, tokens=TOKENS, dtype=torch.bfloat16):
        super().__init__()
        self.head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False, device=device, dtype=dtype).requires_grad_(False)
        self.hidden = torch.nn.Parameter(torch.zeros(1, tokens, HIDDEN, device=device, dtype=dtype))

    def base_model(self, input_ids, use_cache):
        return SimpleNamespace(last_hidden_state=self.hidden * 1)

    def get_output_embeddings(self):
        return self.head


def traced(program, device="cpu", **model):
    """The highest bytes beside the head, while a loss is made and goes back."""
    head = Head("meta", **model)
    ids = torch.zeros(1, head.hidden.shape[1], dtype=torch.int64, device="meta")
    tracker = TensorTracker(device, VOCABULARY, ids.numel())
    tracker.hold(head.parameters(), "weights")
    with tracker:
        PROGRAMS[program](head, Inputs(ids, ids, torch.empty((), dtype=torch.int64, device="meta"))).value.backward()
    weights = VOCABULARY * HIDDEN * 2
    return max(sum(moment) for segment in tracker.segments for moment in segment.moments) - weights


def test_trls_tiles_hold_what_its_own_function_holds(monkeypatch):
    chunked = pytest.importorskip("trl.kernels.chunked_logprob")
    monkeypatch.setattr(losses.TiledHead, "device", "cpu")
    head = Head("cpu", 600)
    targets = torch.zeros(599, dtype=torch.int64)
    with LiveBytes(head.parameters()) as live:
        hidden = (head.hidden * 1)[:, :-1].reshape(-1, HIDDEN)
        outputs = chunked.ChunkedLogProbFunction.apply(
            hidden, head.head.weight, None, targets, 1.0, losses.TILE_VOCABULARY, None, 1.0, ("log_probs", "entropy")
        )
        (-outputs[0].sum() / 599).backward()
    weights = VOCABULARY * HIDDEN * 2
    assert traced("trl", tokens=600) == pytest.approx(live.peak - weights, rel=0.01)


def test_on_a_gpu_a_tile_is_all_that_trl_holds_beside_hidden_states():
    tile = losses.TILE_TOKENS * losses.TILE_VOCABULARY * 2
    assert tile < traced("trl", "cuda") < tile + 30 * TOKENS * HIDDEN + VOCABULARY * 4


def test_transformers_loss_is_what_live_tensors_say():
    """All logits in 16 bit, their float32 copy, its log-softmax and a gradient: run with real tensors, a twentieth of
    the tokens."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    tokens = TOKENS // 20

    def run(device):
        head = Head(device, tokens)
        labels = torch.zeros(1, tokens, dtype=torch.int64, device=device)
        return head, lambda: ForCausalLMLoss(head.head(head.hidden * 1), labels, VOCABULARY).backward()

    head, step = run("cpu")
    with LiveBytes(head.parameters()) as live:
        step()
    shadow, traced_step = run("meta")
    tracker = TensorTracker("cpu", VOCABULARY, tokens)
    tracker.hold(shadow.parameters(), "weights")
    with tracker:
        traced_step()
    highest = max(sum(moment) for segment in tracker.segments for moment in segment.moments)
    assert highest == pytest.approx(live.peak, rel=0.001)
    assert highest > 2 * 4 * tokens * VOCABULARY, "two float32 copies at once"


def test_compiled_torchtune_keeps_all_chunks_in_16_bit_and_one_gradient_over_each():
    logits = 2 * TOKENS * VOCABULARY
    assert logits < traced("torchtune-compiled") < 1.02 * logits


def test_torchtune_as_its_configurations_are_keeps_float32_of_every_chunk_beside_the_16_bit_logits():
    """benchmarks/other_trainers.py measures its recipe: at the last chunk all are there, with that one's copy."""
    logits = 2 * TOKENS * VOCABULARY
    whole = logits + 2 * logits + 2 * logits // losses.TORCHTUNE_CHUNKS
    assert 0.99 * whole < traced("torchtune") < 1.02 * whole


def test_ligers_chunk_is_a_power_of_two_of_tokens():
    """ceil(6000 / ceil(70000 / 64)) = 6 tokens, so 8."""
    assert traced("liger") < 8 * VOCABULARY * 2 + 12 * TOKENS * HIDDEN + 10_000


def test_cut_cross_entropy_makes_no_logits_at_all():
    assert traced("cut") < 12 * TOKENS * HIDDEN + 20 * TOKENS


def test_unsloth_holds_a_quarter_of_the_logits_in_float32_three_times():
    quarter = TOKENS // 4 * VOCABULARY
    assert 3 * 4 * quarter < traced("unsloth") < 1.02 * (3 * 4 + 2) * quarter + 12 * TOKENS * HIDDEN


def test_only_losses_in_fixed_pieces_are_no_straight_line_in_the_batch():
    assert linear_in_batch("transformers", 1) and linear_in_batch("trl", 3 * losses.TILE_TOKENS)
    assert not linear_in_batch("trl", losses.TILE_TOKENS) and not linear_in_batch("liger", 10**6)
