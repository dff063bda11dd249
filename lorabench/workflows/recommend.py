"""Which rank, which quantisation, on this card: memory from the traced step, quality from stored studies and the literature. Sees both arms."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from lorabench import plugins
from lorabench.advice.candidates import CandidateSpec, by_rules, candidate_specs, stored_as
from lorabench.advice.evidence import REACH, WHOLE, ComparisonGroup, Here, Key, nearest
from lorabench.advice.priors import rules
from lorabench.advice.ranking import Advice, NeedsOf, Priority, advise, variant
from lorabench.advice.text import Answer, title
from lorabench.advice.types import Candidate, Needs, Workload
from lorabench.config import hub
from lorabench.config.architectures import find_architecture, model_type
from lorabench.config.checkpoint import stored_quantization
from lorabench.config.elsewhere import unknown_choice
from lorabench.config.gpus import Gpu, find_gpu, gpus
from lorabench.config.paths import model_label
from lorabench.config.settings import MethodSpec, TrainingSpec
from lorabench.errors import LorabenchError, unknown
from lorabench.formatting import size
from lorabench.record.archive import FILE, opened

if TYPE_CHECKING:
    from lorabench.memory.train_config import Setting

Emit = Callable[[Workload, Candidate], dict[str, str]]
PLACES = ("runs/*", "runs/paper/*", "reports/*", "reports/paper/*")
WORTH_A_LOOK = 64  # tokens: shorter sequences are no change that anyone would make
CARDS = 3
MOST = 1_000_000  # sequences of a step
CALIBRATED = 4  # stored conditions that tell this machine's speed: each is traced, in ~0.4 s


def recommend(
    model: str,
    gpu: str,
    sequence_length: int,
    *,
    batch_size: int = 16,
    examples: int | None = None,
    tokens: int | None = None,
    studies: Sequence[str | Path] | None = None,
    priority: Priority = "accuracy",
    tolerated_loss: float | None = None,
    task: str | None = None,
    nearby: Sequence[Path] = (),
    timings: Sequence[str | Path] = (),
) -> Answer:
    """A ranked list of settings that fit a card, with what speaks for each, and what is ruled out.

    `tokens` are those of one epoch, `studies` results directories (absent: those of `nearby` whose models are near in size), `timings` those that
    tell how fast this machine is (or folders that hold such ones),
    `tolerated_loss` in the unit of each study's metric (absent: each study's own margin), `task` the kind of task, as studies name it
    (absent: any). LorabenchError for what cannot be meant.
    """
    if priority not in get_args(Priority):
        raise LorabenchError(unknown("priority", priority, get_args(Priority)))
    for name, value in (("batch size", batch_size), ("examples", examples), ("tokens", tokens)):
        if value is not None and value < 1:
            raise LorabenchError(f"{name} {value} is below 1; give a whole number from 1 on")
    if examples is not None and tokens is not None and tokens < examples:
        raise LorabenchError(
            f"{tokens:,} tokens in {examples:,} examples is less than one each; give the tokens of all examples together"
        )
    if batch_size > MOST:
        raise LorabenchError(f"batch size {batch_size} is above {MOST:,}; give the sequences of one optimizer step")
    if task is not None and task not in plugins.names("tasks"):
        raise LorabenchError(unknown_choice("task", task, plugins.names("tasks")))
    if tolerated_loss is not None and not 0 < tolerated_loss < math.inf:
        raise LorabenchError(
            f"a tolerated loss of {tolerated_loss:g} is no number above 0; give it in the unit of the study's metric, such as 0.02"
        )
    card = find_gpu(gpu)
    named = [Path(folder) for folder in studies or ()]
    for folder in named:
        with opened(folder):  # before the slow imports, so that a typing error is told at once
            pass
    hub.require_named(model)
    from lorabench.memory.calibration import calibrate
    from lorabench.memory.card_planner import CardPlanner
    from lorabench.memory.parameters import count_parameters, unreached_of
    from lorabench.memory.validate import model_from, setting_from

    known = find_architecture(model)
    spec = model_from(known.name if known and "/" not in model else model)  # by its hub id, which other tools know, too
    if stored := stored_quantization(spec.name, spec.revision):
        raise LorabenchError(
            f"{model_label(spec.name)} is stored in {stored.words}, which leaves no choice of storage, and that is what recommend weighs; name the unquantised checkpoint"
            + (
                ", or ask estimate for a setting of this one"
                if stored.readable
                else ", since this form cannot be trained on here"
            )
        )
    first = setting_from(
        {
            "model": spec.model_dump(),
            "method": "full",
            "training": {"batch_size": 1, "sequence_length": sequence_length},
        },
        card.kind,
    )
    workload = Workload(first.model, sequence_length, batch_size, examples, tokens)
    known_tokens = [
        n for n in (tokens, examples and examples * sequence_length) if n is not None
    ]  # what is longer than a sequence is cut off
    at_most = min(known_tokens, default=None)
    ranks = possible_ranks(first)
    counts = count_parameters(first.model, ranks, rules().lora.target_modules)
    trainable = {c.rank: c.trainable_parameters for c in counts}
    here = Here(
        first.model.name, counts[0].base_parameters, model_type(first.model.name), at_most, task, tolerated_loss
    )
    heard = evidence(here, named, nearby)
    contest = nearest(heard, bool(named))
    given, notes = possible(
        candidate_specs(here.parameters, at_most, trainable, contest, heard, batch_size),
        lambda key: by_rules(key, here.parameters, at_most, trainable),
        workload,
        first,
    )
    if card.kind == "cpu":
        given = [replace(f, optimizers=("adamw",)) for f in given]  # paging is between a GPU and its host
    if left := unreached_of(replace(first, method=MethodSpec())):
        told = left.words(quantised=True, adapted=True, size=size(left.bytes or 0))
        given = [f if f.key == WHOLE else replace(f, caveats=(*f.caveats, told)) for f in given]
    calibration = calibrate(card, *timings, most=CALIBRATED) if card.kind == "cpu" else None
    with closing(CardPlanner(card, calibration)) as room:

        def needs(candidate: Candidate) -> Needs:
            need = room.need(setting_of(candidate, workload, first))
            known = need.seconds is not None and not candidate.optimizer.startswith(
                "paged"
            )  # what paging takes is not predicted
            seconds = need.seconds if known else None
            return Needs(
                need.step.trainable_parameters,
                need.peak_bytes,
                need.low_bytes,
                need.high_bytes,
                (seconds.least, seconds.most) if seconds else None,
            )

        def longest(candidate: Candidate) -> int:
            return room.longest(setting_of(candidate, workload, first), sequence_length)

        def adapters() -> bool:
            return any(
                needs(variant(f, workload, 1, True, f.optimizers[-1])).high_bytes <= card.memory_bytes
                for f in given
                if f.key != WHOLE
            )

        advice = advise(
            workload,
            card.memory_bytes,
            given,
            needs,
            priority,
            change=lambda c, n: change(c, n, card, needs, longest, adapters),
            ahead=lambda cs: room.prefetch([setting_of(c, workload, first) for c in cs]),
            beyond=lambda c: room.beyond(setting_of(c, workload, first)),
        )
        notes += [
            *_of_the_card(card, priority, advice),
            *_of_the_data(workload),
            *_of_the_best(contest, priority, advice),
            *advice.notes,
            *_unread(contest, heard, named, tolerated_loss),
        ]
        if not advice.recommendations:
            notes += nothing_fits([e.candidate for e in advice.excluded], needs, longest)
    return Answer(workload, card.name, card.memory_bytes, priority, replace(advice, notes=tuple(notes)))


def possible(
    given: Sequence[CandidateSpec], by_rule: Callable[[Key], CandidateSpec], workload: Workload, first: Setting
) -> tuple[list[CandidateSpec], list[str]]:
    """The candidates that this model allows, measured ones that it does not by the rules instead, and a sentence for each that is left out or replaced."""
    from lorabench.memory.validate import check

    kept, told = [], []
    for family in given:
        for tried in (family, by_rule(family.key)):
            try:
                check(setting_of(variant(tried, workload, 1, False, "adamw"), workload, first))
            except LorabenchError as e:
                told.append(f"{title(variant(tried, workload, 1, False, 'adamw'))} is left out: {e}.")
                continue
            kept.append(tried)
            break
    return kept, list(dict.fromkeys(told))


def emit(answer: Answer, write: Emit, entry: int, folder: str | Path) -> tuple[Path, ...]:
    """Writes a trainer's files for one of the recommendations; LorabenchError where there is no such one, or the trainer cannot do it."""
    known = answer.advice.recommendations
    if not 1 <= entry <= len(known):
        raise LorabenchError(
            f"there is no recommendation {entry}; allowed: {f'1 to {len(known)}' if known else 'none, since nothing fits'}"
        )
    target, made = Path(folder), []
    texts = write(answer.workload, known[entry - 1].candidate)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (target / name).write_text(text, encoding="utf-8")
            made.append(target / name)
    except OSError as e:
        raise LorabenchError(f"{target} cannot be written ({e.strerror}); choose another folder with -o DIR") from None
    return tuple(made)


