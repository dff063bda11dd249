"""How far the choice of a rank has been tested, as a sentence."""

from __future__ import annotations

from lorabench.evidence.rank_trial import RankTrial, rank_trial
from lorabench.formatting import plural

RULES = {"always 8": "rank 8 for all", "always 16": "rank 16 for all", "largest that fits": "the largest that fits"}


def trial_sentence(kind: str | None) -> str | None:
    """Of the sources of a kind of task, each left out in turn; None where none prints several ranks."""
    found = None if kind is None else rank_trial(kind)
    if found is None:
        return None
    return (
        f"Put to the test on {plural(found.sources, 'published source')} of {found.kind}, left out in turn: the rank"
        f" taken lost {found.regret:.1f} points to the best one printed, {_beside(found)}; 80 % intervals held"
        f" {100 * found.covered:.0f} % of the gaps between ranks."
    )


def _beside(found: RankTrial) -> str:
    rule = RULES[found.best_rule]
    if not found.differing:
        return f"as {rule} did" if found.best_rule == "largest that fits" else f"as did {rule}"
    differ = (
        f"{found.differing} of {plural(found.columns, 'setting')} {'differs' if found.differing == 1 else 'differ'}"
    )
    apart = "do" if found.told_apart else "do not" if found.sources > 1 else "does not"
    counted = plural(found.sources, "source")
    return f"{rule} {found.best_regret:.1f} ({differ}; {counted} {apart} tell the two apart)"
