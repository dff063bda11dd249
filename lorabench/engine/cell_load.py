"""The first phase of a cell: its data, its base, and the method attached to it, or its trained weights put back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from lorabench import plugins
from lorabench.config.paths import model_label
from lorabench.config.study import Cell
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.engine.causal import keeps_rows_apart
from lorabench.engine.cell_context import CellContext, LoadedCell, PhaseRun, reading
from lorabench.engine.data import TaskData, task_data
from lorabench.engine.distill import Teacher, distilled
from lorabench.engine.domain import Domain, base_domain, is_kept
from lorabench.engine.evaluate import SAMPLE_TOKENS, SAMPLES
from lorabench.engine.experts import unreached
from lorabench.engine.kept_base import base_for
from lorabench.engine.library_messages import quiet
from lorabench.engine.lm_eval_runner import fetch_tasks, further_tasks
from lorabench.engine.loss import refuse_chunks
from lorabench.engine.measure import PhaseMeter
from lorabench.engine.model import load_tokenizer
from lorabench.engine.quantized_weights import logical_numel, weight_bytes
from lorabench.engine.resolved import resolved
from lorabench.engine.row_attention import attends_by_rows
from lorabench.engine.saved import restored
from lorabench.engine.train import CausalModel
from lorabench.engine.weight_deltas import Factors, start_factors
from lorabench.record.unreached import Unreached


@dataclass(frozen=True)
class LoadedBase:
    """A frozen base with its data, before anything is attached."""

    model: CausalModel
    tokenizer: PreTrainedTokenizerBase
    data: TaskData
    teacher: Teacher | None
    domain: Domain | None
    targets: tuple[str, ...]
    """full names of the modules to be adapted"""
    unreached: Unreached | None
    seconds: float | None
    """of loading the base alone; None where the process had it already"""

    @property
    def peft_targets(self) -> list[str] | str:
        """The targets as PEFT takes them."""
        return peft_targets(self.model, self.targets) if self.targets else []


def load(context: CellContext) -> PhaseRun[LoadedCell]:
    """The cell ready to be trained."""
    cell = context.cell
    base = yield from _load_base(context)
    torch.manual_seed(cell.seed)
    with PhaseMeter(context.device) as attaching, quiet():
        model = plugins.load("methods", cell.method.name).attach(base.model, cell.method, base.peft_targets)
    start = start_factors(model)
    if base.seconds is not None:
        yield from reading("load_seconds", base.seconds + attaching.seconds)
    total = sum(logical_numel(p) for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    yield from reading("total_parameters", total)
    yield from reading("trainable_parameters", trainable)
    yield from reading("trainable_percent", 100 * trainable / total)
    loaded = _loaded(context, base, model, start)
    yield resolved(
        cell,
        model,
        base.targets,
        base.data,
        context.autocast,
        base.unreached,
        base_kept=base.seconds is None,
        padding_free=loaded.end_to_end is not None,
    )
    return loaded


def _loaded(context: CellContext, base: LoadedBase, model: CausalModel, start: Factors) -> LoadedCell:
    """The cell with the form of its loss and the layout of its rows; ModelError where the model takes no such loss."""
    cell, hidden, by_rows = context.cell, None, False
    if cell.training.steps and base.teacher is None:
        if cell.training.loss == "chunked":
            refuse_chunks(model, model_label(cell.model.name))
        varied = len({len(e.ids) for e in base.data.train}) > 1
        wanted = cell.training.padding_free == "auto" and context.device.type == "cpu" and not cell.method.dropout
        if varied and wanted and keeps_rows_apart(model):
            longest = max(len(e.ids) for e in base.data.train)
            hidden = getattr(model.config.get_text_config(), "hidden_size", None)
            by_rows = attends_by_rows(model, longest)
    return LoadedCell(
        model, start, base.tokenizer, base.data, base.teacher, base.domain, cell.training.loss, hidden, by_rows
    )


def load_untrained(context: CellContext) -> tuple[LoadedCell, tuple[str, ...]]:
    """A cell's base with nothing attached and its data, and the full names of the modules that it would adapt."""
    phase = _load_base(context)
    try:
        while True:
            next(phase)
    except StopIteration as end:
        base: LoadedBase = end.value
    return _loaded(context, base, base.model, {}), base.targets


def restore(context: CellContext) -> PhaseRun[LoadedCell]:
    """The cell as training left it, from the weights in its folder. ModelError where they are not there."""
    base = yield from _load_base(context)
    with quiet():
        model, start = restored(context.cell, base.model, base.peft_targets, context.folder)
    return _loaded(context, base, model, start)


def domain_of(context: CellContext, base: CausalModel, tokenizer: PreTrainedTokenizerBase) -> Domain | None:
    """Text of the base's domain and the base's own loss on it; None where the cell asks for none."""
    if is_kept(context.cell, base, context.device):
        return base_domain(context.cell, base, tokenizer, context.device)
    context.clock.enter("sample", SAMPLES * min(SAMPLE_TOKENS, context.cell.training.sequence_length))
    with context.clock.rows(base):
        return base_domain(context.cell, base, tokenizer, context.device)


def _load_base(context: CellContext) -> PhaseRun[LoadedBase]:
    """The base and its data; where attaching changes the base, its own text is drawn before."""
    cell, evaluates = context.cell, "evaluate" in context.phases
    context.clock.enter("load")
    tokenizer = load_tokenizer(cell.model)
    data = task_data(cell, tokenizer)
    if evaluates:
        fetch_tasks(further_tasks(cell), cell.evaluation)
    data, teacher = distilled(cell, data, tokenizer, context.device)
    plugins.load("methods", cell.method.name)  # its imports are on no clock
    with PhaseMeter(context.device) as loading:
        model, was_kept = base_for(cell, context.device)
    yield from reading("weight_bytes", weight_bytes(model))
    left = unreached(model)
    domain = None
    if evaluates and not context.base_survives:
        domain = domain_of(context, model, tokenizer)
        context.clock.enter("load")
    seconds = None if was_kept else loading.seconds
    return LoadedBase(model, tokenizer, data, teacher, domain, _targets(cell, model), left, seconds)


def _targets(cell: Cell, model: CausalModel) -> tuple[str, ...]:
    target_modules = cell.method.target_modules
    return resolve_targets(model, target_modules) if target_modules is not None else ()
