"""What limits a whole recommendation: the card, the data, the studies that were read, and why the study's best does not
stand first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lorabench.advice.evidence import WHOLE, ComparisonGroup
from lorabench.advice.priors import MARGIN
from lorabench.advice.ranking import Ranking
from lorabench.advice.text import title
from lorabench.advice.types import Priority, Workload
from lorabench.config.gpus import Gpu
from lorabench.config.trainer import OWN, Trainer
from lorabench.formatting import plural


def notes_on_the_trainer(trainer: Trainer) -> Iterator[str]:
    """What a prediction for another trainer than lorabench's own loop is worth."""
    if trainer.name == OWN:
        return
    if not trainer.measured:
        yield f"{trainer.title} was not measured: memory follows its code, and its range is wide for that reason."
    if here := trainer.installed():
        package, described_version = trainer.versions[0]
        yield f"{here} is installed here; what is predicted is {package} {described_version}."


def notes_on_the_card(card: Gpu, priority: Priority, ranking: Ranking, trainer: Trainer) -> Iterator[str]:
    """What the card is taken for, and what is not known of it."""
    if card.nominal_gib is not None:
        article = "an" if f"{card.nominal_gib:g}".startswith(("8", "11", "18")) else "a"
        yield f"{card.name} is taken as {article} {card.capacity}."
    else:
        yield f"{card.name} is {card.capacity}."
    if card.kind == "cpu":
        if note := card.precision_note(trainer.name):
            yield f"{note[0].upper()}{note[1:]}."
    elif not card.bf16 and trainer.name != OWN:
        yield (
            f"{card.name} does not compute in bfloat16: {trainer.title} is assumed to use float16 for mixed precision."
        )
    elif not card.bf16:
        yield (
            f"{card.name} does not compute in bfloat16: memory and time are predicted without mixed "
            "precision, with products computed in float32."
        )
    if priority == "speed" and all(r.needs.seconds is None for r in ranking.ranked):
        yield (
            f"The speed of {card.name} is not known, so it cannot order the candidates: name a card rather than a size."
        )


def notes_on_the_data(workload: Workload, *, assumed_length: bool = False) -> Iterator[str]:
    """The sequence length where nobody gave one, and what of the data is cut off."""
    tokens, examples, length = workload.tokens, workload.examples, workload.sequence_length
    if assumed_length:
        yield (
            f"No sequence length was given, so {length:,} tokens are assumed, a study's default; memory and time grow"
            " with it: give the longest of your data with --sequence-length."
        )
    if tokens is not None and examples is not None and tokens > examples * length:
        yield (
            f"{tokens // examples:,} tokens per example do not fit into {length:,}: "
            "the rest is cut off and not counted."
        )


def notes_on_the_best(group: ComparisonGroup | None, priority: Priority, ranking: Ranking) -> Iterator[str]:
    """Why what the study's own report calls best does not stand first."""
    if group is None or not ranking.ranked or not group.decides:
        return
    first = ranking.ranked[0]
    keys = [(r.candidate.method.name, r.candidate.quantization.name) for r in ranking.ranked]
    result = group.result(keys[0])
    if result is not None and result.option.condition == group.best.condition:
        return
    if priority != "accuracy":
        why = f"the order here is by {priority}"
    elif group.best_key not in keys:
        why = "what it takes does not fit here"
    elif keys[0] == group.best_key:
        why = "a smaller one of its kind is shown to be within the tolerated loss of it"
    elif first.quality.enough and keys[0] != WHOLE:
        why = (
            f"{title(first.candidate)} stands first, since it is shown to be within the tolerated loss of "
            f"{first.quality.against}, which settles the order before any mean"
        )
    elif keys[0] == WHOLE:
        why = "it is not shown to be better than full fine-tuning, nor within the tolerated loss of it"
    else:
        why = "it is not shown to be better than what stands before it"
    yield f"By its mean {group.best.label} is the best of {group.study}; {why}."


def notes_on_the_studies(
    chosen: ComparisonGroup | None,
    groups: Sequence[ComparisonGroup],
    studies: Sequence[str | Path],
    tolerated_loss: float | None,
    published: bool,
) -> Iterator[str]:
    """Why no study speaks, where none does, and what a tolerated loss does not tell: beside a study of losses nothing
    of published scores, and nothing where neither speaks."""
    if chosen is not None:
        if tolerated_loss is not None and published and chosen.in_nats:
            yield (
                f"The tolerated loss of {tolerated_loss:g} is taken for nats, since {chosen.study} is judged by a loss:"
                f" published scores keep their margin of {MARGIN:g} point."
            )
        if chosen.left_out:
            yield (
                f"{plural(chosen.left_out, 'imported condition')} of {chosen.study}"
                f" {'takes' if chosen.left_out == 1 else 'take'} no part: of methods that lorabench does not have, or"
                " without rank, alpha, target modules or learning rate."
            )
        if chosen.decides:
            return
        yield (
            f"{chosen.study} had one seed, which decides nothing: what is recommended rests on the literature and on"
            " rules, and its numbers stand beside it. Run more seeds of it to let it decide."
        )
        return
    if studies:
        yield (
            f"Nothing could be learned from {', '.join(map(str, studies))}: no trained condition has a metric with "
            "a better direction and a tolerated loss (--tolerated-loss), and, where it was imported, a method that"
            " lorabench has with its rank, alpha, target modules and learning rate."
        )
        return
    what = "No stored study that can be compared is"
    if any(g.made_up for g in groups):
        what = "Only studies of made-up tasks are"
    unused = ""
    if tolerated_loss is not None and not published:
        unused = (
            f" The tolerated loss of {tolerated_loss:g} was not used: without a study it needs --task, whose published"
            " scores are in points."
        )
    yield (
        f"{what} at hand for a model of this size: quality is from the literature. "
        f"Run one, or name one with --from.{unused}"
    )
