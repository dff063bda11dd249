"""load_study: a YAML file (and --set overrides) as a checked Study.

Every fault ends as a StudyError with file and line. What needs the model itself (a rank against its
matrices, target modules against its modules) is checked later, by the worker that has torch loaded.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from lorabench import plugins
from lorabench.config.explain import sentence
from lorabench.config.grid import conditions
from lorabench.config.imported import refuse_imported
from lorabench.config.paths import Context, find_file, find_model, with_gguf_file
from lorabench.config.published_tables import is_paper
from lorabench.config.source import Source, override, read_source
from lorabench.config.study import Study
from lorabench.errors import StudyError


def load_study(path: str | Path, settings: str | tuple[str, ...] | list[str] = ()) -> Study:
    """The study of a file, checked.

    Args:
        path: the YAML file.
        settings: "key=value" over what the file says, as --set of the command line: "training.steps=50".
    Returns:
        Study.
    Raises:
        StudyError: the file says something that cannot be run; the sentence names file and line.
    Example:
        >>> import lorabench as lb
        >>> lb.load_study("studies/quickstart.yaml", ["training.steps=5"]).training.steps
        5
    """
    return read_study(override(read_source(path), (settings,) if isinstance(settings, str) else tuple(settings)))


def read_study(source: Source) -> Study:
    """The same from a Source."""
    if is_paper(source):
        raise StudyError(
            f"{source.name}: a table of the literature has nothing to run; see it with: lorabench table {source.name}"
        )
    if (imported := source.data.get("imported")) is not None:
        raise refuse_imported(source.name, imported.get("importer") if isinstance(imported, dict) else imported)
    training = source.data.get("training")
    if isinstance(training, dict) and training.get("steps") is not None and training.get("epochs") is not None:
        raise StudyError(
            f"{source.at(('training', 'epochs'))}: training.steps and training.epochs are both given; keep one of"
            " the two"
        )
    try:
        study = Study.model_validate(source.data, context=context(source))
    except ValidationError as e:
        route, words = sentence(e)
        raise StudyError(f"{source.at(route)}: {words}") from None
    conditions(study, source)  # every condition is made once, so that a fault in one is told now
    grid = {axis: tuple(_absolute(axis, v, source) for v in values) for axis, values in study.grid.items()}
    include = tuple({key: _absolute(key, v, source) for key, v in entry.items()} for entry in study.include)
    return study.model_copy(update={"grid": grid, "include": include})


def _absolute(dotted: str, value: object, source: Source) -> object:
    """A value of an axis with its paths absolute, as those of the base setting are by validation."""
    if isinstance(value, dict):
        value = with_gguf_file(value) if dotted == "model" else value
        inside = "" if dotted == "grid" else f"{dotted}."
        return {k: _absolute(inside + k, v, source) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_absolute(dotted, v, source) for v in value]
    if not isinstance(value, str):
        return value
    if dotted in ("model", "model.name"):
        return find_model(value, context(source))
    files = {"evaluation.forgetting", "evaluation.include_path"} | {
        f"task.{f}" for t in plugins.names("tasks") for f in plugins.load("tasks", t).PATH_FIELDS
    }
    return find_file(value, context(source)) or value if dotted in files else value


def context(source: Source) -> Context:
    """What validation needs beside the data: the folders that relative paths are looked up from."""
    return {"folders": (source.folder,)}
