"""--executor ray and slurm, --address, --gpus-per-cell: what is not there or not meant is one sentence, exit code 2."""

import importlib.util

import pytest

from lorabench import plugins
from lorabench.commands.arguments import cards_per_cell
from lorabench.commands.main import main


def said(capsys, *arguments):
    try:
        code = main(["run", "studies/quickstart.yaml", *arguments])
    except SystemExit as e:
        code = e.code
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1
    return error


@pytest.mark.parametrize(("executor", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_executor_without_its_package_names_the_extra(capsys, monkeypatch, executor, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else find(name, *more))
    error = said(capsys, "--executor", executor)
    assert f"needs the package {package}, which is not installed" in error
    assert f"pip install 'lorabench[{executor}]'" in error


@pytest.mark.parametrize("options", [("--address", "auto"), ("--gpus-per-cell", "0.5")])
def test_what_is_of_a_cluster_is_refused_by_the_local_executor(capsys, options):
    assert "executors that are: ray, slurm" in said(capsys, *options)


@pytest.mark.parametrize("word", ["0", "-1", "1.5", "half", "nan", "inf", "1e9", "0.00001"])
def test_what_is_no_number_of_gpus_is_told_with_what_is_allowed(capsys, word):
    error = said(capsys, "--executor", "ray", f"--gpus-per-cell={word}")
    assert "allowed: auto, a share such as 0.25, or whole ones such as 2" in error


def test_numbers_of_gpus():
    assert [cards_per_cell(word) for word in ("auto", "0.25", "1", "2", "2.0")] == [0.0, 0.25, 1.0, 2.0, 2.0]


def test_executors_of_clusters_are_listed_with_what_they_are():
    assert {"ray", "slurm"} <= set(plugins.names("executors"))
    assert "Ray" in plugins.describe("executors", "ray") and "SLURM" in plugins.describe("executors", "slurm")