def possible_ranks(first: Setting) -> list[int]:
    """The ranks that are thought of, as far as the model's matrices allow them."""
    from lorabench.engine.adapt import linear_modules
    from lorabench.memory.meta_model import configuration, with_layers
    from lorabench.memory.parameters import any_model

    shapes = linear_modules(any_model(with_layers(configuration(first.model), 1), first.model.trust_remote_code))
    most = min(min(sides) for sides in shapes.values())
    return [r for r in rules().ranks if r <= most] or [most]


def setting_of(candidate: Candidate, workload: Workload, first: Setting) -> Setting:
    """What memory is predicted for."""
    training = TrainingSpec(
        batch_size=candidate.micro_batch_size,
        sequence_length=workload.sequence_length,
        optimizer=candidate.optimizer,
        gradient_checkpointing=candidate.gradient_checkpointing,
        gradient_accumulation=candidate.gradient_accumulation,
    )
    return replace(
        first,
        method=candidate.method.model_copy(update={"alpha": None if candidate.method.alpha is None else 16}),
        quantization=candidate.quantization,
        training=training,
    )


def evidence(here: Here, named: Sequence[Path], nearby: Sequence[Path]) -> tuple[ComparisonGroup, ...]:
    """What stored studies say: the named ones whatever their model, else those nearby whose model is near in size."""
    folders = named or [p for p in nearby if _near(p, here)]
    if not folders:
        return ()
    from lorabench.advice.from_study import (
        Source,
        heard,
    )  # pandas and scipy: a second that a model without a study near it need not wait
    from lorabench.report.view import make_view

    found: list[ComparisonGroup] = []
    for folder in folders:
        try:
            with opened(folder) as store:
                view = make_view(store)
                source = Source(
                    folder,
                    view.study,
                    view.groups,
                    view.summaries,
                    view.verdicts,
                    view.metric,
                    view.of_condition,
                    view.file,
                )
                found += heard(source, here)
        except LorabenchError:
            if named:
                raise
    return tuple(found)


