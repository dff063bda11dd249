"""A user's mistake is one sentence and exit code 2."""

from __future__ import annotations

import pytest

from lorabench.commands import main as cli
from tests.commands.shell import SETTINGS, STUDY
from tests.config.test_load import mutated


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A results directory of the quickstart, made by the synthetic executor."""
    folder = tmp_path_factory.mktemp("cli") / "quickstart"
    assert cli.main(["run", str(STUDY), "--out", str(folder), *SETTINGS]) == 0
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.yaml"], "there is no such study file"),
        (["run", str(STUDY), *SETTINGS, "--set", "method.ranks=3"], "method.ranks"),
        (["run", str(STUDY), *SETTINGS, "--set", "training.steps=many"], "training.steps"),
        (["run", str(STUDY), "--executor", "lcoal"], "did you mean 'local'?"),
        (["run", str(STUDY), *SETTINGS, "--workers", "0"], "0 workers"),
        (
            ["run", str(STUDY), *SETTINGS, "--workers", "x"],
            "no number of workers; allowed: auto, or a whole number such as 2",
        ),
        (
            ["run", str(STUDY), *SETTINGS, "--set", "grid={method.rank: [5000]}", "--out", "/tmp/never-written"],
            "--set grid: rank 5000",
        ),
        (["run", str(STUDY), "--wrokers", "2"], "did you mean --workers?"),
        (["rnu"], "did you mean run?"),
        ([], "required"),
        *[([command, "a" * 5000], "File name too long") for command in ("status", "table", "report", "run")],
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


def test_an_unknown_table_format_and_an_unwritable_file_are_told(ran, capsys):
    assert cli.main(["table", str(ran), "--format", "latx"]) == 2
    assert "did you mean 'latex'?" in capsys.readouterr().err
    assert cli.main(["table", str(ran), "-o", "/dev/null/t.txt"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert cli.main(["report", str(ran), "-o", "/dev/null/r.html"]) == 2
    assert "cannot be written" in capsys.readouterr().err


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
