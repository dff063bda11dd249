"""What became of a task's rows on their way to examples: how many were read, dropped, cut, repeated, and seen in
training.

A row is a prompt with its response (a conversation without and with its last answer). Texts are compared as they are
but for white space.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lorabench.config.frozen import Frozen

FEW_VALIDATION = 50  # rows, of some dozen tokens each, by which a learning rate is chosen
WHOLE_SHARE = 0.95  # of a split's rows, that a sequence length is named for


class SplitFacts(Frozen):
    """Counts of one split, in rows."""

    read: int
    """rows before any was dropped"""
    dropped: int = 0
    """rows too long for any token of their response to fit"""
    cut: int = 0
    """rows whose response loses its end"""
    repeated: int = 0
    """rows that repeat an earlier one of the split, prompt and response"""
    in_training: int = 0
    """held-out rows that are training rows, too"""
    prompt_in_training: int = 0
    """held-out rows whose prompt alone is that of a training row"""
    in_validation: int = 0
    """test rows that are validation rows, too"""
    empty_prompts: int = 0
    """rows whose prompt is empty"""
    labels: dict[str, int] = Field(default_factory=dict)
    """rows that are left by label, where rows have one"""
    whole_at: int | None = None
    """training.sequence_length at which 95 % of the rows are whole"""

    @property
    def rows(self) -> int:
        """Rows that became examples."""
        return self.read - self.dropped

    @property
    def majority(self) -> tuple[str, float] | None:
        """The most frequent label and its share."""
        if not self.labels:
            return None
        label = max(self.labels, key=lambda name: self.labels[name])
        return label, self.labels[label] / sum(self.labels.values())


class DataFacts(Frozen):
    """Counts of the three splits, and what the reader did of its own accord."""

    unit: Literal["rows", "blocks"] = "rows"
    """blocks: of running text"""
    train: SplitFacts
    validation: SplitFacts
    test: SplitFacts
    items: int | None = None
    """of results from before loss and accuracy were over the same rows: items of the accuracy, those that were too long
    for the loss, too"""
    notes: tuple[str, ...] = ()
    """sentences: which layout was found, which column was left out"""

    @property
    def splits(self) -> dict[str, SplitFacts]:
        """By name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}
