"""How fast this machine, or a card, really was: the roofline's three costs fitted to stored measurements.

    seconds of an optimizer step = a * flops + b * bytes moved + c * kernels        a, b, c >= 0

The work is that of its micro-batches, and of clipping and the update once,

by non-negative least squares of the relative error (scipy.optimize.nnls) over the finished cells of stored studies that
ran on the same device, as they ran there (a card without bfloat16 without mixed precision), and over the steps that
`lorabench calibrate` timed on the card. The range is the worst
factor between fitted and measured, and not less than 1 + SPREAD: a prediction, never a measurement.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lorabench.config.gpus import Gpu, cards_named
from lorabench.errors import LorabenchError
from lorabench.memory.interpolate import Reuse
from lorabench.memory.roofline import Seconds, optimizer_step_seconds
from lorabench.memory.step_dtypes import product_dtype
from lorabench.memory.step_profile import StepProfile, Work
from lorabench.memory.train_config import TrainConfig, on_card, setting_of
from lorabench.record.result import CellResult, Environment
from lorabench.record.store import Store

SPREAD = 0.10  # of a step's time: two runs of one cell on a quiet machine differ by as much
SPREAD_OF_FEW = 0.30
FEW = 6  # conditions below which three costs are hardly told apart
REACH = 10  # how many times more or less work than the stored steps had is still told from them
MOST_CONDITIONS = 24  # the latest: each is traced, in ~0.4 s


@dataclass(frozen=True)
class Calibration:
    """The fitted costs, in seconds, and what they come from."""

    costs: tuple[float, float, float]
    """of a flop, a byte moved, a kernel"""
    spread: float
    """worst factor between fitted and measured time, less 1; SPREAD at least"""
    conditions: int
    """stored ones"""
    least_flops: int
    most_flops: int
    rows: int = 0
    """of `lorabench calibrate`"""

    def step_seconds(self, step: StepProfile | Work) -> Seconds | None:
        """The time of an optimizer step; None where its work is not like that of the stored ones."""
        if not self.least_flops / REACH <= step.flops <= self.most_flops * REACH:
            return None
        middle = float(np.dot(self.costs, _work(step)))
        return Seconds(middle / (1 + self.spread), middle * (1 + self.spread))


def time_of(step: StepProfile, setting: TrainConfig, card: Gpu, calibration: Calibration | None) -> Seconds | None:
    """What an optimizer step of a setting takes, all its micro-batches, by the cells that ran on the card, else by its
    data sheet; None where neither is known."""
    accumulation = setting.training.gradient_accumulation
    fitted = calibration.step_seconds(step.work(accumulation)) if calibration else None
    return fitted or optimizer_step_seconds(
        step, accumulation, card, product_dtype(setting), setting.quantization.name != "none"
    )


def calibrate(card: Gpu, *folders: str | Path, most: int = MOST_CONDITIONS) -> Calibration | None:
    """From the results directories that are named or lie within the folders, and from what `lorabench calibrate` timed
    on the card; None where neither ran on it (for the CPU: on a machine like this one)."""
    return fit(measured_steps(stored_results(*folders), card, most), card.measured.steps if card.measured else ())


def stored_results(*folders: str | Path) -> list[CellResult]:
    """Of the results directories that are named or lie within the folders."""
    return [r for folder in folders for r in _results(Path(folder))]


def measured_steps(
    results: Iterable[CellResult], card: Gpu, most: int = MOST_CONDITIONS
) -> dict[TrainConfig, list[float]]:
    """Seconds of an optimizer step by setting, of finished cells on a card; the latest `most`."""
    seconds_by_setting: dict[TrainConfig, list[float]] = {}
    for result in sorted(results, key=lambda r: r.started_at, reverse=True):
        seconds, tokens, padding = (result.value(m) for m in ("train_seconds", "train_tokens", "padding_percent"))
        training = result.cell.training
        if (
            result.outcome != "finished"
            or not seconds
            or not tokens
            or padding is None
            or not result.steps
            or not is_on(card, result.environment)
        ):
            continue
        passes = result.steps * training.gradient_accumulation
        length = max(2, round(tokens / (1 - padding / 100) / passes / training.batch_size))
        setting = on_card(setting_of(result.cell, card.kind, length), card)
        if setting in seconds_by_setting or len(seconds_by_setting) < most:
            seconds_by_setting.setdefault(setting, []).append(seconds / result.steps)
    return seconds_by_setting


def fit(
    measured: dict[TrainConfig, list[float]], timed: Sequence[tuple[int, int, int, float]] = ()
) -> Calibration | None:
    """The costs that explain the median of each setting best, and steps that were timed (flops, bytes moved, kernels,
    seconds); None where nothing was measured."""
    steps = Reuse()
    steps.plan(measured)
    rows, seconds = list[tuple[float, ...]](), list[float]()
    for setting, step_seconds in measured.items():
        try:
            rows.append(_work(steps.step(setting).work(setting.training.gradient_accumulation)))
        except LorabenchError:  # a model that is not on this machine any more
            continue
        seconds.append(float(np.median(step_seconds)))
    conditions = len(rows)
    for *work_of_step, one in timed:
        rows.append(tuple(map(float, work_of_step)))
        seconds.append(one)
    if not rows:
        return None
    work, times = np.array(rows, dtype=float), np.array(seconds)
    scale = work.max(axis=0)  # flops are 1e12 times kernels
    from scipy.optimize import nnls  # 0.3 s that only a card with stored cells needs to wait

    costs, _ = nnls(work / scale / times[:, None], np.ones(len(times)))
    costs = costs / scale
    fitted = work @ costs
    if fitted.min() <= 0:
        return None
    off = (
        float(np.maximum(fitted / times, times / fitted).max()) - 1
    )  # so that the range around each fitted time holds the measured one
    spread = max(off, SPREAD if len(rows) >= FEW else SPREAD_OF_FEW)
    least, most = int(work[:, 0].min()), int(work[:, 0].max())
    return Calibration((costs[0], costs[1], costs[2]), spread, conditions, least, most, len(timed))


def is_on(card: Gpu, environment: Environment | None) -> bool:
    """Whether an environment is a card's: the card is one that the device's name may mean; for the CPU this machine's
    platform, with no more threads than this process has."""
    if environment is None:
        return False
    if card.kind == "cpu":
        return (
            environment.device == "cpu"
            and environment.platform == platform.platform()
            and environment.cores is not None
            and environment.cores <= torch.get_num_threads()
        )
    return card in cards_named(environment.device)


def _work(step: StepProfile | Work) -> tuple[float, float, float]:
    return float(step.flops), float(step.moved_bytes), float(step.kernels)


def _results(folder: Path) -> Iterable[CellResult]:
    own = folder / "plan.json"
    for place in [own] if own.is_file() else sorted(folder.glob("*/plan.json")):
        try:
            yield from Store(place.parent).results()
        except (LorabenchError, OSError):
            continue
