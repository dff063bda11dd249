"""Adapters that are computed together have the losses and gradients of PEFT's own modules, which are the oracle."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch

from lorabench.config.settings import TrainingSpec
from lorabench.engine.batches import Layout
from lorabench.engine.joined_adapters import joined_adapters
from lorabench.engine.train import train
from tests.engine.conftest import small_model
from tests.engine.peft_loops import EIGHT, based, cross_entropy, distance, peft_training, rows

pytestmark = pytest.mark.filterwarnings("ignore:The following .*_pattern")
CPU, BF16 = torch.device("cpu"), torch.bfloat16
FEW = torch.tensor([[5, 9, 12, 7]])
BATCHES = (torch.tensor([[5, 9, 12, 7, 3], [8, 2, 6, 11, 60]]), torch.tensor([[3, 4, 16, 61, 22, 34]]))
RANDOM = {"r": 3, "lora_alpha": 5, "init_lora_weights": False}
UNEQUAL = {"rank_pattern": {"k_proj": 2, "up_proj": 7}, "alpha_pattern": {"v_proj": 1}}


def adapted(base, dtype=None, **settings):
    """With random factors, B's too, and scalings that are not 1."""
    torch.manual_seed(1)
    where = {"target_modules": "all-linear", "fan_in_fan_out": type(base).__name__.startswith("GPT2")}
    model = peft.get_peft_model(base, peft.LoraConfig(**RANDOM | UNEQUAL | where | settings))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype) if dtype and parameter.requires_grad else parameter.data
    return model


def passes(model, joined, autocast=False, batches=BATCHES):
    """How many layers were found beside others; losses and gradients of the batches, accumulated."""
    model.zero_grad()
    torch.manual_seed(2)
    losses = []
    with joined_adapters(model, FEW) if joined else nullcontext() as found:
        for ids in batches:
            with torch.autocast("cpu", BF16, enabled=autocast):
                loss = cross_entropy(model, ids, ids).mean()
            loss.backward()
            losses.append(loss.detach())
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return found, gradients | {"loss": torch.stack(losses)}


def assert_equal(ours, theirs, tolerance):
    assert theirs.keys() <= ours.keys() and len(theirs) > 1
    for name, tensor in ours.items():
        true = theirs.get(name, torch.zeros_like(tensor))
        assert (tensor - true).norm() <= tolerance * true.norm(), name


def errors(model, exact):
    """How far autocast takes gradients from those of an exact copy, here and in PEFT: the means of eight draws of
    factors and tokens, since either may come out a third ahead in one."""
    found = []
    for _ in range(8):
        for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
            if ours.requires_grad:
                theirs.data.copy_(ours.data.uniform_(-(ours.shape[1] ** -0.5), ours.shape[1] ** -0.5))
        batches = (torch.randint(3, 64, (8, 40)),)
        true = {n: t for n, t in passes(exact, joined=False, batches=batches)[1].items() if n != "loss"}
        rounded = [passes(model, joined, True, batches)[1] for joined in (True, False)]
        assert all(rounded[0][n].dtype == t.dtype for n, t in rounded[1].items())
        found.append([distance(r, true) for r in rounded])
    return np.mean(found, axis=0)


JOINED = {"llama": 10, "qwen2": 10, "gpt2": 0, "falcon": 0, "phi3": 0, "mixtral": 6, "gptj": 6, "opt": 6}


@pytest.mark.parametrize("kind", JOINED)
def test_losses_and_gradients_are_pefts_with_gradient_checkpointing_too(kind):
    base = small_model(kind).double()
    base.config._experts_implementation = "eager"  # transformers' grouped product has no float64
    model = adapted(base).train()
    (found, ours), (_, theirs) = passes(model, joined=True), passes(model, joined=False)
    assert found == JOINED[kind]
    assert_equal(ours, theirs, 1e-9)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    calls = []
    with next(m for m in model.modules() if hasattr(m, "lora_A")).register_forward_hook(lambda *_: calls.append(1)):
        assert_equal(passes(model, joined=True)[1], theirs, 1e-9)
    assert len(calls) == 1 + 2 * len(BATCHES), "once to find the groups, and again in each backward pass"


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_autocast_takes_gradients_no_farther_from_the_true_ones_than_peft(kind):
    model = adapted(small_model(kind).to(BF16)).eval()
    ours, pefts = errors(model, copy.deepcopy(model).float())
    assert 0 < ours <= 1.2 * pefts < 0.1


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_so_they_are_over_codes(quantization, dtype, tolerance):
    model = adapted(based(quantization, dtype), dtype)
    found, ours = passes(model, joined=True)
    assert found == 5 * model.config.num_hidden_layers
    assert_equal(ours, passes(model, joined=False)[1], tolerance)
    if dtype == torch.float32:
        error, pefts = errors(model, model)
        assert 0 < error <= 1.2 * pefts < 0.1


LEFT = {"dropout": {"lora_dropout": 0.1}, "dora": {"use_dora": True}, "bias": {"lora_bias": True}}


