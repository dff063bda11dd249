"""Claims about the name of a condition: one in the plan of a card, in a run and in the table."""

from __future__ import annotations

from pathlib import Path

import pytest

import lorabench as lb
from lorabench.analysis.conditions import replicates
from lorabench.analysis.labels import labels
from lorabench.config import expand, load_study
from lorabench.runner.plan import make_plan

STUDY = Path(__file__).parents[2] / "studies" / "quickstart.yaml"


def names_in_the_table() -> list[str]:
    return [label.text for label in labels(replicates(expand(load_study(STUDY)))).values()]


def test_a_run_calls_a_condition_as_the_table_does(tmp_path: Path) -> None:
    study, in_the_table = load_study(STUDY), names_in_the_table()
    assert in_the_table[:2] == ["LoRA r=1", "LoRA r=1 nf4"]
    in_a_run = [words.partition(", seed")[0] for words in make_plan(study, tmp_path).words.values()]
    assert list(dict.fromkeys(in_a_run)) == in_the_table


@pytest.mark.slow  # seven traces
def test_the_plan_of_a_card_calls_a_condition_as_the_table_does() -> None:
    assert list(lb.plan(STUDY, gpu="24GB").frame().index) == names_in_the_table()