def stored() -> list[Path]:
    """The results directories and archives in the usual places; of a study that lies in several the first."""
    places = [
        p.parent for place in PLACES for name in ("plan.json", FILE) for p in sorted(Path().glob(f"{place}/{name}"))
    ]
    return list({p.name: p for p in reversed(places)}.values())[::-1]


def _near(folder: Path, here: Here) -> bool:
    """By cells.csv, which costs nothing to look into: a store of 10,000 cells of another size is not read."""
    try:
        with (folder / "cells.csv").open(newline="", encoding="utf-8") as stream:
            sizes = {row.get("total_parameters") or "" for row in csv.DictReader(stream)}
        return any(10**-REACH <= float(n) / here.parameters <= 1.5 * 10**REACH for n in sizes if n)
    except (OSError, ValueError):
        return False


def change(
    candidate: Candidate,
    need: Needs,
    card: Gpu,
    needs: NeedsOf,
    longest: Callable[[Candidate], int],
    adapters: Callable[[], bool],
) -> str:
    """The cheapest change that makes a candidate fit: another storage of the base, adapters in place of all weights, shorter sequences, else a larger card."""
    if candidate.method.name == "full":
        return _larger(need.high_bytes, "train adapters instead, or take " if adapters() else "")
    smaller = (
        candidate.quantization.name in ("none", "int8")
        and not plugins.load("methods", candidate.method.name).UNQUANTIZED_ONLY
    )
    if smaller and (other := needs(replace(candidate, quantization=stored_as("nf4")))).high_bytes <= card.memory_bytes:
        return f"store the base in NF4 ({size(other.high_bytes)} at most)"
    if (length := longest(candidate)) >= WORTH_A_LOOK:
        return f"sequences of at most {length:,} tokens"
    return _larger(need.high_bytes, "")


