"""What only the model and the data themselves can tell, before any cell runs: ranks against matrices, targets against modules, rows against templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lorabench import plugins
from lorabench.engine.adapt import linear_modules, odd_linear, resolve_targets
from lorabench.engine.data import task_data
from lorabench.engine.data_check import data_fault, data_lines
from lorabench.engine.distill import beyond
from lorabench.engine.evaluate import file_text
from lorabench.engine.events import Notice, Problem
from lorabench.engine.model import check_device, device, load_tokenizer, skeleton
from lorabench.errors import DataError, DeviceError, LorabenchError, ModelError, unknown
from lorabench.spec.study import Cell


def check_cells(cells: Sequence[Cell], tell: Callable[[Notice], None] = lambda notice: None) -> tuple[Problem, ...]:
    """The first fault of each condition that has one; costs a skeleton per model, no weights. `tell` hears what became of the data's rows."""
    found: list[Problem] = []
    seen: set[str] = set()
    for cell in cells:
        if cell.condition_id not in seen:
            seen.add(cell.condition_id)
            fault = _fault(cell)
            if fault:
                found.append(Problem(cell.id, *fault))
    return tuple(found) or _data_problems(cells, tell)


def _data_problems(cells: Sequence[Cell], tell: Callable[[Notice], None]) -> tuple[Problem, ...]:
    """A task whose data cannot be read as asked, or of which too little is left; each is read once, the first cell's last, which then finds it in memory."""
    first: dict[tuple[object, ...], Cell] = {}
    for cell in cells:  # what fits hangs on the tokenizer and the length, too
        first.setdefault((cell.fingerprints, cell.task.model_dump_json(), cell.training.sequence_length), cell)
    told: list[list[Notice]] = []
    found = []
    for cell in reversed(first.values()):
        try:
            tokenizer = load_tokenizer(cell.model)
            if cell.evaluation.forgetting not in ("self", "none"):
                file_text(cell.evaluation.forgetting, tokenizer, cell.training.sequence_length)
            facts = task_data(cell, tokenizer).facts
            if facts is not None:
                told.append([Notice(cell.id, line) for line in data_lines(facts, cell)])
                if fault := data_fault(facts, cell):
                    found.append(Problem(cell.id, *fault))
        except DataError as e:
            found.append(Problem(cell.id, "evaluation.forgetting" if str(e).startswith("evaluation") else "task", str(e)))
        except ModelError as e:
            found.append(Problem(cell.id, "model", str(e)))
    for notices in reversed(told):
        for notice in notices:
            tell(notice)
    return tuple(reversed(found))


def _fault(cell: Cell) -> tuple[str, str] | None:
    try:
        model = skeleton(cell.model)
    except ModelError as e:
        return "model", str(e)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and cell.training.sequence_length > positions:
        return "training.sequence_length", f"sequence_length {cell.training.sequence_length} is beyond the model's {positions} positions; at most {positions} is allowed"
    if cell.method.target_modules is not None:
        try:
            targets = resolve_targets(model, cell.method.target_modules)
        except ModelError as e:
            return "method.target_modules", str(e)
        fault = _rank_fault(cell, model, targets)
        if fault:
            return fault
    fault = _planted_fault(cell, model)
    if fault:
        return fault
    odd = odd_linear(model) if cell.quantization.name != "none" else None
    if odd:
        return "quantization", unquantizable(cell.quantization.name, odd)
    try:
        check_device(cell, device())
    except DeviceError as e:
        return ("training.optimizer" if "optimizer" in str(e) else "quantization"), str(e)
    return _evaluation_fault(cell)


def unquantizable(quantization: str, kind: str) -> str:
    """The sentence for a model that transformers would load unquantised."""
    return f"quantization {quantization} would change nothing: transformers quantises plain linear layers, and this model's are of class {kind}; allowed: none"


def _rank_fault(cell: Cell, model: Any, targets: tuple[str, ...]) -> tuple[str, str] | None:
    rank, shapes = cell.method.rank or 0, linear_modules(model)
    smallest = min(targets, key=lambda n: min(shapes[n]))
    n_in, n_out = shapes[smallest]
    if rank <= min(n_in, n_out):
        return None
    return "method.rank", f"rank {rank} is above what {smallest} ({n_out} x {n_in}) allows; at most {min(n_in, n_out)}, or leave that module out of target_modules"


def _planted_fault(cell: Cell, model: Any) -> tuple[str, str] | None:
    planted = getattr(plugins.load("tasks", cell.task.name), "planted", lambda options: None)(cell.task)
    if planted is None:
        return None
    shapes, seen = linear_modules(model), set()
    for wanted, rank in planted.ranks:
        try:
            modules = resolve_targets(model, wanted)
        except ModelError as e:
            return "task", str(e)
        for name in modules:
            n_in, n_out = shapes[name]
            if odd := beyond(rank, name, n_out, n_in):
                return "task.rank", odd
            if name in seen:
                return "task.rank", f"{name} is named twice; give each module one rank"
            seen.add(name)
    return None


def _evaluation_fault(cell: Cell) -> tuple[str, str] | None:
    own = getattr(plugins.load("tasks", cell.task.name), "CHOICE_SETS", ())
    further = [t for t in cell.evaluation.lm_eval or () if t not in own]
    if not further:
        return None
    from lorabench.engine.harness import known_tasks

    try:
        known = known_tasks(cell.evaluation.include_path)
    except LorabenchError as e:
        return "evaluation.lm_eval", str(e)
    for name in further:
        if name not in known:
            near = [*own, *(t for t in known if t.startswith(name[:3]))][:12]
            return "evaluation.lm_eval", unknown("lm-eval task", name, near or known[:12]) + ", and all that `lm-eval ls tasks` lists"
    return None
