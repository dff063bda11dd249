"""What a study reads, file by file, so that a later run can say which of it has changed.

A cell's id holds one hash of its model and one of its data (config.fingerprint). They tell that something is different;
this record, kept in plan.json under the same two hashes, tells what: each file of the model, each data file of the task
and of the evaluation. Where the hash of the data moved and no file did, lorabench's own reading of the task has
changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from lorabench import __version__, plugins
from lorabench.config.fingerprint import hash_path, model_files
from lorabench.config.frozen import Frozen
from lorabench.config.paths import model_directory
from lorabench.config.study import Cell, Condition


class Input(Frozen):
    """One file, folder or hub id that was read."""

    field: str
    """the setting that names it (task.train), or a model's kind of file: weights, config, tokenizer"""
    path: str
    """where it lay; a file of a model by its name, since the folder is the cell's model"""
    hash: str


class Inputs(Frozen):
    """All that the cells of a plan read, under the fingerprints that they carry."""

    version: str = __version__
    """of the lorabench that read it"""
    read_at: str = ""
    """ISO 8601, UTC"""
    models: dict[str, tuple[Input, ...]] = Field(default_factory=dict)
    """by the fingerprint of the model"""
    data: dict[str, tuple[Input, ...]] = Field(default_factory=dict)
    """by the fingerprint of the data"""

    @property
    def day(self) -> str:
        """The date of reading: YYYY-MM-DD."""
        return self.read_at[:10]

    def or_before(self, before: Inputs | None) -> Inputs:
        """An earlier record where it says the same, else this one."""
        same = before is not None and before.model_copy(update={"read_at": self.read_at}) == self
        return before if before is not None and same else self


def inputs_of(cells: Iterable[Cell]) -> Inputs:
    """The record of a plan; each model and each set of data is read once."""
    models: dict[str, tuple[Input, ...]] = {}
    data: dict[str, tuple[Input, ...]] = {}
    for cell in cells:
        marks = cell.fingerprints
        if marks.model not in models:
            models[marks.model] = model_inputs(cell)
        if marks.data not in data:
            data[marks.data] = data_inputs(cell)
    return Inputs(read_at=datetime.now(UTC).isoformat(timespec="seconds"), models=models, data=data)


def model_inputs(condition: Condition) -> tuple[Input, ...]:
    """The files of a model's directory; nothing of a hub id, whose fingerprint names its commit."""
    directory = model_directory(condition.model.name)
    if directory is None or not directory.is_dir():
        return ()
    return tuple(Input(field=_kind(name), path=name, hash=mark) for name, mark in model_files(str(directory)))


def data_inputs(condition: Condition) -> tuple[Input, ...]:
    """The files of a condition's task and evaluation, in the order of their settings; a data set of the hub with its
    revision."""
    options, evaluation = condition.task, condition.evaluation
    named: list[tuple[str, str]] = []
    for field in plugins.load("tasks", options.name).PATH_FIELDS:
        value = getattr(options, field, None) or ()
        named += [(f"task.{field}", str(path)) for path in ((value,) if isinstance(value, str) else value)]
    if evaluation.forgetting not in ("self", "none"):
        named.append(("evaluation.forgetting", evaluation.forgetting))
    if evaluation.include_path:
        named.append(("evaluation.include_path", evaluation.include_path))
    inputs = [Input(field=field, path=path, hash=hash_path(path)[:16]) for field, path in named]
    dataset = getattr(options, "dataset", None)
    if dataset:
        inputs.append(Input(field="task.dataset", path=dataset, hash=str(getattr(options, "revision", None) or "main")))
    return tuple(inputs)


def moved(then: Iterable[Input], now: Iterable[Input]) -> tuple[Input, ...]:
    """The inputs of then that are others now: other bytes, or gone."""
    current: Mapping[tuple[str, str], str] = {(i.field, i.path): i.hash for i in now}
    return tuple(i for i in then if current.get((i.field, i.path)) != i.hash)


def _kind(name: str) -> str:
    if Path(name).suffix in (".safetensors", ".bin", ".gguf") or name.endswith(".index.json"):
        return "weights"
    return "config" if name == "config.json" else "tokenizer"
