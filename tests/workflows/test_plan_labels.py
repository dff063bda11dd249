"""Claims about the name of a condition: one in the plan of a card, in a run and in the table."""

from __future__ import annotations

from pathlib import Path

import lorabench as lb
from lorabench.analysis.conditions import replicates
from lorabench.analysis.labels import labels
from lorabench.config import expand, load_study
from lorabench.runner.plan import make_plan

STUDY = Path(__file__).parents[2] / "studies" / "quickstart.yaml"


def test_a_condition_has_one_name_in_plan_run_and_table(tmp_path: Path) -> None:
    study = load_study(STUDY)
    in_the_table = [label.text for label in labels(replicates(expand(study))).values()]
    assert in_the_table[:2] == ["LoRA r=1", "LoRA r=1 nf4"]
    in_a_run = [words.partition(", seed")[0] for words in make_plan(study, tmp_path).words.values()]
    assert list(dict.fromkeys(in_a_run)) == in_the_table
    assert list(lb.plan(STUDY, gpu="24GB").frame().index) == in_the_table
