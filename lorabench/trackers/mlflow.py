"""an MLflow experiment named like the study, where MLFLOW_TRACKING_URI points (MLflow's default: the folder here)

A cell is a run with its settings as parameters, its curve and readings as metrics, and its outcome as a tag.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from lorabench.record.tracked import TrackedEnd, TrackedRun
from lorabench.trackers._library import library

_CELL, _OUTCOME = "lorabench.cell", "lorabench.outcome"
_MOST_METRICS, _MOST_PARAMETERS, _LONGEST_VALUE, _LONGEST_TAG = 1000, 100, 6000, 5000  # of MLflow's REST interface


def open_tracker(study: str) -> MlflowExperiment:
    """The experiment of a study; LorabenchError without mlflow."""
    return MlflowExperiment(library("mlflow"), study)


class MlflowExperiment:
    """An experiment of a tracking server or a local store."""

    def __init__(self, mlflow: Any, study: str) -> None:
        self._mlflow = mlflow
        self._client = mlflow.MlflowClient()
        found = self._client.get_experiment_by_name(study)
        self._experiment = found.experiment_id if found is not None else self._client.create_experiment(study)
        uri = mlflow.get_tracking_uri()
        self.place = f"MLflow's experiment {study} in {uri}; shown by: mlflow ui --backend-store-uri {uri}"

    def known(self) -> set[str]:
        """Of the runs that have an outcome."""
        ids, page = set(), None
        while True:
            runs = self._client.search_runs([self._experiment], page_token=page)
            ids |= {r.data.tags[_CELL] for r in runs if _OUTCOME in r.data.tags and _CELL in r.data.tags}
            page = runs.token
            if not page:
                return ids

    def begin(self, run: TrackedRun) -> MlflowRun:
        """A run of its own beside others that are open."""
        tags = {_CELL: run.cell, "lorabench.condition": run.group[:_LONGEST_TAG]}
        made = self._client.create_run(self._experiment, run_name=run.name, tags=tags)
        settings = [
            self._mlflow.entities.Param(_name(key), str(value)[:_LONGEST_VALUE]) for key, value in run.settings.items()
        ]
        for start in range(0, len(settings), _MOST_PARAMETERS):
            self._client.log_batch(made.info.run_id, params=settings[start : start + _MOST_PARAMETERS])
        return MlflowRun(self._mlflow, self._client, made.info.run_id)


class MlflowRun:
    """One run; metrics go in batches."""

    def __init__(self, mlflow: Any, client: Any, run_id: str) -> None:
        self._metric, self._client, self._run = mlflow.entities.Metric, client, run_id
        self._waiting: list[Any] = []
        self._last, self._sent = 0, time.monotonic()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Sent once a second, and at the end."""
        self._last = max(self._last, step)
        self._add(step, values)
        if len(self._waiting) >= _MOST_METRICS or time.monotonic() - self._sent > 1:
            self._send()

    def end(self, end: TrackedEnd) -> None:
        """The readings at the last step; the run's state says whether it finished."""
        self._add(self._last, end.values)
        self._send()
        if end.error:
            self._client.set_tag(self._run, "lorabench.error", end.error[:_LONGEST_TAG])
        self._client.set_tag(self._run, _OUTCOME, end.outcome)
        self._client.set_terminated(self._run, "FINISHED" if end.outcome == "finished" else "FAILED")

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._waiting += [self._metric(_name(key), value, now, step) for key, value in values.items()]

    def _send(self) -> None:
        for start in range(0, len(self._waiting), _MOST_METRICS):
            self._client.log_batch(self._run, metrics=self._waiting[start : start + _MOST_METRICS])
        self._waiting, self._sent = [], time.monotonic()


def _name(key: str) -> str:
    """With the signs that MLflow allows (lm-eval's filters have commas)."""
    return re.sub(r"[^\w\-. :/]", "_", key)
