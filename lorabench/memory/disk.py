"""The disk that a cell's record takes, counted from the model's shapes and its settings before it runs.

    adapter/      saved ranks * trainable parameters * 4 bytes: PEFT saves float32
    model/        parameters * 4 bytes (2 where the study asks for half precision), where save.full keeps it
    directions    sum over modules of (in + out) * min(8, rank) * 2 bytes: float16 (record.truncations)
    spectra       a module's singular values (rank of them, min(in, out) of a dense change) * 4 bytes, and about 600
                  bytes of what is known of it
    checkpoint    3 * trainable parameters * 4 bytes (AdamW), twice while it is replaced; gone when the cell ends
    the rest      a step's row in curve.csv 80 bytes, 16 bytes a test row and metric, result.json and log 10 kB

Not counted: what a library prints, and report.html (5 MB).
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from functools import lru_cache

from lorabench import plugins
from lorabench.config.settings import MethodSpec, ModelSpec
from lorabench.config.study import Cell
from lorabench.engine.adapt import linear_modules, resolve_targets
from lorabench.memory.model_shape import ModelShape
from lorabench.memory.parameters import count_parameters
from lorabench.record.truncations import DIRECTIONS

NUMBER = 4  # bytes of a float32
DENSE = ("full", "dora")  # whose changes are decomposed as whole matrices
_PER_MODULE, _PER_STEP, _PER_ROW, _REST = 600, 80, 16, 10_000


def disk_bytes(cells: Sequence[Cell]) -> dict[str, dict[str, int]]:
    """By cell id the bytes of its `weights`, of its other `files`, and of its `checkpoint` while it trains; cells of
    which nothing can be said are left out."""
    sizes = {}
    for cell in cells:
        try:
            sizes[cell.id] = _of_cell(cell)
        except Exception:  # whatever it is, the study can run without a prediction
            traceback.print_exc(file=sys.stderr)
    return sizes


def _of_cell(cell: Cell) -> dict[str, int]:
    evaluation = cell.evaluation
    rest = _REST + 3 * _PER_ROW * evaluation.max_sequences + _PER_STEP * cell.training.steps
    if not cell.training.steps:
        return {"weights": 0, "files": rest, "checkpoint": 0}
    trainable, saved, modules, sides = _counts(cell.model, cell.method)
    files = rest
    if cell.analysis.spectra != "none":
        values = cell.method.rank if cell.method.name not in DENSE and cell.method.rank else None
        files += sum(_PER_MODULE + NUMBER * (values or min(pair)) for pair in modules)
    if cell.analysis.spectra == "full":
        files += 2 * sides * min(DIRECTIONS, cell.method.rank or DIRECTIONS)
    half = cell.model.dtype in ("bfloat16", "float16") and cell.method.name == "full"
    weights = saved * (2 if half else NUMBER)
    kept = cell.save.full if cell.method.name == "full" else cell.save.adapter
    return {
        "weights": 0 if kept == "none" else weights,
        "files": files,
        "checkpoint": 2 * 3 * trainable * (2 if half else NUMBER) if cell.training.checkpoint_every != "never" else 0,
    }


def _counts(model: ModelSpec, method: MethodSpec) -> tuple[int, int, tuple[tuple[int, int], ...], int]:
    """Trainable and saved numbers; the sides of the modules that change, and their sum."""
    numbers, modules = _sides(model, method.target_modules)
    sides = sum(map(sum, modules))
    if not plugins.load("methods", method.name).FIELDS:
        return numbers, numbers, modules, sides
    if method.target_parameters:
        (count,) = count_parameters(
            model, [method.rank or 1], method.target_modules or (), method.name, method.target_parameters
        )
        trainable = count.trainable_parameters
    else:
        trainable = (method.rank or 1) * sides + (sum(n_out for _, n_out in modules) if method.name == "dora" else 0)
    return trainable, plugins.load("methods", method.name).SAVED_RANKS * trainable, modules, sides


@lru_cache(maxsize=64)
def _sides(model: ModelSpec, targets: str | tuple[str, ...] | None) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Parameters of a model, and (in, out) of each of its modules that are meant; of all linear ones where none is."""
    whole = ModelShape(model).model
    shapes = linear_modules(whole)
    names = resolve_targets(whole, targets) if targets else shapes
    return sum(p.numel() for p in whole.parameters()), tuple(shapes[name] for name in names)
