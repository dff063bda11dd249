"""Which rank, which quantization, on this card: memory from the traced step, quality from stored studies and the
literature. Sees both arms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from lorabench import plugins
from lorabench.advice.candidates import CandidateSpec, by_rules, candidate_specs, for_trainer, with_parameters
from lorabench.advice.cheapest_change import what_would_fit
from lorabench.advice.evidence import WHOLE, Here, Key, nearest
from lorabench.advice.notes import (
    notes_on_the_best,
    notes_on_the_card,
    notes_on_the_data,
    notes_on_the_studies,
    notes_on_the_trainer,
)
from lorabench.advice.priors import rules
from lorabench.advice.published_evidence import asked_of, informed, kind_of, limits
from lorabench.advice.rank_trial import trial_sentence
from lorabench.advice.ranking import rank_candidates, variant
from lorabench.advice.text import title
from lorabench.advice.types import Candidate, Priority, Recommendation, Workload
from lorabench.config import hub
from lorabench.config.architectures import find_architecture, model_type
from lorabench.config.checkpoint import stored_quantization
from lorabench.config.elsewhere import unknown_choice
from lorabench.config.gpus import Gpu, find_gpu
from lorabench.config.paths import gguf_sentence, model_label
from lorabench.config.precision import is_large
from lorabench.config.settings import MethodSpec, ModelSpec, TrainingSpec
from lorabench.config.trainer import OWN, Trainer
from lorabench.config.validity import leaves_experts
from lorabench.errors import LorabenchError, unknown
from lorabench.evidence.library import task_kind_of
from lorabench.evidence.schema import TASK_KINDS
from lorabench.formatting import size
from lorabench.record.archive import opened
from lorabench.workflows.estimate import require_attention
from lorabench.workflows.stored_evidence import stored_evidence

if TYPE_CHECKING:
    from lorabench.memory.train_config import TrainConfig

Emit = Callable[[Workload, Candidate], dict[str, str]]
MAX_BATCH_SIZE = 1_000_000


def recommend(
    model: str,
    gpu: str | Gpu,
    sequence_length: int | None = None,
    *,
    batch_size: int = 16,
    examples: int | None = None,
    tokens: int | None = None,
    studies: Sequence[str | Path] = (),
    nearby_studies: Sequence[str | Path] = (),
    timings: Sequence[str | Path] = (),
    priority: Priority = "accuracy",
    tolerated_loss: float | None = None,
    task: str | None = None,
    target_parameters: str | tuple[str, ...] | None = None,
    trainer: Trainer | None = None,
) -> Recommendation:
    """A ranked list of settings that fit a card, with what speaks for each, and what is ruled out.

    Arguments are those of api.recommendation.recommend, but for these:
        batch_size: its global_batch_size.
        nearby_studies: where `studies` is empty, directories that speak only where their model is near in size.
        timings: results directories, or folders that hold some, whose cells tell how fast this machine is.
        trainer: the program that will train, with its variant; absent: lorabench's own loop.

    Nothing else is read. Raises LorabenchError for what cannot be meant.
    """
    _check_request(batch_size, examples, tokens, priority, tolerated_loss, task)
    card = find_gpu(gpu)
    require_attention(card, trainer)
    folders = [Path(folder) for folder in studies]
    for folder in folders:
        with opened(folder):  # before the slow imports, so that a typing error is told at once
            pass
    hub.require_named(model)
    from lorabench.memory.parameters import count_parameters
    from lorabench.workflows.traced_memory import traced_memory

    assumed_length = sequence_length is None
    if sequence_length is None:
        sequence_length = TrainingSpec().sequence_length
    base = _base_setting(model, sequence_length, card, trainer)
    workload = Workload(base.model, sequence_length, batch_size, examples, tokens, card.kind, card.bf16, trainer)
    # what is longer than a sequence is cut off
    amounts = [n for n in (tokens, examples and examples * sequence_length) if n is not None]
    train_tokens = min(amounts, default=None)
    counts = count_parameters(
        base.shape, _possible_ranks(base), rules().lora.target_modules, target_parameters=target_parameters
    )
    trainable = {c.rank: c.trainable_parameters for c in counts}
    parameters = counts[0].base_parameters
    architecture, kind = model_type(base.model.name), kind_of(task)
    here = Here(base.model.name, parameters, architecture, train_tokens, _task(task), tolerated_loss, kind)
    stored = stored_evidence(here, folders, [Path(folder) for folder in nearby_studies])
    groups, chosen = stored.groups, nearest(stored.groups, bool(folders))
    wanted = candidate_specs(parameters, train_tokens, trainable, chosen, groups, batch_size)
    specs, notes = _possible(
        with_parameters(for_trainer(wanted, base.trainer, is_large(parameters), card), target_parameters),
        lambda key: with_parameters([by_rules(key, parameters, train_tokens, trainable)], target_parameters)[0],
        workload,
        base,
    )
    specs = _for_this_model(specs, base, card)
    hidden_size = _hidden_size(base)
    in_points = None if chosen is not None and chosen.in_nats else tolerated_loss
    asked = asked_of(task, parameters, hidden_size, here.architecture, train_tokens, batch_size, in_points)
    if stored.gaps or stored.apart:
        from lorabench.advice.own_gaps import with_studies  # analysis is loaded by then

        asked = with_studies(asked, stored.gaps, stored.apart)
    with traced_memory(card, workload, base, timings) as memory:

        def fits(spec: CandidateSpec) -> bool:
            least = variant(spec, workload, 1, True, spec.optimizers[-1])
            return memory.needs(least).high_bytes <= memory.memory_bytes

        ranks = [r for r in trainable if r >= min(rules().rank.floor, max(trainable))]
        specs = [informed(spec, asked, ranks, priority, fits) for spec in specs]
        ranking = rank_candidates(workload, specs, memory, priority)
        notes += [
            *([f"{file}."] if (file := gguf_sentence(base.model.name)) else ()),
            *(card.measured.sentences(base.trainer.name == OWN) if card.measured else ()),
            *notes_on_the_trainer(base.trainer),
            *notes_on_the_card(card, priority, ranking, base.trainer),
            *notes_on_the_data(workload, assumed_length=assumed_length),
            *notes_on_the_best(chosen, priority, ranking),
            *ranking.notes,
            *notes_on_the_studies(chosen, groups, folders, tolerated_loss, asked.kind is not None),
            *limits(asked),
            *([said] if (said := trial_sentence(asked.kind)) else ()),
            *(() if ranking.ranked else what_would_fit(ranking.excluded, memory)),
        ]
    return Recommendation(
        workload,
        card.name,
        card.memory_bytes,
        priority,
        ranking.ranked,
        ranking.excluded,
        tuple(notes),
        base.trainer,
    )


def _check_request(
    batch_size: int,
    examples: int | None,
    tokens: int | None,
    priority: str,
    tolerated_loss: float | None,
    task: str | None,
) -> None:
    if priority not in get_args(Priority):
        raise LorabenchError(unknown("priority", priority, get_args(Priority)))
    for name, value in (("global batch size", batch_size), ("examples", examples), ("tokens", tokens)):
        if value is not None and value < 1:
            raise LorabenchError(f"{name} {value} is below 1; give a whole number from 1 on")
    if examples is not None and tokens is not None and tokens < examples:
        raise LorabenchError(
            f"{tokens:,} tokens in {examples:,} examples is less than one each; "
            "give the tokens of all examples together"
        )
    if batch_size > MAX_BATCH_SIZE:
        raise LorabenchError(
            f"global batch size {batch_size} is above {MAX_BATCH_SIZE:,}; give the sequences of one optimizer step"
        )
    if task is not None and task not in plugins.names("tasks"):
        try:
            task_kind_of(task)
        except LorabenchError:
            allowed = list(dict.fromkeys((*plugins.names("tasks"), *TASK_KINDS)))
            raise LorabenchError(unknown_choice("task", task, allowed)) from None
    if tolerated_loss is not None and not 0 < tolerated_loss < math.inf:
        raise LorabenchError(
            f"a tolerated loss of {tolerated_loss:g} is not a number above 0; "
            "give it as the answer shows its quality: 1 for a point of a score, 0.02 for nats of a loss"
        )


def _task(task: str | None) -> str | None:
    """The task that studies would name for a kind of task; a task's own name stays."""
    if task is None or task in plugins.names("tasks"):
        return task
    return {"classification": "classify", "continued-pretraining": "text"}.get(task_kind_of(task), "instruct")


