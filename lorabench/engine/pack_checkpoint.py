"""A pack's training written down, so that one that was killed goes on where it was, and the cells that come after the
kill take what they learned in it without training again.

    packs/<first cell>.json     the ids of its cells; lets a runner see when all have results, and remove both
    packs/<first cell>.pt       under way: all adapters, the optimizer's state, the random states of their dropout, and
                                what each has behind it. Done: what each learned. Evaluated: what each was measured at
                                beside the others, too, which its cell would measure alone in other passes, and so to
                                other last bits

The order of the rows needs no state, since each seed decides its own (engine.checkpoint). Written as often as a cell's
checkpoint, when the steps are taken, and when the adapters are evaluated. A file that is damaged, or of another pack,
format or device, is not used: the pack trains anew. Read with weights_only.
"""

from __future__ import annotations

import json
import os
import time
import traceback
import zipfile
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lorabench.engine.answers import Answers, Generated
from lorabench.engine.checkpoint import AUTO_SECONDS, AUTO_SHARE, StepRecord, TrainingProgress
from lorabench.engine.evaluate import Losses
from lorabench.engine.packed_adapters import Learned
from lorabench.engine.packed_evaluation import HeldOut
from lorabench.engine.train import Diverged
from lorabench.record.whole_files import write_where_changed

if TYPE_CHECKING:
    from lorabench.engine.packed import Member, PackedTraining
    from lorabench.engine.packed_layers import Streams

FORMAT = 1


