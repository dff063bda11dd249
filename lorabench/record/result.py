"""The result of a cell: what was declared, what the libraries made of it, and what was read.

A value that was not measured is absent: there is no reading of it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lorabench.config.frozen import Frozen
from lorabench.config.study import Cell
from lorabench.record.data import DataFacts
from lorabench.record.unreached import Unreached

Outcome = Literal[
    "finished", "diverged", "out_of_memory", "failed", "skipped"
]  # skipped: not run, since it was predicted not to fit
SETTLED: tuple[Outcome, ...] = ("finished", "diverged", "out_of_memory")  # another try would end the same way
BROKEN: tuple[Outcome, ...] = (
    "diverged",
    "out_of_memory",
    "failed",
)  # ran and did not finish: what is left of such a condition are survivors
RETRIED: tuple[Outcome, ...] = ("failed", "skipped")  # run again by the next start


class Reading(Frozen):
    """One measured value, in the metric's own unit (seconds, bytes, nats); see record.metrics."""

    metric: str
    value: float = Field(allow_inf_nan=False)
    stderr: float | None = Field(None, allow_inf_nan=False)
    """standard error over items, where the metric is a mean"""
    count: int | None = None
    """items that the value is a mean of"""


class Environment(Frozen):
    """The machine and the software a cell ran on."""

    device: str
    """cpu, or the name of the GPU"""
    driver: str | None = None
    """CUDA version of the driver's runtime, on a GPU"""
    cores: int | None = None
    """CPU threads that torch had, at most: it leaves cores that others need"""
    processor: str | None = None
    """name of the CPU; absent in results from before it was recorded"""
    instructions: str | None = None
    """of the processor that the CPU's kernels use: AVX2, AVX512, AVX512 with BF16"""
    platform: str | None = None
    python: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    """name: version"""
    git: str | None = None
    """commit of lorabench's own checkout, with + where it was changed"""


class Resolved(Frozen):
    """What the libraries made of the declared settings."""

    dtype: str
    """of unquantized weights"""
    compute_dtype: str | None = None
    """of dequantized products, where weights are quantized"""
    autocast: str | None = None
    """dtype of mixed precision in training, where it was on"""
    eval_dtype: str | None = None
    """of unquantized weights in evaluation, which has no mixed precision; absent in results from before it was one for
    all methods: then dtype's"""
    steps: int | None = None
    """of the optimizer, where the study gave epochs counted over the training rows; absent in results from before there
    were epochs"""
    optimizer: str | None = None
    """class that took the steps"""
    scaling: float | None = None
    """alpha / rank, or alpha / sqrt(rank)"""
    target_modules: tuple[str, ...] = ()
    """full names of the adapted modules"""
    target_parameters: tuple[str, ...] = ()
    """full names of the adapted stacks of experts; empty in results from before they could be"""
    packing: Literal["packed", "padded"] | None = None
    """how examples fill a training sequence"""
    train_examples: int | None = None
    test_examples: int | None = None
    data: DataFacts | None = None
    """what became of the task's rows; absent in results from before it was counted"""
    model_class: str | None = None
    stored_quantised: bool | None = None
    """true where the checkpoint brought the quantization, which was then not made here"""
    stored_type: str | None = None
    """of a base that came as a GGUF file: Q4_1, Q8_0, F16; its weights were dequantized on loading"""
    unreached: Unreached | None = None
    """what was asked to be quantized or adapted and is neither"""
    padding_free: bool | None = None
    """true where rows of a batch lay end to end wherever that costs less"""
    base_kept: bool | None = None
    """true where the worker had the base of an earlier cell, so that this one has no load_seconds"""


Phase = Literal["foresee", "load", "train", "save", "evaluate", "decompose", "truncate", "measure"]
"""of a cell, in their order"""
REPEATED: tuple[Phase, ...] = ("evaluate", "decompose", "truncate", "measure")
"""phases that need no training: they can be run again from the saved weights"""


class Fault(Frozen):
    """Why a cell did not finish, or what one of its later phases ended with."""

    kind: str
    """exception's class, or signal"""
    message: str
    """one sentence"""
    step: int | None = None
    """optimizer step at which it happened, from 1"""
    phase: Phase | None = None
    """in which it happened; absent in results from before it was recorded"""


class CellResult(Frozen):
    """A cell and what came of it; curve and spectra lie in files beside it."""

    schema_version: Literal[1] = Field(1, alias="schema")
    cell: Cell
    outcome: Outcome
    resolved: Resolved | None = None
    readings: tuple[Reading, ...] = ()
    environment: Environment | None = None
    started_at: str
    """UTC, ISO 8601"""
    error: Fault | None = None
    source: str | None = None
    """file (and row) that an imported result was read from; absent of what lorabench ran"""
    faults: tuple[Fault, ...] = ()
    """of the phases after the evaluation, which end no cell"""

    @property
    def is_trained(self) -> bool:
        """Whether training was done, so that what failed can be repeated alone where the weights were saved."""
        return self.outcome == "finished" or (
            self.outcome in ("failed", "out_of_memory") and self.error is not None and self.error.phase == "evaluate"
        )

    @property
    def steps(self) -> int | None:
        """Optimizer steps of its training; None where epochs were given and the rows were not counted."""
        if self.resolved is not None and self.resolved.steps is not None:
            return self.resolved.steps
        return self.cell.training.steps if self.cell.training.epochs is None else None

    def value(self, metric: str) -> float | None:
        """The value of a metric, None where it was not measured."""
        return next((r.value for r in self.readings if r.metric == metric), None)
