"""A pack of eight adapters ends where eight PEFT trainings do: the oracle is the bare loop of peft_loops."""

import math

import pytest
import torch

from lorabench.engine.packed_adapters import AdapterStart
from tests.engine.peft_loops import based, distance, eight, named, own, pack_training, peft_training, rows


def assert_equal(base, adapters, tolerance, steps=50, accumulation=1, checkpointing=False):
    examples = rows()
    packed = pack_training(base, adapters, examples, steps, accumulation, checkpointing)
    for (method, setting), ours in zip(adapters, packed, strict=True):
        losses, tensors = peft_training(base, method, setting, examples, steps, accumulation, checkpointing)
        assert ours.diverged is None
        assert [s.loss for s in ours.progress.curve] == pytest.approx(losses, rel=tolerance), method
        mine = own(ours)
        theirs = named(tensors)
        assert mine.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert (mine[name] - tensor).norm() <= tolerance * tensor.norm(), (method, name)


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "pissa"])
def test_the_first_steps_of_each_method_are_those_of_a_peft_loop(method):
    assert_equal(based(), eight(method)[1:5], 1e-9, steps=3)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_so_are_those_over_a_quantized_base(quantization):
    assert_equal(based(quantization), eight("lora", "dora", "rslora")[1:5], 1e-9, steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "pissa"])
def test_fifty_steps_of_a_method_are_those_of_eight_peft_loops(method):
    assert_equal(based(), eight(method), 1e-9)


EXACT, SINGLE = (torch.float64, 1e-9), (torch.float32, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantization", "precision", "accumulation", "checkpointing"),
    [
        ("none", EXACT, 2, False),
        ("none", EXACT, 1, True),
        ("none", SINGLE, 1, False),
        ("nf4", EXACT, 2, True),
        ("int8", EXACT, 1, False),
    ],
)
def test_fifty_steps_of_all_methods_are_those_of_eight_peft_loops(quantization, precision, accumulation, checkpointing):
    dtype, tolerance = precision
    methods = ("lora", "dora", "rslora", *(["pissa"] if quantization == "none" else []))
    adapters = eight(*methods) if quantization == "none" else eight(*methods, "dora")
    assert_equal(based(quantization, dtype), adapters, tolerance, 50, accumulation, checkpointing)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_over_a_quantized_base_float32_takes_a_pack_no_farther_from_float64_than_peft(quantization):
    """PEFT's own float32 weights leave float64's by up to 5e-5 (a tensor by 6e-4) in fifty steps over nf4, so that
    nothing can be nearer to them than that and be right. Of the adapters the farthest are compared: how far one of them
    goes turns on a single rounding, which AdamW divides by a gradient near zero."""
    adapters, examples = eight("lora", "dora", "rslora", "dora"), rows()
    how, ours, pefts = (examples, 50, 1, False), [], []
    packed = pack_training(based(quantization, torch.float32), adapters, *how)
    for (method, setting), training in zip(adapters, packed, strict=True):
        _, tensors = peft_training(based(quantization, torch.float32), method, setting, *how)
        exact_losses, exact = peft_training(based(quantization), method, setting, *how)
        assert [s.loss for s in training.progress.curve] == pytest.approx(exact_losses, rel=1e-5), (method, setting)
        ours.append(distance(own(training), named(exact)))
        pefts.append(distance(named(tensors), named(exact)))
    assert max(ours) <= 2 * max(pefts), (ours, pefts)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "dora", "pissa"])
def test_a_planted_nan_leaves_the_others_every_bit(method, monkeypatch):
    base, adapters, examples = based(dtype=torch.float32), eight("lora", "dora", "rslora", "pissa"), rows()
    place = next(i for i, (name, _) in enumerate(adapters) if name == method)
    undisturbed = pack_training(base, adapters, examples, 10, 1, False)
    own = AdapterStart.of.__func__
    made = []

    def planted(cls, model, seed):
        start = own(cls, model, seed)
        made.append(start)
        if len(made) - 1 == place:
            next(iter(start.factors.values()))[0][0, 0] = math.nan
        return start

    monkeypatch.setattr(AdapterStart, "of", classmethod(planted))
    disturbed = pack_training(base, adapters, examples, 10, 1, False)
    assert disturbed[place].diverged.step == 1
    for i, (a, b) in enumerate(zip(undisturbed, disturbed, strict=True)):
        if i != place:
            assert [(s.loss, s.grad_norm) for s in a.progress.curve] == [
                (s.loss, s.grad_norm) for s in b.progress.curve
            ]
            for n, pair in a.learned.factors.items():
                assert all(torch.equal(t, u) for t, u in zip(pair, b.learned.factors[n], strict=True))
            assert all(torch.equal(t, b.learned.magnitudes[n]) for n, t in a.learned.magnitudes.items())
