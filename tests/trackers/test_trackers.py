"""What a tracker's own files say after an export or a logged run is what the study's results say."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lorabench.api import run
from lorabench.record.store import Store
from tests.commands.shell import ROOT

STUDY = """
schema: 1
name: three
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 4}
training: {steps: 5, learning_rate: 3.0e-3}
evaluation: {lm_eval: [python-docs-cloze]}
grid: {method.rank: [2, 4]}
seeds: [0]
include: [{training.learning_rate: 30.0, method.rank: 8}]
"""
MAIN = "import sys; from lorabench.commands.main import main; sys.exit(main())"
LOGGED = "from lorabench import plugins; plugins.register('executors', 'synthetic', 'tests.synthetic'); " + MAIN


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is an extra")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two cells that finished and one that diverged, of known readings."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "three.yaml").write_text(STUDY.lstrip(), encoding="utf-8")
    return run(folder / "three.yaml", folder / "out", executor="synthetic").store


def shell(*arguments: object, code: str = MAIN, cwd: Path = ROOT, **environment: object) -> str:
    """What a command that must not fail printed; the tracker is told to keep to a folder."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)} | {k: str(v) for k, v in environment.items()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def readings(store: Store) -> dict[str, dict[str, float]]:
    """By cell, as result.json has them."""
    found = {}
    for path in store.cells_folder.glob("*/result.json"):
        plain = json.loads(path.read_text())
        values = {r["metric"]: r["value"] for r in plain["readings"]}
        values |= {f"{r['metric']}_stderr": r["stderr"] for r in plain["readings"] if "stderr" in r}
        found[path.parent.name] = values
    assert len(found) == 3
    return found


def losses(store: Store, cell: str) -> dict[int, float]:
    """Of a cell's curve.csv, by step."""
    lines = (store.cells_folder / cell / "curve.csv").read_text().splitlines()[1:]
    return {int(line.split(",")[0]): float(line.split(",")[1]) for line in lines}


@needs("trackio")
@pytest.mark.slow
def test_trackio_holds_settings_curves_and_readings_and_is_told_once(store: Store, tmp_path: Path) -> None:
    assert "3 cells exported" in shell("export", "trackio", store.folder, TRACKIO_DIR=tmp_path)
    check_trackio(tmp_path / "three.db", store)
    again = shell("export", "trackio", store.folder, TRACKIO_DIR=tmp_path)
    assert "0 cells exported, 3 were there already" in again
    check_trackio(tmp_path / "three.db", store)


def check_trackio(database: Path, store: Store) -> None:
    with sqlite3.connect(database) as db:
        rows = db.execute("select run_name, step, metrics from metrics").fetchall()
        configs = dict(db.execute("select run_name, config from configs").fetchall())
    assert len(configs) == 3
    by_cell: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for name, step, metrics in rows:
        by_cell.setdefault(json.loads(configs[name])["cell"], []).append((step, json.loads(metrics)))
    for cell, expected in readings(store).items():
        last = next(m for _, m in by_cell[cell] if "outcome" in m)
        outcome = store.find(cell).outcome
        assert last == pytest.approx(expected | {"outcome": outcome} | {k: last[k] for k in last if k == "error"})
        assert (outcome == "diverged") == ("error" in last)
        steps = {s: m["train/loss"] for s, m in by_cell[cell] if "train/loss" in m}
        assert steps == pytest.approx(losses(store, cell))
    config = json.loads(configs[next(n for n in configs if n.startswith("LoRA r=2"))])
    assert (config["method.rank"], config["training.steps"], config["seed"], config["study"]) == (2, 5, 0, "three")


@needs("trackio")
@pytest.mark.slow
def test_a_logged_run_is_in_trackio_as_an_exported_one(tmp_path: Path) -> None:
    (tmp_path / "three.yaml").write_text(STUDY.lstrip(), encoding="utf-8")
    out, tracked = tmp_path / "out", tmp_path / "trackio"
    arguments = ("run", tmp_path / "three.yaml", "--out", out, "--executor", "synthetic", "--workers", 2)
    said = shell(*arguments, "--log", "trackio", code=LOGGED, TRACKIO_DIR=tracked)
    assert "logged: trackio's project three" in said
    check_trackio(tracked / "three.db", Store.open(out))


