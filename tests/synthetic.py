"""no training: readings from a known response surface, within milliseconds and without torch

For tests and for trying out reports. With u, v uniform in [-1, 1] and fixed by their arguments:

    eval_loss = FLOOR                                                     full fine-tuning
              = FLOOR + GAP / (1 + rank) ** 0.5 + QUANTIZED[name]         adapters
              = FLOOR + BASE_GAP + QUANTIZED[name]                        the untouched base
              + RATE_COST * log10(rate / BEST_RATE[full or adapter])^2    (not for the base)
              + SEED_NOISE * u(seed) + CELL_NOISE * v(cell id)            (not for the base)
    p         = 1 / (1 + exp(2 * (eval_loss - 2.6)))
    accuracy  = share of ITEMS items with sqrt(ALIKE) c(item) + sqrt(1 - ALIKE) e(item, cell) < the p-quantile
                of the normal distribution; c and e are standard normal, c is common to all cells
    validation_loss = eval_loss + 0.01 w(cell id), of cells whose rate is tuned

Noise by seed is common to all conditions, as data order is; pairing removes it. A learning rate above 1 diverges at
step 12, a batch of 4,096 sequences or more runs out of memory. The predicted peak is 1 % above the measured one, 2 %
below it where weights are quantized; its parts sum to it, for a peak before the gradients of adapters exist.

What was learned is synthetic_spectra.py's. Cut to rank k, it has

    eval_loss + CUT * (1 - kept energy), by energy 0.8 times as much lost
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np

from lorabench.config.study import Cell
from lorabench.engine.events import Event, Problem
from lorabench.record.items import FILE, Items, save_items
from lorabench.record.metrics import is_accuracy
from lorabench.record.result import CellResult, Environment, Fault, Outcome, Phase, Reading, Resolved
from lorabench.record.spectrum import Spectrum, save_spectra
from lorabench.record.truncations import Allocation, Truncation, save_directions, save_truncations
from tests.synthetic_spectra import HIDDEN, LAYERS, directions, modules, normal, spectra, uniform

INVENTS = True  # said to the runner, which keeps drawn and measured results apart
FLOOR, GAP, BASE_GAP = 2.0, 0.6, 1.2
BEST_RATE, RATE_COST = {"full": 1e-3, "adapter": 3e-3}, 0.05  # nats for a rate ten times too high or too low
QUANTIZED = {"none": 0.0, "int8": 0.01, "nf4": 0.05, "fp4": 0.09}
SEED_NOISE, CELL_NOISE = 0.03, 0.01
VOCABULARY = 1024
PARAMETERS = LAYERS * 16 * HIDDEN**2 + VOCABULARY * HIDDEN
BYTES_PER_WEIGHT = {"none": 4.0, "int8": 1.06, "nf4": 0.56, "fp4": 0.56}
CUT = 0.3  # nats for a change of which nothing is kept
DIVERGES_AT, LARGEST_BATCH, HIGHEST_RANK = 12, 4096, 4096
ITEMS, ALIKE, SEQUENCES = 200, 0.7, 64
ROWS = 1000  # of the training data, that epochs are counted over
STARTED_AT = "2026-01-01T00:00:00+00:00"


def expected(cell: Cell) -> dict[str, float]:
    """Every reading of a cell that finishes, by metric."""
    quantization, rank = cell.quantization.name, cell.method.rank
    gap = BASE_GAP if not _trains(cell) else 0.0 if rank is None else GAP / math.sqrt(1 + rank)
    noise = SEED_NOISE * uniform(f"seed {cell.seed}") + CELL_NOISE * uniform(cell.id) if _trains(cell) else 0.0
    loss = FLOOR + gap + QUANTIZED.get(quantization, 0.02) + noise + _rate_cost(cell)
    weights = PARAMETERS * BYTES_PER_WEIGHT.get(quantization, 1.0)
    trainable = 0 if not _trains(cell) else PARAMETERS if rank is None else LAYERS * 7 * 2 * HIDDEN * rank
    found = {
        "total_parameters": float(PARAMETERS + (trainable if rank is not None else 0)),
        "trainable_parameters": float(trainable),
        "weight_bytes": float(round(weights)),
        "load_seconds": 0.05,
        "eval_seconds": 0.4,
        "eval_peak_bytes": float(round(weights + 2e6)),
        "eval_loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": loss / math.log(2) / 3,
        **_accuracies(cell, loss),
    }
    found["trainable_percent"] = 100 * trainable / found["total_parameters"]
    if _trains(cell):
        tokens = float(_steps(cell) * cell.training.batch_size * cell.training.sequence_length)
        speed = 20_000.0 if quantization == "none" else 14_000.0
        activations = 4.0 * cell.training.batch_size * cell.training.sequence_length * HIDDEN * LAYERS * 8
        found |= {
            "adapter_bytes": 4.0 * trainable,
            "train_tokens": tokens,
            "tokens_per_second": speed,
            "train_seconds": tokens / speed,
            "train_peak_bytes": (peak := float(round(weights + 12 * trainable + activations))),
            "predicted_train_peak_bytes": (
                predicted := float(round(peak * (1.01 if quantization == "none" else 0.98)))
            ),
            **_parts(cell, weights, trainable, activations, predicted),
            "train_loss": loss - 0.1,
            "forgetting": 0.3 - 0.2 * gap / GAP,
        }
        if cell.tuned_over:
            found["validation_loss"] = loss + 0.01 * uniform(f"{cell.id} validation")
    return found


class Worker:
    """Runs cells at once, in this process."""

    def check(self, cells: Iterable[Cell], calibrations: Path | None = None) -> tuple[Problem, ...]:
        """A rank above what any matrix has."""
        words = "rank {} exceeds every matrix; at most {} is allowed"
        return tuple(
            Problem(c.id, "method.rank", words.format(c.method.rank, HIGHEST_RANK))
            for c in cells
            if (c.method.rank or 0) > HIGHEST_RANK
        )

    def run(
        self,
        cell: Cell,
        folder: Path,
        on_event: Callable[[Event], None],
        skip_infeasible: bool = False,
        calibrations: Path | None = None,
    ) -> CellResult:
        """The cell's result; its curve and what it learned in `folder`. Nothing is foreseen, so nothing is skipped."""
        folder.mkdir(parents=True, exist_ok=True)
        on_event(Event(cell.id, "load"))
        if cell.training.batch_size >= LARGEST_BATCH:
            fault = Fault(
                kind="OutOfMemoryError", message=f"a batch of {cell.training.batch_size} sequences does not fit", step=1
            )
            return _result(cell, "out_of_memory", {}, fault)
        diverges = cell.training.fixed_learning_rate > 1
        readings = expected(cell)
        if _trains(cell):
            steps = min(_steps(cell), DIVERGES_AT) if diverges else _steps(cell)
            _train(cell, steps, readings["train_loss"], folder / "curve.csv", on_event)
            if diverges:
                kept = {
                    m: readings[m] for m in ("total_parameters", "trainable_parameters", "weight_bytes", "load_seconds")
                }
                return _result(
                    cell,
                    "diverged",
                    kept,
                    Fault(kind="Diverged", message="the training loss is not finite", step=steps),
                )
        on_event(Event(cell.id, "evaluate"))
        if _trains(cell):
            on_event(Event(cell.id, "decompose"))
            learned, wanted = spectra(cell), cell.analysis.spectra
            if wanted != "none":
                save_spectra(
                    folder / "spectra.safetensors",
                    (
                        learned
                        if wanted == "full"
                        else (replace(s, alignment=None, intruders=None, repair=None) for s in learned)
                    ),
                )
            if wanted == "full":
                save_directions(folder / "directions.safetensors", directions(cell))
            if cuts := truncations(cell, learned):
                save_truncations(folder / "truncation.csv", cuts)
        save_items(folder / FILE, seen := items(cell, readings))
        return _result(cell, "finished", readings | {m: i.value for m, i in seen.items() if is_accuracy(m)}, None)

    def repeat(
        self, before: CellResult, phases: tuple[Phase, ...], cell: Cell, folder: Path, on_event: Callable[[Event], None]
    ) -> CellResult:
        """The former result: there is nothing to measure again."""
        return before

    def close(self) -> None:
        """Nothing is held."""