def _hidden_size(base: TrainConfig) -> int | None:
    config = base.shape.config
    found = getattr(getattr(config, "text_config", config), "hidden_size", None)
    return found if isinstance(found, int) else None


def _base_setting(model: str, sequence_length: int, card: Gpu, trainer: Trainer | None) -> TrainConfig:
    """Full fine-tuning of the model at micro-batch 1, which candidates change; its shape is handed on with it."""
    from lorabench.memory.validate import model_from, setting_from

    preset = find_architecture(model)
    spec = model_from(preset.name if preset and "/" not in model else model)  # its hub id: other tools know it, too
    _refuse_quantized(spec)
    training = {"batch_size": 1, "sequence_length": sequence_length}
    return setting_from({"model": spec.model_dump(), "method": "full", "training": training}, card.kind, trainer)


def _refuse_quantized(model: ModelSpec) -> None:
    stored = stored_quantization(model.name, model.revision)
    if stored is None:
        return
    other = "or use lorabench estimate for this one" if stored.readable else "since lorabench cannot train on this form"
    raise LorabenchError(
        f"{model_label(model.name)} is stored in {stored.words}, which leaves no choice of quantization, "
        f"and that is what recommend weighs; name the unquantized checkpoint, {other}"
    )


def _possible_ranks(base: TrainConfig) -> list[int]:
    """The ranks that are thought of, as far as the model's matrices allow them."""
    most = min(min(sides) for sides in base.shape.first_layer_linear.values())
    return [r for r in rules().ranks if r <= most] or [most]


