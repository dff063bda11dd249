"""The files that tell what a condition learned, cell by cell; and which condition stands for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lorabench.analysis import spectra as stored
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.spectrum import Spectrum
from lorabench.record.truncations import Directions, Truncation


def spectra(study: StudyAnalysis, condition: str) -> tuple[tuple[Spectrum, ...], ...]:
    """Of each finished cell that has any."""
    of_cells = (stored.spectra(path) for _, path in _files(study, condition, "spectra.safetensors"))
    return tuple(s for s in of_cells if s)


def directions(study: StudyAnalysis, condition: str) -> tuple[Mapping[str, Directions], ...]:
    """Of each finished cell that has any."""
    return tuple(directions_by_seed(study, condition).values())


def directions_by_seed(study: StudyAnalysis, condition: str) -> dict[int, Mapping[str, Directions]]:
    """The same by seed."""
    stored_files = (
        (seed, stored.directions(path)) for seed, path in _files(study, condition, "directions.safetensors")
    )
    return {seed: d for seed, d in stored_files if d}


def truncations(study: StudyAnalysis, condition: str) -> dict[int, tuple[Truncation, ...]]:
    """Of each finished cell that has any, by its seed."""
    stored_files = ((seed, stored.truncations(path)) for seed, path in _files(study, condition, "truncation.csv"))
    return {seed: t for seed, t in stored_files if t}


def _files(study: StudyAnalysis, condition: str, name: str) -> Iterable[tuple[int, Path]]:
    return (
        (r.cell.seed, study.file(r.cell.id, name)) for r in study.of_condition(condition) if r.outcome == "finished"
    )


def rank_of(study: StudyAnalysis, condition: str) -> int | None:
    """The rank of a condition's adapters, None where it has none."""
    setting = next(g.setting for g in study.groups if g.condition == condition)
    return setting.method.rank


def highest(study: StudyAnalysis, conditions: Iterable[str]) -> str:
    """The one of highest rank, the first in the study's order among several; without any rank the first."""
    return max(conditions, key=lambda c: rank_of(study, c) or 0)


def tops(study: StudyAnalysis, conditions: Iterable[str]) -> tuple[str, ...]:
    """The condition of highest rank of each family."""
    families: dict[str, list[str]] = {}
    for c in conditions:
        families.setdefault(study.summary(c).label.family, []).append(c)
    return tuple(highest(study, members) for members in families.values())