def open_worker(threads: int | None = None) -> Worker:
    """A worker; threads do not matter."""
    return Worker()


def _trains(cell: Cell) -> bool:
    return cell.training.steps > 0


def _steps(cell: Cell) -> int:
    return cell.training.over(ROWS).steps


def _tasks(cell: Cell) -> tuple[str, ...]:
    return ("synthetic",) if cell.evaluation.lm_eval is None else cell.evaluation.lm_eval


def _accuracies(cell: Cell, loss: float) -> dict[str, float]:
    own = (cell.task.decided_by,) if is_accuracy(cell.task.decided_by) else ()
    return {name: 1 / (1 + math.exp(2 * (loss - 2.6))) for name in (*own, *(f"{task}/acc" for task in _tasks(cell)))}


def _parts(cell: Cell, weights: float, trainable: int, activations: float, predicted: float) -> dict[str, float]:
    """Whole bytes that sum to the predicted peak; the activations take what rounding leaves."""
    stored = cell.quantization.name != "none"
    full = cell.method.rank is None
    share = {
        "weights": weights * (0.9 if stored else 1.0),
        "quantization_state": weights * (0.1 if stored else 0.0),
        "adapters": 0.0 if full else 4.0 * trainable,
        "gradients": 4.0 * trainable if full else 0.0,
        "optimizer": 8.0 * trainable,
        "logits": activations / 2,
        "workspace": activations / 8 if stored else 0.0,
    }
    of_peak = predicted / (weights + 12 * trainable + activations)
    parts = {f"predicted_{name}_bytes": float(round(n * of_peak)) for name, n in share.items()}
    return parts | {"predicted_activations_bytes": predicted - sum(parts.values())}


