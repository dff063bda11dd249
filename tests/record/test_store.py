"""A result is stored whole or not at all, and what is read back is what was stored."""

import json
import multiprocessing
import os
import signal
import time

import pytest
from safetensors.numpy import load_file

from lorabench.config import expand
from lorabench.engine.events import Event
from lorabench.errors import StoreError
from lorabench.record import CellResult, Reading, Store
from lorabench.record.frames import frame, wide
from lorabench.record.tuned_rate import RateRecord, best_learning_rate
from tests.config.test_load import TEXT, study_of
from tests.synthetic import open_worker


@pytest.fixture
def store(tmp_path):
    study = study_of(TEXT)
    made = Store(tmp_path / "results")
    made.save_plan(study, expand(study))
    return made


def run(store, cell):
    folder = store.partial(cell.id)
    folder.mkdir(parents=True, exist_ok=True)
    store.put(open_worker().run(cell, folder, lambda e: isinstance(e, Event)))


def test_every_result_is_read_back_as_the_cell_that_was_planned(store):
    for cell in store.plan():
        run(store, cell)
    assert [r.cell for r in store.results()] == list(store.plan())
    assert [r.cell.id for r in store.results()] == [c.id for c in store.plan()], "full and base keep their absent rank"
    assert store.study() == study_of(TEXT)
    assert load_file(store.cells_folder / store.plan()[0].id / "spectra.safetensors")
    assert not list(store.cells_folder.glob("*.partial"))


def test_the_study_as_run_is_a_study_file_with_the_same_cells(store):
    from lorabench.config import load_study

    assert [c.id for c in expand(load_study(store.folder / "study.yaml"))] == [c.id for c in store.plan()]


def test_a_failure_is_replaced_and_only_a_failure_is_pending(store):
    cell = store.plan()[0]
    for outcome, settled in (("failed", False), ("diverged", True), ("out_of_memory", True), ("finished", True)):
        store.put(CellResult(cell=cell, outcome=outcome, started_at="2026-01-01T00:00:00+00:00"))
        assert store.get(cell.id).outcome == outcome
        assert store.settled(cell.id) is settled


@pytest.mark.parametrize(
    "damage",
    [lambda p: p.write_bytes(b"\xff\xfe"), lambda p: (p.unlink(), p.mkdir()), lambda p: p.write_text("[" * 100_000)],
)
def test_a_result_that_cannot_be_read_costs_no_other(store, damage):
    first, second = store.plan()[:2]
    run(store, first)
    run(store, second)
    damage(store.cells_folder / first.id / "result.json")
    assert [r.cell.id for r in store.results()] == [second.id]
    (told,) = store.unreadable()
    assert first.id in told
    run(store, first)
    assert [r.cell.id for r in store.results()] == [first.id, second.id]


@pytest.mark.parametrize("text", ["[]", "{}", "not json", '{"study": 1, "cells": 2}'])
def test_a_damaged_plan_is_one_sentence(store, text):
    (store.folder / "plan.json").write_text(text)
    with pytest.raises(StoreError, match="cannot be read"):
        store.plan()


def test_a_half_written_cell_is_no_result(store):
    cell = store.plan()[0]
    store.partial(cell.id).mkdir(parents=True)
    (store.partial(cell.id) / "result.json").write_text("{")
    assert store.get(cell.id) is None
    assert store.results() == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1}'])
def test_an_unreadable_result_is_one_sentence_and_is_run_again(store, text):
    cell = store.plan()[0]
    run(store, cell)
    (store.cells_folder / cell.id / "result.json").write_text(text)
    with pytest.raises(StoreError) as caught:
        store.get(cell.id)
    assert "\n" not in str(caught.value)
    assert not store.settled(cell.id)
    assert store.unreadable() == (str(caught.value),)


def test_an_unreadable_result_costs_no_other_its_place(store):
    first, second = store.plan()[:2]
    for cell in (first, second):
        run(store, cell)
    (store.cells_folder / first.id / "result.json").write_text("{")
    assert [r.cell.id for r in store.results()] == [second.id]