class PackCheckpoint:
    """The file of one pack; a fault in it never ends the pack."""

    def __init__(
        self, folder: Path, cells: Sequence[str], every: int | Literal["auto", "never"], where: torch.device
    ) -> None:
        self._file, self._cells, self._every, self._where = folder / f"{cells[0]}.pt", list(cells), every, where
        self._last, self._cost = time.monotonic(), 0.0

    @torch.no_grad()
    def resume(self, members: Sequence[Member], optimizer: torch.optim.Optimizer, streams: Streams) -> int:
        """The steps that are written down, their state put into adapters, optimizer and dropout; 0 where there are
        none."""
        stored = _read(self._file, self._where)
        if stored is None or stored["cells"] != self._cells or "done" in stored:
            return 0
        own = optimizer.state_dict()
        optimizer.load_state_dict({"state": dict(enumerate(stored["optimizer"])), "param_groups": own["param_groups"]})
        streams.states = [state.cpu() for state in stored["streams"]]
        for member, values, told in zip(members, stored["values"], stored["progress"], strict=True):
            member.bucket.values[member.place] = values.to(member.bucket.values.device)
            member.progress, member.diverged = _progress(told)
        return int(stored["step"])

    def after(self, step: int, members: Sequence[Member], optimizer: torch.optim.Optimizer, streams: Streams) -> None:
        """Writes the state after a step where it is time to."""
        if self._every == "never" or not self._is_due(step):
            return
        self._write(
            {
                "step": step,
                "values": [m.bucket.values[m.place].cpu() for m in members],
                "progress": [_told(m.progress, m.diverged) for m in members],
                "optimizer": [
                    {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in optimizer.state[p].items()}
                    for group in optimizer.param_groups
                    for p in group["params"]
                ],
                "streams": streams.states,
            }
        )

    def trained(self) -> list[PackedTraining] | None:
        """What was learned, in the cells' order, where that is written down."""
        stored = _read(self._file, self._where)
        if stored is None or stored["cells"] != self._cells or "done" not in stored:
            return None
        return list(_trained(stored).values())

    def done(self, trained: Sequence[PackedTraining], evaluated: bool = False) -> None:
        """Writes what was learned, for cells that take it after a kill, and what was measured once it is; in the cells'
        order."""
        if self._every != "never":
            done = [
                (t.learned.factors, t.learned.magnitudes, _told(t.progress, t.diverged))
                for t in (one.on_host() for one in trained)
            ]
            held = {"held_out": [_told_held_out(t.held_out) for t in trained]} if evaluated else {}
            self._write({"done": done, **held})

    def _is_due(self, step: int) -> bool:
        if self._every == "auto":
            return time.monotonic() - self._last >= max(AUTO_SECONDS, self._cost / AUTO_SHARE)
        return isinstance(self._every, int) and step % self._every == 0

    def _write(self, state: dict[str, object]) -> None:
        began, new = time.monotonic(), self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(exist_ok=True)
            write_where_changed(self._file.with_suffix(".json"), json.dumps(self._cells))
            with new.open("wb") as stream:
                torch.save({**_head(self._where), "cells": self._cells, **state}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(new, self._file)
        except Exception:  # a full disk, most likely: training goes on without it
            traceback.print_exc()
            new.unlink(missing_ok=True)
        self._last = time.monotonic()
        self._cost = self._last - began


def trained_before(folder: Path, cell: str, where: torch.device) -> tuple[dict[str, PackedTraining], bool]:
    """By id what the cells learned that trained with a cell, where that was done and written down, empty otherwise; and
    whether they were evaluated since."""
    for listed in folder.glob("*.json"):
        try:
            if cell not in listed.read_text(encoding="utf-8"):
                continue
        except (OSError, ValueError):  # another runner has just removed it, or it is damaged
            continue
        stored = _read(listed.with_suffix(".pt"), where)
        if stored is not None and cell in stored["cells"] and "done" in stored:
            return _trained(stored), "held_out" in stored
    return {}, False


def _trained(stored: dict[str, Any]) -> dict[str, PackedTraining]:
    from lorabench.engine.packed import PackedTraining

    cells, found = stored["cells"], {}
    held_out = stored.get("held_out", [None] * len(cells))
    for name, (factors, magnitudes, told), held in zip(cells, stored["done"], held_out, strict=True):
        learned = Learned({n: tuple(pair) for n, pair in factors.items()}, magnitudes)
        found[name] = PackedTraining(learned, *_progress(told), len(cells), _held_out(held))
    return found


def _head(where: torch.device) -> dict[str, object]:
    return {"format": FORMAT, "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"}


def _read(file: Path, where: torch.device) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        with zipfile.ZipFile(file) as archive:  # torch reads past a wrong checksum
            if harmed := archive.testzip():
                raise OSError(f"{harmed} is damaged")
        stored: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return stored if {k: stored.get(k) for k in _head(where)} == _head(where) else None
    except Exception:
        traceback.print_exc()
        return None


def _told(progress: TrainingProgress, diverged: Diverged | None) -> dict[str, object]:
    fault = None if diverged is None else (diverged.step, diverged.what)
    return {
        "curve": [astuple(s) for s in progress.curve],
        "tokens": progress.tokens,
        "positions": progress.positions,
        "diverged": fault,
    }


def _progress(told: dict[str, Any]) -> tuple[TrainingProgress, Diverged | None]:
    progress = TrainingProgress([StepRecord(*row) for row in told["curve"]], told["tokens"], told["positions"])
    return progress, None if told["diverged"] is None else Diverged(*told["diverged"])


def _told_held_out(held: HeldOut | None) -> dict[str, object] | None:
    if held is None:
        return None
    answers = held.answers
    return {
        "seconds": held.seconds,
        "answers": None if answers is None else _told_losses(answers.losses),
        "choices": None if answers is None or answers.nats is None else torch.from_numpy(answers.nats),
        "validation": None if held.validation is None else _told_losses(held.validation),
        "domain": None if held.domain is None else _told_losses(held.domain),
        "texts": None if held.texts is None else [tuple(text) for text in held.texts],
    }


def _held_out(told: dict[str, Any] | None) -> HeldOut | None:
    if told is None:
        return None
    answered, choices = _losses(told["answers"]), told["choices"]
    answers = None if answered is None else Answers(answered, None if choices is None else choices.numpy())
    texts = None if told["texts"] is None else [Generated(*text) for text in told["texts"]]
    return HeldOut(told["seconds"], answers, _losses(told["validation"]), _losses(told["domain"]), texts)


def _told_losses(losses: Losses) -> tuple[torch.Tensor, ...]:
    return tuple(map(torch.from_numpy, (losses.nats, losses.tokens, losses.n_bytes)))


def _losses(told: Sequence[torch.Tensor] | None) -> Losses | None:
    return None if told is None else Losses(*(values.numpy() for values in told))