def _rate_cost(cell: Cell) -> float:
    if not _trains(cell):
        return 0.0
    best = BEST_RATE["full" if cell.method.rank is None else "adapter"]
    return RATE_COST * math.log10(cell.training.fixed_learning_rate / best) ** 2


def items(cell: Cell, readings: dict[str, float]) -> dict[str, Items]:
    """Every accuracy item by item, and the held-out loss by sequence (harder and easier ones, which average to the loss
    itself)."""
    made = {}
    for name, p in _accuracies(cell, readings["eval_loss"]).items():
        common, own = normal(f"{name} items", ITEMS, 1)[:, 0], normal(f"{name} {cell.id}", ITEMS, 1)[:, 0]
        right = math.sqrt(ALIKE) * common + math.sqrt(1 - ALIKE) * own < NormalDist().inv_cdf(p)
        made[name] = Items(right.astype(np.float64))
    hard = 0.3 * normal("sequences", SEQUENCES, 1)[:, 0] + 0.05 * normal(f"sequences {cell.id}", SEQUENCES, 1)[:, 0]
    tokens = np.full(SEQUENCES, 63.0)
    made["eval_loss"] = Items((readings["eval_loss"] + hard - hard.mean()) * tokens, tokens)
    return made


def _train(cell: Cell, steps: int, end: float, path: Path, on_event: Callable[[Event], None]) -> None:
    t, start = cell.training.over(ROWS), FLOOR + BASE_GAP
    with path.open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(["step", "loss", "learning_rate", "grad_norm", "seconds"])
        for step in range(1, steps + 1):
            share = step / t.steps
            loss = end + (start - end) * math.exp(-6 * share) + 0.02 * uniform(f"{cell.id} {step}")
            loss = loss * 3**step if t.fixed_learning_rate > 1 else loss
            rate = t.fixed_learning_rate * 0.5 * (1 + math.cos(math.pi * share))
            lines.writerow([step, round(loss, 6), rate, round(1 + math.exp(-6 * share), 6), 0.01])
            on_event(Event(cell.id, "train", step, t.steps, loss, 20_000.0))


def truncations(cell: Cell, learned: tuple[Spectrum, ...]) -> tuple[Truncation, ...]:
    """At the powers of two below the rank."""
    whole, most = expected(cell)["eval_loss"], min(cell.method.rank or HIDDEN, HIDDEN)
    energy = sum(s.frobenius_norm**2 for s in learned)
    rows: dict[Allocation, float] = {"uniform": 1.0, "energy": 0.8}  # of what the uniform one loses
    made = []
    for allocation, part in rows.items():
        for k in (2**i for i in range(most.bit_length()) if 2**i < most):
            lost = part * (1 - sum(float(np.sum(s.singular_values[:k] ** 2)) for s in learned) / energy)
            values = {"eval_loss": whole + CUT * lost, **_accuracies(cell, whole + CUT * lost)}
            made.append(
                Truncation(
                    allocation, k, k * sum(sum(sides) for sides in modules().values()), 1 - lost, _readings(values)
                )
            )
    return tuple(made)


def _readings(values: dict[str, float]) -> tuple[Reading, ...]:
    of_items = {m: math.sqrt(v * (1 - v) / ITEMS) for m, v in values.items() if m.endswith("/acc")}
    return tuple(
        Reading(metric=m, value=v, stderr=of_items.get(m), count=ITEMS if m in of_items else None)
        for m, v in values.items()
    )


def _result(cell: Cell, outcome: Outcome, readings: dict[str, float], error: Fault | None) -> CellResult:
    environment = Environment(
        device="synthetic", cores=1, platform="none", python="none", packages={"lorabench": "synthetic"}
    )
    alpha, rank = cell.method.alpha, cell.method.rank
    scaling = alpha / rank if alpha is not None and rank is not None else None
    return CellResult(
        cell=cell,
        outcome=outcome,
        resolved=Resolved(dtype="float32", steps=_steps(cell) if cell.training.epochs else None, scaling=scaling),
        readings=_readings(readings),
        environment=environment,
        started_at=STARTED_AT,
        error=error,
    )