def test_a_folder_without_a_plan_is_told_apart(tmp_path):
    with pytest.raises(StoreError, match="is not a results directory"):
        Store.open(tmp_path)
    (tmp_path / "plan.json").write_text("nonsense")
    with pytest.raises(StoreError, match="cannot be read"):
        Store.open(tmp_path).plan()


def test_a_prefix_finds_one_cell(store):
    cell = store.plan()[0]
    run(store, cell)
    assert store.find(cell.id[:8]).cell == cell
    with pytest.raises(StoreError, match=r"no cell in .* has an id starting with"):
        store.find("zzzz")
    with pytest.raises(StoreError, match="15 cells in"):
        store.find("")


def _hold(folder, cell_id, ready):
    with Store(folder).claim(cell_id) as mine:
        ready.value = 1 if mine else 2
        time.sleep(60)


def test_a_claim_excludes_others_and_expires_with_its_holder(store):
    cell = store.plan()[0]
    with store.claim(cell.id) as mine, store.claim(cell.id) as second:
        assert mine
        assert not second
    context = multiprocessing.get_context("spawn")
    ready = context.Value("i", 0)
    holder = context.Process(target=_hold, args=(store.folder, cell.id, ready))
    holder.start()
    deadline = time.monotonic() + 60
    while not ready.value and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ready.value == 1
    assert store.is_claimed(cell.id)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with store.claim(cell.id) as mine:
        assert mine, "the claim of a killed runner is free at once"


def test_frames_are_tidy_and_wide(store):
    for cell in store.plan():
        run(store, cell)
    results = store.results()
    tidy, cells = frame(results), wide(results)
    assert len(cells) == 15
    assert len(tidy) == sum(len(r.readings) for r in results)
    assert {
        "cell",
        "condition",
        "model",
        "method",
        "rank",
        "alpha",
        "quantization",
        "double_quant",
        "target_modules",
        "learning_rate",
        "seed",
        "outcome",
        "total_parameters",
        "trainable_parameters",
        "trainable_percent",
        "adapter_bytes",
        "load_seconds",
        "train_seconds",
        "eval_seconds",
        "tokens_per_second",
        "train_peak_bytes",
        "eval_peak_bytes",
        "eval_loss",
        "perplexity",
        "bits_per_byte",
        "forgetting",
    } <= set(cells)
    full = cells[cells.method == "full"]
    assert full["rank"].isna().all(), "absent, not a sentinel"
    one = results[0]
    row = cells[cells.cell == one.cell.id].iloc[0]
    for reading in one.readings:
        assert row[reading.metric] == pytest.approx(reading.value)


def test_a_reading_is_a_finite_number():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            Reading(metric="eval_loss", value=value)


def test_stored_json_is_plain(store):
    cell = store.plan()[0]
    run(store, cell)
    plain = json.loads((store.cells_folder / cell.id / "result.json").read_text())
    assert plain["schema"] == 1
    assert plain["cell"]["fingerprints"]["model"]


def test_every_file_of_a_cell_is_readable_by_all(store):
    """safetensors writes for the owner alone."""
    cell = store.plan()[0]
    run(store, cell)
    files = [f for f in (store.cells_folder / cell.id).rglob("*") if f.is_file()]
    assert {f.suffix for f in files} >= {".safetensors", ".csv", ".json"}
    assert {f.stat().st_mode & 0o777 for f in files} == {0o644}


def test_readable_is_none_where_a_result_is_absent_or_damaged(store):
    cell = store.plan()[0]
    assert store.readable(cell.id) is None
    run(store, cell)
    assert store.readable(cell.id) == store.get(cell.id)
    (store.cells_folder / cell.id / "result.json").write_text("{")
    assert store.readable(cell.id) is None


def test_a_learning_rate_with_fewer_finished_seeds_or_a_broken_one_is_not_the_best():
    assert best_learning_rate({1e-3: RateRecord([1.0], 1), 1e-4: RateRecord([2.0, 2.1], 0)}) == 1e-4
    assert best_learning_rate({1e-3: RateRecord([1.0], 1), 1e-4: RateRecord([2.0], 0)}) == 1e-4
    assert best_learning_rate({1e-3: RateRecord([1.0], 0), 1e-4: RateRecord([1.0], 0)}) == 1e-4
