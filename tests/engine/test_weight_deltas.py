"""What is kept of a live model's learned changes, and a cell evaluated at lower ranks, against dense computations
through PEFT.
"""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from lorabench import plugins
from lorabench.engine.cell import run_cell
from lorabench.engine.data import task_data
from lorabench.engine.evaluate import losses
from lorabench.engine.model import load_base, load_tokenizer
from lorabench.record.spectrum import load_spectra
from lorabench.record.truncations import load_directions, load_truncations
from lorabench.spectra.files import Weights
from tests.engine.conftest import MODEL, cell_of

CPU = torch.device("cpu")
METHODS = tuple(m for m in plugins.names("methods") if m != "base")


def loss_of(cell, model):
    tokenizer = load_tokenizer(cell.model)
    data = task_data(cell, tokenizer)
    return losses(model, data.test[: cell.evaluation.max_sequences], 16, tokenizer.pad_token_id, CPU).mean


def trained(folder, *settings):
    cell = cell_of("training.steps=5", *settings)
    result = run_cell(cell, folder)
    assert result.outcome == "finished", result.error
    return cell, result


def fresh():
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def dense_changes(folder):
    """Module to W after - W before, by PEFT's own merge of the saved adapter."""
    before = {n: p.detach().double().clone() for n, p in fresh().named_parameters()}
    merged = dict(peft.PeftModel.from_pretrained(fresh(), folder / "adapter").merge_and_unload().named_parameters())
    names = [n.removesuffix(".weight") for n in merged if n.endswith("proj.weight")]
    return {n: merged[f"{n}.weight"].detach().double() - before[f"{n}.weight"] for n in names}


@pytest.mark.parametrize("method", ["lora", "rslora", "pissa"])
def test_a_cut_cell_has_the_loss_of_the_base_plus_the_cut_dense_change(method, folder):
    cell, result = trained(folder, f"method.name={method}", "analysis.truncation=[1, 2, 4]")
    found = {t.rank: t for t in load_truncations(folder / "truncation.csv")}
    assert set(found) == {1, 2, 4}
    for rank, cut in found.items():
        model = fresh()
        with torch.no_grad():
            for name, delta in dense_changes(folder).items():
                u, s, vh = torch.linalg.svd(delta, full_matrices=False)
                model.get_submodule(name).weight += ((u[:, :rank] * s[:rank]) @ vh[:rank]).float()
        assert cut.value("eval_loss") == pytest.approx(loss_of(cell, model), rel=2e-5)
    if method != "pissa":  # whose change has twice the rank
        assert found[4].value("eval_loss") == result.value("eval_loss"), "nothing was cut"
        assert found[4].kept_energy == pytest.approx(1)
        assert found[4].parameters == result.value("trainable_parameters")


def test_full_fine_tuning_is_cut_too_and_the_other_weights_stay_trained(folder, monkeypatch):
    kept = {}
    import lorabench.engine.evaluate_truncated as module

    real = module._of_full

    def spy(model, cell, most):
        kept["state"] = {n: p.detach().clone() for n, p in model.named_parameters()}
        kept["model"] = model
        return real(model, cell, most)

    monkeypatch.setattr(module, "_of_full", spy)
    cell, result = trained(folder, "method.name=full", "analysis.truncation=[1, 8, 64]")
    found = {t.rank: t for t in load_truncations(folder / "truncation.csv")}
    model, before = fresh(), dict(fresh().named_parameters())
    model.load_state_dict(kept["state"], strict=False)
    with torch.no_grad():
        for name, weight in kept["state"].items():
            if name.endswith("proj.weight"):
                u, s, vh = torch.linalg.svd(weight.double() - before[name].double(), full_matrices=False)
                model.get_parameter(name).copy_((before[name].double() + (u[:, :8] * s[:8]) @ vh[:8]).float())
    assert found[8].value("eval_loss") == pytest.approx(loss_of(cell, model), rel=1e-5)
    assert found[64].value("eval_loss") == result.value("eval_loss")
    assert 0 < found[1].kept_energy < found[8].kept_energy < found[64].kept_energy == pytest.approx(1)
    left = dict(kept["model"].named_parameters())
    for name, weight in kept["state"].items():
        if "norm" in name:
            assert left[name].shape == weight.shape


@pytest.mark.parametrize("settings", [("method.name=dora",), ("quantization=nf4",), ("quantization=int8",)])
def test_cutting_leaves_the_model_as_it_was(settings, folder):
    """The memory probe after it trains the same model on; its saved adapter has the loss that was read before."""
    cell, result = trained(folder, *settings, "analysis.truncation=[1, 3]", "analysis.per_module=true")
    cuts = load_truncations(folder / "truncation.csv")
    assert [(t.allocation, t.rank) for t in cuts] == [("uniform", 1), ("uniform", 3), ("energy", 1), ("energy", 3)]
    saved = peft.PeftModel.from_pretrained(load_base(cell, CPU), folder / "adapter").eval()
    assert loss_of(cell, saved) == pytest.approx(result.value("eval_loss"), rel=2e-3 if "int8" in settings[0] else 1e-5)
    assert result.value("train_peak_bytes") is not None


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_allocation_by_energy_keeps_more_energy_with_no_more_parameters(method, folder):
    trained(folder, f"method.name={method}", "analysis.truncation=[1, 2]", "analysis.per_module=true")
    cuts = {(t.allocation, t.rank): t for t in load_truncations(folder / "truncation.csv")}
    for rank in (1, 2):
        assert cuts["energy", rank].kept_energy > cuts["uniform", rank].kept_energy
        assert cuts["energy", rank].parameters <= cuts["uniform", rank].parameters


