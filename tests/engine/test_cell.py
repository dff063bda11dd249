"""A cell's result is reproducible, complete, and what it saved is what it measured."""

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lorabench import plugins
from lorabench.engine.cell import run_cell
from lorabench.engine.data import task_data
from lorabench.engine.evaluate import losses
from lorabench.engine.model import load_base, load_tokenizer
from lorabench.record.items import load_items
from lorabench.record.result import CellResult
from tests.engine.conftest import MODEL, cell_of, cells_of

CPU = torch.device("cpu")
METHODS = tuple(m for m in plugins.names("methods") if m not in ("base", "full"))


def evaluated(cell, model):
    tokenizer = load_tokenizer(cell.model)
    data = task_data(cell, tokenizer)
    return losses(model, data.test[: cell.evaluation.max_sequences], 16, tokenizer.pad_token_id, CPU).mean


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_adapter_loads_onto_the_base_with_peft_and_gives_the_same_loss_merged_or_not(method, folder):
    cell = cell_of(f"method={method}", "training.steps=6")
    result = run_cell(cell, folder)
    assert result.outcome == "finished", result.error
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    untrained = evaluated(cell, base)
    model = peft.PeftModel.from_pretrained(base, folder / "adapter").eval()
    assert evaluated(cell, model) == pytest.approx(result.value("eval_loss"), rel=1e-5)
    assert evaluated(cell, model.merge_and_unload()) == pytest.approx(result.value("eval_loss"), rel=1e-5)
    assert untrained - result.value("eval_loss") > 0.01, "it learned something"
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"


@pytest.mark.parametrize("quantization", ["int8", "fp4", "nf4"])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_quantized_cell_trains_and_its_adapter_loads_onto_the_quantized_base(quantization, method, folder):
    cell = cell_of(f"quantization={quantization}", f"method={method}", "training.steps=3")
    result = run_cell(cell, folder)
    assert result.outcome == "finished", result.error
    model = peft.PeftModel.from_pretrained(load_base(cell, CPU), folder / "adapter").eval()
    assert evaluated(cell, model) == pytest.approx(
        result.value("eval_loss"), rel=2e-3 if quantization == "int8" else 1e-5
    )
    assert result.resolved.compute_dtype == ("float16" if quantization == "int8" else "float32")


def test_a_tuned_cell_is_validated_on_a_split_of_its_own_and_tested_as_any_other(folder):
    low, high = cells_of("training.learning_rate={tune: [1e-3, 5e-3]}")
    (given,) = cells_of("training.learning_rate=5e-3")
    assert high.training.fixed_learning_rate == 5e-3
    tuned, plain = run_cell(high, folder), run_cell(given, folder)
    assert tuned.value("eval_loss") == plain.value("eval_loss")
    assert plain.value("validation_loss") is None
    data = task_data(high, load_tokenizer(high.model))
    model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), folder / "adapter"
    ).eval()
    seen = losses(
        model, data.validation[: high.evaluation.max_sequences], 16, load_tokenizer(high.model).pad_token_id, CPU
    )
    assert tuned.value("validation_loss") == pytest.approx(seen.mean, rel=1e-5)
    test = {e.ids.tobytes() for e in data.test}
    assert not any(e.ids.tobytes() in test for e in data.validation)
    assert low.id != high.id and low.condition_id == high.condition_id != given.condition_id


def test_same_seed_same_numbers_and_another_seed_others(folder):
    numbers = []
    for seed in (0, 0, 1):
        result = run_cell(cell_of(f"seeds=[{seed}]", "method.dropout=0.1"), folder)
        numbers.append(result.value("eval_loss"))
    assert numbers[0] == numbers[1]
    assert numbers[0] != numbers[2]


