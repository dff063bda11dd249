"""What plan tells: every condition of a study on a card, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorabench.commands import trainer_text
from lorabench.commands.output import columns
from lorabench.config.paths import gguf_sentence, model_label
from lorabench.config.trainer import OWN, find_trainer
from lorabench.formatting import DASH, count, plural, seconds, size

if TYPE_CHECKING:
    from lorabench.config.gpus import Gpu
    from lorabench.config.source import Source
    from lorabench.config.trainer import Trainer
    from lorabench.memory.plan import PlannedCondition
    from lorabench.memory.remedies import Remedies
    from lorabench.memory.roofline import Seconds
    from lorabench.memory.train_config import TrainConfig

from lorabench.commands.estimate_text import kept_method, unreached_text

STORED = ("reports", "runs")
"""where the command line looks for stored studies that tell how fast a card is"""


def plan(source: Source, gpu: str | Gpu, as_json: bool, trainer: Trainer | None = None) -> str:
    """Each condition of a study on a card, and the sum."""
    from lorabench.config.load import read_study
    from lorabench.workflows.plan import FITS
    from lorabench.workflows.plan import plan as predict

    planned = predict(read_study(source), gpu, STORED, source, trainer)
    if as_json:
        return json.dumps(planned.to_dict(), indent=2)
    card, words, rows = planned.gpu, planned.names, planned.rows
    settings, left, mended = planned.settings, planned.unreached, planned.remedies
    lines = [("condition", "trainable", "peak", "at most", card.name, "time of a seed", "of it training")]
    for word, row in zip(words, rows, strict=True):
        if row.step is None or row.peak_bytes is None or row.high_bytes is None:
            lines.append((word, "0", DASH, DASH, DASH, _range(row.whole), DASH))
            continue
        lines.append(
            (
                word,
                count(row.step.trainable_parameters),
                size(row.peak_bytes),
                size(row.high_bytes),
                FITS[row.fits(card)],
                _range(row.whole),
                _range(row.seconds),
            )
        )
    counted = [r for r in rows if r.whole and r.fits(card) is not False]
    timed = [r.whole for r in counted if r.whole]
    n = planned.seeds
    total = (
        _total(n, timed, [r.seconds for r in counted if r.seconds], card)
        + (", leaving out what does not fit" if any(r.fits(card) is False for r in rows) else "")
        if timed
        else ""
    )
    notes = dict.fromkeys(
        f"note: {model_label(s.model.name)}, {s.quantization.name}: {unreached_text(one, s)}"
        for s, one in zip(settings, left, strict=True)
        if s is not None and one is not None
    )
    files = dict.fromkeys(s.model.name for s in settings if s is not None)
    notes |= {f"note: {sentence}": None for name in files if (sentence := gguf_sentence(name))}
    notes |= {f"note: {told}": None for told in [card.precision_note(planned.trainer.name)] if told}
    head = [] if planned.trainer == find_trainer(OWN) else [f"{trainer_text.named(planned.trainer)}", ""]
    remedy = _plan_remedies(words, rows, settings, mended, card)
    return "\n".join(
        [
            *head,
            *columns(lines),
            "",
            f"{card.name}: {card.capacity}",
            *(card.measured.sentences(planned.trainer.name == OWN) if card.measured else []),
            *remedy,
            *filter(None, (total, planned.time_basis)),
            *notes,
            *([] if planned.trainer.name == OWN else _own_words(planned.trainer)),
            (
                "memory and training time are predicted, not measured; an evaluation with many sequences at once"
                " (evaluation.batch_size) may need more memory"
            ),
        ]
    )


def _own_words(trainer: Trainer) -> list[str]:
    """What another trainer's prediction is worth, and which part of a seed's time is not its own."""
    worth = [] if trainer.measured else [trainer_text.NOT_MEASURED]
    rest = "a seed's time beyond training is that of lorabench run: loading, evaluation, decomposition"
    return [*worth, *trainer_text.installed(trainer), rest]


def _plan_remedies(
    words: Sequence[str],
    rows: Sequence[PlannedCondition],
    settings: Sequence[TrainConfig | None],
    mended: dict[TrainConfig, Remedies],
    card: Gpu,
) -> list[str]:
    """A line for each condition that does not surely fit: what to write into the study."""
    lines, more = [], 0
    for word, row, setting in zip(words, rows, settings, strict=True):
        if setting is None or row.fits(card):
            continue
        if setting not in mended:
            more += 1
            continue
        remedies = mended[setting]
        if remedies.fitting:
            one = remedies.fitting[0]
            unchanged_method = (
                f"; {kept_method(remedies, setting, remedies.least.keys)}" if remedies.least is not None else ""
            )
            lines.append(f"  {word}: {one.keys} ({size(one.high_bytes)} at most){unchanged_method}")
        else:
            assert remedies.least is not None
            card_name = remedies.card
            larger = f"the smallest known card for that is {card_name}" if card_name else "no known card holds that"
            lines.append(
                f"  {word}: nothing that was tried makes it fit; it needs {size(remedies.least.high_bytes)} with"
                f" {remedies.least.keys or 'the setting as it is'};"
                f" {larger}"
            )
    more_line = [f"  and {plural(more, 'other condition')}: lorabench estimate shows it for each"] if more else []
    return ["to make them fit, write into the study or give with --set:", *lines, *more_line] if lines else []


def _range(time: Seconds | None) -> str:
    return f"{seconds(time.least)} to {seconds(time.most)}" if time else DASH


def _total(seeds: int, whole: Sequence[Seconds], training: Sequence[Seconds], card: Gpu) -> str:
    """ "0.4 to 0.9 GPU hours for 3 seeds, about 70 % of it training, the rest loading, evaluation and ..." """
    least, most = sum(t.least for t in whole), sum(t.most for t in whole)
    share = sum(t.least + t.most for t in training) / max(least + most, 1e-9)
    hours = "hours" if card.kind == "cpu" else "GPU hours"
    return (
        f"{seeds * least / 3600:.2g} to {seeds * most / 3600:.2g} {hours} for {plural(seeds, 'seed')}, about"
        f" {100 * share:.0f} % of it training, the rest loading, evaluation and decomposition"
    )
