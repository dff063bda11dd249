"""Layers of a pack that are computed together have the outputs and gradients of packed layers one by one, which are
themselves held against PEFT's."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lorabench.engine.packed_adapters import AdapterStart, Learned, bucketed
from lorabench.engine.packed_joined import joined_packs
from lorabench.engine.packed_layers import PackedLinear, Streams, packed
from lorabench.errors import ModelError
from tests.engine.conftest import small_model
from tests.engine.peft_loops import based, distance

pytestmark = pytest.mark.filterwarnings("ignore:grad and param do not obey")
CPU, BF16 = torch.device("cpu"), torch.bfloat16
PACKS = {  # ranks and targets by ends of names
    "equal": ((3, ""), (3, ""), (3, "")),
    "two ranks": ((2, ""), (40, ""), (2, "")),
    "other targets": ((3, ""), (3, "q_proj v_proj c_attn gate_up_proj"), (40, "k_proj down_proj c_proj")),
}


def starts(model, pack, dtype=torch.float64, dropout=0.0, from_base=False):
    """Adapters with random factors and scalings that are not 1."""
    torch.manual_seed(1)
    made = []
    for k, (rank, targets) in enumerate(PACKS[pack]):
        ends = tuple(targets.split()) or ("_proj", "c_attn", "c_fc")
        factors = {}
        for name, layer in model.named_modules():
            if name.endswith(ends) and hasattr(layer, "weight"):
                conv = type(layer).__name__ == "Conv1D"
                inner, out = layer.weight.shape if conv else (layer.in_features, layer.out_features)
                a, b = torch.randn(rank, inner, dtype=dtype), torch.randn(out, rank, dtype=dtype)
                factors[name] = a / 6, b / 6
        made.append(AdapterStart(Learned(factors), 0.5 + k, dropout, k, from_base))
    return made


def passes(model, adapters, joined, tokens, autocast=False, draw=0):
    """How many layers were found beside others; losses of each adapter and gradients, of two passes."""
    _, buckets = bucketed(adapters, 20)
    streams = Streams.seeded([0] * len(adapters), CPU)
    chance = torch.Generator().manual_seed(draw)
    torch.manual_seed(2)  # of dropout of the base's own
    losses = []
    with packed(model, buckets, streams), joined_packs(model, 5) if joined else nullcontext() as found:
        for own in (tokens, tokens[::-1]):
            ids = torch.randint(3, 60, (1, sum(own)), generator=chance)
            streams.begin_end_to_end(own)
            with torch.autocast("cpu", BF16, enabled=autocast):
                logits = model(input_ids=ids).logits[0, :-1]
            loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), ids[0, 1:])
            streams.forget()
            loss.backward()
            losses.append(loss.detach())
    return found, {f"bucket {i}": b.grads.clone() for i, b in enumerate(buckets)} | {"losses": torch.stack(losses)}


FOUND = {"llama": 10, "qwen2": 10, "gpt2": 0, "phi3": 0, "gptj": 6, "opt": 6}
TOKENS = {"even": (7, 7, 7), "uneven": (9, 4, 6)}


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("kind", FOUND)
def test_in_float64_they_are_those_of_packed_layers_with_gradient_checkpointing_too(kind, pack, tokens):
    model = small_model(kind).double().requires_grad_(False).train()
    adapters = starts(model, pack)
    (found, ours), (_, theirs) = (passes(model, adapters, joined, TOKENS[tokens]) for joined in (True, False))
    assert found == FOUND[kind]
    assert distance(ours, theirs) < 1e-12
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert distance(passes(model, adapters, True, TOKENS[tokens])[1], theirs) < 1e-12


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_so_they_are_over_codes(quantization, tokens):
    model = based(quantization, torch.float32).requires_grad_(False).train()
    adapters = starts(model, "two ranks", dtype=torch.float32)
    (found, ours), (_, theirs) = (passes(model, adapters, joined, TOKENS[tokens]) for joined in (True, False))
    assert found == 5 * model.config.num_hidden_layers
    assert distance(ours, {n: t.double() for n, t in theirs.items()}) < 1e-5


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("tokens", TOKENS)
def test_over_a_base_in_bfloat16_they_are_hardly_farther_from_the_true_ones(tokens, autocast):
    """What is taken back of uneven adapters is rounded before it is added, as PEFT rounds it."""
    exact = small_model("qwen2").requires_grad_(False).train()
    model = copy.deepcopy(exact).to(BF16)
    exact.load_state_dict(model.state_dict())
    adapters = starts(model, "equal", dtype=torch.float32)
    errors = []
    for draw in range(8):  # either may come out ahead in one
        true = passes(exact, adapters, False, TOKENS[tokens], draw=draw)[1]
        both = (passes(model, adapters, joined, TOKENS[tokens], autocast, draw)[1] for joined in (True, False))
        errors.append([distance(rounded, {"bucket 0": true["bucket 0"].double()}) for rounded in both])
    ours, theirs = torch.tensor(errors).mean(0)
    assert 0 < ours <= 1.5 * theirs < 0.3


@pytest.mark.parametrize("left", [{"dropout": 0.1}, {"from_base": True}])
def test_layers_that_an_adapter_computes_otherwise_on_are_left(left):
    model = small_model("llama").double().requires_grad_(False).train()
    only_attention = starts(model, "equal")[:2]
    (other,) = starts(model, "other targets", **left)[1:2]  # on query and value
    with packed(model, bucketed([*only_attention, other], 20)[1], Streams.seeded([0] * 3, CPU)), joined_packs(model, 5):
        taken = {n.rpartition(".")[2] for n, m in model.named_modules() if "forward" in vars(m)}
    assert taken == {"k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert not any("forward" in vars(m) for m in model.modules())


class Layers(torch.nn.Module):
    """Two layers over one embedding, of which a rule says what becomes."""

    def __init__(self, rule):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.rule = torch.nn.Embedding(64, 8), rule
        self.a_proj, self.b_proj = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.rule(self, self.embedding(input_ids)) @ self.embedding.weight.T)


@pytest.mark.parametrize("inputs", ["frozen", "with a derivative"])
def test_an_output_that_is_not_used_has_no_gradient(inputs):
    def first(m, x):
        return (m.a_proj(x), m.b_proj(x))[0]

    model = Layers(first).double().requires_grad_(False)
    model.embedding.requires_grad_(inputs != "frozen")
    adapters = starts(model, "equal")
    (found, ours), (_, theirs) = (passes(model, adapters, joined, (9, 4, 6)) for joined in (True, False))
    assert found == 2
    assert distance(ours, theirs) < 1e-12
    half = ours["bucket 0"].shape[1] // 2
    assert ours["bucket 0"][:, :half].any()
    assert not ours["bucket 0"][:, half:].any()


def test_a_layer_that_does_not_see_every_token_once_is_refused_as_ever():
    model = Layers(lambda m, x: torch.cat([m.a_proj(y) + m.b_proj(y) for y in x.split(4, 1)], 1))
    with pytest.raises(ModelError, match="does not see every token once"):
        passes(model.requires_grad_(False), starts(model, "equal", dtype=torch.float32), True, (9, 4, 6))
    assert not any(isinstance(m, PackedLinear) or "forward" in vars(m) for m in model.modules())
