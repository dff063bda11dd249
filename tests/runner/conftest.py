"""A small study over the odd engine, and workers that run it in the real worker process."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from lorabench.config.load import read_study
from lorabench.config.source import parse_source
from lorabench.executors import local

STUDY = """
schema: 1
name: odd
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 4}
training: {steps: 20}
seeds: [SEEDS]
"""
ENGINE = "tests.runner.odd_engine"


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The seeds of the cells that an odd engine began, in order."""
    log = tmp_path / "begun.txt"
    monkeypatch.setenv("ODD_LOG", str(log))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return lambda: [int(line.split()[1]) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def open_odd():
    """open_worker of the local executor, over the odd engine."""
    return functools.partial(local.open_worker, engine=ENGINE, predictor=f"{ENGINE}.predict_cell")


def study_of(*seeds: int, more: str = ""):
    """A study of one condition and these seeds."""
    return read_study(source_of(*seeds, more=more))


def source_of(*seeds: int, more: str = ""):
    """The same as a Source, with its lines."""
    return parse_source(STUDY.replace("SEEDS", ", ".join(map(str, seeds))).lstrip() + more, "odd.yaml", Path.cwd())