@pytest.mark.parametrize("what", [*LEFT, "merged", "two at once", "of another dtype"])
def test_what_peft_computes_otherwise_is_left_to_it(what):
    base = small_model("qwen2").to(BF16 if what == "of another dtype" else torch.float32)
    model = adapted(base, target_modules=["q_proj", "k_proj"], **LEFT.get(what, {})).train()
    if what == "merged":
        model.merge_adapter()
    if what == "two at once":
        model.add_adapter("other", peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
        model.base_model.set_adapter(["default", "other"])
    model.get_input_embeddings().weight.requires_grad_()
    found, ours = passes(model, joined=True)
    assert found == (4 if what == "of another dtype" else 0), "whose calls are left, since autocast is not known before"
    assert_equal(ours, passes(model, joined=False)[1], 0)


class Layers(torch.nn.Module):
    """Three layers over one embedding, of which a rule says what becomes."""

    def __init__(self, rule):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.rule = torch.nn.Embedding(64, 8), rule
        self.a, self.b, self.c = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.rule(self, self.embedding(input_ids), input_ids) @ self.embedding.weight.T)


def experts(m, x, ids):
    out = torch.zeros_like(x)
    for i, layer in enumerate((m.a, m.b, m.c)):
        out[ids % 3 == i] = layer(x[ids % 3 == i])  # for the third there is none in the second batch
    return out


RULES = {  # what is done, layers found beside others, layers left to PEFT
    "one is not used": (lambda m, x, ids: [m.a(x).tanh() + m.c(x), m.b(x)][0], 3, 0),
    "one is called twice": (lambda m, x, ids: m.a(m.b(x)) + m.b(x) * m.c(x), 0, 1),
    "all are, in longer rows": (lambda m, x, ids: torch.cat([m.a(y) * m.b(y) for y in x.split(4, 1)], 1), 2, 1),
    "only one is": (lambda m, x, ids: m.a(x) + m.b(x) if ids.numel() == 4 else (m.a, m.b)[len(ids) % 2](x), 2, 1),
    "another order": (lambda m, x, ids: m.c(x) * m.a(x) if ids.shape[1] > 4 else m.a(x) * m.c(x), 2, 1),
    "changed in place": (lambda m, x, ids: m.a(x).clamp_(-0.5, 0.5) + m.b(x).relu_() + m.c(x.sin()).tanh_(), 2, 0),
    "tokens of its own to each": (experts, 0, 0),
}


@pytest.mark.parametrize("what", RULES)
def test_they_are_whatever_a_model_does_with_its_layers(what):
    rule, beside, left = RULES[what]
    model = adapted(Layers(rule).double(), target_modules=["a", "b", "c"])
    with joined_adapters(model, FEW):
        assert sum("forward" in vars(m) for m in model.modules()) == 3 - left
    (found, ours), (_, theirs) = passes(model, joined=True), passes(model, joined=False)
    assert found == beside
    assert_equal(ours, theirs, 1e-9)


@pytest.mark.parametrize("mode", [True, False])
def test_it_ends_with_its_block_and_leaves_the_mode(mode):
    model = adapted(small_model("llama")).train(mode)
    with joined_adapters(model, FEW):
        assert sum("forward" in vars(m) for m in model.modules()) == 14
    with pytest.raises(ZeroDivisionError), joined_adapters(model, FEW):
        raise ZeroDivisionError
    with pytest.raises(IndexError), joined_adapters(model, FEW + 60):
        pass
    assert not any("forward" in vars(m) or m._forward_pre_hooks for m in model.modules())
    assert all(m.training == mode for m in model.modules())


@pytest.mark.parametrize(("place", "accumulation", "checkpointing"), [(2, 1, False), (5, 2, True)])
def test_a_training_takes_the_steps_of_a_peft_loop(place, accumulation, checkpointing):
    base, setting = based(), EIGHT[place]
    rank, alpha, targets, _, *course, seed = setting
    losses, tensors = peft_training(base, "lora", setting, rows(), 5, accumulation, checkpointing)
    how = zip(("learning_rate", "schedule", "warmup", "weight_decay", "max_grad_norm"), course, strict=True)
    often = {"steps": 5, "batch_size": 4, "gradient_accumulation": accumulation}
    spec = TrainingSpec(**dict(how), **often, gradient_checkpointing=checkpointing)
    where = {"layout": Layout(0, labelled=False), "where": CPU, "autocast": None, "on_step": lambda *_: None}
    torch.manual_seed(seed)
    model = peft.get_peft_model(base, peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))
    where["loss_of"] = lambda model, batch: cross_entropy(model, batch.ids, batch.labels).sum()
    done = train(model, rows(), spec, seed=seed, **where)
    assert [step.loss for step in done.curve] == pytest.approx(losses, rel=1e-6)  # they are told in float32
    assert_equal({n: p.detach() for n, p in model.named_parameters() if p.requires_grad}, tensors, 1e-9)


def test_the_pass_that_finds_them_sees_the_model_as_it_trains_and_draws_nothing():
    """bitsandbytes lays 4-bit weights out anew in a model that is set to evaluate, for good."""
    model = adapted(small_model("gpt2")).train()  # with dropout of its own
    seen = []
    model.register_forward_pre_hook(lambda module, _: seen.append([m.training for m in module.modules()]))
    state = torch.get_rng_state()
    with joined_adapters(model, FEW):
        assert torch.equal(torch.get_rng_state(), state)
    assert seen
    assert all(all(modes) for modes in seen)
