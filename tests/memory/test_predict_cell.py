"""What is foreseen of a cell is stored by its parts, which sum to the peak."""

from dataclasses import replace

import pytest
import torch

from lorabench.config import expand
from lorabench.config.trainer import find_trainer
from lorabench.engine.model import resolve_autocast as engine_autocast
from lorabench.memory import predict_cell as of_cells
from lorabench.memory.estimate import CONTEXT_BYTES, with_framework
from lorabench.memory.host import free_host_bytes, host_bytes
from lorabench.memory.kernels import cublas_bytes
from lorabench.memory.predict_cell import available_bytes, compared, foretell, predict_memory, setting_here
from lorabench.memory.step_dtypes import resolve_autocast as predicted_autocast
from lorabench.memory.step_profile import predict_step
from lorabench.memory.tensor_tracker import CATEGORIES
from lorabench.memory.validate import setting_from
from lorabench.record.card_calibration import CalibrationRow, CardCalibration, installed_versions, write_calibration
from lorabench.record.frames import wide
from lorabench.record.memory_prediction import MemoryPrediction
from lorabench.record.metrics import PREDICTED_PARTS, metric
from tests.report.stores import STUDY, study_of

HIGH = find_trainer("lorabench").errors[1]


@pytest.fixture(scope="module")
def foreseen(tmp_path_factory):
    """By method, rank and quantization, of the shipped model."""
    cells = expand(
        study_of(
            tmp_path_factory.mktemp("foresee"),
            STUDY.replace("[1, 4, 16]", "[4]").replace("seeds: [0, 1]", "seeds: [0]"),
        )
    )
    return {(c.method.name, c.method.rank, c.quantization.name): (c, predict_memory(c)) for c in cells}


def readings_of(prediction):
    return {r.metric: r.value for r in prediction.readings()}


def test_every_category_of_the_ledger_has_its_metric():
    assert tuple(f"predicted_{c}_bytes" for c in CATEGORIES) == PREDICTED_PARTS
    assert all(metric(m).unit == "bytes" and metric(m).better == "none" and metric(m).meaning for m in PREDICTED_PARTS)
    assert len({metric(m).label for m in PREDICTED_PARTS}) == len(CATEGORIES)


@pytest.mark.parametrize("setting", [("lora", 4, "nf4"), ("lora", 4, "none"), ("full", None, "none")])
def test_the_parts_sum_to_the_predicted_peak(foreseen, setting):
    _, prediction = foreseen[setting]
    found = readings_of(prediction)
    assert set(found) == {"predicted_train_peak_bytes", *PREDICTED_PARTS}
    assert (
        sum(found[m] for m in PREDICTED_PARTS) == found["predicted_train_peak_bytes"] == prediction.train_peak_bytes > 0
    )


def test_each_part_is_where_it_belongs(foreseen):
    nf4, lora, full = (
        readings_of(foreseen[s][1]) for s in (("lora", 4, "nf4"), ("lora", 4, "none"), ("full", None, "none"))
    )
    assert nf4["predicted_weights_bytes"] < lora["predicted_weights_bytes"] == full["predicted_weights_bytes"]
    assert (
        nf4["predicted_quantization_state_bytes"]
        > 0
        == lora["predicted_quantization_state_bytes"]
        == full["predicted_quantization_state_bytes"]
    )
    assert nf4["predicted_adapters_bytes"] == lora["predicted_adapters_bytes"] > 0 == full["predicted_adapters_bytes"]
    assert full["predicted_optimizer_bytes"] > 10 * lora["predicted_optimizer_bytes"] > 0


def test_the_untouched_base_has_no_prediction(foreseen):
    assert foreseen["base", None, "none"][1] is None


def test_a_prediction_without_parts_stores_its_peak_alone():
    assert readings_of(MemoryPrediction(10, 9, 11, 20)) == {"predicted_train_peak_bytes": 10.0}


def test_a_skipped_cell_keeps_the_parts_as_whole_bytes(foreseen):
    cell, prediction = foreseen["lora", 4, "nf4"]
    row = wide([prediction.skipped(cell)]).iloc[0]
    assert [row[m] for m in PREDICTED_PARTS] == [prediction.parts[c] for c in CATEGORIES]
    assert all(str(wide([prediction.skipped(cell)])[m].dtype) == "Int64" for m in PREDICTED_PARTS)


def test_the_cuda_context_is_on_neither_side():
    """A card with 24 GB of which 0.5 are this process's context: a step that fills the rest fits, though step and
    context together are more than is free."""
    setting = replace(
        setting_from({"model": {"name": "lorabench/tiny-300k"}, "training": {"batch_size": 2, "sequence_length": 32}}),
        device="cuda",
    )
    step = predict_step(setting)
    whole = sum(with_framework(step, setting).values())
    still = round(HIGH * whole) - CONTEXT_BYTES
    assert compared(step, setting, still).fits is True
    assert compared(step, setting, still - 1).fits is not True
    assert compared(step, replace(setting, device="cpu"), step.peak_bytes * 2).high_bytes == round(
        HIGH * step.peak_bytes
    ), "a CPU has no context"


def test_what_the_process_holds_empty_can_be_used_again_and_what_lives_cannot(monkeypatch):
    held = {
        "mem_get_info": (10_000_000_000, 24_000_000_000),
        "memory_reserved": 3_000_000_000,
        "memory_allocated": 0,
        "get_device_capability": (8, 0),
    }
    for name in held:
        monkeypatch.setattr(torch.cuda, name, lambda where, name=name: held[name])
    where = torch.device("cuda")
    assert available_bytes(where) == 13_000_000_000
    held["memory_allocated"] = cublas_bytes(8)
    assert available_bytes(where) == 13_000_000_000, "the workspaces of products are part of the prediction"
    held["memory_allocated"] = cublas_bytes(8) + 2_000_000_000
    assert available_bytes(where) == 11_000_000_000, "a teacher that stays on the card"


