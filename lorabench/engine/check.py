"""What only the model and the data themselves can tell, before any cell runs: ranks against matrices, targets against
modules, rows against templates.

Each model is looked at once: its files and the names and shapes in their headers (engine.stored), whether it sees ahead
(engine.causal), its tokenizer (engine.vocabulary). Each way to adapt it is attached once, for real, to its weightless
copy on the meta device. No weight is read.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from lorabench import plugins
from lorabench.config.checkpoint import local_folder
from lorabench.config.checkpoint_files import has_weights
from lorabench.config.paths import model_directory, model_label
from lorabench.config.settings import ModelSpec
from lorabench.config.study import Cell
from lorabench.config.validity import length_fault
from lorabench.engine.adapt import linear_modules, odd_linear, peft_targets, resolve_targets
from lorabench.engine.causal import sees_ahead, sentence
from lorabench.engine.data import task_data
from lorabench.engine.data_check import data_fault, data_lines
from lorabench.engine.distill import excess_rank
from lorabench.engine.evaluate import file_text
from lorabench.engine.events import Problem
from lorabench.engine.library_messages import quiet
from lorabench.engine.lm_eval_check import lm_eval_fault
from lorabench.engine.model import check_device, check_stored, device, load_tokenizer, meta_model, stored_form
from lorabench.engine.notices import notices
from lorabench.engine.parameter_targets import resolve_parameters, stack_fault
from lorabench.engine.positions import positions
from lorabench.engine.rehearsal import STEP_BELOW, quantized_fault, small_copy, step_fault
from lorabench.engine.stored import fitting_names
from lorabench.engine.vocabulary import broken_json, refuse_unfit
from lorabench.errors import DataError, DeviceError, ModelError
from lorabench.formatting import error_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_cells(cells: Sequence[Cell]) -> tuple[Problem, ...]:
    """The first fault of each condition that has one, else what is to be told before the run; costs a meta model per
    model, no weights.
    """
    problems: list[Problem] = []
    condition_ids: set[str] = set()
    model_faults: dict[ModelSpec, str | None] = {}
    fault_cache: dict[str, str | None] = {}
    for cell in cells:
        if cell.condition_id not in condition_ids:
            condition_ids.add(cell.condition_id)
            fault = _model_fault(cell, model_faults) or _fault(cell, fault_cache)
            if fault:
                problems.append(Problem(cell.id, *fault))
    return tuple(problems) or (*_data_problems(cells), *notices(cells))


def _model_fault(cell: Cell, fault_cache: dict[ModelSpec, str | None]) -> tuple[str, str] | None:
    """What is wrong with a model whatever is done with it, looked at once; then whether it is quantized as the
    condition says.
    """
    key = cell.model.model_copy(update={"dtype": "auto"})
    if key not in fault_cache:
        try:
            _check_model(cell.model)
        except ModelError as e:
            fault_cache[key] = str(e)
        else:
            fault_cache[key] = None
    fault = fault_cache[key]
    if fault:
        return "model", fault
    try:
        check_stored(cell)
    except ModelError as e:
        return "quantization", str(e)
    return None


def _check_model(spec: ModelSpec) -> None:
    model, name = meta_model(spec), model_label(spec.name)
    if sees_ahead(model):
        raise ModelError(sentence(name))
    folder = local_folder(spec.name, spec.revision)
    if folder is not None and (broken := broken_json(folder)):
        raise ModelError(broken)
    if folder is not None and (
        model_directory(spec.name) is not None or has_weights(folder)
    ):  # a hub model may not be there yet
        fitting_names(model, folder, stored_form(spec))
    refuse_unfit(load_tokenizer(spec), model, name)


def _attach_fault(
    cell: Cell, model: PreTrainedModel, targets: tuple[str, ...], fault_cache: dict[str, str | None]
) -> tuple[str, str] | None:
    """Whether PEFT takes the model's modules, tried on a copy of its meta model, and whether what it makes can be
    trained, tried on a small copy with weights.
    """
    key = (
        f"{cell.model.name} {cell.model.revision} {cell.method.model_dump_json()} "
        f"{cell.training.gradient_checkpointing}"
    )
    if key not in fault_cache:
        try:
            with torch.device("meta"), quiet():
                plugins.load("methods", cell.method.name).attach(
                    copy.deepcopy(model), cell.method, peft_targets(model, targets) if targets else []
                )
            small = small_copy(model, STEP_BELOW) if cell.training.steps else None
            with quiet():
                fault_cache[key] = step_fault(cell, small, targets) if small is not None else None
        except ModelError as e:
            fault_cache[key] = str(e)
    fault = fault_cache[key]
    return ("method", fault) if fault else None


def _quantized_fault(cell: Cell, model: PreTrainedModel, fault_cache: dict[str, str | None]) -> tuple[str, str] | None:
    """Whether the model runs with quantized layers, tried on a small copy on the CPU; once for a model and form."""
    if cell.quantization.name == "none":
        return None
    key = f"{cell.model.name} {cell.model.revision} {cell.quantization.name}"
    if key not in fault_cache:
        small = small_copy(model, STEP_BELOW)
        with quiet():
            fault_cache[key] = quantized_fault(cell, small) if small is not None else None
    fault = fault_cache[key]
    return ("quantization", fault) if fault else None


def _data_problems(cells: Sequence[Cell]) -> tuple[Problem, ...]:
    """A task whose data cannot be read as asked, or of which too little is left; else what becomes of its rows.

    Each is read once, the first cell's last, which then finds it in memory.
    """
    first: dict[tuple[object, ...], Cell] = {}
    for cell in cells:  # what fits hangs on the tokenizer and the length, too
        first.setdefault((cell.fingerprints, cell.task.model_dump_json(), cell.training.sequence_length), cell)
    problems: list[Problem] = []
    for cell in reversed(first.values()):
        try:
            tokenizer = load_tokenizer(cell.model)
            if cell.evaluation.forgetting not in ("self", "none"):
                file_text(cell.evaluation.forgetting, tokenizer, cell.training.sequence_length)
            facts = task_data(cell, tokenizer).facts
            if facts is not None:
                problems += [
                    Problem(cell.id, "task", line, fatal=False) for line in reversed([*data_lines(facts, cell)])
                ]
                if fault := data_fault(facts, cell):
                    problems.append(Problem(cell.id, *fault))
        except DataError as e:
            problems.append(
                Problem(cell.id, "evaluation.forgetting" if str(e).startswith("evaluation") else "task", str(e))
            )
        except ModelError as e:
            problems.append(Problem(cell.id, "model", str(e)))
        except Exception as e:
            if type(e) is not Exception:  # which is what tokenizers raises, without a kind of its own
                raise
            problems.append(
                Problem(
                    cell.id,
                    "model",
                    f"the tokenizer of {model_label(cell.model.name)} cannot read the text of the task "
                    f"({error_line(e)}); use one with a token for text that is not in its vocabulary",
                )
            )
    return tuple(reversed(problems))


def _fault(cell: Cell, fault_cache: dict[str, str | None]) -> tuple[str, str] | None:
    model = meta_model(cell.model)
    name = model_label(cell.model.name)
    if too_long := length_fault(cell.training.sequence_length, positions(model.config), name):
        return "training.sequence_length", too_long
    targets: tuple[str, ...] = ()
    if cell.method.target_modules is not None:
        try:
            targets = resolve_targets(model, cell.method.target_modules)
        except ModelError as e:
            return "method.target_modules", str(e)
        if fault := _rank_fault(cell, model, targets):
            return fault
        try:
            stacks = resolve_parameters(model, cell.method.target_parameters)
        except ModelError as e:
            return "method.target_parameters", str(e)
        if too_high := stack_fault(stacks, cell.method.rank or 0):
            return "method.rank", too_high
    if fault := _attach_fault(cell, model, targets, fault_cache):
        return fault
    fault = _planted_fault(cell, model)
    if fault:
        return fault
    odd = odd_linear(model) if cell.quantization.name != "none" else None
    if odd:
        return "quantization", unquantizable(cell.quantization.name, odd)
    if fault := _quantized_fault(cell, model, fault_cache):
        return fault
    try:
        check_device(cell, device())
    except DeviceError as e:
        return ("training.optimizer" if "optimizer" in str(e) else "quantization"), str(e)
    return lm_eval_fault(cell)


def unquantizable(quantization: str, kind: str) -> str:
    """The sentence for a model that transformers would load unquantized."""
    return (
        f"quantization {quantization} would change nothing: transformers quantizes plain linear layers, "
        f"and this model's are of class {kind}; allowed: none"
    )


def _rank_fault(cell: Cell, model: PreTrainedModel, targets: tuple[str, ...]) -> tuple[str, str] | None:
    rank, shapes = cell.method.rank or 0, linear_modules(model)
    smallest = min(targets, key=lambda n: min(shapes[n]))
    n_in, n_out = shapes[smallest]
    if rank <= min(n_in, n_out):
        return None
    return (
        "method.rank",
        (
            f"rank {rank} is more than {smallest} ({n_out} x {n_in}) allows; at most {min(n_in, n_out)}, or "
            "leave that module out of target_modules"
        ),
    )


def _planted_fault(cell: Cell, model: PreTrainedModel) -> tuple[str, str] | None:
    planted = getattr(plugins.load("tasks", cell.task.name), "planted", lambda options: None)(cell.task)
    if planted is None:
        return None
    if stored_form(cell.model) is not None:
        return (
            "task",
            (
                f"task {cell.task.name} plants its teacher into unquantized weights, and "
                f"{model_label(cell.model.name)} is stored in {cell.quantization.name}; use the unquantized "
                "checkpoint"
            ),
        )
    shapes, planted_modules = linear_modules(model), set()
    for target, rank in planted.ranks:
        try:
            modules = resolve_targets(model, target)
        except ModelError as e:
            return "task", str(e)
        for name in modules:
            n_in, n_out = shapes[name]
            if odd := excess_rank(rank, name, n_out, n_in):
                return "task.rank", odd
            if name in planted_modules:
                return "task.rank", f"{name} is named twice; give each module a single rank"
            planted_modules.add(name)
    return None
