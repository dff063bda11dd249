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
from lorabench.engine.train import mixed_precision, train
from tests.engine.conftest import small_model
from tests.engine.peft_loops import EIGHT, based, cross_entropy, distance, peft_training, rows

CPU = torch.device("cpu")
FEW = torch.tensor([[5, 9, 12, 7]])
BATCHES = (torch.tensor([[5, 9, 12, 7, 3], [8, 2, 6, 11, 60]]), torch.tensor([[3, 4, 16, 61, 22, 34]]))
WIDE = {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}
pytestmark = pytest.mark.filterwarnings("ignore:The following .*_pattern")
UNEQUAL = {"rank_pattern": {"k_proj": 2, "up_proj": 7}, "alpha_pattern": {"v_proj": 1}}


def adapted(base, dtype=None, **settings):
    """With random factors, B's too, of scalings that are not 1."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, **WIDE | UNEQUAL | settings)
    model = peft.get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name and dtype:
            parameter.data = parameter.data.to(dtype)
    return model


def random_model(kind, dtype):
    model = small_model(kind).to(dtype)
    model.config._experts_implementation = "eager"  # transformers' grouped product has no float64
    return model


def passes(model, joined, autocast=None, batches=BATCHES):
    """The layers that were found beside others; losses and gradients of two backward passes."""
    model.zero_grad()
    torch.manual_seed(2)
    losses = []
    with joined_adapters(model, FEW) if joined else nullcontext() as found:
        for ids in batches:
            with mixed_precision(CPU, autocast):
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
        how = ((exact, False, None), (model, True, torch.bfloat16), (model, False, torch.bfloat16))
        true, *rounded = (passes(*one, batches)[1] for one in how)
        del true["loss"]
        assert all(rounded[0][n].dtype == t.dtype for n, t in rounded[1].items())
        found.append([distance(r, true) for r in rounded])
    return np.mean(found, axis=0)


JOINED = {"llama": 10, "qwen2": 10, "gpt2": 0, "falcon": 0, "phi3": 0, "mixtral": 6, "gptj": 6, "opt": 6}


@pytest.mark.parametrize("kind", JOINED)
def test_losses_and_gradients_are_pefts(kind):
    model = adapted(random_model(kind, torch.float64), fan_in_fan_out=kind == "gpt2").train()
    found, ours = passes(model, joined=True)
    assert found == JOINED[kind]
    assert_equal(ours, passes(model, joined=False)[1], 1e-9)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_they_are_with_gradient_checkpointing(kind):
    model = adapted(random_model(kind, torch.float64), fan_in_fan_out=kind == "gpt2").train()
    _, theirs = passes(model, joined=False)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    calls = []
    first = next(m for m in model.modules() if hasattr(m, "lora_A"))
    with first.register_forward_hook(lambda *_: calls.append(1)):
        assert_equal(passes(model, joined=True)[1], theirs, 1e-9)
    assert len(calls) == 1 + 2 * len(BATCHES), "once to find the groups, then again in each backward pass"


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_autocast_takes_gradients_no_farther_from_the_true_ones_than_peft(kind):
    model = adapted(random_model(kind, torch.bfloat16), fan_in_fan_out=kind == "gpt2")
    ours, pefts = errors(model, copy.deepcopy(model).float())
    assert 0 < ours <= 1.2 * pefts


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_over_codes_they_are_pefts(quantization, dtype, tolerance):
    model = adapted(based(quantization, dtype), dtype)
    found, ours = passes(model, joined=True)
    assert found == 5 * model.config.num_hidden_layers
    assert_equal(ours, passes(model, joined=False)[1], tolerance)
    if dtype == torch.float32:
        error, pefts = errors(model, model)
        assert 0 < error <= 1.2 * pefts


@pytest.mark.parametrize(
    "settings", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}], ids=lambda s: next(iter(s))
)
def test_layers_that_compute_more_are_left_to_peft(settings):
    settings |= {} if "lora_bias" not in settings else {"target_modules": ["q_proj", "v_proj"]}
    model = adapted(random_model("qwen2", torch.float32), **settings).train()
    found, ours = passes(model, joined=True)
    assert found == 0
    assert_equal(ours, passes(model, joined=False)[1], 0)


def test_so_are_merged_ones_disabled_ones_and_two_at_once():
    model = adapted(random_model("llama", torch.float32))
    with torch.no_grad(), model.disable_adapter(), joined_adapters(model, FEW) as found:
        assert found == 0
        assert torch.equal(model(FEW).logits, model.get_base_model()(FEW).logits)
    model.add_adapter("other", peft.LoraConfig(r=2, init_lora_weights=False, **WIDE))
    model.base_model.set_adapter(["default", "other"])
    found, ours = passes(model, joined=True)
    assert found == 0
    assert_equal(ours, passes(model, joined=False)[1], 0)
    model.base_model.set_adapter("default")
    assert passes(model, joined=True)[0] == 10
    model.merge_adapter()
    with joined_adapters(model, FEW) as found:
        assert found == 0


def test_without_autocast_an_adapter_in_float32_over_bfloat16_is_left_to_peft():
    model = adapted(random_model("llama", torch.bfloat16))
    assert_equal(passes(model, joined=True)[1], passes(model, joined=False)[1], 0)


class Layers(torch.nn.Module):
    """Three layers over one embedding, of which a rule says what becomes."""

    def __init__(self, rule):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(64, 8)
        self.a, self.b, self.c = (torch.nn.Linear(8, 8) for _ in range(3))
        self.rule = rule

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.rule(self, self.embedding(input_ids), input_ids) @ self.embedding.weight.T)


def experts(m, x, ids, ask_all):
    out = torch.zeros_like(x)
    for i, layer in enumerate((m.a, m.b, m.c)):
        if ask_all or (ids % 3 == i).any():
            out[ids % 3 == i] = layer(x[ids % 3 == i])
    return out


RULES = {  # what is done, layers found beside others, layers left to PEFT
    "one is not used": (lambda m, x, ids: (m.a(x).tanh(), m.b(x), m.c(x))[::2][ids.shape[0] - 1], 3, 0),
    "one is called twice": (lambda m, x, ids: m.a(m.b(x)) + m.b(x) * m.c(x), 0, 1),
    "all are, in longer rows": (lambda m, x, ids: torch.cat([m.a(y) * m.b(y) for y in x.split(4, 1)], 1), 2, 1),
    "one is not called": (lambda m, x, ids: m.a(x) if ids.shape[1] > 4 else m.a(x) + m.b(x), 2, 1),
    "another order": (lambda m, x, ids: m.c(x) * m.a(x) if ids.shape[1] > 4 else m.a(x) * m.c(x), 2, 1),
    "changed in place": (lambda m, x, ids: m.a(x).clamp_(-0.1, 0.1) * m.b(x).relu_() + m.c(m.a(x)), 0, 1),
    "both changed in place": (lambda m, x, ids: m.a(x).clamp_(-0.5, 0.5) + m.b(x).relu_() + m.c(x.sin()), 2, 0),
    "experts": (lambda m, x, ids: experts(m, x, ids, ask_all=False), 0, 0),
    "experts without tokens": (lambda m, x, ids: experts(m, x, ids, ask_all=True), 0, 0),
}


@pytest.mark.parametrize("what", RULES)
def test_whatever_a_model_does_with_its_layers(what):
    rule, beside, left = RULES[what]
    model = adapted(Layers(rule).double(), target_modules=["a", "b", "c"], task_type=None)
    with joined_adapters(model, FEW):
        assert sum("forward" in vars(m) for m in model.modules()) == 3 - left
    found, ours = passes(model, joined=True)
    assert found == beside
    assert_equal(ours, passes(model, joined=False)[1], 1e-9)


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
    with joined_adapters(small_model("llama"), FEW) as found:
        assert found == 0


@pytest.mark.parametrize(("place", "accumulation", "checkpointing"), [(2, 1, False), (5, 2, True)])
def test_a_training_takes_the_steps_of_a_peft_loop(place, accumulation, checkpointing):
    base, setting, steps = based(), EIGHT[place], {"steps": 5, "batch_size": 4}
    rank, alpha, targets, _, rate, schedule, warmup, decay, clipping, seed = setting
    losses, tensors = peft_training(base, "lora", setting, rows(), 5, accumulation, checkpointing)
    torch.manual_seed(seed)
    model = peft.get_peft_model(base, peft.LoraConfig(r=rank, lora_alpha=alpha, **WIDE | {"target_modules": targets}))
    how = {"gradient_accumulation": accumulation, "gradient_checkpointing": checkpointing, "learning_rate": rate}
    how |= {"schedule": schedule, "warmup": warmup, "weight_decay": decay, "max_grad_norm": clipping}
    where = {"layout": Layout(0, labelled=False), "where": CPU, "autocast": None, "on_step": lambda step, tokens: None}
    loss_of = lambda model, batch: cross_entropy(model, batch.ids, batch.labels).sum()  # noqa: E731
    done = train(model, rows(), TrainingSpec(**steps, **how), loss_of=loss_of, seed=seed, **where)
    assert [step.loss for step in done.curve] == pytest.approx(losses, rel=1e-6)  # they are told in float32
    assert_equal({n: p.detach() for n, p in model.named_parameters() if p.requires_grad}, tensors, 1e-9)
