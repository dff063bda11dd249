"""A study that is run in packs gives the results of one that is not: cells, identities, files; the diverging one
included."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

import lorabench as lb
from lorabench.commands.main import main
from lorabench.config.packs import pack_key
from lorabench.engine.data import Example
from lorabench.record.memory_prediction import MemoryPrediction
from lorabench.record.merged import merged_of
from lorabench.record.result_file import read_result
from lorabench.runner.packs import AUTO, TrainedPacks, fitting
from lorabench.runner.waiting_cells import WaitingCells
from tests.engine.conftest import cells_of

STUDY = """
schema: 1
name: packed
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 4, alpha: 16}
training: {steps: 8, batch_size: 2, sequence_length: 48, learning_rate: 3e-3, schedule: constant, warmup: 0}
grid: {method.rank: [2, 8]}
include: [{method: {name: dora, rank: 4}}, {method: full}, {method.dropout: 0.1}, {training.learning_rate: 1e30}]
seeds: [0, 1]
reference: {method.rank: 2}
evaluation: {lm_eval: [], max_sequences: 8}
"""
CLOCKS = r"_seconds$|^tokens_per_second$|^pack_cells$"  # what a pack changes, and what differs from run to run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    (folder / "study.yaml").write_text(STUDY)
    return [lb.run(folder / "study.yaml", folder / f"pack{n}", pack=n) for n in (1, AUTO)]


def cells(results):
    return {r.cell.id: r for r in results.results}


@pytest.mark.slow
def test_cells_and_outcomes_are_the_same(runs):
    alone, packed = map(cells, runs)
    assert alone.keys() == packed.keys() and len(alone) == 12
    assert {i: r.outcome for i, r in alone.items()} == {i: r.outcome for i, r in packed.items()}
    assert sorted(r.outcome for r in packed.values()) == ["diverged"] * 2 + ["finished"] * 10
    for i, r in packed.items():
        assert (r.error is None) == (alone[i].error is None)
        assert r.error is None or r.error.message == alone[i].error.message


@pytest.mark.slow
def test_readings_are_the_same_to_rounding_and_say_what_was_packed(runs):
    alone, packed = map(cells, runs)
    for i, r in packed.items():
        own = {m.metric: m.value for m in r.readings if not re.search(CLOCKS, m.metric)}
        theirs = {m.metric: m.value for m in alone[i].readings if not re.search(CLOCKS, m.metric)}
        assert own == pytest.approx(theirs, rel=1e-3)
        assert (r.value("pack_cells") is None) == (r.cell.method.name == "full" or r.outcome == "diverged")
        assert r.outcome == "diverged" or r.value("tokens_per_second") > 0
        assert alone[i].value("pack_seconds") is None


@pytest.mark.slow
def test_files_are_the_same(runs):
    alone, packed = (Path(r.store.folder) / "cells" for r in runs)
    for cell in alone.iterdir():
        twin = packed / cell.name
        assert {p.relative_to(cell) for p in cell.rglob("*")} == {p.relative_to(twin) for p in twin.rglob("*")}
        ours, theirs = (
            (pd.read_csv(c / "curve.csv").drop(columns="seconds") for c in (twin, cell))
            if (cell / "curve.csv").exists()
            else (None, None)
        )
        if ours is not None:
            pd.testing.assert_frame_equal(ours, theirs, rtol=1e-3)
        if (cell / "adapter").exists():
            a, b = (load_file(c / "adapter" / "adapter_model.safetensors") for c in (twin, cell))
            assert a.keys() == b.keys()
            assert all(abs(a[n] - b[n]).max() <= 1e-2 * abs(b[n]).max() for n in a)
            assert json.loads((twin / "adapter" / "adapter_config.json").read_text()).keys()


@pytest.mark.slow
def test_a_directory_of_packs_and_one_of_cells_alone_become_one_with_every_checksum_looked_at(runs, tmp_path):
    """Two machines that had a study each by half, and some cells of it both."""
    alone, packed = (Path(r.store.folder) for r in runs)
    ids = sorted(cells(runs[0]))
    for source, kept in ((alone, ids[:8]), (packed, ids[4:])):
        shutil.copytree(source, tmp_path / source.name)
        for cell in set(ids) - set(kept):
            shutil.rmtree(tmp_path / source.name / "cells" / cell)
    told = []
    joined = lb.merge([tmp_path / alone.name, tmp_path / packed.name], tmp_path / "joined", told=told.append)
    taken, twice = cells(joined), merged_of(tmp_path / "joined").twice
    for cell in ids:
        whose = cells(runs[0 if cell in ids[:8] else 1])[cell]
        assert taken[cell] == whose
        folder = tmp_path / "joined" / "cells" / cell
        assert read_result(folder / "result.json", contents=True, weights=True) == whose
        assert (folder / "adapter").exists() == (whose.cell.method.name != "full" and whose.outcome == "finished")
    both = [c for c in ids[4:8] if cells(runs[0])[c].outcome == "finished"]
    assert sorted(t.cell for t in twice) == both and len(both) >= 2
    for t in twice:
        values = [cells(r)[t.cell].value(t.metric) for r in runs]
        assert [t.kept, t.other] == values and t.difference == abs(values[0] - values[1])
    most = max(t.difference for t in twice)
    assert any(f"{len(both)} cells finished in two directories" in sentence for sentence in told)
    assert most == 0 or any(f"up to {most:.2g} between them" in sentence for sentence in told)


@pytest.mark.slow
def test_damaged_weights_of_a_pack_are_named_and_the_lone_record_is_taken(runs, tmp_path):
    alone, packed = (Path(r.store.folder) for r in runs)
    shutil.copytree(packed, tmp_path / "packed")
    victim = next(c for c, r in sorted(cells(runs[1]).items()) if r.value("pack_cells"))
    weights = tmp_path / "packed" / "cells" / victim / "adapter" / "adapter_model.safetensors"
    written, state = bytearray(weights.read_bytes()), weights.stat()
    written[-1] ^= 1
    weights.write_bytes(written)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    told = []
    joined = lb.merge([tmp_path / "packed", alone], tmp_path / "joined", told=told.append)
    (left_out,) = [sentence for sentence in told if sentence.startswith("left out: ")]
    assert str(weights) in left_out and "its contents are not those that were written" in left_out
    assert cells(joined)[victim] == cells(runs[0])[victim]
    assert all(cells(joined)[c] == r for c, r in cells(runs[1]).items() if c != victim and r.outcome == "finished")


def test_cells_are_mates_where_they_differ_in_adapter_rate_or_seed_alone():
    first, *others = (
        cells_of(*s)[0]
        for s in (
            (),
            ("method.rank=64", "method.dropout=0.1", "method.target_modules=mlp"),
            ("training.learning_rate=1e-3", "training.schedule=linear", "training.max_grad_norm=2"),
            ("seeds=[5]",),
            ("method.name=rslora",),
            ("method.name=dora",),
            ("method.name=pissa",),
            ("training.batch_size=2",),
            ("training.loss=chunked",),
            ("training.sequence_length=32",),
            ("quantization=nf4",),
            ("training.optimizer=adamw-8bit",),
            ("model=lorabench/tiny-1m",),
        )
    )
    waiting = WaitingCells(others)
    assert [others.index(c) for c in waiting.take_mates(first, AUTO, 1)] == [0, 1, 2, 3, 4, 5]
    assert len(waiting) == 6
    assert len(WaitingCells(others).take_mates(first, 3, 1)) == 2
    assert len(WaitingCells(others).take_mates(first, AUTO, 2)) == 3  # seven cells for two workers: four and three
    assert WaitingCells(others).take_mates(first, 1, 1) == []
    assert pack_key(others[10]) is None
    assert pack_key(cells_of("method.name=pissa", "model.dtype=bfloat16")[0]) is None, "PEFT rounds its base"


def test_a_pack_holds_the_base_once_and_each_cell_beside_it():
    alone = MemoryPrediction(50, 50, 60, 200, {"weights": 40, "activations": 10})
    assert fitting(alone, 16) == 8  # (200 - 40) / (60 - 40)
    assert fitting(alone, 4) == 4
    assert fitting(None, 8) == 8
    assert fitting(MemoryPrediction(50, 50, 60, 10, {"weights": 40}), 8) == 1


def test_on_a_cpu_no_pack_is_larger_than_what_gains():
    from lorabench.engine.pack import useful_cells

    def sizes(model, *settings):
        shared = (f"model=lorabench/{model}", "training.sequence_length=128", "training.steps=100", *settings)
        return [useful_cells(cells_of(f"training.batch_size={n}", *shared)[0]) for n in (1, 2, 4, 16)]

    assert sizes("tiny-4m") == [8, 1, 1, 1]
    assert sizes("tiny-1m") == [8, 4, 1, 1], "the smaller its layers, the more of a pass are its operators"
    assert sizes("tiny-4m", "quantization=nf4") == [32, 16, 1, 1], "dequantized once for all"
    assert sizes("tiny-4m", "training.steps=20") == [1, 1, 1, 1], "each takes six steps alone, which saves nothing"


def test_rows_are_counted_as_they_are_not_as_they_may_be():
    from lorabench.engine.pack import useful_cells

    long, short = (cells_of(f"training.sequence_length={n}", "training.steps=100")[0] for n in (512, 32))
    assert useful_cells(short) > 1 == useful_cells(long)


def test_a_pack_gains_by_the_rows_of_its_cells_with_dropout_too(tmp_path):
    """Which are padded to the longest of all: a row in twenty is long here."""
    from lorabench.engine.pack import useful_cells

    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("".join(f"a{i}||b{' long' * 90 if i % 20 == 0 else ''}\n" for i in range(400)))
    test.write_text("c||d\ne||f\n")
    task = f"{{name: instruct, train: {train}, eval: {test}, separator: '||', columns: [q, a]"
    shared = (f"task={task}, prompt: '{{q}}', response: '{{a}}'}}", "training.sequence_length=256")
    more = ("training.steps=100", "training.batch_size=8")
    cell, mate = (cells_of(*shared, *more, f"method.dropout={d}")[0] for d in (0.0, 0.1))
    assert useful_cells(cell) > 1 == useful_cells(mate)
    trained = TrainedPacks("lorabench.engine").training(
        cell, [mate], lambda c: None, lambda e: None, tmp_path / "packs", gaining=True
    )
    assert trained is None and not (tmp_path / "packs").exists()


def test_rows_are_evaluated_together_where_a_pass_is_short_and_memory_allows_it():
    from lorabench.engine.pack_gain import rows_together

    def rows(length, *settings, most=16, count=256):
        examples = [Example(np.zeros(length, np.int32), np.ones(length, bool), 0)] * count
        cell = cells_of("model=lorabench/tiny-4m", *settings)[0]
        return rows_together(cell, torch.device("cpu"), examples, most, 8)

    nf4 = ("quantization=nf4", "evaluation.batch_size=4")
    assert rows(128, "evaluation.batch_size=16") == 0, "products alone take the time"
    assert rows(16, *nf4) == 16 and rows(16, *nf4, most=6) == 6 and rows(16, *nf4, most=0) == 0
    assert rows(16, *nf4, count=4) == 0, "one pass alone is what each takes to time itself"
    assert rows(16, "quantization=int8", "evaluation.batch_size=4") == 0, "its outliers are those of all rows"


@pytest.mark.parametrize("word", ["none", "0", "2.5"])
def test_an_odd_size_of_a_pack_is_told(word, capsys):
    with pytest.raises(SystemExit) as end:
        main(["run", "study.yaml", "--pack", word])
    assert end.value.code == 2
    assert f"'{word}' is no size of a pack; allowed: auto, off, or a whole number" in capsys.readouterr().err
