"""The command line: exit codes, sentences, and what is imported when. Studies run on the synthetic executor."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lorabench import plugins
from lorabench.commands import main as cli
from lorabench.commands.parser import make_parser
from tests.commands.shell import HEAVY, ROOT, RUN, SETTINGS, STUDY, probe, shell


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A results directory of the quickstart, made by the synthetic executor."""
    folder = tmp_path_factory.mktemp("cli") / "quickstart"
    assert cli.main(["run", str(STUDY), "--out", str(folder), *SETTINGS]) == 0
    return folder


def test_import_and_help_load_nothing_that_takes_time():
    light = (*HEAVY, "pandas", "pydantic", "rich", "yaml", "numpy")
    assert probe("import lorabench; lorabench.__version__", names=light) == []
    code = "from lorabench.commands.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass"
    assert probe(code, "--help", names=light) == []
    assert probe(code, "run", "--help", names=light) == []


def test_a_dry_run_loads_no_torch_and_writes_nothing(tmp_path):
    assert probe(RUN, "run", str(STUDY), "--dry-run", *SETTINGS, cwd=tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_the_executor_of_the_tests_is_none_that_a_user_can_name(tmp_path):
    done = shell("run", str(STUDY), *SETTINGS, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith("lorabench: unknown executor 'synthetic'")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert shell("executors").stdout.split()[0] == "local"
    assert "synthetic" not in shell("executors").stdout


def test_a_run_loads_no_torch_in_the_runner(tmp_path):
    loaded = probe(RUN, "run", str(STUDY), *SETTINGS, cwd=tmp_path)
    assert [m for m in loaded if m != "plotly"] == []


def test_run_writes_everything_and_a_second_run_runs_nothing(ran, capsys):
    for name in ("study.yaml", "plan.json", "cells.csv", "table.md", "report.html"):
        assert (ran / name).stat().st_size > 0, name
    assert cli.main(["run", str(STUDY), "--out", str(ran), *SETTINGS]) == 0
    out = capsys.readouterr().out
    assert "15 cells, 15 done, 0 to run" in out
    assert "started" not in out
    assert f"table:  {ran / 'table.md'}" in out
    assert f"report: {ran / 'report.html'}" in out


def test_plain_lines_say_when_each_cell_starts_and_ends(tmp_path, capsys):
    assert cli.main(["run", str(STUDY), "--out", str(tmp_path / "q"), *SETTINGS]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert lines[0].startswith("[ 1/15] LoRA r=1, seed 0: started (")
    assert lines[1].startswith("[ 1/15] LoRA r=1, seed 0: finished in ")
    assert "held-out loss" in lines[1]
    assert lines[-1].startswith("[15/15] base: finished")


def test_cells_that_do_not_finish_are_told_with_exit_code_1(tmp_path, capsys):
    out = tmp_path / "q"
    settings = (
        *SETTINGS,
        "--set",
        "grid={training.learning_rate: [0.001, 2.0]}",
        "--set",
        "include=[]",
        "--set",
        "reference=null",
    )
    assert cli.main(["run", str(STUDY), "--out", str(out), *settings]) == 1
    text = capsys.readouterr().out
    assert "2 of 4 cells did not finish:" in text
    assert "diverged: LoRA r=8, lr=2, seed 0" in text
    assert "DIVERGED after" in text
    assert cli.main(["status", str(out)]) == 0
    text = capsys.readouterr().out
    assert "4 cells: 2 finished, 2 diverged" in text
    assert "(step 12)" in text


def test_status_table_report_explain(ran, capsys, tmp_path):
    assert cli.main(["status", str(ran)]) == 0
    assert "15 cells: 15 finished\neach cell with its id and result: lorabench status" in capsys.readouterr().out
    assert cli.main(["table", str(ran)]) == 0
    assert "r=16" in capsys.readouterr().out
    for name in plugins.names("exporters"):
        assert cli.main(["table", str(ran), "--format", name, "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().strip()
    capsys.readouterr()
    assert cli.main(["report", str(ran), "-o", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "r.html")
    assert cli.main(["report", str(ran), "-o", str(tmp_path / "two.html"), "--compare", str(ran)]) == 0
    capsys.readouterr()
    assert cli.main(["report", str(ran), "-o", str(tmp_path / "two.html"), "--compare", "nowhere"]) == 2
    assert "nowhere is not a results directory" in capsys.readouterr().err
    assert "equal to the last digit" in (tmp_path / "two.html").read_text(encoding="utf-8")
    cell = json.loads((ran / "plan.json").read_text())["cells"]
    from lorabench.record.store import Store

    found = Store(ran).results()[0].cell
    assert len(cell) == 15
    assert cli.main(["explain", found.id[:8], "--in", str(ran)]) == 0
    text = capsys.readouterr().out
    for words in (
        found.id,
        found.condition_id,
        "method.rank",
        "learning_rate",
        "eval_loss",
        "nats",
        "curve.csv",
        "device",
        "100 steps",
    ):
        assert words in text


def test_explain_looks_through_reports(ran, monkeypatch, capsys):
    from lorabench.record.store import Store

    found = Store(ran).results()[3].cell
    (ran.parent / "reports").symlink_to(ran.parent) if not (ran.parent / "reports").exists() else None
    monkeypatch.chdir(ran.parent)
    assert cli.main(["explain", found.id]) == 0
    assert found.id in capsys.readouterr().out
    assert cli.main(["explain", "zzz"]) == 2
    assert "no cell's id starts with 'zzz'; looked in reports/ (quickstart)" in capsys.readouterr().err


def test_help_has_words_for_every_argument():
    commands = next(a for a in make_parser()._actions if a.dest == "command" or a.choices).choices
    for name, command in commands.items():
        assert [a.dest for a in command._actions if not a.help] == [], name


def test_the_bare_command_prints_its_help(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    assert capsys.readouterr().out.startswith("usage: lorabench")


def test_a_fault_of_the_report_keeps_the_results_and_ends_with_1(tmp_path, monkeypatch, capsys):
    from lorabench import api

    monkeypatch.setattr(api, "write_outputs", lambda store, analysis: 1 / 0)
    assert cli.main(["run", str(STUDY), "--out", str(tmp_path / "q"), *SETTINGS]) == 1
    err = capsys.readouterr().err
    assert "the report could not be written (ZeroDivisionError" in err
    assert len(err.splitlines()) == 1
    assert len((tmp_path / "q" / "cells.csv").read_text().splitlines()) == 16


def test_a_reader_that_goes_away_is_no_fault(ran):
    code = "import sys; from lorabench.commands.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writer = subprocess.Popen(
        [sys.executable, "-c", code, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    writer.stdout.close()
    assert b"Traceback" not in writer.stderr.read()
    writer.stderr.close()
    assert writer.wait(30) == 141


def test_the_python_interface_gives_frames(tmp_path):
    import lorabench as lb

    assert callable(lb.run)  # a package of that name would hide it
    study = lb.load_study(STUDY, ["model=lorabench/tiny-300k", "seeds=[0]"])
    results = lb.run(study, tmp_path / "q", executor="synthetic")
    assert len(results.results) == 8
    assert set(results.frame().columns) >= {"cell", "metric", "value"}
    assert len(results.wide()) == 8
    assert lb.open_results(tmp_path / "q").study == results.study
    assert repr(results) == f"StudyResults of quickstart: 8 of 8 cells finished, 8 conditions ({tmp_path / 'q'})"
    assert results.report(tmp_path / "r.html").exists()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lb.nothing  # noqa: B018