def test_a_finished_cell_has_every_reading_and_file_and_survives_json(folder, monkeypatch):
    cell = cell_of("evaluation.forgetting=self", "evaluation.lm_eval=[python-docs-cloze]", "evaluation.limit=20")
    events = []
    monkeypatch.setattr("lorabench.engine.domain._DOMAINS", {})  # whatever ran before in this process
    monkeypatch.setattr("lorabench.engine.kept_base._KEPT", {})
    result = run_cell(cell, folder, events.append)
    assert result.outcome == "finished", result.error
    for metric in (
        "total_parameters",
        "trainable_parameters",
        "trainable_percent",
        "adapter_bytes",
        "weight_bytes",
        "load_seconds",
        "train_seconds",
        "eval_seconds",
        "tokens_per_second",
        "step_seconds",
        "step_spread_seconds",
        "train_peak_bytes",
        "eval_peak_bytes",
        "train_loss",
        "eval_loss",
        "perplexity",
        "bits_per_byte",
        "forgetting",
        "python-docs-cloze/acc",
        "python-docs-cloze/acc_norm",
    ):
        assert result.value(metric) is not None, metric
    readings = {r.metric: r for r in result.readings}
    assert len(readings) == len(result.readings), "no metric twice"
    accuracy = readings["python-docs-cloze/acc"]
    assert accuracy.count == 20
    assert accuracy.stderr == pytest.approx((accuracy.value * (1 - accuracy.value) / 19) ** 0.5, rel=1e-6)
    assert result.value("perplexity") == pytest.approx(np.exp(result.value("eval_loss")))
    assert {p.name for p in folder.iterdir()} == {
        "adapter",
        "curve.csv",
        "items.safetensors",
        "spectra.safetensors",
        "directions.safetensors",
    }
    items = load_items(folder / "items.safetensors")
    assert set(items) == {
        "eval_loss",
        "bits_per_byte",
        "forgetting",
        "python-docs-cloze/acc",
        "python-docs-cloze/acc_norm",
    }
    for metric, seen in items.items():
        assert seen.value == pytest.approx(readings[metric].value, rel=1e-9), metric
    assert len(items["python-docs-cloze/acc"].sums) == 20
    assert set(items["python-docs-cloze/acc"].sums) <= {0.0, 1.0}
    assert CellResult.model_validate_json(result.model_dump_json(by_alias=True)) == result
    assert [e.phase for e in events if e.step is None and e.done is None] == [
        "load",
        "train",
        "save",
        "sample",
        "prepare",
        "evaluate",
        "decompose",
        "measure",
    ]
    counted = {e.phase: e.total for e in events if e.step is None and e.total}
    assert counted == {"sample": 64 * 48, "evaluate": 8 + 20 * 4 + 64, "decompose": 28}, (
        "rows: held-out ones, choices, the base's text"
    )
    ahead = next(e.ahead for e in events if e.ahead)
    assert set(ahead) == {"sample", "prepare", "evaluate", "save", "decompose", "measure"}
    assert all(seconds > 0 or steps > 0 for phase, (seconds, steps) in ahead.items() if phase != "prepare")
    timed = {
        m: result.value(f"{m}_seconds")
        for m in ("sample", "prepare", "save", "decompose", "measure", "load", "train", "eval")
    }
    assert 0 < sum(timed.values()) <= result.value("cell_seconds"), "disjoint parts of the whole"
    assert [e.step for e in events if e.step] == [1, 2, 3, 4, 5, 6]


def test_parameters_are_counted_as_peft_counts_them(folder):
    for quantization in ("none", "nf4"):
        cell = cell_of(f"quantization={quantization}", "training.steps=1")
        result = run_cell(cell, folder)
        model = peft.PeftModel.from_pretrained(load_base(cell, CPU), folder / "adapter", is_trainable=True)
        trainable, total = model.get_nb_trainable_parameters()
        assert (result.value("trainable_parameters"), result.value("total_parameters")) == (trainable, total)


def test_rank_r_on_one_module_has_r_times_in_plus_out_parameters(folder):
    result = run_cell(cell_of("method.rank=3", "method.target_modules=[down_proj]", "training.steps=1"), folder)
    assert result.value("trainable_parameters") == 4 * 3 * (192 + 64), "four layers of 64 x 192"
    assert len(result.resolved.target_modules) == 4


def test_full_fine_tuning_trains_everything_and_the_base_nothing(folder):
    full = run_cell(cell_of("method=full", "training.learning_rate=2e-3"), folder)
    assert full.outcome == "finished", full.error
    assert full.value("trainable_percent") == 100
    base = run_cell(cell_of("method=base"), folder)
    assert base.value("trainable_parameters") == 0
    assert base.value("train_seconds") is None
    assert base.value("eval_loss") > full.value("eval_loss")
    assert base.value("eval_loss") == pytest.approx(
        evaluated(cell_of("method=base"), AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32))
    )


