"""What is said of the test that the choice of a rank has passed or not."""

from __future__ import annotations

import pytest

from lorabench.advice.rank_trial import trial_sentence
from lorabench.evidence.gaps import published_gaps
from lorabench.evidence.rank_trial import rank_trial


@pytest.mark.parametrize("kind", ["classification", "code", "math", "generation", "continued-pretraining"])
def test_every_source_that_prints_several_ranks_was_left_out_once(kind):
    gaps = [g for g in published_gaps() if g.contrast == "rank" and g.unit == "points" and g.kind == kind]
    found = rank_trial(kind)
    assert found.sources == len({g.source for g in gaps})
    assert found.columns == len({g.setting for g in gaps})
    assert f"{found.sources} published source" in trial_sentence(kind)


def test_where_a_fixed_rule_did_as_well_it_is_said_and_where_sources_are_too_few_to_tell():
    assert "as the largest that fits did" in trial_sentence("code")
    words = trial_sentence("generation")
    assert (
        "lost 0.5 points to the best one printed, rank 16 for all 0.4 (1 of 7 settings differs; 2 sources do not"
        in words
    )


def test_of_what_was_never_tested_nothing_is_said():
    assert trial_sentence(None) is None
    assert trial_sentence("other") is None
