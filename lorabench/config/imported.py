"""Conditions that were measured elsewhere and read in by `lorabench import`: how they are told from those that run.

A study that runs names methods, quantizations and tasks that are plug-ins, and every setting has a value. A result
from elsewhere may have any method, and its source tells some settings only. So an imported condition has an `Imported`
beside its settings: `known` are the settings that its source tells; all others hold a default that means nothing, and
count and are shown as None (`declared`). Foreign names pass validation only with the context IMPORTED (config.paths),
which the store gives for a plan that says it was imported; a study file cannot say so, and an imported study cannot
run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lorabench.config.frozen import Frozen
from lorabench.config.plain_settings import SETTINGS
from lorabench.errors import StudyError

if TYPE_CHECKING:
    from lorabench.config.study import Condition

NOT_STATED = "not stated"
"""name of a model or task that the source does not tell"""


class Imported(Frozen):
    """Of an imported condition, what its settings cannot say."""

    importer: str
    """peft, csv, lm-eval"""
    known: tuple[str, ...]
    """settings that the source tells, by their dotted names; all others are unknown"""
    variant: str | None = None
    """what the source calls it beside its settings"""
    experiment: str | None = None
    """its name there, where it has one: results of one name are of one condition"""


class ImportedStudy(Frozen):
    """Of an imported study, where it comes from."""

    importer: str
    """peft, csv, lm-eval"""
    sources: tuple[str, ...]
    """files and folders that were given"""
    notes: tuple[str, ...] = ()
    """what to know of the numbers, a sentence each; they stand below the table"""


def knows(condition: Condition, name: str) -> bool:
    """Whether a setting, by its dotted name, is known; every setting of a condition that runs is."""
    return condition.imported is None or name in condition.imported.known


def declared(condition: Condition) -> dict[str, dict[str, Any]]:
    """A condition's settings as plain data; of an imported one those that are unknown are None, and what its settings
    cannot say stands under "imported"."""
    names = set(SETTINGS) & set(type(condition).model_fields)
    plain: dict[str, dict[str, Any]] = condition.model_dump(mode="json", include=names)
    if condition.imported is None:
        return plain
    known = condition.imported.known
    blanked = {
        part: {k: v if k == "name" or f"{part}.{k}" in known else None for k, v in fields.items()}
        for part, fields in plain.items()
    }
    return {**blanked, "imported": condition.imported.model_dump(mode="json", exclude={"known"})}


def refuse_imported(place: str, importer: object) -> StudyError:
    """The error for an imported study that is to run."""
    return StudyError(
        f"{place}: this study was imported ({importer}) and has nothing to run; its results are shown by lorabench"
        " table DIR and report DIR, and a study that runs has a file of its own (see: lorabench schema)"
    )