@needs("mlflow")
@pytest.mark.slow
def test_mlflow_holds_settings_curves_and_readings_and_is_told_once(store: Store, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert "3 cells exported" in shell("export", "mlflow", store.folder, MLFLOW_TRACKING_URI=uri)
    assert "0 cells exported, 3 were there" in shell("export", "mlflow", store.folder, MLFLOW_TRACKING_URI=uri)
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        cells = dict(db.execute("select run_uuid, value from tags where key = 'lorabench.cell'").fetchall())
        status = dict(db.execute("select run_uuid, status from runs").fetchall())
        assert len(cells) == len(status) == 3
        for run_id, cell in cells.items():
            steps = db.execute(
                "select step, value from metrics where run_uuid = ? and key = 'train/loss'", (run_id,)
            ).fetchall()
            assert dict(steps) == pytest.approx(losses(store, cell))
            final = dict(db.execute("select key, value from latest_metrics where run_uuid = ?", (run_id,)).fetchall())
            assert {k: v for k, v in final.items() if not k.startswith("train/")} == pytest.approx(
                readings(store)[cell]
            )
            assert (status[run_id] == "FINISHED") == (store.find(cell).outcome == "finished")
            rank = db.execute("select value from params where run_uuid = ? and key = 'method.rank'", (run_id,))
            assert rank.fetchone() == (str(store.find(cell).cell.method.rank),)


@needs("wandb")
@pytest.mark.slow
def test_wandb_holds_settings_curves_and_readings_offline_and_is_told_once(store: Store, tmp_path: Path) -> None:
    assert "3 cells exported" in shell("export", "wandb", store.folder, WANDB_DIR=tmp_path)
    assert "0 cells exported, 3 were there" in shell("export", "wandb", store.folder, WANDB_DIR=tmp_path)
    files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 3
    for file in files:
        cell = file.stem.removeprefix("run-")
        history: dict[int, float] = {}
        summary: dict[str, object] = {}
        config: dict[str, object] = {}
        for record in wandb_records(file):
            if record.HasField("history"):
                items = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
                history[items["_step"]] = items["train/loss"]
            for item in record.summary.update:
                summary[item.key or item.nested_key[0]] = json.loads(item.value_json)
            for item in (*record.run.config.update, *record.config.update):
                config[item.key or item.nested_key[0]] = json.loads(item.value_json)
        assert history == pytest.approx(losses(store, cell))
        result = store.find(cell)
        assert summary["outcome"] == result.outcome
        assert config["method.rank"] == result.cell.method.rank
        expected = readings(store)[cell]
        assert {k: summary[k] for k in expected} == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=needs(n)) for n in ("trackio", "wandb")])
def test_a_folder_that_cannot_be_written_is_a_sentence_and_no_other_folder_is_taken(
    name: str, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    variable = f"{name.upper()}_DIR"
    done = exported(name, store, **{variable: tmp_path / "file" / "sub"})
    assert done.returncode == 2 and done.stdout == ""
    assert f"cannot be written (Not a directory); name another folder in {variable}" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=needs(n)) for n in ("trackio", "wandb")])
def test_a_disk_that_is_full_is_a_sentence_and_the_next_export_is_whole(
    name: str, store: Store, tmp_path: Path
) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        done = exported(name, store, **{f"{name.upper()}_DIR": tmp_path})
        assert done.returncode == 2 and "exported" not in done.stdout
        assert f"{name} could not take the runs" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=20m", tmp_path], check=True)
        assert exported(name, store, **{f"{name.upper()}_DIR": tmp_path}).returncode == 0
        assert "0 cells exported, 3 were there" in exported(name, store, **{f"{name.upper()}_DIR": tmp_path}).stdout
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def exported(name: str, store: Store, **environment: object) -> subprocess.CompletedProcess[str]:
    """An export in a process of its own, of which no traceback may come."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "export", name, str(store.folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)} | {k: str(v) for k, v in environment.items()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def wandb_records(path: Path):
    """Records of wandb's log: LevelDB's framing in blocks of 32 KiB (checksum, length, type), a protobuf each."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
