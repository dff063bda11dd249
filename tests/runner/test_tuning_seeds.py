"""Learning rates that some of the seeds choose for all."""

import pandas as pd
import pytest

from lorabench import api
from lorabench.config.grid import expand
from lorabench.config.load import read_study
from lorabench.config.source import parse_source
from lorabench.errors import StudyError
from lorabench.runner.plan import make_plan
from tests import synthetic

STUDY = """\
schema: 1
name: chosen
model: lorabench/tiny-300k
task: python-docs
training: {steps: 20, learning_rate: {tune: [3.0e-4, 3.0e-3, 3.0e-2]}}
grid: {method.rank: [1, 4]}
include: [{method: {name: base}}]
seeds: [0, 1, 2]
"""


def study_of(folder, more="tuning_seeds: 1\n"):
    return read_study(parse_source(STUDY + more, "chosen.yaml", folder))


def test_the_other_seeds_run_at_the_rate_that_the_first_ones_chose(tmp_path):
    study = study_of(tmp_path)
    done = api.run(study, tmp_path / "out", executor=synthetic.open_worker)
    tuned = [c for c in done.store.plan() if c.tuned_over]
    assert len(done.store.plan()) == 1 + 2 * (3 + 2), (
        "a base; at each rank three rates of one seed, two more seeds at one"
    )
    for rank in (1, 4):
        members = [c for c in tuned if c.method.rank == rank]
        losses = {
            c.training.fixed_learning_rate: synthetic.expected(c)["validation_loss"] for c in members if c.seed == 0
        }
        assert len(losses) == 3
        best = min(losses, key=losses.__getitem__)
        assert {c.training.fixed_learning_rate for c in members if c.seed} == {best}
        frame = pd.read_csv(tmp_path / "out" / "cells.csv")
        assert sorted(frame[(frame["rank"] == rank) & frame.chosen.astype(bool)].seed) == [0, 1, 2]


def test_the_result_is_that_of_tuning_with_all_seeds_where_all_choose_the_same(tmp_path):
    few = api.run(study_of(tmp_path), tmp_path / "few", executor=synthetic.open_worker)
    every = api.run(study_of(tmp_path, ""), tmp_path / "all", executor=synthetic.open_worker)
    assert str(few.table()) == str(every.table())


def test_a_run_that_was_stopped_goes_on_and_a_finished_one_has_nothing_to_do(tmp_path):
    study = study_of(tmp_path)
    before = make_plan(study, tmp_path / "out")
    assert len(before.cells) == 7
    assert "of 2 conditions the learning rate is still to be chosen" in before.notices[-1]
    api.run(study, tmp_path / "out", executor=synthetic.open_worker)
    after = make_plan(study, tmp_path / "out")
    assert not after.pending
    assert not after.notices
    assert len(expand(study)) == 19, "the study itself declares them all"


def test_a_number_below_one_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(StudyError, match="tuning_seeds"):
        study_of(tmp_path, "tuning_seeds: 0\n")
