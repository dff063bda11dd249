"""A checkpoint that is stored quantized is read with its own quantization and called by it, or refused by name."""

import pytest
import torch
import transformers

from lorabench.engine.cell import run_cell
from lorabench.engine.check import check_cells
from lorabench.engine.model import load_base
from lorabench.engine.quantized_weights import logical_numel, weight_bytes
from lorabench.errors import ModelError, StudyError
from tests.engine.checkpoints import (
    SMALL,
    bitsandbytes_config,
    configured,
    copied,
    put,
    quantized,
    random_model,
    renamed,
    weights,
    without_repacking,
)
from tests.engine.conftest import cell_of, told

CPU = torch.device("cpu")
FORMS = [("int8", False), ("nf4", False), ("nf4", True), ("fp4", True)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("stored")
    return {(form, double): quantized(root / f"{form}{double}", form, double) for form, double in FORMS}


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=torch.arange(8, 40)[None]).logits


@pytest.mark.parametrize("form", FORMS)
def test_the_engine_reads_it_as_transformers_does(stored, form):
    cell = cell_of(f"model={stored[form]}", "method=base")
    assert (cell.quantization.name, cell.quantization.double_quant) == form
    ours = load_base(cell, CPU)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        stored[form], device_map={"": "cpu"}, dtype=torch.float32
    )
    assert torch.equal(logits(ours), logits(without_repacking(theirs)))


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_same_as_quantizing_the_same_weights_here(stored, form):
    name, double = form
    here = cell_of(
        "method=base",
        f"quantization={{name: {name}, double_quant: {str(double).lower()}, compute_dtype: float32}}",
        "model.dtype=float32",
    )
    made, read = load_base(here, CPU), load_base(cell_of(f"model={stored[form]}", "method=base"), CPU)
    assert weight_bytes(read) == weight_bytes(made) < 4 * 279_104 / 2
    assert sum(logical_numel(p) for p in read.parameters()) == 279_104
    assert torch.allclose(logits(read), logits(made), atol=1e-4)


def test_a_run_on_one_names_its_form_and_reads_what_the_quantized_original_reads(stored, folder, tmp_path):
    other = tmp_path / "cells" / "y.partial"
    other.mkdir(parents=True)
    read = run_cell(cell_of(f"model={stored['int8', False]}"), folder)
    made = run_cell(cell_of("quantization=int8", "model.dtype=float32"), other)
    assert read.outcome == made.outcome == "finished"
    assert read.cell.quantization.name == "int8"
    assert (read.resolved.stored_quantised, made.resolved.stored_quantised) == (True, None)
    for metric in ("eval_loss", "train_loss", "weight_bytes", "trainable_parameters", "total_parameters"):
        assert read.value(metric) == pytest.approx(made.value(metric), rel=1e-6), metric


def test_spectra_stand_beside_the_weights_that_the_codes_mean_and_claim_no_repair(stored, folder):
    from lorabench.record.spectrum import load_spectra

    run_cell(cell_of(f"model={stored['int8', False]}"), folder)
    name = "model.layers.0.self_attn.q_proj"
    spectrum = next(s for s in load_spectra(folder / "spectra.safetensors") if s.module == name)
    tensors = weights(stored["int8", False])
    meant = (
        tensors[f"{name}.weight"].double() * tensors[f"{name}.SCB"].double()[:, None] / 127
    )  # LLM.int8(): a row's largest is 127
    assert spectrum.alignment.base_norm == pytest.approx(float(meant.norm()), rel=1e-4)
    assert spectrum.repair is None


