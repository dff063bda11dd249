"""A cell's training written down while it runs, so that one that was killed goes on where it was, to the same last
digit.

What the next step depends on: the trainable parameters, the buffers (a rotary embedding that follows the length changes
them), the optimizer's state, the random states (dropout) and the number of steps. The order of the rows needs no state
of its own: the seed alone decides it, so the rows of the steps taken are drawn again and passed over. Beside these lies
what the result needs: curve, tokens, positions, seconds, memory peaks. Frozen weights are not in it: loading and
attaching make them again.

Bytes: trainable parameters + optimizer state; for an adapter in float32 with AdamW 12 a trainable parameter (a rank-8
adapter of a model of 8B: 0.25 GB), for full fine-tuning in bfloat16 6 a parameter (48 GB for 8B). A new one is whole on
the disk before it replaces the former, so that there is room for two to be found.

Read with weights_only. A checkpoint that is damaged, of another cell, another format or another device is told of and
not used: a GPU's numbers go on from a GPU's. Kept within a run of the same libraries; limits: attributes of modules
that are no buffers are not in it.
"""

from __future__ import annotations

import os
import random
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
import torch

from lorabench.engine.events import Event
from lorabench.engine.measure import PhaseMeter
from lorabench.record.store import CHECKPOINT

if TYPE_CHECKING:
    from transformers import PreTrainedModel


FORMAT = 1
AUTO_SECONDS = 300.0  # between two checkpoints, and ...
AUTO_SHARE = 0.05  # ... the share of the time at most that writing them takes


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step: a row of curve.csv. Seconds run from the start of training, over all runs of the cell."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float
    tokens: int = 0
    """of this step, without padding; 0 in checkpoints of lorabench before it was kept"""


@dataclass
class TrainingProgress:
    """How far a training has come; seconds are those of its steps alone, over all runs of the cell."""

    curve: list[StepRecord] = field(default_factory=list)
    tokens: int = 0
    positions: int = 0
    """with padding"""

    @property
    def step(self) -> int:
        """optimizer steps taken"""
        return len(self.curve)

    @property
    def seconds(self) -> float:
        """of the steps taken"""
        return self.curve[-1].seconds if self.curve else 0.0


class TrainingState(TypedDict):
    """What a checkpoint holds beside its head and its memory peaks."""

    curve: list[tuple[int, float, float, float, float]]
    """the fields of each StepRecord"""
    tokens: int
    positions: int
    tensors: dict[str, torch.Tensor]
    """trainable parameters and buffers, by name"""
    optimizer: list[dict[str, object]]
    """the state of each parameter, in the optimizer's order"""
    torch: torch.Tensor
    """the state of its random generator, as the three below"""
    cuda: torch.Tensor | None
    python: tuple[object, ...]
    numpy: tuple[str, list[int], int, int, float]


