"""A record that was cut, changed or lost a file is named, left out and run again, never read as if it were whole."""

import json
import os
import shutil
import warnings

import pytest

import lorabench as lb
from lorabench.commands.main import main
from lorabench.config import expand, load_study
from lorabench.errors import DamagedRecordError, StoreError
from lorabench.record.archive import opened, pack
from lorabench.record.set_aside import put_back, set_aside
from lorabench.record.store import Store
from tests import synthetic

STUDY = """
schema: 1
name: small
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 2}
training: {steps: 3}
analysis: {spectra: values}
grid: {method.rank: [2, 4]}
seeds: [0, 1]
"""
BESIDE = ("curve.csv", "items.safetensors", "spectra.safetensors")


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    return load_study(tmp_path / "study.yaml")


@pytest.fixture
def store(tmp_path, study):
    made = Store(tmp_path / "out")
    made.save_plan(study, expand(study))
    worker = synthetic.open_worker()
    for cell in made.plan():
        made.put(worker.run(cell, made.partial(cell.id), lambda event: None))
    return made


def first(store):
    return store.cells_folder / store.plan()[0].id


def run(tmp_path):
    return main(["run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--executor", "synthetic"])


@pytest.mark.parametrize("name", ["result.json", *BESIDE])
def test_a_file_cut_at_any_byte_is_a_damaged_record(store, name):
    cell, file = store.plan()[0].id, first(store) / name
    store.get(cell, contents=True)
    whole = file.read_bytes()
    for length in reversed(range(len(whole))):
        os.truncate(file, length)
        with pytest.raises(DamagedRecordError) as caught:
            store.get(cell)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    file.write_bytes(whole)
    assert store.get(cell, contents=True).outcome == "finished"


@pytest.mark.parametrize("name", ["result.json", *BESIDE])
def test_a_changed_byte_is_a_damaged_record(store, name):
    cell, file = store.plan()[0].id, first(store) / name
    whole = file.read_bytes()
    with file.open("r+b", buffering=0) as stream:
        for at in range(0, len(whole), 7):
            os.pwrite(stream.fileno(), bytes([whole[at] ^ 1]), at)
            assert store.readable(cell) is None, at
            os.pwrite(stream.fileno(), whole[at : at + 1], at)
    assert store.readable(cell, contents=True) is not None


def test_a_changed_byte_with_an_old_date_is_seen_where_contents_are_read(store):
    file = first(store) / "items.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(file, ns=(0, 0))
    assert first(store).name not in {r.cell.id for r in store.results()}
    assert "items.safetensors" in store.unreadable()[0]


@pytest.mark.parametrize("name", ["result.json", *BESIDE])
def test_a_file_that_vanished_is_a_damaged_record(store, name):
    (first(store) / name).unlink()
    with pytest.raises(DamagedRecordError, match="it is gone"):
        store.get(store.plan()[0].id)


def test_weights_may_be_taken_away_as_a_whole_but_not_in_part(store):
    cell = store.plan()[0]
    folder = store.partial(cell.id)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / "adapter").mkdir(parents=True, exist_ok=True)
        (folder / "adapter" / name).write_text("weights")
    store.put(store.get(cell.id))
    assert store.get(cell.id, contents=True) is not None
    (first(store) / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(DamagedRecordError, match="it is gone"):
        store.get(cell.id)
    shutil.rmtree(first(store) / "adapter")
    assert store.get(cell.id, contents=True) is not None


def test_a_record_of_before_there_were_checksums_is_read_as_it_was(store):
    before = store.results()
    for cell in store.plan():
        file = store.cells_folder / cell.id / "result.json"
        plain = json.loads(file.read_text())
        assert plain.pop("checksum") and plain.pop("files")
        file.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")
    assert Store(store.folder).results() == before
    assert Store(store.folder).unreadable() == ()


def test_the_log_is_no_part_of_a_record(store):
    (first(store) / "log.txt").write_text("what a library said")
    assert store.get(store.plan()[0].id, contents=True) is not None


@pytest.mark.parametrize("harm", ["result.json", "curve.csv"])
def test_reading_commands_name_a_damaged_record_and_leave_it_out(store, tmp_path, capsys, harm):
    victim = first(store)
    (victim / harm).write_bytes((victim / harm).read_bytes()[:-1])
    before = sorted(p.name for p in store.cells_folder.iterdir())
    for command, code in ((["status"], 0), (["table", "--format", "csv"], 1), (["report"], 1)):
        assert main([command[0], str(store.folder), *command[1:]]) == code
        out, err = capsys.readouterr()
        assert str(victim / harm) in out + err
        assert "is damaged" in out + err or "cannot be read" in out + err
    assert main(["status", str(store.folder)]) == 0
    assert "3 finished, 1 damaged" in capsys.readouterr().out
    with pytest.warns(UserWarning, match=f"left out: .*{victim.name}"):
        assert len(lb.open_results(store.folder).results) == 3
    with pytest.warns(UserWarning, match=f"left out: .*{victim.name}"):
        assert len(lb.open_results(store.folder).wide()) == 3
    assert sorted(p.name for p in store.cells_folder.iterdir()) == before, "reading changes nothing"


@pytest.mark.parametrize(("name", "harm"), [("result.json", "cut"), ("items.safetensors", "gone")])
def test_a_run_sets_a_damaged_record_aside_and_runs_the_cell_again(store, tmp_path, capsys, name, harm):
    before = store.results()
    victim = first(store)
    if harm == "cut":
        (victim / name).write_bytes((victim / name).read_bytes()[:-1])
    else:
        (victim / name).unlink()
    assert run(tmp_path) == 0
    told = capsys.readouterr().out
    assert f"the record is set aside as cells/{victim.name}.damaged, and the cell is run again" in told
    assert "4 cells, 3 done, 1 to run" in told
    assert (store.cells_folder / f"{victim.name}.damaged").is_dir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lb.open_results(store.folder).results == before
    assert run(tmp_path) == 0
    assert "4 done, 0 to run" in (again := capsys.readouterr().out) and "set aside" not in again
    assert len([p for p in store.cells_folder.iterdir() if "." not in p.name]) == 4


def test_two_damaged_records_of_one_cell_are_both_kept(store):
    cell = store.plan()[0]
    for expected in (f"{cell.id}.damaged", f"{cell.id}.damaged-2"):
        first(store).mkdir(exist_ok=True)
        (first(store) / "result.json").write_text("{")
        assert set_aside(store, cell.id).name == expected
    assert set_aside(store, cell.id) is None


def test_a_record_that_a_killed_run_was_replacing_comes_back(store):
    one, two = store.plan()[:2]
    before = store.results()
    (store.cells_folder / one.id).rename(store.cells_folder / f"{one.id}.old")
    shutil.copytree(store.cells_folder / two.id, store.cells_folder / f"{two.id}.old")
    assert put_back(store)
    assert store.results() == before
    assert not list(store.cells_folder.glob("*.old"))
    assert not put_back(store)


def test_an_archive_refuses_a_damaged_record_and_holds_no_checksum_of_files_that_it_leaves(store, tmp_path):
    pack(store, tmp_path / "kept")
    with opened(tmp_path / "kept") as again:
        assert again.results() == store.results()
    (first(store) / "result.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        pack(store, tmp_path / "kept")
