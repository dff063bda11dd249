"""A disk that is full, read-only, or will be full: one sentence, and nothing of what was there is lost."""

import errno
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lorabench.commands.main import main
from lorabench.config.grid import expand
from lorabench.errors import StoreError
from lorabench.record.result import CellResult, Fault
from lorabench.record.store import Store
from lorabench.runner.disk import disk_fault, disk_need
from lorabench.runner.run import run
from lorabench.runner.worker_pool import WorkerPool
from tests.runner.conftest import study_of
from tests.runner.test_kills import STUDY


@pytest.fixture
def small(tmp_path):
    """A file system of 1 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_a_sentence_and_the_next_run_goes_on(open_odd, begun, small):
    """Each cell of seed 111 writes 300 kB: the disk is full in the middle of the fourth."""
    study, out = study_of(111, 112, 113, 114, 115), small / "out"
    with pytest.raises(StoreError) as caught:
        run(study, out, pool=WorkerPool(open_odd))
    assert str(caught.value) == (
        f"{out} cannot be written (No space left on device); free some space or fix its permissions, then run again"
    )
    assert begun() == [111, 112, 113, 114], "not every cell in turn"
    store = Store(out)
    assert [r.outcome for r in store.results()][:3] == ["finished"] * 3
    remount(small, "size=8m")
    plan = run(study, out, pool=WorkerPool(open_odd))
    assert [store.get(c.id).outcome for c in plan.cells] == ["finished"] * 5
    assert begun() == [111, 112, 113, 114, 114, 115]
    assert sorted(p.name for p in store.cells_folder.iterdir()) == sorted(c.id for c in plan.cells)


@pytest.mark.slow
def test_a_folder_that_may_only_be_read_is_read_and_not_run_into(small, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(STUDY.replace("SEEDS", "0"))
    command = ["run", str(tmp_path / "study.yaml"), "--out", str(small / "out"), "--executor", "synthetic"]
    remount(small, "size=20m")
    assert main(command) == 0
    remount(small, "ro")
    capsys.readouterr()
    for args in (["status"], ["status", "--cells"], ["table"], ["report", "-o", str(tmp_path / "r.html")]):
        assert main([args[0], str(small / "out"), *args[1:]]) == 0
        out, err = capsys.readouterr()
        assert err == "" and out
    for args in (command, [*command, "--set", "seeds=[0, 1]"], ["report", str(small / "out")]):
        assert main(args) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot be written (Read-only file system)" in line


@pytest.mark.parametrize(
    "message",
    [
        "[Errno 28] No space left on device",
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0: file write failed",
        "[Errno 122] Disk quota exceeded: 'curve.csv'",
    ],
)
def test_what_libraries_say_of_a_full_disk_is_understood(message):
    cell = expand(study_of(0))[0]
    for outcome, field in (("failed", {"error": Fault(kind="X", message=message)}), ("finished", {"faults": ()})):
        fault = disk_fault(CellResult(cell=cell, outcome=outcome, started_at="2026-01-01", **field))
        assert (fault is not None) == (outcome == "failed")
        assert fault is None or fault.errno in (errno.ENOSPC, errno.EDQUOT)


def test_a_study_that_will_fill_the_disk_is_told_before_it_runs(open_odd, begun, tmp_path, monkeypatch):
    cells = expand(study_of(0, 1, 2))
    sizes = {cells[0].id: {"weights": 30 * 10**9, "files": 10**9, "checkpoint": 5 * 10**9}}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 90 * 10**9}))
    need = disk_need(cells, sizes, 2, tmp_path / "not" / "there")
    assert (need.lasting_bytes, need.passing_bytes, need.is_short) == (93 * 10**9, 10 * 10**9, True)
    assert need.warning().startswith(
        f"the disk of {tmp_path}/not/there will be full before the study is done: about 93.0 GB for 3 cells, and up to"
        " 10.0 GB of checkpoints meanwhile; 90.0 GB are free; free some space,"
    )
    best = [c.model_copy(update={"save": c.save.model_copy(update={"adapter": "best"})}) for c in cells]
    assert disk_need(best, {best[0].id: sizes[cells[0].id]}, 1, tmp_path).lasting_bytes == 33 * 10**9


@pytest.mark.slow
def test_the_predicted_disk_of_a_study_is_what_it_takes(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(SIZES)
    command = ["run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]
    assert main([*command, "--dry-run"]) == 0
    (text,) = re.findall(r"disk: about ([\d.]+ MB) for 6 cells, and up to", capsys.readouterr().out)
    assert main(command) == 0
    files = [p for p in (tmp_path / "out" / "cells").rglob("*") if p.is_file()]
    assert float(text.split()[0]) * 1e6 == pytest.approx(sum(p.stat().st_size for p in files), rel=0.05)


SIZES = """
schema: 1
name: sizes
model: lorabench/tiny-1m
task: python-docs
method: {name: lora, rank: 4}
training: {steps: 4, batch_size: 2, sequence_length: 48}
evaluation: {lm_eval: [], max_sequences: 64, forgetting: none}
grid:
  method:
    - {name: lora, rank: 4}
    - {name: lora, rank: 16}
    - {name: pissa, rank: 8}
    - {name: dora, rank: 8}
    - {name: full}
    - {name: base}
save: {full: all}
"""