def _possible(
    specs: Sequence[CandidateSpec], by_rule: Callable[[Key], CandidateSpec], workload: Workload, base: TrainConfig
) -> tuple[list[CandidateSpec], list[str]]:
    """The candidates that this model allows, measured ones that it does not by the rules instead, and a sentence for
    each that is left out or replaced."""
    from lorabench.memory.validate import check
    from lorabench.workflows.traced_memory import setting_of

    possible, notes = [], []
    for spec in specs:
        for option in (spec, replace(by_rule(spec.key), dtype=spec.dtype)):
            candidate = variant(option, workload, 1, False, "adamw")
            try:
                check(setting_of(candidate, workload, base))
            except LorabenchError as e:
                notes.append(f"{title(candidate)} is left out: {e}.")
                continue
            possible.append(option)
            break
    return possible, list(dict.fromkeys(notes))


def _for_this_model(specs: Sequence[CandidateSpec], base: TrainConfig, card: Gpu) -> list[CandidateSpec]:
    """Without paging on a CPU, and with a caveat for weights that no adapter and no quantization reaches."""
    from lorabench.memory.parameters import unreached_of

    if card.kind == "cpu":
        specs = [replace(spec, optimizers=("adamw",)) for spec in specs]  # paging is between a GPU and its host
    if left := unreached_of(replace(base, method=MethodSpec())):
        amount = size(left.bytes or 0)
        specs = [
            s
            if s.key == WHOLE
            else replace(
                s, caveats=(*s.caveats, left.words(quantized=True, adapted=leaves_experts(s.method), size=amount))
            )
            for s in specs
        ]
    return list(specs)


def emit(recommendation: Recommendation, write: Emit, entry: int, folder: str | Path) -> tuple[Path, ...]:
    """Writes a trainer's files for one of the recommendations; LorabenchError where there is no such one, or the
    trainer cannot do it."""
    entries = recommendation.ranked
    if not 1 <= entry <= len(entries):
        raise LorabenchError(
            f"there is no recommendation {entry}; allowed:"
            f" {f'1 to {len(entries)}' if entries else 'none, since nothing fits'}"
        )
    target, written = Path(folder), []
    texts = write(recommendation.workload, entries[entry - 1].candidate)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (target / name).write_text(text, encoding="utf-8")
            written.append(target / name)
    except OSError as e:
        raise LorabenchError(f"{target} cannot be written ({e.strerror}); choose another folder with -o DIR") from None
    return tuple(written)