@pytest.mark.parametrize("method", METHODS)
def test_directions_are_singular_vectors_of_the_change(method, folder):
    trained(folder, f"method.name={method}")
    directions, spectra = (
        load_directions(folder / "directions.safetensors"),
        {s.module: s for s in load_spectra(folder / "spectra.safetensors")},
    )
    assert set(directions) == set(spectra)
    for name, d in directions.items():
        k = min(8, spectra[name].numerical_rank)
        assert d.left.shape == (spectra[name].out_features, k)
        assert d.right.shape == (spectra[name].in_features, k)
    if method in ("full", "dora"):
        return
    for name, delta in dense_changes(folder).items():
        image = delta.numpy() @ directions[name].right[:, 0]
        assert image @ directions[name].left[:, 0] == pytest.approx(spectra[name].singular_values[0], rel=5e-3)


@pytest.mark.parametrize(("quantization", "double"), [("nf4", False), ("nf4", True), ("fp4", False), ("int8", False)])
def test_a_roundtrip_is_what_the_quantized_model_holds(quantization, double):
    from peft.utils.integrations import dequantize_module_weight

    cell = cell_of(f"quantization={quantization}", f"quantization.double_quant={str(double).lower()}")
    model, weights = load_base(cell, CPU), Weights(MODEL)
    turn = plugins.load("quantizations", quantization).roundtrip
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj"):
        live = dequantize_module_weight(model.get_submodule(name)).float()
        torch.testing.assert_close(
            turn(weights.weight(name).float(), double),
            live,
            rtol=0,
            atol=1e-3 * float(live.abs().max()) if quantization == "int8" else 0,
        )


def test_repair_is_what_the_dense_matrices_say(folder):
    cell, _ = trained(folder, "quantization=nf4", "training.steps=10")
    weights, turn = Weights(MODEL), plugins.load("quantizations", "nf4").roundtrip
    model = peft.PeftModel.from_pretrained(load_base(cell, CPU), folder / "adapter")
    layers = {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if hasattr(m, "lora_A")}
    for spectrum in load_spectra(folder / "spectra.safetensors"):
        layer = layers[spectrum.module]
        delta = (layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()) * layer.scaling[
            "default"
        ]
        weight = weights.weight(spectrum.module).float()
        error = turn(weight, False).double() - weight.double()
        assert spectrum.repair.error_norm == pytest.approx(float(error.norm()), rel=1e-6)
        assert spectrum.repair.cosine == pytest.approx(
            float(-(delta * error).sum() / delta.norm() / error.norm()), abs=1e-6
        )
        left = float((error + delta).square().sum() / error.square().sum())
        assert spectrum.repair.repaired_share == pytest.approx(1 - left, abs=1e-6)
        squares = torch.linalg.svdvals(error).square()
        assert spectrum.repair.best_share == pytest.approx(float(squares[:4].sum() / squares.sum()), rel=1e-6)


def test_an_unquantized_cell_has_no_repair_and_a_base_no_spectrum(folder):
    trained(folder, "method.name=base")
    assert not (folder / "spectra.safetensors").exists()
    trained(folder)
    for spectrum in load_spectra(folder / "spectra.safetensors"):
        assert spectrum.repair is None
        assert spectrum.alignment.base_norm > 0
        assert spectrum.alignment.rank == spectrum.numerical_rank == 4
        assert spectrum.intruders.looked_at == 10


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("wanted", ["values", "none"])
def test_less_of_the_spectra_may_be_asked_for(method, wanted, folder):
    cell, result = trained(folder, f"method.name={method}", f"analysis.spectra={wanted}")
    assert cell.id == cell_of("training.steps=5", f"method.name={method}").id, "no outcome depends on it"
    assert not (folder / "directions.safetensors").exists()
    assert (folder / "spectra.safetensors").exists() == (wanted == "values")
    if wanted == "none":
        assert result.value("decompose_seconds") is None
        return
    other = folder.parent / "full"
    other.mkdir()
    trained(other, f"method.name={method}")
    for lean, whole in zip(
        load_spectra(folder / "spectra.safetensors"), load_spectra(other / "spectra.safetensors"), strict=True
    ):
        assert lean.singular_values == pytest.approx(whole.singular_values, rel=1e-6)
        assert (lean.alignment, lean.intruders, lean.repair) == (None, None, None)


def test_the_second_cell_of_a_model_decomposes_no_base(tmp_path, monkeypatch):
    """In one results directory, with another rank; what it keeps is what it would have computed."""
    from lorabench.spectra import own

    def cell_in(store, rank):
        folder = tmp_path / store / "cells" / f"rank{rank}"
        folder.mkdir(parents=True)
        trained(folder, "quantization=nf4", f"method.rank={rank}")
        return load_spectra(folder / "spectra.safetensors")

    alone = cell_in("other", 2)
    cell_in("store", 4)
    monkeypatch.setattr(own, "leading", lambda *given: pytest.fail("a weight was decomposed again"))
    monkeypatch.setattr(own, "leading_values", lambda *given: pytest.fail("an error was decomposed again"))
    for one, again in zip(alone, cell_in("store", 2), strict=True):
        assert (one.alignment, one.intruders, one.repair) == (again.alignment, again.intruders, again.repair)
