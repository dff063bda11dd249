"""What stored studies say to a recommendation: which are read, and where the command line finds them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorabench.advice.evidence import REACH, ComparisonGroup, Here
from lorabench.errors import LorabenchError
from lorabench.evidence.gaps import Gap
from lorabench.record.archive import FILE, opened

PLACES = ("runs/*", "runs/*/*", "reports/*", "reports/*/*")
"""the second stars are groups of studies, such as paper and real"""


@dataclass(frozen=True)
class StoredEvidence:
    """What studies say."""

    groups: tuple[ComparisonGroup, ...] = ()
    """each model and task of them"""
    gaps: tuple[Gap, ...] = ()
    """which are pooled with published ones"""
    apart: tuple[tuple[str, str], ...] = ()
    """studies that have none, each with the reason"""


def stored_evidence(here: Here, studies: Sequence[Path], nearby: Sequence[Path]) -> StoredEvidence:
    """Of the studies, whatever their model; without studies, of those nearby that are near in size.

    LorabenchError where one of the studies cannot be read; of those nearby such a one is passed over.
    """
    folders = studies or [p for p in nearby if _is_near(p, here)]
    if not folders:
        return StoredEvidence()
    # pandas and scipy: a second that a model without a study near it need not wait
    from lorabench.advice.from_study import comparison_groups_in
    from lorabench.advice.own_gaps import own_gaps, why_apart
    from lorabench.analysis.study import analyse

    groups: list[ComparisonGroup] = []
    gaps: list[Gap] = []
    apart: list[tuple[str, str]] = []
    for folder in folders:
        try:
            with opened(folder) as store:
                analysis = analyse(store)
                groups += comparison_groups_in(analysis, here, folder)
                gaps += (found := own_gaps(analysis))
                if not found:
                    apart.append((analysis.study.name, why_apart(analysis)))
        except LorabenchError:
            if studies:
                raise
    return StoredEvidence(tuple(groups), tuple(gaps), tuple(apart))


def studies_here() -> list[Path]:
    """Results directories and archives under runs/ and reports/ of the current directory, for the command line. Of
    those that have a name and cells in common, which are one study, the first; a name alone may be another study's."""
    found: dict[Path, frozenset[str]] = {}
    for place in PLACES:
        folders = {p.parent for name in ("plan.json", FILE) for p in Path().glob(f"{place}/{name}")}
        for folder in sorted(folders):
            cells = _cells(folder)
            if not any(folder.name == other.name and cells & theirs for other, theirs in found.items()):
                found[folder] = cells
    return list(found)


def _cells(folder: Path) -> frozenset[str]:
    """By cells.csv, as `_is_near`: none where it cannot be read, and none is near then."""
    try:
        with (folder / "cells.csv").open(newline="", encoding="utf-8") as stream:
            return frozenset(row.get("cell") or "" for row in csv.DictReader(stream)) - {""}
    except (OSError, ValueError):
        return frozenset()


def _is_near(folder: Path, here: Here) -> bool:
    """By cells.csv, which costs nothing to look into: a store of 10,000 cells of another size is not read."""
    try:
        with (folder / "cells.csv").open(newline="", encoding="utf-8") as stream:
            sizes = {row.get("total_parameters") or "" for row in csv.DictReader(stream)}
        return any(10**-REACH <= float(n) / here.parameters <= 1.5 * 10**REACH for n in sizes if n)
    except (OSError, ValueError):
        return False