def _larger(high_bytes: int, before: str) -> str:
    able = _holding(high_bytes)
    return (
        f"{before}a card of {size(high_bytes)} or more ({', '.join(able[:CARDS])})"
        if able
        else f"{before}more memory than any known card has"
    )


def _holding(high_bytes: int) -> list[str]:
    return [c.name for c in gpus().values() if c.memory_bytes >= high_bytes]


def nothing_fits(tried: Sequence[Candidate], needs: NeedsOf, longest: Callable[[Candidate], int]) -> tuple[str, ...]:
    """What would make the least demanding of them fit."""
    least = min(tried, key=lambda c: needs(c).high_bytes)
    high, length = needs(least).high_bytes, longest(least)
    told = [f"The least demanding is {title(least)}, at micro-batch 1 with checkpointing: {size(high)} at most."]
    if length >= WORTH_A_LOOK:
        told.append(f"It would fit with sequences of at most {length:,} tokens.")
    else:
        told.append(
            f"Shorter sequences would not make it fit{f' before {length} tokens' if length else ': what it holds between steps is too much'}."
        )
    able = _holding(high)
    told.append(
        f"At this length it fits on {', '.join(able[:CARDS])}{' and larger cards' if len(able) > CARDS else ''}."
        if able
        else "No known card holds it at this length."
    )
    return tuple(told)


def _of_the_card(card: Gpu, priority: Priority, advice: Advice) -> Iterator[str]:
    yield (
        f"{card.name} is taken as a {card.capacity}."
        if card.nominal_gib is not None
        else f"{card.name} is {card.capacity}."
    )
    if not card.bf16:
        yield f"{card.name} does not compute in bfloat16: memory and time are those without mixed precision, of products that it takes through float32."
    if priority == "speed" and all(r.needs.seconds is None for r in advice.recommendations):
        yield f"The rates of {card.name} are not known, so speed tells nothing apart: name a card rather than a size."


def _of_the_best(contest: ComparisonGroup | None, priority: Priority, advice: Advice) -> Iterator[str]:
    """Why what the study's own report calls best does not stand first."""
    if contest is None or not advice.recommendations:
        return
    first = advice.recommendations[0]
    keys = [(r.candidate.method.name, r.candidate.quantization.name) for r in advice.recommendations]
    way = contest.way(keys[0])
    if way is not None and way.option.condition == contest.best.condition:
        return
    if priority != "accuracy":
        why = f"the order here is by {priority}"
    elif contest.best_key not in keys:
        why = "what it takes does not fit here"
    elif keys[0] == contest.best_key:
        why = "less of its kind is shown to be within the tolerated loss of it"
    elif first.quality.enough and keys[0] != WHOLE:
        why = f"{title(first.candidate)} stands first, since it is shown to be within the tolerated loss of {first.quality.against}, which settles the order before any mean"
    elif keys[0] == WHOLE:
        why = "that it is better than full fine-tuning, or within the tolerated loss of it, is not shown"
    else:
        why = "that it is better than what stands before it is not shown"
    yield f"By its mean {contest.best.label} is the best of {contest.study}; {why}."


def _of_the_data(w: Workload) -> Iterator[str]:
    if w.tokens is not None and w.examples is not None and w.tokens > w.examples * w.sequence_length:
        yield f"{w.tokens // w.examples:,} tokens an example do not fit into {w.sequence_length:,}: what is beyond is cut off and not counted."


def _unread(
    contest: ComparisonGroup | None, heard: Sequence[ComparisonGroup], named: Sequence[Path], tolerated: float | None
) -> tuple[str, ...]:
    if contest is not None:
        return ()
    if named:
        return (
            f"Nothing could be learned from {', '.join(map(str, named))}: no trained condition has a metric with a better and worse and a tolerated loss (--tolerated-loss).",
        )
    what = (
        "Only studies of made-up tasks are"
        if any(c.made_up for c in heard)
        else "No stored study that can be compared is"
    )
    unused = (
        "" if tolerated is None else f" The tolerated loss of {tolerated:g} is in a study's unit, and was not used."
    )
    return (
        f"{what} at hand for a model of this size: quality is from the literature. Run one, or name one with --from.{unused}",
    )