class Checkpoints:
    """The checkpoint of one cell, in the folder that it is written to while it runs; a fault in it never ends the
    cell."""

    def __init__(
        self,
        folder: Path,
        cell: str,
        every: int | Literal["auto", "never"],
        steps: int,
        where: torch.device,
        report: Callable[[Event], None],
    ) -> None:
        self._file, self._cell, self._every, self._steps = folder / CHECKPOINT, cell, every, steps
        self._where, self._report = where, report
        self._last = time.monotonic()
        self._cost = 0.0
        self._write_fault_reported = False
        self.seconds = 0.0
        """that this run spent on writing: no part of training"""
        self.progress = TrainingProgress()
        self._peaks: tuple[int, int] | None = None

    @classmethod
    def none(cls, where: torch.device) -> Checkpoints:
        """Of a training that nothing is written of."""
        return cls(Path(os.devnull), "", "never", 0, where, lambda event: None)

    def resume(self, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> TrainingProgress:
        """The progress that is written down, its state put into model, optimizer and random generators; at step 0 where
        there is none to go on from.
        """
        if not self._file.exists():
            return self.progress
        try:
            with zipfile.ZipFile(self._file) as archive:  # torch reads past a wrong checksum
                if harmed := archive.testzip():
                    raise OSError(f"{harmed} is damaged")
            stored = torch.load(self._file, map_location="cpu", weights_only=True)
            if odd := self._foreign(stored, model):
                self._report_event(warning=f"its checkpoint is {odd}; training starts at step 0")
                return self.progress
            _restore(stored, self.progress, model, optimizer, self._where)
            self._peaks = stored["peaks"]
        except Exception:
            traceback.print_exc()
            optimizer.state.clear()
            self._report_event(warning="its checkpoint cannot be read; training starts at step 0")
            return self.progress
        self._last = time.monotonic()
        self._report_event(note=f"resumed at step {self.progress.step:,} of {self._steps:,}")
        return self.progress

    def after(self, progress: TrainingProgress, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
        """Writes one if it is time to; after the last step if there was time for one before, so that a fault in the
        evaluation costs no training.
        """
        if not self._is_due(progress.step):
            return
        began = time.monotonic()
        try:
            self._write(progress, model, optimizer)
        except Exception as e:  # a full disk, most likely
            traceback.print_exc()
            if not self._write_fault_reported:
                reason = getattr(e, "strerror", None) or type(e).__name__
                self._report_event(warning=f"its checkpoint cannot be written ({reason}); training goes on without it")
            self._write_fault_reported = True
        self._last = time.monotonic()
        self._cost = self._last - began
        self.seconds += self._cost

    def peaks(self, phase: PhaseMeter) -> None:
        """Raises a phase's memory peaks to those of the runs before, which may have had the longest rows."""
        if self._peaks is not None and phase.peak_bytes is not None and phase.reserved_bytes is not None:
            phase.peak_bytes, phase.reserved_bytes = (
                max(phase.peak_bytes, self._peaks[0]),
                max(phase.reserved_bytes, self._peaks[1]),
            )

    def _is_due(self, step: int) -> bool:
        if self._every == "never":
            return False
        last = step == self._steps
        if self._every == "auto":
            return (last and self._file.exists()) or time.monotonic() - self._last >= max(
                AUTO_SECONDS, self._cost / AUTO_SHARE
            )
        return step % self._every == 0 or (last and self._every < step)

    def _write(self, progress: TrainingProgress, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
        new = self._file.with_suffix(".new")
        try:
            with new.open("wb") as stream:
                state = _state(progress, model, optimizer, self._where)
                torch.save({**self._head(), **state, "peaks": self._peaks_now()}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(new, self._file)
        finally:
            new.unlink(missing_ok=True)

    def _head(self) -> dict[str, object]:
        name = torch.cuda.get_device_name(self._where) if self._where.type == "cuda" else "cpu"
        return {"format": FORMAT, "cell": self._cell, "steps": self._steps, "device": name}

    def _foreign(self, stored: object, model: PreTrainedModel) -> str:
        """Why a checkpoint is not this training's; empty where it is."""
        head = self._head()
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            return "of another version of lorabench"
        if stored.get("cell") != self._cell or stored.get("steps") != self._steps:
            return "another cell's"
        if stored.get("device") != head["device"]:
            return f"from {stored.get('device')}, and this is {head['device']}"
        shapes = {n: (t.shape, t.dtype) for n, t in stored["tensors"].items()}
        return "" if shapes == {n: (t.shape, t.dtype) for n, t in _changing(model).items()} else "of another model"

    def _peaks_now(self) -> tuple[int, int] | None:
        if self._where.type != "cuda":
            return None
        now = torch.cuda.max_memory_allocated(self._where), torch.cuda.max_memory_reserved(self._where)
        return now if self._peaks is None else (max(now[0], self._peaks[0]), max(now[1], self._peaks[1]))

    def _report_event(self, *, warning: str | None = None, note: str | None = None) -> None:
        self._report(Event(self._cell, "train", warning=warning, note=note))


def _changing(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What training changes in a model, by name: trainable parameters, and buffers of numbers with a fraction."""
    trainable = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return trainable | {n: b for n, b in model.named_buffers() if b.is_floating_point()}


def _state(
    progress: TrainingProgress, model: PreTrainedModel, optimizer: torch.optim.Optimizer, where: torch.device
) -> TrainingState:
    numpy_state = np.random.get_state()  # noqa: NPY002  (the state that libraries draw from)
    assert isinstance(numpy_state, tuple)
    name, keys, position, has_gauss, gauss = numpy_state
    return {
        "curve": [astuple(s) for s in progress.curve],
        "tokens": progress.tokens,
        "positions": progress.positions,
        "tensors": {n: t.cpu() for n, t in _changing(model).items()},
        "optimizer": [
            {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in optimizer.state[p].items()}
            for p in _parameters(optimizer)
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(where) if where.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, gauss),
    }


@torch.no_grad()
def _restore(
    stored: TrainingState,
    progress: TrainingProgress,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    where: torch.device,
) -> None:
    _restore_optimizer(optimizer, stored["optimizer"])
    for name, tensor in _changing(model).items():
        tensor.copy_(stored["tensors"][name])
    random.setstate(stored["python"])
    name, keys, position, has_gauss, gauss = stored["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(stored["torch"])
    if where.type == "cuda" and stored["cuda"] is not None:
        torch.cuda.set_rng_state(stored["cuda"], where)
    progress.curve += [StepRecord(*row) for row in stored["curve"]]
    progress.tokens, progress.positions = stored["tokens"], stored["positions"]


def _restore_optimizer(optimizer: torch.optim.Optimizer, stored: list[dict[str, object]]) -> None:
    if hasattr(
        optimizer, "init_state"
    ):  # bitsandbytes: its own load_state_dict would move paged state to the GPU for good
        for g, group in enumerate(optimizer.param_groups):
            for i, parameter in enumerate(group["params"]):
                optimizer.init_state(group, parameter, g, i)
        for parameter, state in zip(_parameters(optimizer), stored, strict=True):
            own = optimizer.state[parameter]
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    own[key].copy_(value)
                else:
                    own[key] = value
        return
    own = optimizer.state_dict()
    optimizer.load_state_dict({"state": dict(enumerate(stored)), "param_groups": own["param_groups"]})


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
