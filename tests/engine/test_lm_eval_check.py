"""Claims about what is said of an lm-eval task that is not there."""

from __future__ import annotations

import pytest

from lorabench.engine.lm_eval_check import near_names
from lorabench.errors import unknown


def test_a_misspelt_task_is_answered_with_the_one_that_was_meant() -> None:
    """Twelve others begin alike and come first by the alphabet, as in lm-eval's own list."""
    installed = sorted([*(f"arc_a{i:02}" for i in range(20)), "arc_challenge", "arc_easy", "boolq", "hellaswag"])
    assert near_names("arc_easyy", installed)[0] == "arc_easy"
    assert "did you mean 'arc_easy'?" in unknown("lm-eval task", "arc_easyy", near_names("arc_easyy", installed))
    assert near_names("helaswag", installed) == ["hellaswag"]
    assert near_names("nothing-like-it", installed) == []


@pytest.mark.slow  # reading lm-eval's 14,000 tasks takes some 10 s
def test_the_same_of_all_that_lm_eval_brings() -> None:
    from lorabench.engine.lm_eval_runner import known_tasks

    assert near_names("arc_easyy", known_tasks(None))[0] == "arc_easy"