@pytest.mark.parametrize(
    ("form", "settings", "words"),
    [
        (("int8", False), ["quantization=nf4"], "is stored in int8, which cannot be turned into nf4"),
        (
            ("nf4", False),
            ["quantization={name: nf4, double_quant: true}"],
            "is stored in nf4, which cannot be turned into nf4 with double quantization",
        ),
        (
            ("nf4", True),
            ["quantization=int8"],
            "is stored in nf4 with double quantization, which cannot be turned into int8",
        ),
        (("int8", False), ["method=full"], "method full cannot be combined with quantization int8, in which"),
        (("int8", False), ["method=pissa"], "with quantization int8, in which .* is stored: it begins"),
    ],
)
def test_what_it_cannot_be_is_said_before_any_cell(stored, form, settings, words):
    with pytest.raises(StudyError, match=words):
        cell_of(f"model={stored[form]}", *settings)


def test_the_dry_run_tells_that_nothing_is_quantized_anew(stored):
    (notice,) = told((cell_of(f"model={stored['nf4', True]}"),))
    assert not notice.fatal
    assert "is stored in nf4 with double quantization and stays so" in notice.message


def test_a_teacher_is_not_planted_into_codes(stored):
    (problem,) = check_cells((cell_of(f"model={stored['int8', False]}", "task=planted"),))
    assert "plants its teacher into unquantized weights" in problem.message


@pytest.mark.parametrize(
    "method", ["fp8", "gptq", "awq", "compressed-tensors", "hqq", "mxfp4", "torchao", "something-new"]
)
def test_forms_of_other_libraries_are_refused_by_name(tmp_path, method):
    path = configured(copied(tmp_path / "m"), quantization_config={"quant_method": method})
    with pytest.raises(StudyError, match=f"stored quantized by {method} .* allowed: float32"):
        cell_of(f"model={path}")


def eight(tensors):
    return {n: t.to(torch.float8_e4m3fn) if "_proj" in n else t for n, t in tensors.items()}


def codes(tensors):
    return {n: (10 * t).to(torch.int8) if "_proj" in n else t for n, t in tensors.items()}


def packed(tensors):
    kept = {n: t for n, t in tensors.items() if "_proj" not in n}
    return kept | {
        n.replace("weight", "qweight"): torch.zeros(8, 8, dtype=torch.int32) for n in tensors if "_proj" in n
    }


@pytest.mark.parametrize("change", [eight, codes, packed])
def test_codes_without_a_word_in_the_configuration_are_no_weights(tmp_path, change):
    path = copied(tmp_path / "m")
    put(path, change(weights(path)))
    (problem,) = check_cells((cell_of(f"model={path}"),))
    assert problem.field == "model"
    assert "are stored quantized" in problem.message
    assert "config.json does not say how" in problem.message


def lost(suffix):
    return lambda path: put(
        path, {n: t for n, t in weights(path).items() if not n.endswith(f"layers.0.mlp.up_proj.{suffix}")}
    )


