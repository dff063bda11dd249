"""What would not fit into memory is told before the first cell, and refused only where it never could."""

from __future__ import annotations

import pytest

from lorabench.commands import status_text
from lorabench.config.load import read_study
from lorabench.errors import StudyError
from lorabench.runner.plan import make_plan
from lorabench.runner.run import check
from lorabench.runner.worker_pool import WorkerPool
from tests.runner.conftest import source_of


def checked(open_odd, folder, *ranks, skip=False):
    source = source_of(0, more=f"grid: {{method.rank: [{', '.join(map(str, ranks))}]}}\n")
    with WorkerPool(open_odd) as pool:
        return check(make_plan(read_study(source), folder), pool, source, skip)


def test_a_condition_that_would_not_fit_is_a_note_in_its_own_words(open_odd, begun, tmp_path):
    plan = checked(open_odd, tmp_path, 4, 40)
    assert plan.notices == ("LoRA r=40, a batch of 8 would not fit",) and plan.large == 1
    assert "note: LoRA r=40, a batch of 8 would not fit" in status_text.dry_run(
        plan
    ) and "but 1 condition may not or would not fit into memory" in status_text.dry_run(plan)


def test_of_many_the_first_are_named_and_the_others_counted(open_odd, begun, tmp_path):
    plan = checked(open_odd, tmp_path, 4, 40, 41, 42, 43, 44)
    assert (
        len(plan.notices) == 4
        and plan.notices[-1] == "2 more of 6 conditions may not or would not fit into memory either"
    )


def test_what_never_could_is_refused_with_its_place_unless_such_cells_are_skipped(open_odd, begun, tmp_path):
    with pytest.raises(StudyError, match=r"odd.yaml:\d+: LoRA r=45, a batch of 8 would not fit"):
        checked(open_odd, tmp_path, 4, 45)
    assert checked(open_odd, tmp_path, 4, 45, skip=True).notices == ("LoRA r=45, a batch of 8 would not fit",)