@pytest.mark.parametrize("method", [*METHODS, "full"])
def test_spectra_are_those_of_the_dense_difference_of_weights(method, folder):
    cell = cell_of(f"method={method}", "training.steps=4")
    assert run_cell(cell, folder).outcome == "finished"
    spectra = load_file(folder / "spectra.safetensors")
    assert len(spectra) == 4 * 7
    if method == "full":  # its weights are not kept; that its spectra are of full rank is what can be seen
        assert all(bool((s > 0).all()) and len(s) == 64 for s in spectra.values())
        return
    before = {
        n: p.detach().double().clone()
        for n, p in AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).named_parameters()
    }
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    merged = peft.PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
    after = dict(merged.named_parameters())
    for name, values in spectra.items():
        dense = torch.linalg.svdvals(after[f"{name}.weight"].double() - before[f"{name}.weight"])
        n = min(len(values), len(dense))
        torch.testing.assert_close(values[:n].double(), dense[:n], rtol=1e-3, atol=2e-5)  # merging rounds to float32


def test_every_task_runs_as_a_cell(folder, tmp_path):
    words = ["red", "green", "blue", "black", "white"]
    rows = [f"{w}{i % 7}\t{i % 2}" for i in range(60) for w in words[: 1 + i % 5]]
    (tmp_path / "rows.tsv").write_text("\n".join(["sentence\tlabel", *rows]))
    (tmp_path / "text.txt").write_text(" ".join(rows) * 5)
    tasks = {
        "text": f"{{name: text, train: {tmp_path}/text.txt}}",
        "instruct": f"{{name: instruct, train: {tmp_path}/rows.tsv, prompt: '{{sentence}}', response: ' {{label}}'}}",
        "classify": f"{{name: classify, train: {tmp_path}/rows.tsv}}",
        "python-docs": "python-docs",
        "facts": "{name: facts, count: 20}",
        "planted": "{name: planted, rank: 2, sequences: 16}",
    }
    assert set(tasks) == set(plugins.names("tasks")), "a new task is tried here, too"
    for name, task in tasks.items():
        result = run_cell(cell_of(f"task={task}", "evaluation={limit: 8, max_sequences: 8, forgetting: none}"), folder)
        assert result.outcome == "finished", (name, result.error)
        assert result.value("eval_loss") > 0
        assert result.resolved.packing == ("packed" if name in ("text", "python-docs", "planted") else "padded")
        apart = result.resolved.packing == "packed" or result.resolved.padding_free
        assert (result.value("padding_percent") == 0) == bool(apart)
        if name == "classify":
            assert 0 <= result.value("accuracy") <= 1 and result.value("classify/acc") is None


@pytest.mark.slow
def test_the_order_of_cells_changes_no_number(folder):
    cells = [cell_of("evaluation.forgetting=self", f"quantization={q}") for q in ("int8", "nf4")]

    def numbers(cell):
        return {
            r.metric: r.value
            for r in run_cell(cell, folder).readings
            if not r.metric.endswith("_seconds") and r.metric != "tokens_per_second"
        }

    first = [numbers(c) for c in cells]
    again = [numbers(c) for c in reversed(cells)][::-1]
    assert first == again


def test_full_fine_tuning_is_in_float32_unless_said_otherwise(monkeypatch):
    from lorabench.engine.model import resolve_dtype

    monkeypatch.setattr("lorabench.config.precision.FLOAT32_BELOW", 1000)
    monkeypatch.setattr("lorabench.engine.model.cpu_has_bfloat16", lambda *_: True)
    assert resolve_dtype(cell_of()) == torch.bfloat16
    assert resolve_dtype(cell_of("method=full")) == torch.float32
    assert resolve_dtype(cell_of("method=full", "model.dtype=bfloat16")) == torch.bfloat16


def test_forgetting_is_against_the_same_text_and_loss_whenever_it_is_sampled(folder, monkeypatch):
    """Sampled after training with the adapters off, or before anything is attached: one base, one number."""
    from lorabench.engine import domain
    from lorabench.engine.cell_context import CellContext

    seen = []
    for stays in (True, False):
        domain._DOMAINS.clear()
        monkeypatch.setattr(CellContext, "base_survives", stays)
        seen.append(run_cell(cell_of("evaluation.forgetting=self"), folder).value("forgetting"))
    assert seen[0] == seen[1]
