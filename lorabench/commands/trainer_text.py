"""What is told of trainers: the one that a prediction is made for, all of them beside each other, and the list."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

from lorabench.commands.output import columns
from lorabench.config.trainer import OWN, Trainer, find_trainer, trainers
from lorabench.formatting import DASH, size

if TYPE_CHECKING:
    from lorabench.memory.trainer_differences import Difference
    from lorabench.workflows.trainers import TrainerEstimates

WIDTH = 120
NOT_MEASURED = "not measured: the prediction follows the trainer's code, and its range is wide for that reason"


def named(trainer: Trainer, quantized: bool = True) -> str:
    """ "trained by TRL SFTTrainer (trl 1.16, ...), with chunked loss"; `quantized` tells whether the base is."""
    return f"trained by {trainer.words(quantized)}"


def trainer_lines(trainer: Trainer, differences: tuple[Difference, ...], checkpointed: bool) -> list[str]:
    """What a prediction for a trainer is worth, and why it is another one than for lorabench's own loop."""
    if trainer == find_trainer(OWN):
        return []
    note = trainer.checkpointing_note(checkpointed)
    lines = ["", f"note: {note}"] if note else []
    if differences:
        lines += ["", "beside lorabench's own loop:", *(f"  {d.sentence}" for d in differences)]
    worth = f"measured: {trainer.measured}" if trainer.measured else NOT_MEASURED
    return [*lines, "", *textwrap.wrap(worth, WIDTH), *installed(trainer)]


def installed(trainer: Trainer) -> list[str]:
    """A note where another version is installed here than is predicted."""
    here = trainer.installed()
    package, described_version = trainer.versions[0] if trainer.versions else ("", "")
    return [f"note: {here} is installed here; what is predicted is {package} {described_version}"] if here else []


def comparison(result: TrainerEstimates, as_json: bool) -> str:
    """Every trainer in a row, the least peak first."""
    if as_json:
        return json.dumps(result.to_dict(), indent=2)
    setting, card = result.setting, result.gpu
    rank = f" rank {setting.method.rank}" if setting.method.rank is not None else ""
    head = (
        f"{setting.model.name}, {setting.method.name}{rank}, {setting.quantization.name},"
        f" {setting.training.batch_size} x {setting.training.sequence_length} tokens, {setting.training.optimizer}"
        + (", checkpointing" if setting.training.gradient_checkpointing else "")
    )
    heads = (
        "trainer",
        "peak",
        "between",
        *((card.name, "micro-batch") if card else ()),
        "loss",
        "peak in",
        "differs in",
    )
    rows: list[tuple[str, ...]] = [heads]
    for row in result.rows:
        one, trainer = row.estimate, row.trainer
        if one is None:
            continue
        fit = (
            (("fits" if one.fits else "does not fit" if one.low_bytes > card.memory_bytes else "may not fit"),
             f"up to {one.largest_batch_size:,}" if one.largest_batch_size else DASH)
            if card
            else ()
        )  # fmt: skip
        words = ", ".join(dict.fromkeys(d.words for d in row.differences))
        rows.append(
            (
                trainer.name + ("" if trainer.measured else " *"),
                size(one.peak_bytes),
                f"{size(one.low_bytes)} to {size(one.high_bytes)}",
                *fit,
                trainer.loss_in_force,
                one.step.peak_at,
                words or ("" if trainer.name == OWN else "nothing that counts here"),
            )
        )
    left = (0, *range(3, len(heads)))
    lines = [head, "", *columns(rows, left)]
    if any(not row.trainer.measured and row.estimate for row in result.rows):
        lines += ["", f"* {NOT_MEASURED}"]
    if on := [row.trainer.name for row in result.rows if row.note]:
        lines += [
            "",
            f"gradient checkpointing is on by default in {', '.join(on)}; this is without it: --gradient-checkpointing"
            " adds it",
        ]
    if card is not None:
        lines += ["", f"{card.name}: {card.capacity}", *(card.measured.sentences(own=True) if card.measured else [])]
    refused = [f"{row.trainer.name} is left out: {row.refused}" for row in result.rows if row.refused]
    notes = [note for row in result.rows for note in installed(row.trainer)]
    return "\n".join([*lines, *([""] if refused or notes else []), *refused, *notes])


def listed() -> str:
    """A line for each trainer."""
    rows = [("trainer", "called", "versions", "loss", "memory")]
    for t in trainers():
        losses = ", ".join(name for name, _ in t.losses)
        rows.append((t.name, t.title, t.released or "this one", losses, "measured" if t.measured else "not measured"))
    return "\n".join(
        [
            *columns(rows, range(len(rows[0]))),
            "",
            "the first loss is the default; lorabench trainers NAME tells what a trainer does to memory",
        ]
    )


def described(name: str) -> str:
    """What one trainer does to memory, one thing a line; LorabenchError where it is none that is known."""
    t = find_trainer(name)
    head = [f"{t.title}" + (f" ({t.released})" if t.released else "")]
    lines = [
        line for d in t.differences if d != "Not measured."
        for line in textwrap.wrap(d, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
    ]  # fmt: skip
    losses = ", ".join(name for name, _ in t.losses)
    facts = [f"loss: {losses}" + (" (the first is the default)" if len(t.losses) > 1 else "")]
    if t.unavailable:
        facts.append(f"it does not train: {', '.join(t.unavailable)}")
    facts += textwrap.wrap(f"measured: {t.measured}" if t.measured else "not measured", WIDTH)
    least, most = t.errors
    facts.append(f"the measured peak is expected between {least:.2f} and {most:.2f} of the prediction")
    return "\n".join([*head, *lines, "", *facts, *installed(t)])
