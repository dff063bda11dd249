"""What has changed between two runs in one folder is named, and a folder of another study is refused. Cells are
invented, files and ids real."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from lorabench.commands import main as cli
from lorabench.config.inputs import data_inputs, model_inputs
from lorabench.config.paths import model_directory
from lorabench.errors import StudyError
from lorabench.record.store import Store
from lorabench.runner.plan import make_plan
from lorabench.tasks import instruct
from tests.runner.conftest import study_of

STUDY = """
schema: 1
name: mine
question: What does rank cost?
model: lorabench/tiny-300k
task: {name: instruct, train: data/train.jsonl, eval: data/test.jsonl, prompt: "Q: {q} A: ", response: "{a}"}
training: {steps: 4, sequence_length: 64}
grid: {method.rank: [1, 4]}
seeds: [0, 1]
"""


def rows(number: int) -> str:
    return "".join(json.dumps({"q": f"what is {i}?", "a": str(7 * i)}) + "\n" for i in range(number))


@pytest.fixture
def ran(tmp_path, monkeypatch, capsys):
    """A folder with a study file and its data, run once into reports/mine."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/train.jsonl").write_text(rows(60))
    Path("data/test.jsonl").write_text(rows(20))
    Path("mine.yaml").write_text(STUDY.lstrip())
    assert run() == 0
    capsys.readouterr()
    return tmp_path


def run(*more: str) -> int:
    return cli.main(["run", "mine.yaml", "--executor", "synthetic", *more])


def notes(capsys, *more: str) -> list[str]:
    """The notes of a dry run on what has changed."""
    assert run("--dry-run", *more) == 0
    return [line.removeprefix("note: ") for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]


def test_nothing_is_said_of_a_study_that_is_as_it_was_or_only_grew(ran, capsys):
    assert notes(capsys) == []
    assert notes(capsys, "--set", "grid.method.rank=[1,4,8]", "--set", "seeds=[0,1,2]") == []


def test_a_changed_data_file_is_named_with_what_becomes_of_its_cells(ran, capsys):
    Path("data/train.jsonl").write_text(rows(61))
    (told,) = notes(capsys)
    assert told.startswith("data/train.jsonl has changed since this study was run (20")
    assert (
        "4 finished cells belong to the old file and stay in cells/, 4 cells are new" in told
        and "test.jsonl" not in told
    )


def test_status_tells_of_it_before_the_run_and_of_what_was_left_behind_after_it(ran, capsys):
    Path("data/test.jsonl").write_text(rows(21))
    assert cli.main(["status", "reports/mine"]) == 0
    out = capsys.readouterr().out
    assert "data/test.jsonl has changed since this study was run" in out and "the next run computes 4 cells anew" in out
    assert run() == 0 and "data/test.jsonl has changed" in capsys.readouterr().out
    assert cli.main(["status", "reports/mine"]) == 0
    out = capsys.readouterr().out
    assert (
        "4 further results in reports/mine/cells belong to earlier versions of this study" in out
        and "data/test.jsonl has changed" in out
    )
    assert "the next run computes" not in out


def test_a_changed_setting_is_named_with_both_values(ran, capsys):
    assert "training.steps 4 -> 8: 4 finished cells" in notes(capsys, "--set", "training.steps=8")[0]
    assert notes(capsys, "--set", "grid.method.rank=[2,8]")[0].startswith("method.rank 1, 4 -> 2, 8: 4 finished cells")


def test_two_changes_at_once_are_both_named_and_an_added_rank_is_not(ran, capsys):
    Path("data/train.jsonl").write_text(rows(61))
    (told,) = notes(capsys, "--set", "training.steps=9", "--set", "grid.method.rank=[1,4,16]")
    assert told.startswith("data/train.jsonl has changed and training.steps 4 -> 9") and "rank" not in told


def test_cells_that_are_asked_for_no_longer_are_counted(ran, capsys):
    assert notes(capsys, "--set", "grid.method.rank=[1]") == [
        "2 finished cells are no longer part of the study and stay in cells/; the table and the report show what the"
        " study asks for now"
    ]


def test_another_data_file_is_named_with_the_old_one_and_a_copy_is_no_change(ran, capsys):
    shutil.copy("data/test.jsonl", "data/copy.jsonl")
    assert notes(capsys, "--set", "task.eval=data/copy.jsonl") == []
    Path("data/other.jsonl").write_text(rows(22))
    assert notes(capsys, "--set", "task.eval=data/other.jsonl")[0].startswith(
        "task.eval data/test.jsonl -> data/other.jsonl (other data) since"
    )


