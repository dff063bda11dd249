"""What a task's counts (record.data) say before a cell runs: lines that show them, and the faults that end a study.

A fault, where numbers would be of next to nothing: more than half of a split's rows dropped and fewer than LEAST_ROWS
left (below some thirty sequences a normal interval is too narrow, and what is left is the short ones); one label alone
in training or test, of which there is nothing to learn or to measure; a test that was trained on whole. What is merely
worth knowing is a finding of the report (analysis.findings.data).
"""

from __future__ import annotations

from collections.abc import Iterator

from lorabench.config.study import Cell
from lorabench.formatting import plural
from lorabench.record.data import FEW_VALIDATION, DataFacts, SplitFacts

LEAST_ROWS = 30
WHOLE_TEXT = 0.9  # of the test blocks: the training text lacks what validation took of it


def data_fault(facts: DataFacts, cell: Cell) -> tuple[str, str] | None:
    """(dotted setting, sentence) of the first fault of a task's data, None where a cell can learn and be measured."""
    length = cell.training.sequence_length
    for name, split in (("training", facts.train), ("test", facts.test)):
        if 2 * split.dropped > split.read and split.rows < LEAST_ROWS:
            return (
                "training.sequence_length",
                (
                    f"{split.rows:,} of {split.read:,} {name} rows are left at training.sequence_length {length}, the "
                    "rest leave no room for a response; "
                    f"at least {LEAST_ROWS} are needed: {split.whole_at:,} keeps 95 % of the rows whole"
                ),
            )
    if cell.tuned_over and not facts.validation.rows:
        return (
            "training.sequence_length",
            (
                f"none of the {facts.validation.read:,} validation rows is left at training.sequence_length "
                f"{length}, but the learning rate is chosen on them; "
                f"raise it ({facts.validation.whole_at:,} keeps 95 % of them whole), or task.validation_percent"
            ),
        )
    trained_on = facts.test.in_training + facts.test.in_validation
    if trained_on >= (facts.test.read if facts.unit == "rows" else WHOLE_TEXT * facts.test.read):
        return (
            "task",
            (
                f"{trained_on:,} of {facts.test.read:,} test {facts.unit} are "
                f"{'training rows' if facts.unit == 'rows' else 'in the training text'}, so nothing is held out; "
                f"{_another(cell)}"
            ),
        )
    for name, split in (("training", facts.train), ("test", facts.test)):
        if len(split.labels) == 1 and split.rows > 1:
            (label,) = split.labels
            others = " or ".join(choice for choice in getattr(cell.task, "choices", ()) if choice != label)
            return (
                "task",
                (
                    f"all {split.rows:,} {name} rows have the label {label} (none has {others}), so nothing "
                    f"can be {'learned' if name == 'training' else 'measured'}; give rows of every label"
                ),
            )
    return None


def _another(cell: Cell) -> str:
    """What to do about a test that was trained on."""
    if getattr(cell.task, "eval", None):
        return "leave out task.eval, or give another file"
    return "the data repeat themselves: use other data, or give a separate file as task.eval"


def data_lines(facts: DataFacts, cell: Cell) -> Iterator[str]:
    """What is told before a study runs: a line for the task, one for each thing that its reader did of its own
    accord."""
    task, length = cell.task.name, cell.training.sequence_length
    splits = "; ".join(f"{name}: {_split(split, facts.unit, length)}" for name, split in facts.splits.items())
    measured, limit_note = min(facts.test.rows, cell.evaluation.max_sequences), ""
    if measured < facts.test.rows:
        limit_note = (
            f"; the first {measured:,} of the {facts.test.rows:,} test {facts.unit} are measured "
            "(evaluation.max_sequences)"
        )
    yield f"data of {task} at {length} tokens: {splits}{limit_note}"
    yield from (f"data of {task}: {note}" for note in facts.notes)
    if cell.tuned_over and facts.validation.rows < FEW_VALIDATION:
        yield (
            f"learning rates are chosen by {plural(facts.validation.rows, f'validation {facts.unit[:-1]}')}, which "
            "may be too few to tell two learning rates apart; "
            "task.validation_percent takes more of the training data"
        )


def _split(split: SplitFacts, unit: str, length: int) -> str:
    parts = [f"{split.read:,} {unit if split.read != 1 else unit[:-1]} read"]
    if split.dropped:
        parts.append(f"{split.dropped:,} dropped because no response fits in {length} tokens")
    if split.cut:
        parts.append(
            f"{split.cut:,} cut at {length} tokens"
            + (f" ({split.whole_at:,} keeps 95 % whole)" if split.whole_at and split.whole_at > length else "")
        )
    if split.in_training:
        parts.append(f"{split.in_training:,} also in training")
    if split.prompt_in_training > split.in_training:
        parts.append(
            f"{split.prompt_in_training - split.in_training:,} with the prompt of a training row but another response"
        )
    if split.in_validation:
        parts.append(f"{split.in_validation:,} also in validation")
    if split.repeated:
        parts.append(f"{split.repeated:,} repeated")
    if split.empty_prompts:
        parts.append(f"{split.empty_prompts:,} with an empty prompt")
    if split.majority:
        label, share = split.majority
        parts.append(f"{100 * share:.0f} % with the label {label}")
    return ", ".join(parts)
