"""The command line: exit codes, sentences, and what is imported when. Studies run on the synthetic executor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorabench import plugins
from lorabench.commands import main as cli
from lorabench.commands.parser import make_parser
from tests.config.test_load import mutated

ROOT = Path(__file__).parents[2]
SETTINGS = ("--set", "model=lorabench/tiny-300k", "--executor", "synthetic")
STUDY = ROOT / "studies" / "quickstart.yaml"
RUN = """
from lorabench import plugins
from lorabench.commands.main import main
plugins.register("executors", "synthetic", "tests.synthetic")
main()
"""
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "lm_eval", "plotly")


def shell(*arguments, cwd=ROOT, code="import sys; from lorabench.commands.main import main; sys.exit(main())"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, env=environment, timeout=120
    )


def probe(code, *arguments, names=HEAVY, cwd=ROOT):
    """Which of the named modules are loaded after some code ran with these arguments."""
    tail = f"\nimport sys, json; print('\\n' + json.dumps([m for m in {names!r} if m in sys.modules]))"
    done = shell(*arguments, code=code + tail, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.yaml"], "there is no such study file"),
        (["run", str(STUDY), *SETTINGS, "--set", "method.ranks=3"], "method.ranks"),
        (["run", str(STUDY), *SETTINGS, "--set", "training.steps=many"], "training.steps"),
        (["run", str(STUDY), "--executor", "lcoal"], "did you mean 'local'?"),
        (["run", str(STUDY), *SETTINGS, "--workers", "0"], "0 workers"),
        (["run", str(STUDY), *SETTINGS, "--workers", "x"], "invalid int value"),
        (
            ["run", str(STUDY), *SETTINGS, "--set", "grid={method.rank: [5000]}", "--out", "/tmp/never-written"],
            "--set grid: rank 5000",
        ),
        (["run", str(STUDY), "--wrokers", "2"], "did you mean --workers?"),
        (["rnu"], "did you mean run?"),
        ([], "required"),
        (["status", "nowhere"], "nowhere is not a results directory"),
        (["table", "nowhere", "--format", "md"], "nowhere is not a results directory"),
        (["report", "nowhere"], "nowhere is not a results directory"),
        (["explain", "abc", "--in", "nowhere"], "nowhere is not a results directory"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(arguments, words, capsys):
    try:
        code = cli.main(arguments)
    except SystemExit as e:
        code = e.code
    err = capsys.readouterr().err
    assert code == 2
    assert words in err
    assert err.startswith("lorabench: ")
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "recommend --modle llama-3.1-8b --gpu rtx4090 --sequence-length 2048",
            "unknown option --modle; did you mean --model? see: lorabench recommend --help",
        ),
        (
            "recommend --model llama-3.1-8b --tolerated-los=0.1",
            "unknown option --tolerated-los; did you mean --tolerated-loss? see: lorabench recommend --help",
        ),
        ("run s.yaml --dry", "unknown option --dry; did you mean --dry-run? see: lorabench run --help"),
        ("status DIR --executor local", "unknown option --executor; see: lorabench status --help"),
        ("status DIR more", "unrecognized arguments: more; see: lorabench status --help"),
        ("--verison", "unknown option --verison; did you mean --version? see: lorabench --help"),
    ],
)
def test_a_misspelt_option_is_told_first_with_a_near_one_of_its_command(arguments, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments.split())
    assert capsys.readouterr().err == f"lorabench: {sentence}\n"


def test_a_wrong_command_is_told_the_near_one_before_all(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["recomend", "--model", "x"])
    err = capsys.readouterr().err
    assert err.startswith("lorabench: unknown command 'recomend'; did you mean recommend? allowed: run, evaluate, ")
    assert err.endswith("; see: lorabench --help\n")


def test_help_has_words_for_every_argument():
    commands = next(a for a in make_parser()._actions if a.dest == "command" or a.choices).choices
    for name, command in commands.items():
        assert [a.dest for a in command._actions if not a.help] == [], name


def test_the_bare_command_prints_its_help(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    assert capsys.readouterr().out.startswith("usage: lorabench")


def test_an_unknown_table_format_and_an_unwritable_file_are_told(ran, capsys):
    assert cli.main(["table", str(ran), "--format", "latx"]) == 2
    assert "did you mean 'latex'?" in capsys.readouterr().err
    assert cli.main(["table", str(ran), "-o", "/dev/null/t.txt"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert cli.main(["report", str(ran), "-o", "/dev/null/r.html"]) == 2
    assert "cannot be written" in capsys.readouterr().err


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


def test_forty_malformed_studies_end_with_exit_code_2_and_one_sentence(tmp_path, capsys):
    faulty = 0
    for seed in range(400):
        (tmp_path / "study.yaml").write_text(mutated(seed), encoding="utf-8")
        code = cli.main(
            [
                "run",
                str(tmp_path / "study.yaml"),
                "--dry-run",
                "--executor",
                "synthetic",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        error = capsys.readouterr().err
        if code == 0:
            continue  # some damage leaves a study that can be run
        faulty += 1
        assert code == 2, error
        assert error.startswith("lorabench: "), error
        assert error.count("\n") == 1, error
        assert "Traceback" not in error
        assert str(tmp_path / "study.yaml") in error, "it names the file"
        if faulty == 40:
            return
    raise AssertionError(f"only {faulty} of the mutations were faults")
