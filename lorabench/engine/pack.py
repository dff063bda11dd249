"""The cells of a pack: their steps are taken at once, everything else each does by itself, as if it had trained alone.

Readings of time and memory cannot be told apart within a pack. They come from PROBE_STEPS steps that each cell takes
alone before its trained weights are put in: tokens a second from the steps after the first, which warms up; training
seconds from these and the cell's tokens; on a GPU the peak of two steps over its longest rows. What the pack itself
took is pack_seconds, of all its cells. Held-out rows go through the adapters at once, too, where that pays
(packed_evaluation); what that took is pack_eval_seconds, and eval_seconds comes from a batch that the cell evaluates
alone.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lorabench.config.study import Cell
from lorabench.engine.answers import generate, passed
from lorabench.engine.batches import collate, largest_batch, read_positions
from lorabench.engine.cell_context import CellContext, LoadedCell, PhaseRun, Report, cuda_peaks, reading
from lorabench.engine.cell_load import domain_of, load_untrained
from lorabench.engine.data import Example
from lorabench.engine.evaluate import losses
from lorabench.engine.events import Event
from lorabench.engine.measure import Clock, PhaseMeter
from lorabench.engine.model import device
from lorabench.engine.paces import tokens_per_second
from lorabench.engine.pack_checkpoint import PackCheckpoint, trained_before
from lorabench.engine.pack_gain import PROBE_STEPS, answers_together, rows_together
from lorabench.engine.pack_gain import useful_cells as useful_cells  # served to a worker, as the functions here
from lorabench.engine.packed import PackedTraining, train_packed, unpackable
from lorabench.engine.packed_adapters import AdapterStart, attached
from lorabench.engine.packed_evaluation import HeldOut, PassLimits, evaluating
from lorabench.engine.precision import evaluated
from lorabench.engine.train import Diverged, make_optimizer, take_step, train


def train_pack(
    cells: Sequence[Cell], report: Report = lambda event: None, kept: Path | None = None
) -> dict[str, PackedTraining]:
    """Trains the cells at once; by id what became of each. Empty, with a note, where the model cannot be packed.

    kept: the folder of packs that were killed, which this one goes on from and is written to.

    Any fault is the caller's, who then runs the cells one by one: a pack only ever saves time.
    """
    context = CellContext.of(cells[0], Path(os.devnull), ("train",), report, "")
    if context.device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)  # as a cell alone
    plain = next((cell for cell in cells if not cell.method.dropout), cells[0])  # by which rows may lie end to end
    loaded, _ = load_untrained(replace(context, cell=plain))
    if (reason := unpackable(loaded.model)) is not None:
        report(Event(cells[0].id, "load", note=f"its cells train one by one: {reason}"))
        return {}
    context.clock.enter("train")
    starts = [_start(cell, loaded) for cell in cells]
    specs = [cell.training.over(len(loaded.data.train)) for cell in cells]
    pace, checkpoint = _Pace(cells, specs[0].steps, report), None if kept is None else _checkpoint(cells, kept)
    torch.manual_seed(cells[0].seed)
    before = None if checkpoint is None else checkpoint.trained()
    done = before or train_packed(
        loaded.model,
        starts,
        loaded.data.train,
        specs,
        seeds=[cell.seed for cell in cells],
        layout=loaded.layout,
        where=context.device,
        autocast=context.autocast,
        on_step=pace.tell,
        loss_of=loaded.loss,
        checkpoint=checkpoint,
    )
    held = _held_out(context, loaded, starts, done)
    trained = [replace(t.on_host(), held_out=h) for t, h in zip(done, held, strict=True)]
    if checkpoint is not None:
        checkpoint.done(trained, evaluated=True)
    return {cell.id: one for cell, one in zip(cells, trained, strict=True)}


def _held_out(
    context: CellContext, loaded: LoadedCell, starts: Sequence[AdapterStart], done: Sequence[PackedTraining]
) -> list[HeldOut | None]:
    """What each adapter is measured at beside the others, as far as that pays; None of those that diverged, and of all
    where a fault leaves it to each cell."""
    cell, data, model = context.cell, loaded.data, loaded.model
    spec, cells, nothing = cell.evaluation, len(done), [None] * len(done)
    if loaded.teacher is not None or all(t.diverged for t in done):  # a teacher would read the rows for each, too
        return list(nothing)
    limits, test = PassLimits.of(data.train, cell.training, cells), data.test[: spec.max_sequences]
    validation = data.validation[: spec.max_sequences] if cell.tuned_over else ()

    def rows(examples: Sequence[Example]) -> int:
        return rows_together(cell, context.device, examples, limits.rows(examples, spec.batch_size), cells)

    try:
        sets: list[Sequence[Example]] = [passed(test), validation]
        taken = [rows(examples) if examples else 0 for examples in sets]
        new_tokens = data.generation.max_new_tokens if data.generation is not None else 0
        at_once = 0  # rows whose answers are generated
        if new_tokens:
            most = limits.rows_answered(test, new_tokens, spec.batch_size)
            at_once = answers_together(cell, context.device, test, most, cells)
        if not any(taken) and not at_once:
            return list(nothing)
        domain = domain_of(context, model, loaded.tokenizer)  # the cells' own, and kept for them
        sets.append(() if domain is None else domain[0])
        taken.append(rows(sets[2]) if sets[2] else 0)
        chosen = [(examples, n) for examples, n in zip(sets, taken, strict=True) if n]
        total = cells * sum(len(examples) for examples, _ in chosen)
        context.clock.enter("evaluate", None if at_once else total)
        clock = Clock(context.device)
        most = max([at_once, *(n * max(len(e.ids) for e in examples) for examples, n in chosen)])
        on_base = evaluating(model, starts, done, most, loaded.padding)
        with evaluated(model, cell), on_base as pack, context.clock.rows(model):
            answered = pack.answers(test, taken[0]) if taken[0] else nothing
            validated = pack.losses(validation, taken[1], loaded.loss) if taken[1] else nothing
            on_domain = pack.losses(sets[2], taken[2]) if taken[2] else nothing
            texts = pack.texts(loaded.tokenizer, test, at_once, new_tokens) if at_once else nothing
        parts = zip(done, answered, validated, on_domain, texts, strict=True)
        seconds = clock.seconds()
        return [None if t.diverged else HeldOut(seconds, a, v, d, g) for t, a, v, d, g in parts]
    except Exception:  # whatever it is, the cells can be evaluated alone
        traceback.print_exc()
        return list(nothing)


def evaluation_alone(
    context: CellContext, loaded: LoadedCell, held: HeldOut, domain: Sequence[Example]
) -> tuple[float, float]:
    """(seconds of a batch that the cell evaluates alone, seconds that all would take which it was evaluated at beside
    others); the largest batch, whose memory is that of all."""
    data, spec = loaded.data, context.cell.evaluation
    parts = (
        (held.answers, passed(data.test[: spec.max_sequences])),
        (held.validation, data.validation[: spec.max_sequences]),
        (held.domain, domain),
    )
    sets = [examples for known, examples in parts if known is not None]
    probed = alone = 0.0
    if sets:
        batches = [largest_batch(examples, min(spec.batch_size, len(examples))) for examples in sets]
        largest = max(batches, key=lambda rows: read_positions(rows, spec.batch_size))
        clock = Clock(context.device)
        losses(loaded.model, largest, spec.batch_size, loaded.padding, context.device)
        probed = clock.seconds()
        positions = sum(read_positions(examples, spec.batch_size) for examples in sets)
        alone = probed * positions / read_positions(largest, spec.batch_size)
    if held.texts is not None and data.generation is not None:
        seconds, passes = _answers_alone(context, loaded, data.generation.max_new_tokens)
        order = sorted(range(len(held.texts)), key=lambda i: -data.test[i].prompt_length)  # as batches are taken
        each = [held.texts[i].tokens for i in order]
        size = spec.batch_size
        probed += seconds
        alone += seconds / passes * sum(max(each[n : n + size]) for n in range(0, len(each), size))
    return probed, alone


def _answers_alone(context: CellContext, loaded: LoadedCell, new_tokens: int) -> tuple[float, int]:
    """Seconds and passes of generating the answers to the batch of the longest prompts."""
    spec, model, where = context.cell.evaluation, loaded.model, context.device
    rows = sorted(loaded.data.test[: spec.max_sequences], key=lambda row: -row.prompt_length)[: spec.batch_size]
    clock = Clock(where)
    texts = generate(model, loaded.tokenizer, rows, new_tokens, spec.batch_size, where)
    return clock.seconds(), max(text.tokens for text in texts)


def _checkpoint(cells: Sequence[Cell], kept: Path) -> PackCheckpoint:
    return PackCheckpoint(kept, [cell.id for cell in cells], cells[0].training.checkpoint_every, device())


def learned_before(cells: Sequence[Cell], kept: Path, report: Report = lambda event: None) -> dict[str, PackedTraining]:
    """By id what the cells of a pack learned in a run that was killed before all had their results; empty where the
    first one's was not.

    cells: one that is to run, and those that wait with it. Where the run was killed before its pack was evaluated, and
    they are all there, it is evaluated now: alone each would be measured in other passes, and so to other last bits.
    """
    trained, evaluated = trained_before(kept, cells[0].id, device())
    waiting = {cell.id: cell for cell in cells}
    if not trained or evaluated or not trained.keys() <= waiting.keys():
        return trained
    try:
        return train_pack([waiting[name] for name in trained], report, kept) or trained
    except Exception:  # whatever it is, the cells can be evaluated alone
        traceback.print_exc()
        return trained


class _Pace:
    """Tells of a pack's steps under its first cell, which is the one that runs."""

    def __init__(self, cells: Sequence[Cell], steps: int, report: Report) -> None:
        self._cell, self._steps, self._report = cells[0].id, steps, report
        ids = tuple(cell.id for cell in cells)
        report(Event(self._cell, "train", note=f"trains in a pack of {len(cells)} cells", pack=ids))

    def tell(self, step: int, tokens: int, seconds: float) -> None:
        pace = tokens / seconds if seconds else None
        self._report(Event(self._cell, "train", step, self._steps, tokens_per_second=pace))


