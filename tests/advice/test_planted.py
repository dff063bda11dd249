"""The instrument measures what it says: of a planted rank the choice is that rank, and a higher one can be cut to it,
on a model that was trained here."""

from dataclasses import replace

import pytest

from lorabench.advice.selection import comparison_groups, select, trained_options
from lorabench.advice.spectral_check import spectral_check
from lorabench.commands import main as cli
from lorabench.record.store import Store
from lorabench.report.view import make_view

STUDY = """
schema: 1
name: planted-small
question: Is it the planted one?
model: lorabench/tiny-300k
task: {name: planted, rank: 2, sequences: 256}
method: {name: lora, alpha: 16, target_modules: [q_proj, v_proj]}
training: {steps: 120, batch_size: 8, sequence_length: 32, learning_rate: 2.0e-2}
grid: {method.rank: [1, 2, 4]}
seeds: [0]
reference: {method.rank: 4}
evaluation: {lm_eval: [], forgetting: none}
comparison: {metric: divergence, loss_margin: 0.006}
analysis: {truncation: [1, 2]}
"""


@pytest.mark.slow
def test_the_chosen_rank_is_the_planted_one(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    assert cli.main(["run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]) == 0
    view = make_view(Store.open(tmp_path / "out"))
    (contest,) = comparison_groups(view.analysis.groups)
    given = tuple(
        replace(o, repeated=True)
        for o in trained_options(contest, view.analysis.summaries, view.analysis.verdicts, "divergence")
    )  # what the items say, which no report claims of one seed
    below, planted, above = sorted(given, key=lambda o: o.rank)
    assert below.mean > 2 * planted.mean
    assert planted.bound is not None and above.bound is not None
    took = select(given, view.analysis.study.comparison.loss_margin)
    assert took.rank == 2
    second = spectral_check(
        took,
        given,
        view.analysis.of_condition,
        view.analysis.file,
        "divergence",
        view.analysis.study.comparison.loss_margin,
    )
    assert (second.highest.rank, second.highest.cut, second.highest.short) == (4, 2, 1)
    assert second.lean == "agrees"