def test_a_control_group_limits_what_a_host_has(tmp_path):
    whole = free_host_bytes(tmp_path)
    assert whole > 10**8, "no control group: what the system has"
    (tmp_path / "memory.max").write_text("300000000\n")
    (tmp_path / "memory.current").write_text("250000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 20000000\n")
    assert free_host_bytes(tmp_path) == 70_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_host_bytes(tmp_path) == pytest.approx(whole, rel=0.2)


def test_a_cell_is_foreseen_as_the_engine_resolves_it_here(foreseen, monkeypatch):
    cell, _ = foreseen["lora", 4, "none"]
    for supported in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, supported=supported: supported or including_emulation,
        )
        setting = setting_here(cell, torch.device("cuda"), 32)
        assert (
            predicted_autocast(setting)
            == engine_autocast(cell, torch.device("cuda"))
            == (torch.bfloat16 if supported else None)
        )


GRID = STUDY.replace("[1, 4, 16]", "[2, 8]").replace("seeds: [0, 1]", "seeds: [0]")


def told(monkeypatch, tmp_path, free, whole, more=lambda text: text):
    """What is foretold of the study on a machine that has so much memory, by method, rank and quantization."""
    monkeypatch.setattr(of_cells, "free_host_bytes", lambda: free)
    monkeypatch.setattr(of_cells, "host_bytes", lambda: whole)
    cells = {c.id: c for c in expand(study_of(tmp_path, more(GRID)))}
    return cells, foretell(tuple(cells.values())).problems


def test_a_study_is_foretold_from_few_traces_as_each_of_its_cells_is(monkeypatch, tmp_path):
    free = 10_000_000
    cells, problems = told(monkeypatch, tmp_path, free, free)
    trained = [c for c in cells.values() if c.training.steps]
    alone = {c.id: predict_memory(c) for c in trained}
    assert {p.cell for p in problems} == {i for i, f in alone.items() if not f.fits} and problems
    assert [alone[p.cell].high_bytes for p in problems] == sorted(
        (alone[p.cell].high_bytes for p in problems), reverse=True
    )
    for p in problems:
        assert alone[p.cell].sentence(free) in p.message and p.about_cell


def test_nothing_is_said_where_all_fits_and_one_trace_a_family_shows_it(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(of_cells, "_step", lambda setting: asked.append(setting) or predict_step(setting))
    _, problems = told(monkeypatch, tmp_path, 10**12, 10**12)
    assert problems == ()
    assert sorted((s.method.name, s.method.rank or 0, s.quantization.name) for s in asked) == [
        ("full", 0, "none"),
        ("lora", 8, "nf4"),
        ("lora", 8, "none"),
    ]


def test_what_needs_twice_the_machine_is_a_fault_and_what_is_between_a_note(monkeypatch, tmp_path):
    def few(text):
        return text.replace("[2, 8]", "[8]").replace("[none, nf4]", "[none]")

    cells, problems = told(monkeypatch, tmp_path, 1_000_000, 10**12, few)
    assert problems and not any(p.fatal for p in problems), "other programs may end"
    need = {c.id: predict_memory(c).low_bytes for c in cells.values() if c.training.steps}
    whole = max(need.values()) // 2 - 1
    _, problems = told(monkeypatch, tmp_path, whole, whole, few)
    assert {p.cell for p in problems if p.fatal} == {i for i, low in need.items() if low > 2 * whole}, (
        "full fine-tuning alone"
    )


def test_the_host_has_what_its_group_allows(tmp_path):
    (tmp_path / "memory.max").write_text("5000\n")
    assert host_bytes(tmp_path) == 5000
    (tmp_path / "memory.max").write_text("max\n")
    assert host_bytes(tmp_path) == host_bytes(tmp_path / "no such group") > 5000


def test_what_was_measured_on_the_machine_corrects_its_predictions_where_a_folder_is_named(foreseen, tmp_path, capsys):
    cell, plain = foreseen["lora", 4, "none"]
    rows = [
        CalibrationRow(
            trainer="lorabench",
            model="smollm2-135m",
            quantization="none",
            rank=8,
            batch_size=4,
            sequence_length=64,
            predicted_bytes=1000,
            measured_bytes=measured,
        )
        for measured in (1500, 1510)
    ]
    card = CardCalibration(
        card="cpu",
        measured_at="2026-11-01T00:00:00+00:00",
        packages=installed_versions(),
        memory_bytes=2**34,
        rows=tuple(rows),
    )
    write_calibration(card, tmp_path / "cpu.json")
    corrected = predict_memory(cell, tmp_path)
    assert corrected.high_bytes == round(1.52 * plain.train_peak_bytes), "half the range of two rows, three times over"
    assert corrected.train_peak_bytes == plain.train_peak_bytes
    assert "calibrated on this card 2026-11-01" in capsys.readouterr().out
    assert predict_memory(cell).high_bytes == plain.high_bytes, "nothing is read that was not named"
    (tmp_path / "cpu.json").write_text("{}")
    assert predict_memory(cell, tmp_path).high_bytes == plain.high_bytes
    assert "is not a calibration that this version reads" in capsys.readouterr().err
