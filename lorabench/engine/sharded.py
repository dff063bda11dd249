"""A cell that several GPUs of one machine train together, by FSDP: the steps that `train` takes with one of them.

Each GPU has a process (engine.sharded_rank) that holds its part of weights, gradients and optimizer state and takes its
rows of each micro-batch. Everything after the steps is done on one GPU with the trained weights, which the processes
leave in a file: so the model in the precision that it is trained in must fit one card; what training needs beside it
(gradients, optimizer state, activations) need not. No checkpoint is written.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lorabench.config.study import Cell
from lorabench.engine.cell_context import LoadedCell, PhaseRun, Report, reading
from lorabench.engine.checkpoint import StepRecord, TrainingProgress
from lorabench.engine.events import Event, read_event
from lorabench.engine.paces import paces
from lorabench.engine.train import Diverged

WEIGHTS = "sharded.safetensors"
OPTIMIZERS = ("adamw", "sgd")  # torch's own: bitsandbytes' take no sharded tensors


@dataclass(frozen=True)
class ShardedTraining:
    """What became of a cell that several processes trained."""

    cards: int
    progress: TrainingProgress
    peaks: Mapping[str, int]
    """train_peak_bytes and train_reserved_bytes of the fullest GPU; empty on a CPU"""
    weights: Path
    """of the whole model, where no fault ended it"""
    fault: Exception | None = None


def unshardable(cell: Cell) -> str | None:
    """Why a cell has to be trained by one process; None where several can."""
    if cell.method.name != "full":
        return f"{cell.method.name} trains adapters; only full fine-tuning is sharded"
    if cell.training.optimizer not in OPTIMIZERS:
        return f"{cell.training.optimizer} takes no sharded tensors, as {' and '.join(OPTIMIZERS)} do"
    if cell.training.loss == "chunked":
        return "a chunked loss calls the head outside of the model"
    return "it is distilled from a planted teacher" if cell.task.name == "planted" else None


def train_sharded(cell: Cell, folder: Path, cards: int, report: Report = lambda event: None) -> ShardedTraining | None:
    """Trains a cell with so many processes, a GPU each (all on the CPU where there is none); None, with a note, where
    it cannot be sharded. The weights lie in its folder until they are put into a model."""
    if (reason := unshardable(cell)) is not None:
        report(Event(cell.id, "load", note=f"trains on one GPU: {reason}"))
        return None
    started = f"trains in {cards} processes; no checkpoint is written, so that a stopped run begins this cell again"
    report(Event(cell.id, "load", note=started))
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        file.write(cell.model_dump_json())
        file.flush()
        return _followed(_started(cards, Path(file.name), folder / WEIGHTS), folder / WEIGHTS, report)


def sharded_training(loaded: LoadedCell, done: ShardedTraining) -> PhaseRun[None]:
    """In place of a cell's own steps: its readings, and what was learned put into its model; raises what ended it."""
    if done.fault is not None:
        raise done.fault
    learned = load_file(done.weights)
    own = loaded.model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, weight in learned.items():
            own[name].copy_(weight)
    done.weights.unlink()
    yield from reading("train_seconds", done.progress.seconds)
    yield from paces(done.progress.curve)
    yield from reading("train_cards", done.cards)
    for metric, peak in done.peaks.items():
        yield from reading(metric, peak)


def _started(cards: int, cell: Path, weights: Path) -> list[subprocess.Popen[str]]:
    """A process for each GPU, as accelerate's launcher would start them. One whose standard input ends (that of a
    runner that was killed) ends itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": cards, "LOCAL_WORLD_SIZE": cards, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "lorabench.engine.sharded_rank", str(cell), str(weights)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {name: str(value) for name, value in {**common, "RANK": r, "LOCAL_RANK": r}.items()},
        )
        for r in range(cards)
    ]


def _followed(ranks: list[subprocess.Popen[str]], weights: Path, report: Report) -> ShardedTraining:
    """Passes on what the first process tells, and ends all where one fails: the others would wait for it."""
    told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read(rank: subprocess.Popen[str]) -> None:
        assert rank.stdout is not None
        for line in rank.stdout:
            told.put(json.loads(line))
        told.put({"ended": rank.wait()})

    for rank in ranks:
        threading.Thread(target=read, args=(rank,), daemon=True).start()
    done: list[dict[str, Any]] = []
    running = len(ranks)
    try:
        while running:
            message = told.get()
            if "event" in message:
                report(read_event(message["event"]))
            elif "fault" in message or message.get("ended"):
                return ShardedTraining(len(ranks), TrainingProgress(), {}, weights, _fault(message))
            elif "ended" in message:
                running -= 1
            else:
                done.append(message)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    first = next(m for m in done if m["rank"] == 0)
    progress = TrainingProgress([StepRecord(*row) for row in first["curve"]], first["tokens"], first["positions"])
    peaks = {name: max(m["peaks"][name] for m in done) for name in first["peaks"]}
    diverged = None if first["diverged"] is None else Diverged(**first["diverged"])
    return ShardedTraining(len(ranks), progress, peaks, weights, diverged)


def _fault(message: dict[str, Any]) -> Exception:
    """The error that ended a process, as one of this process."""
    if "ended" in message:
        return RuntimeError(f"a process of the sharded training ended with exit code {message['ended']}; see log.txt")
    kind, text = message["fault"]["kind"], message["fault"]["message"]
    return torch.OutOfMemoryError(text) if kind == "OutOfMemoryError" else RuntimeError(f"{kind}: {text}")