def test_of_a_changed_model_the_kind_of_file_is_named(ran, capsys, monkeypatch):
    shutil.copytree(model_directory("lorabench/tiny-300k"), "model")
    assert run("--set", "model=model", "--out", "own") == 0
    capsys.readouterr()
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    from lorabench.config import fingerprint

    fingerprint.fingerprint_model.cache_clear()  # as a new process has it
    assert notes(capsys, "--set", "model=model", "--out", "own")[0].startswith(
        "the model model (config: config.json) has changed since"
    )
    assert notes(capsys, "--set", "model=lorabench/tiny-1m")[0].startswith(
        "model lorabench/tiny-300k -> lorabench/tiny-1m since"
    )


def test_lorabenchs_own_reading_is_told_from_a_changed_file(ran, capsys, monkeypatch):
    before = instruct.fingerprint
    monkeypatch.setattr(instruct, "fingerprint", lambda options: f"read in another way {before(options)}")
    assert notes(capsys)[0].startswith(
        "how lorabench reads the task instruct has changed while its files are the same since"
    )


def test_a_plan_without_a_record_of_its_inputs_loads_and_says_what_it_can(ran, capsys):
    plan = json.loads(Path("reports/mine/plan.json").read_text())
    del plan["inputs"]
    Path("reports/mine/plan.json").write_text(json.dumps(plan))
    assert Store("reports/mine").inputs() is None
    Path("data/train.jsonl").write_text(rows(61))
    assert notes(capsys)[0].startswith(
        "what the task instruct reads (data/train.jsonl, data/test.jsonl) has changed since this study was run (20"
    )


def test_every_file_that_counts_is_recorded(ran):
    cell = Store("reports/mine").plan()[0]
    assert [(i.field, Path(i.path).name) for i in data_inputs(cell)] == [
        ("task.train", "train.jsonl"),
        ("task.eval", "test.jsonl"),
    ]
    assert {i.field for i in model_inputs(cell)} == {"weights", "config", "tokenizer"}
    recorded = Store("reports/mine").inputs()
    assert recorded.data[cell.fingerprints.data] == data_inputs(cell) and recorded.models[
        cell.fingerprints.model
    ] == model_inputs(cell)


def test_a_folder_of_another_study_is_refused_by_name_and_nothing_in_it_changes(ran, capsys):
    before = Path("reports/mine/plan.json").read_text()
    for more in ((), ("--dry-run",)):
        assert run("--set", "name=other", "--set", "training.steps=9", "--out", "reports/mine", *more) == 2
        told = capsys.readouterr().err
        assert (
            "reports/mine holds another study, mine (What does rank cost?), 4 of 4 cells done" in told
            and "--out DIR" in told
            and "name: mine" in told
        )
    assert Path("reports/mine/plan.json").read_text() == before


def test_a_study_that_was_renamed_keeps_its_cells(ran, capsys):
    assert notes(capsys, "--set", "name=other", "--out", "reports/mine") == [
        "in reports/mine this study is called mine; 4 of its cells are the same and are kept, it is called other from"
        " now on"
    ]


def test_a_folder_with_other_things_in_it_is_no_place_for_results(ran, capsys):
    assert run("--out", "data") == 2 and run("--out", ".") == 2
    assert "is not empty and not a results directory (it holds test.jsonl, train.jsonl)" in capsys.readouterr().err
    Path("empty").mkdir()
    Path("empty/.gitkeep").touch()
    Path("kept").mkdir()
    shutil.copy("reports/mine/table.md", "kept")  # of a store whose cells were not committed
    assert run("--out", "empty") == 0 and run("--out", "kept") == 0


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("acuracy", "did you mean 'accuracy'?"),
        ("accuracy", "the task python-docs does not measure"),
        ("exact_match", "task.metric: exact_match"),
    ],
)
def test_a_study_is_not_decided_by_what_nothing_measures(metric, told, tmp_path):
    with pytest.raises(StudyError, match=re.escape(told)):
        make_plan(study_of(0, more=f"comparison: {{metric: {metric}}}\n"), tmp_path)
    for fine in ("auto", "eval_loss", "python-docs-cloze/acc", "forgetting"):
        make_plan(study_of(0, more=f"comparison: {{metric: {fine}}}\n"), tmp_path)
