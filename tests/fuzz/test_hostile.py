"""What somebody else's files try: to write elsewhere, to run code, to send something. None of it happens."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lorabench.api import run
from lorabench.commands.main import main
from lorabench.config.load import load_study
from lorabench.config.paths import model_directory
from lorabench.errors import LorabenchError, StudyError, one_line
from lorabench.record.store import Store
from lorabench.runner.plan import make_plan
from tests import synthetic
from tests.commands.shell import ROOT, shell
from tests.fuzz.guard import guarded
from tests.fuzz.samples import CODE, OWNED
from tests.report.stores import STUDY, filled

SMALL = STUDY.replace("[1, 4, 16]", "[4]").replace("[none, nf4]", "[none]").replace("[0, 1]", "[0]")


def study_file(folder: Path, text: str) -> Path:
    path = folder / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["../../x", "..", ".", "/tmp/x", "a/b", "a\\b", "~", "-rf", "a\nb", "a\0b"])
def test_a_study_s_name_is_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="name is"):
        load_study(study_file(tmp_path, SMALL.replace("name: small", f"name: {json.dumps(name)}")))


@pytest.mark.parametrize(
    "tag",
    [
        *(
            "!!python/object/apply:os.system [touch owned]",
            "!!python/object/new:os.system [touch owned]",
            "!!python/name:os.x",
        ),
        *("!!python/module:antigravity", "!!js/function 'x'", "!!set {a, b}", "!x y", "!!float x"),
    ],
)
def test_a_yaml_tag_makes_nothing(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = study_file(tmp_path, SMALL.replace("question: What do rank and 4-bit weights cost?", f"question: {tag}"))
    with guarded(tmp_path) as seen, pytest.raises(StudyError) as e:
        load_study(path)
    assert str(e.value).startswith(f"{path}:")
    assert not seen and not (tmp_path / OWNED).exists()


def test_names_that_point_out_of_a_store_are_not_followed(tmp_path: Path) -> None:
    """A folder that somebody shares may hold symbolic links where cells are written, locked and taken away."""
    store = filled(tmp_path, SMALL)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "letter.txt").write_text("dear", encoding="utf-8")
    os.chmod(precious / "letter.txt", 0o600)
    for cell in store.plan():
        shutil.rmtree(store.cells_folder / cell.id)
        (store.cells_folder / f"{cell.id}.partial").symlink_to(precious)
        (store.cells_folder / f"{cell.id}.old").symlink_to(precious)
        (store.claims_folder / f"{cell.id}.lock").symlink_to(precious / "letter.txt")
    with guarded(store.folder) as seen:
        try:
            done = run(tmp_path / "study-in.yaml", store.folder, executor="synthetic")
        except LorabenchError:
            done = None  # a lock that is a link is refused by filelock
    assert not [line for line in seen if "precious" in line]
    assert [p.name for p in precious.iterdir()] == ["letter.txt"]
    assert (precious / "letter.txt").read_text() == "dear"
    assert (precious / "letter.txt").stat().st_mode & 0o777 == 0o600
    if done is not None:
        assert len(done.results) == len(store.plan())


@pytest.mark.parametrize("name", ["cells", "claims", "base", "packs"])
def test_a_folder_that_leads_out_of_a_store_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    store = filled(tmp_path, SMALL)
    shutil.rmtree(store.cells_folder / store.plan()[0].id)
    if (store.folder / name).exists():
        (store.folder / name).rename(tmp_path / "elsewhere")
    else:
        (tmp_path / "elsewhere").mkdir()
    (store.folder / name).symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("elsewhere/**/*"))
    with pytest.raises(LorabenchError, match="is a symbolic link, through which nothing is written"):
        run(tmp_path / "study-in.yaml", store.folder, executor="synthetic")
    assert sorted(tmp_path.rglob("elsewhere/**/*")) == before
    (tmp_path / "whole").symlink_to(store.folder)
    (store.folder / name).unlink()
    (tmp_path / "elsewhere").rename(store.folder / name)
    assert len(run(tmp_path / "study-in.yaml", tmp_path / "whole", executor="synthetic").results) == len(store.plan())


def test_links_in_a_cell_s_folder_leave_what_they_point_to_alone(tmp_path: Path) -> None:
    store = filled(tmp_path, SMALL)
    cell = store.plan()[0]
    letter = tmp_path / "letter.txt"
    letter.write_text("dear", encoding="utf-8")
    letter.chmod(0o600)
    partial = store.emptied(cell.id)
    result = synthetic.open_worker().run(cell, partial, lambda event: None)
    (partial / "model.bin").symlink_to(letter)
    store.put(result)
    assert letter.stat().st_mode & 0o777 == 0o600
    (store.cells_folder / cell.id).rename(store.partial(cell.id))
    store.emptied(cell.id)
    assert letter.read_text() == "dear"


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A model whose configuration asks for code of its own."""
    shipped = model_directory("lorabench/tiny-300k")
    assert shipped is not None
    folder = tmp_path / "model"
    shutil.copytree(shipped, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "auto_map": {"AutoConfig": "code.Owned", "AutoModelForCausalLM": "code.Owned", "AutoTokenizer": "code.Owned"}
    }
    config["model_type"] = "owned"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(CODE)
    return folder


@pytest.mark.parametrize("command", ["parameters", pytest.param("estimate", marks=pytest.mark.slow)])
def test_a_model_s_own_code_is_not_run_by_a_prediction(
    command: str, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {
        "parameters": ["--model", str(remote), "--rank", "4"],
        "estimate": ["--model", str(remote), "--gpu", "24GB"],
    }
    assert main([command, *words[command]]) == 2
    assert str(remote) in capsys.readouterr().err
    assert not list(tmp_path.rglob(OWNED))


@pytest.mark.slow
def test_a_model_s_own_code_is_not_run_by_a_run(remote: Path, tmp_path: Path) -> None:
    path = study_file(tmp_path, SMALL.replace("lorabench/tiny-300k", str(remote)))
    done = shell("run", str(path), "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob(OWNED)) and not (ROOT / OWNED).exists()


def test_nothing_is_sent_where_no_hub_name_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned, run, shown and exported with the network's calls watched: no name is looked up, nothing is connected."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    path = study_file(tmp_path, SMALL)
    with guarded(tmp_path) as seen:
        make_plan(load_study(path))
        out = run(path, "out", executor="synthetic").store.folder
        for command in (["status", str(out)], ["table", str(out)], ["report", str(out)], ["tasks"], ["models"]):
            assert main(command) == 0
    assert not [line for line in seen if line.startswith("socket.")]


def test_a_sentence_is_one_line_that_no_terminal_runs() -> None:
    assert str(LorabenchError("a\nb\x1b[2J\ud800\u202ec")) == "a\\nb\\x1b[2J\\ud800\\u202ec"
    assert one_line("naïve 東京 \u00a0×") == "naïve 東京 \u00a0×"


def test_a_store_s_cells_have_no_say_in_their_folders(tmp_path: Path) -> None:
    store = filled(tmp_path, SMALL)
    plan = json.loads((store.folder / "plan.json").read_text())
    for cell in plan["cells"]:
        cell["id"] = "../../x"
    (store.folder / "plan.json").write_text(json.dumps(plan))
    try:
        ids = {c.id for c in Store.open(store.folder).plan()}
    except LorabenchError:
        ids = set()
    assert all(i.isalnum() for i in ids)
