"""What passes over the data say of a module is what autograd, numpy and PEFT say of it."""

import numpy as np
import pytest
import torch

from lorabench import plugins
from lorabench.config.grid import expand
from lorabench.config.load import read_study
from lorabench.config.source import Source
from lorabench.engine.batches import batches, collate
from lorabench.engine.cell_context import CellContext
from lorabench.engine.cell_load import load_untrained
from lorabench.engine.loss import token_loss
from lorabench.engine.module_statistics import gather

COUNT = 4
READINGS = {"gradients", "activations", "output-gradients"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("probe") / "text.txt"
    file.write_text("".join(f"the {w} of the {v} is here.\n" for w in "abcdefghij" for v in "klmnopqrst") * 20)
    return file


def loaded(text, tmp_path, quantization="none"):
    plain = {
        "schema": 1,
        "name": "probe",
        "model": "lorabench/tiny-300k",
        "task": {"name": "text", "train": str(text)},
        "method": {"name": "lora", "rank": 4, "target_modules": ["q_proj", "down_proj"]},
        "quantization": quantization,
        "training": {"steps": 1, "batch_size": 2, "sequence_length": 24},
        "evaluation": {"lm_eval": [], "forgetting": "none"},
    }
    (cell,) = expand(read_study(Source("probe", plain, {}, tmp_path)))
    context = CellContext.of(cell, tmp_path, (), lambda event: None, "")
    return context, *load_untrained(context)


def micro_batches(context, one):
    rows = batches(one.data.train, context.cell.training.batch_size, context.cell.seed)
    return [collate(next(rows), one.padded, context.device) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def plain(text, tmp_path_factory):
    context, one, targets = loaded(text, tmp_path_factory.mktemp("cell"))
    return context, one, targets, gather(context, one, targets, COUNT, READINGS)


def test_the_gradient_is_autograds_of_the_weight_itself(plain):
    context, one, targets, statistics = plain
    for p in one.model.parameters():
        p.requires_grad_(True)
    each = []
    for batch in micro_batches(context, one):
        one.model.zero_grad()
        (token_loss(one.model, batch) / int((batch.labels[:, 1:] != -100).sum())).backward()
        each.append({n: one.model.get_submodule(n).weight.grad.clone() for n in targets})
    for p in one.model.parameters():
        p.requires_grad_(False)
    for name, module in statistics.items():
        gradients = torch.stack([g[name] for g in each])
        torch.testing.assert_close(module.gradient, gradients.mean(0), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(module.halves[1], gradients[1::2].mean(0), rtol=1e-3, atol=1e-6)
        assert module.squared_norm == pytest.approx(float(gradients.square().sum((1, 2)).mean()), rel=1e-3)
        assert torch.equal(module.weight(), one.model.get_submodule(name).weight)


def test_a_quantized_base_has_gradients_near_those_of_the_unquantized_one(plain, text, tmp_path):
    context, one, targets = loaded(text, tmp_path, "nf4")
    quantized = gather(context, one, targets, COUNT, {"gradients"})
    for name, module in plain[3].items():
        other = quantized[name]
        assert other.shape == module.shape and other.weight().shape == module.shape
        cosine = torch.cosine_similarity(module.gradient.flatten(), other.gradient.flatten(), dim=0)
        assert cosine > 0.9, name
        assert not torch.equal(other.weight(), module.weight())


def test_the_base_is_left_as_it_was(text, tmp_path):
    context, one, targets = loaded(text, tmp_path)
    before = {n: p.clone() for n, p in one.model.named_parameters()}
    asked = {n for n, p in one.model.named_parameters() if p.requires_grad}
    gather(context, one, targets, 2, READINGS)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in one.model.named_parameters())
    assert {n for n, p in one.model.named_parameters() if p.requires_grad} == asked
    assert not any(m._forward_hooks for m in one.model.modules())


def test_explained_variance_is_numpys_of_the_inputs(plain):
    context, one, targets, statistics = plain
    name = targets[0]
    rows = []
    handle = one.model.get_submodule(name).register_forward_hook(lambda m, args, out: rows.append(args[0].detach()))
    kept = []
    with torch.no_grad():
        for batch in micro_batches(context, one):
            one.model(input_ids=batch.ids)
            kept.append(rows.pop()[batch.labels != -100])
    handle.remove()
    x = torch.cat(kept).double().numpy()
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    assert statistics[name].explained_variance == pytest.approx((values / values.sum()).tolist(), abs=1e-4)


def test_eva_spreads_ranks_as_peft_does(plain):
    import peft
    from peft import EvaConfig, LoraConfig

    context, one, targets, statistics = plain
    wanted = LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], init_lora_weights="eva", eva_config=EvaConfig(rho=2)
    )
    data = [{"input_ids": b.ids, "labels": b.labels} for b in micro_batches(context, one)]
    merged = [{k: torch.cat([d[k] for d in data]) for k in ("input_ids", "labels")}]
    factors = peft.get_eva_state_dict(one.model, merged * 2, peft_config=wanted, show_progress_bar=False)
    expected = {n.removesuffix(".lora_A.weight"): len(t) for n, t in factors.items()}
    ours = plugins.load("probes", "eva").ranks(statistics, 4)
    assert sum(ours.values()) == 4 * len(targets)
    assert {n: r for n, r in ours.items() if r} == pytest.approx(
        {n: expected[n] for n in ours if expected.get(n)}, abs=1
    )
