"""load_study: a YAML file (and --set overrides) as a checked Study.

Every fault ends as a StudyError with file and line. What needs the model itself (a rank against its
matrices, target modules against its modules) is checked later, by the worker that has torch loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorabench.errors import StudyError
from lorabench.spec.explain import sentence
from lorabench.spec.grid import conditions
from lorabench.spec.source import Source, override, read_source
from lorabench.spec.study import Study


def load_study(path: str | Path, settings: tuple[str, ...] | list[str] = ()) -> Study:
    """The Study of a file with each "key=value" of settings over it; StudyError where anything is amiss."""
    return read_study(override(read_source(path), tuple(settings)))


def read_study(source: Source) -> Study:
    """The same from a Source."""
    try:
        study = Study.model_validate(source.data, context=context(source))
    except ValidationError as e:
        route, words = sentence(e)
        raise StudyError(f"{source.at(route)}: {words}") from None
    conditions(study, source)  # every condition is made once, so that a fault in one is told now
    return study


def context(source: Source) -> dict[str, Any]:
    """What validation needs beside the data: the folders that relative paths are looked up from."""
    return {"folders": (source.folder,)}
