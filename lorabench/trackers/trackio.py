"""a local trackio project named like the study: in TRACKIO_DIR, shown by `trackio show`

Runs are trackio's own local ones, whatever TRACKIO_SPACE_ID says: nothing of a study is sent anywhere. (trackio asks
the Hugging Face hub for the user's name, where one has logged in there.) It has no place for a run's last values: they
are logged at the last step, with the outcome as a word.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorabench.record.tracked import TrackedEnd, TrackedRun
from lorabench.trackers._library import library, writable_folder

_OUTCOME = "outcome"


def open_tracker(study: str) -> TrackioProject:
    """The project of a study; LorabenchError without trackio."""
    return TrackioProject(library("trackio"), study)


class TrackioProject:
    """A project in trackio's local store."""

    def __init__(self, trackio: Any, study: str) -> None:
        self._trackio = trackio
        self.project = project_name(study)
        writable_folder(Path(trackio.TRACKIO_DIR), "TRACKIO_DIR")
        self.place = f"trackio's project {self.project} in {trackio.TRACKIO_DIR}; shown by: trackio show --project " + (
            self.project
        )

    def known(self) -> set[str]:
        """Of the runs that have an outcome."""
        from trackio.sqlite_storage import SQLiteStorage

        if self.project not in SQLiteStorage.get_projects():
            return set()
        return {
            str((run.config or {}).get("cell"))
            for run in self._trackio.Api().runs(self.project)
            if _is_whole(self.project, run.name, run.id)
        }

    def begin(self, run: TrackedRun) -> TrackioRun:
        """A run of its own beside others that are open, which trackio.init would end."""
        config = {key: value for key, value in run.settings.items() if not key.startswith("_")}
        made = self._trackio.Run(
            url=None, project=self.project, client=None, name=f"{run.name} ({run.cell})", group=run.group, config=config
        )
        return TrackioRun(made)


class TrackioRun:
    """One run."""

    def __init__(self, run: Any) -> None:
        self._run, self._last = run, 0

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Written by trackio's own thread, twice a second."""
        self._last = max(self._last, step)
        self._run.log(dict(values), step=step)

    def end(self, end: TrackedEnd) -> None:
        """Waits until all is written, 30 s at most; OSError where it is not there then, of which trackio says
        nothing."""
        words = {_OUTCOME: end.outcome} | ({"error": end.error} if end.error else {})
        self._run.log({**end.values, **words}, step=self._last)
        with contextlib.redirect_stdout(io.StringIO()):  # it says what it does for remote stores
            self._run.finish()
        if not _is_whole(self._run.project, self._run.name, self._run.id):
            raise OSError(f"the run {self._run.name} is not in trackio's store: a full disk, most likely")


def _is_whole(project: str, name: str, run_id: str) -> bool:
    """Whether the store has a run's outcome."""
    from trackio.sqlite_storage import SQLiteStorage

    return any(_OUTCOME in row for row in SQLiteStorage.get_logs(project, name, run_id=run_id)[-1:])


def project_name(study: str) -> str:
    """A name that is a file's name, too, and none that trackio keeps for itself."""
    clean = re.sub(r"[^A-Za-z0-9_-]+", "-", study).strip("-") or "study"
    return f"study-{clean}" if clean.startswith("registry-") else clean