@pytest.mark.parametrize(
    ("form", "change", "words"),
    [
        (("int8", False), lambda p: configured(p, quantization_config=None), "config.json does not say how"),
        (
            ("int8", False),
            lambda p: configured(p, quantization_config={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
            "says that the weights are stored in nf4",
        ),
        (
            ("nf4", False),
            lambda p: configured(p, quantization_config={"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}),
            "lacks weight.quant_state.bitsandbytes__fp4",
        ),
        (("nf4", False), lambda p: configured(p, quantization_config={"load_in_8bit": True}), "lacks SCB"),
        (("int8", False), lost("SCB"), "up_proj.weight lacks SCB"),
        (("nf4", False), lost("weight.absmax"), "up_proj.weight lacks weight.absmax"),
        (("int8", False), lost("weight"), "missing: model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_a_configuration_that_tells_another_form_than_the_files_is_refused(tmp_path, form, change, words):
    path = quantized(tmp_path / "m", *form)
    change(path)
    (problem,) = check_cells((cell_of(f"model={path}"),))
    assert words in problem.message


def test_stale_words_of_quantization_over_plain_weights_are_refused(tmp_path):
    path = configured(
        copied(tmp_path / "m"), quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}
    )
    (problem,) = check_cells((cell_of(f"model={path}"),))
    assert "but they are not; remove quantization_config" in problem.message


def test_skipped_modules_stay_unquantized_and_must_be_the_ones_that_the_configuration_names(tmp_path):
    path = quantized(tmp_path / "m", "int8", llm_int8_skip_modules=["lm_head", "down_proj"])
    model = load_base(cell_of(f"model={path}", "method=base"), CPU)
    assert model.model.layers[0].mlp.down_proj.weight.dtype == torch.float32
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.int8
    configured(path, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    from lorabench.engine.model import meta_model

    meta_model.cache_clear()  # of the configuration that was there before
    with pytest.raises(ModelError, match=r"down_proj\.weight in .* is stored unquantized"):
        load_base(cell_of(f"model={path}", "method=base"), CPU)


@pytest.mark.parametrize("form", [("int8", False), ("nf4", True)])
def test_wrappers_are_undone_around_codes_too(stored, tmp_path, form):
    path = quantized(tmp_path / "m", *form)
    renamed(path, lambda n: "module." + n.replace(".mlp.", "._orig_mod.mlp."))
    ours, plain = (load_base(cell_of(f"model={p}", "method=base"), CPU) for p in (path, stored[form]))
    assert torch.equal(logits(ours), logits(plain))


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_the_turned_layers_of_gpt2_are_read(tmp_path, form):
    config = transformers.GPT2Config(
        n_embd=64, n_layer=2, n_head=4, vocab_size=1024, n_positions=128, bos_token_id=0, eos_token_id=0
    )
    path = random_model(tmp_path / "m", config, quantization=bitsandbytes_config(form))
    cell = cell_of(f"model={path}", "method=base")
    assert [p.fatal for p in told((cell,))] == [False]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, device_map={"": "cpu"}, dtype=torch.float32)
    assert torch.equal(logits(load_base(cell, CPU)), logits(without_repacking(theirs)))


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_the_renamed_modules_of_a_model_with_eyes_are_found_by_their_old_names(tmp_path, form, folder):
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 1024,
        "layer_types": ["full_attention"] * 2,
    }
    eyes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    path = random_model(
        tmp_path / "m",
        transformers.Gemma3Config(text_config=text, vision_config=eyes),
        "AutoModelForImageTextToText",
        bitsandbytes_config(form),
    )
    assert any(
        n.startswith("language_model.model.layers.0.") for n in weights(path)
    )  # not the model's own name, model.language_model.layers.0
    cell = cell_of(f"model={path}", "training.steps=1")
    assert all(not p.fatal for p in check_cells((cell,)))
    assert run_cell(cell, folder).outcome == "finished"


def test_packed_into_another_dtype_and_computed_in_its_own_precision(tmp_path):
    path = quantized(tmp_path / "m", "nf4", bnb_4bit_compute_dtype="bfloat16", bnb_4bit_quant_storage="bfloat16")
    cell = cell_of(f"model={path}", "method=base")
    assert cell.quantization.compute_dtype == "bfloat16"
    model = load_base(cell, CPU)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert sum(logical_numel(p) for p in model.parameters()) == 279_104


def test_experts_of_a_quantized_mixture_are_told_and_recorded(tmp_path, folder):
    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)
    path = random_model(tmp_path / "m", config)
    cell = cell_of(f"model={path}", "quantization=int8", "training.sequence_length=32")
    (notice,) = told((cell,))
    assert "its experts" in notice.message
    assert "neither quantized nor adapted" in notice.message
    result = run_cell(cell, folder)
    left = result.resolved.unreached
    experts = 2 * 4 * 3 * 64 * 96  # layers, experts, matrices
    assert left.parameters == experts + 2 * 4 * 64  # and the routers
    assert left.names[0] == "model.layers.*.mlp.experts.gate_up_proj"
    assert result.value("weight_bytes") > 4 * experts  # in float32, whatever the label says