def _start(cell: Cell, loaded: LoadedCell) -> AdapterStart:
    """The adapter that the cell would begin with alone."""
    with attached(loaded.model, cell.method, cell.seed) as model:
        return AdapterStart.of(model, cell.seed)


def packed_training(context: CellContext, loaded: LoadedCell, done: PackedTraining) -> PhaseRun[None]:
    """In place of a cell's own steps: its readings, and what the pack learned put into its model. Diverged where it
    did."""
    if done.diverged is not None:
        raise done.diverged
    tokens = done.progress.tokens
    speed, peaks = _alone(context, loaded)
    done.learned.put(loaded.model)
    if speed is not None:
        yield from reading("train_seconds", tokens / speed)
        yield from reading("tokens_per_second", speed)
    yield from reading("pack_seconds", done.progress.seconds)
    yield from reading("pack_cells", done.cells)
    if peaks is not None:
        yield from cuda_peaks("train", peaks, loaded)


def _alone(context: CellContext, loaded: LoadedCell) -> tuple[float | None, PhaseMeter | None]:
    """Tokens a second of a few steps that the cell takes alone, and on a GPU their memory; changes its adapter."""
    cell, model, where = context.cell, loaded.model, context.device
    spec = cell.training.over(len(loaded.data.train))
    short = spec.model_copy(update={"steps": min(spec.steps, PROBE_STEPS)})
    meter = None
    if where.type == "cuda":
        rows = largest_batch(loaded.data.train, spec.batch_size)
        parameters = [p for p in model.parameters() if p.requires_grad]
        model.train()
        with PhaseMeter(where) as meter:
            optimizer = make_optimizer(parameters, spec)
            for _ in range(2):
                micro = [collate(rows, loaded.padded, where) for _ in range(spec.gradient_accumulation)]
                take_step(model, micro, parameters, optimizer, spec.max_grad_norm, context.autocast, loaded.loss)
    torch.manual_seed(cell.seed)
    try:
        done = train(
            model,
            loaded.data.train,
            short,
            seed=cell.seed,
            layout=loaded.layout,
            where=where,
            autocast=context.autocast,
            on_step=lambda step, tokens: None,
            loss_of=loaded.loss,
        )
    except Diverged:
        return None, meter
    return tokens_per_second(done.curve), meter
