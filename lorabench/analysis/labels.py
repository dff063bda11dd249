"""What people call the conditions of a plan: see config.condition_labels."""

from __future__ import annotations

from collections.abc import Sequence

from lorabench.analysis.conditions import Replicates
from lorabench.config.condition_labels import Label, condition_labels


def labels(groups: Sequence[Replicates]) -> dict[str, Label]:
    """Condition id to Label."""
    return condition_labels({g.condition: g.declared for g in groups})
