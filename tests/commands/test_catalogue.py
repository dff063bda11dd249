"""The commands that list what there is, and the tables of the literature: what is printed needs no run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorabench import plugins
from lorabench.commands import main as cli

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "quickstart.yaml"


def test_a_table_of_the_literature_is_computed_and_compared_in_every_format(capsys, tmp_path):
    paper = str(ROOT / "studies" / "paper" / "square-matrix.yaml")
    assert cli.main(["table", paper]) == 0
    shown = capsys.readouterr().out
    assert "167,332" in shown, "7e9 parameters as one square matrix, rank 1: 2 * sqrt(7e9), worked by hand"
    for name in plugins.names("exporters"):
        assert cli.main(["table", paper, "--format", name, "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().strip()


def test_a_table_of_the_literature_trains_nothing(capsys):
    assert cli.main(["run", str(ROOT / "studies" / "paper" / "square-matrix.yaml")]) == 2
    assert "lorabench table" in capsys.readouterr().err


def test_lists_have_one_line_each(capsys):
    for kind in ("methods", "quantizations", "tasks", "executors"):
        assert cli.main([kind]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == list(plugins.names(kind))
        assert all(len(line.split()) > 2 for line in lines)
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert "lorabench/tiny-300k" in out and "google/gemma-2-2b" in out and "gemma-2-2b-it" in out


def test_models_and_tasks_are_searched_by_words_of_other_tools(capsys):
    assert cli.main(["models", "smol"]) == 0
    out = capsys.readouterr().out
    assert "HuggingFaceTB/SmolLM2-135M" in out and "meta-llama" not in out and "7 presets" in out
    assert cli.main(["models", "zzz"]) == 2
    assert "no preset matches 'zzz'" in capsys.readouterr().err
    assert cli.main(["tasks", "gsm8k"]) == 2
    assert "has another name here: instruct" in capsys.readouterr().err


def test_a_task_has_all_its_options_with_their_defaults(capsys):
    for name in plugins.names("tasks"):
        assert cli.main(["tasks", name]) == 0
        out = capsys.readouterr().out
        options = plugins.load("tasks", name).Options.model_fields
        assert all(f"\n  {option} " in out for option in options if option != "name")
        assert plugins.describe("tasks", name) in out
    assert cli.main(["tasks", "instrct"]) == 2
    assert "did you mean 'instruct'?" in capsys.readouterr().err


def test_the_schema_accepts_the_shipped_study_and_rejects_a_wrong_key(capsys):
    jsonschema = pytest.importorskip("jsonschema")
    import yaml

    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    study = yaml.safe_load(STUDY.read_text())
    assert list(check.iter_errors(study)) == []
    for wrong in (
        {"methid": "lora"},
        {"grid": {"method.ranks": [1]}},
        {"task": {"name": "python-docs", "colour": 1}},
        {"schema": 2},
    ):
        assert list(check.iter_errors({**study, **wrong})), wrong
