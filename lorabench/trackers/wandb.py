"""offline runs of Weights & Biases under WANDB_DIR (here: ./wandb), which `wandb sync` uploads

Always offline: nothing leaves the machine before its user says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorabench.record.tracked import TrackedEnd, TrackedRun
from lorabench.trackers._library import library, writable_folder

_WHOLE = "lorabench-outcome"  # a file in a run's folder: wandb itself marks no end that can be told without reading all


def open_tracker(study: str) -> WandbFolder:
    """The folder of offline runs; LorabenchError without wandb."""
    return WandbFolder(library("wandb"), study)


class WandbFolder:
    """wandb's folder of runs that were not uploaded."""

    def __init__(self, wandb: Any, study: str) -> None:
        self._wandb, self._study = wandb, study
        self._parent = Path(os.environ.get("WANDB_DIR") or ".")
        self._folder = self._parent / "wandb"
        writable_folder(self._folder, "WANDB_DIR")  # or wandb takes a temporary one
        self.place = f"offline runs in {self._folder}; uploaded by: wandb sync {self._folder}/offline-run-*"

    def known(self) -> set[str]:
        """Of the runs that were written to their end."""
        return {path.parent.name.rpartition("-")[2] for path in self._folder.glob(f"offline-run-*/{_WHOLE}")}

    def begin(self, run: TrackedRun) -> WandbRun:
        """A run of its own beside others that are open."""
        w = self._wandb
        settings = w.Settings(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True)
        made = w.init(
            project=self._study,
            id=run.cell,
            name=run.name,
            group=run.group[:128],  # wandb's limit
            config=dict(run.settings),
            dir=str(self._parent),
            mode="offline",
            reinit="create_new",
            settings=settings,
        )
        return WandbRun(made)


class WandbRun:
    """One run."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """To wandb's own process."""
        self._run.log(dict(values), step=step)

    def end(self, end: TrackedEnd) -> None:
        """The readings are the run's summary."""
        words = {"outcome": end.outcome} | ({"error": end.error} if end.error else {})
        self._run.summary.update({**end.values, **words})
        self._run.finish(exit_code=0 if end.outcome == "finished" else 1)
        (Path(self._run.dir).parent / _WHOLE).write_text(f"{end.outcome}\n", encoding="utf-8")
