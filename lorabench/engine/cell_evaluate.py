"""The phases of a cell that measure its trained model: the evaluation, spectra, lower ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lorabench.engine.adapt import linear_modules
from lorabench.engine.answers import task_readings
from lorabench.engine.cell_context import CellContext, LoadedCell, PhaseRun, cuda_peaks, reading
from lorabench.engine.cell_load import domain_of
from lorabench.engine.data import Example
from lorabench.engine.evaluate import Losses, forgetting_reading, losses, per_parameter, validation_reading
from lorabench.engine.evaluate_truncated import truncations
from lorabench.engine.lm_eval_runner import LmEvalRunner
from lorabench.engine.loss import Loss, token_loss
from lorabench.engine.measure import PhaseMeter
from lorabench.engine.outlook import rows_evaluated
from lorabench.engine.pack import evaluation_alone
from lorabench.engine.packed import PackedTraining
from lorabench.engine.packed_evaluation import HeldOut
from lorabench.engine.precision import evaluated
from lorabench.engine.train import Diverged
from lorabench.engine.weight_deltas import (
    adapted_layers,
    adapted_stacks,
    adapter_deltas,
    base_cache,
    full_deltas,
    save_deltas,
)
from lorabench.record.items import FILE, Items, save_items
from lorabench.record.result import Reading
from lorabench.record.truncations import save_truncations


@dataclass(frozen=True)
class Scorer:
    """Held-out loss and lm-eval of a cell's model as it is at the time of asking."""

    context: CellContext
    loaded: LoadedCell

    @cached_property
    def lm_eval(self) -> LmEvalRunner:
        """lm-eval with its tasks; its imports take seconds, once, and belong on no clock."""
        scratch = self.context.folder.parent.parent / "lm-eval"
        return LmEvalRunner(self.loaded.data.choice_sets, self.context.cell.evaluation, scratch)

    def score(self, known: HeldOut | None = None) -> tuple[list[Reading], dict[str, Items]]:
        """The readings, and by metric the items that they are means of; `known`: what is known already."""
        known = known or HeldOut(0.0)
        context, loaded, spec = self.context, self.loaded, self.context.cell.evaluation
        model, tokenizer, data = loaded.model, loaded.tokenizer, loaded.data
        with evaluated(model, context.cell):
            own, own_items = task_readings(
                model, tokenizer, data, spec, context.device, known=known.answers, texts=known.texts
            )
            readings, items = self.lm_eval.score(model, tokenizer)
            if loaded.teacher is not None:
                test = data.test[: spec.max_sequences]
                left, left_items = loaded.teacher.readings(model, test, spec.batch_size, loaded.padding, context.device)
                readings, items = left + readings, left_items | items
        return own + readings, own_items | items


def evaluate_cell(
    context: CellContext, loaded: LoadedCell, scorer: Scorer, earlier: Sequence[Reading]
) -> PhaseRun[None]:
    """Held-out loss, lm-eval, validation, forgetting; `earlier` are the readings until now. Diverged where a loss is
    not finite.
    """
    cell, model, data = context.cell, loaded.model, loaded.data
    steps, domain = cell.training.over(len(data.train)).steps, loaded.domain
    if context.base_survives:
        with model.disable_adapter():  # after training, so that no first step waits for it; on no clock
            domain = domain_of(context, model.get_base_model(), loaded.tokenizer)
    context.clock.enter("prepare")
    assert scorer.lm_eval is not None  # made here, before the clock of the evaluation runs
    context.clock.enter("evaluate", rows_evaluated(cell, data, len(domain[0]) if domain is not None else 0))
    held = context.packed.held_out if isinstance(context.packed, PackedTraining) else None
    known = held or HeldOut(0.0)
    probed = alone = 0.0
    with PhaseMeter(context.device) as meter, context.clock.rows(model):
        scores, items = scorer.score(known)
        if steps and not any(r.metric == "eval_loss" for r in scores):
            raise Diverged(steps, "held-out loss")  # left out, it would leave the mean to the other seeds
        yield from scores
        yield from per_parameter([*earlier, *scores])
        if cell.tuned_over:
            rows = data.validation[: cell.evaluation.max_sequences]
            validation = known.validation or _losses(context, loaded, rows, loaded.loss)
            if not math.isfinite(validation.mean):
                raise Diverged(steps or 0, "validation loss")
            yield validation_reading(validation)
        if domain is not None:
            after = known.domain or _losses(context, loaded, domain[0])
            forgetting, items["forgetting"] = forgetting_reading(domain[1], after)
            yield forgetting
        if held is not None:
            probed, alone = evaluation_alone(context, loaded, held, domain[0] if domain is not None else ())
    save_items(context.folder / FILE, items)
    yield from reading("eval_seconds", meter.seconds - probed + alone)
    if held is not None:
        yield from reading("pack_eval_seconds", held.seconds)
    yield from cuda_peaks("eval", meter, loaded)


def decompose(context: CellContext, loaded: LoadedCell) -> PhaseRun[None]:
    """The singular values and first directions of every learned change, as far as the study wants them, into files."""
    model, cell = loaded.model, context.cell
    adapted = sum(1 for _ in adapted_layers(model)) + sum(stack.num_experts for _, stack in adapted_stacks(model))
    if cell.analysis.spectra == "none" or not (adapted or cell.training.steps):
        return
    context.clock.enter("decompose", adapted or len(linear_modules(model)))
    deltas = adapter_deltas(model, loaded.start) if adapted else full_deltas(model, cell)
    save_deltas(deltas, model, cell, context.folder, base_cache(cell, context.folder), context.clock.record_step)
    yield from ()  # all of it lies in files


def truncate(context: CellContext, loaded: LoadedCell, scorer: Scorer, scores: Sequence[Reading]) -> PhaseRun[None]:
    """The accuracy that is left at the lower ranks which the study asks for, into a file; `scores` are those at the
    full rank.
    """
    cell, analysis = context.cell, context.cell.analysis
    if not (analysis.truncation and cell.training.steps):
        return
    rows = rows_evaluated(cell, loaded.data, 0)
    cuts = len(analysis.truncation) * (1 + analysis.per_module)
    context.clock.enter("truncate", cuts * rows if rows else None)
    with context.clock.rows(loaded.model):
        results = truncations(loaded.model, cell, loaded.start, lambda: scorer.score()[0], list(scores))
        save_truncations(context.folder / "truncation.csv", results)
    yield from ()  # all of it lies in a file


def _losses(context: CellContext, loaded: LoadedCell, examples: Sequence[Example], loss: Loss = token_loss) -> Losses:
    with evaluated(loaded.model, context.cell):
        batch_size = context.cell.evaluation.batch_size
        return losses(loaded.model, examples, batch_size, loaded.padding, context.device, loss)
