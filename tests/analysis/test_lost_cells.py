"""Where cells are lost on one side or both, nothing is claimed that the survivors may flatter."""

from __future__ import annotations

from dataclasses import replace

from lorabench.analysis.verdict import Comparison


def test_a_tie_between_lost_cells_is_settled_on_the_side_of_silence() -> None:
    c = Comparison("eval_loss", "a", "b", 3, 0.5, 0.4, 0.6, "seeds", 0.001, 0.001, 0.02, 1.0, True, 0, 0, 0.58, -0.42)
    assert (c.verdict, c.beyond(0.02)) == ("worse", True)
    lost = replace(c, reference_broken=1)
    assert (lost.verdict, lost.beyond(0.02), lost.mirrored().verdict) == ("not decisive", False, "not decisive")
    same = replace(
        c,
        difference=0.0,
        low=-0.01,
        high=0.01,
        p_adjusted=0.9,
        p_equivalent=0.001,
        worse_at_most=0.008,
        better_at_most=0.008,
    )
    assert [replace(same, broken=a, reference_broken=b).verdict for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))] == [
        "equivalent",
        "not decisive",
        "non-inferior",
        "not decisive",
    ]
