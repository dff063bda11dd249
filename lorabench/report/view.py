"""All that tables, sections and figures draw from, read from a store once and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from lorabench.analysis.aggregate import Summary, aggregate, metrics
from lorabench.analysis.compare import compare, references
from lorabench.analysis.conditions import Replicates, replicates
from lorabench.analysis.findings.registry import Evidence, Finding, check
from lorabench.analysis.pairing import Pairing
from lorabench.analysis.tuning import Tuning, chosen_cells, tunings
from lorabench.analysis.verdict import Comparison, Verdicts
from lorabench.config.decision import deciding_metric
from lorabench.config.fingerprint import canonical_json
from lorabench.config.study import Study
from lorabench.record.frames import wide
from lorabench.record.items import FILE, Items, load_items
from lorabench.record.metrics import is_accuracy, metric
from lorabench.record.result import CellResult
from lorabench.record.store import Store
from lorabench.report.style import Style, styles


@dataclass(frozen=True)
class View:
    """A study with its results, as analysis understands them."""

    folder: Path
    """of the store: curves and spectra lie below it"""
    study: Study
    planned: tuple[Replicates, ...]
    """the conditions with the cells at all of their rates"""
    groups: tuple[Replicates, ...]
    """the same with the cells that they are reported by"""
    results: Mapping[str, CellResult]
    """by cell id, in the study's order"""
    data: pd.DataFrame
    """a row per cell that conditions are made of, as record.wide makes it; cells at rates that were not chosen are left out"""
    metrics: tuple[str, ...]
    metric: str
    """what the answer is about: the study's own, the held-out loss where that was not measured or has no better and worse"""
    summaries: tuple[Summary, ...]
    """a row per condition, in the study's order"""
    references: Mapping[str, str]
    """condition id to the id of its reference"""
    pairing: Pairing
    """the values of any two conditions, paired by seed"""
    comparisons: tuple[Comparison, ...]
    tunings: tuple[Tuning, ...]
    """of the conditions whose learning rate is tuned"""
    styles: Mapping[str, Style]
    """by condition: the same colour, dash and symbol in every figure"""
    other: View | None = None
    """another study to be held beside this one"""

    def label(self, condition: str) -> str:
        """What people call a condition."""
        return self.summary(condition).label.text

    def summary(self, condition: str) -> Summary:
        """The row of a condition."""
        return self._summary_of[condition]

    def declared(self, condition: str) -> Mapping[str, Any]:
        """A condition's setting as plain data."""
        return self._declared[condition]

    def by_task(self) -> dict[str, tuple[str, ...]]:
        """The conditions of each task, by a name that tells the tasks apart."""
        tasks: dict[str, list[str]] = {}
        for g in self.groups:
            tasks.setdefault(canonical_json(self.declared(g.condition)["task"]), []).append(g.condition)
        names = [str(self.declared(members[0])["task"]["name"]) for members in tasks.values()]
        told = [n if names.count(n) == 1 else f"{n} {i + 1}" for i, n in enumerate(names)]
        return {name: tuple(members) for name, members in zip(told, tasks.values(), strict=True)}

    def comparison(self, metric: str, condition: str) -> Comparison | None:
        """A condition against its reference, None where no pair allows it."""
        return self._comparison_of.get((metric, condition))

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What weakens the numbers; looked for when it is asked for, since a table does not show it."""
        return check(
            Evidence(
                study=self.study,
                metric=self.metric,
                planned=self.planned,
                chosen=self.groups,
                results=self.results,
                data=self.data,
                summaries=self.summaries,
                references=self.references,
                comparisons=self.comparisons,
                tunings=self.tunings,
                pairing=self.pairing,
                file=self.file,
            )
        )

    @cached_property
    def verdicts(self) -> Verdicts:
        """What may be said of any two conditions."""
        return Verdicts(self.pairing, self.study.comparison, self.comparisons)

    # looked up once for each field of each table: a search would be quadratic in the conditions
    @cached_property
    def _summary_of(self) -> dict[str, Summary]:
        return {s.condition: s for s in self.summaries}

    @cached_property
    def _declared(self) -> dict[str, dict[str, Any]]:
        return {g.condition: g.declared for g in self.groups}

    @cached_property
    def _comparison_of(self) -> dict[tuple[str, str], Comparison]:
        return {(c.metric, c.condition): c for c in self.comparisons}

    def of_condition(self, condition: str) -> tuple[CellResult, ...]:
        """The results of a condition's cells."""
        return tuple(self.results[i] for i in self.summary(condition).cells if i in self.results)

    def items(self, cell_id: str) -> Mapping[str, Items]:
        """What a cell's metrics are means of; nothing where that was not kept."""
        return load_items(self.file(cell_id, FILE))

    def file(self, cell_id: str, name: str) -> Path:
        """A file beside a cell's result; it may be absent."""
        return self.folder / "cells" / cell_id / name


def make_view(store: Store, other: Store | None = None) -> View:
    """Reads a store and analyses it; `other` is read likewise, to be held beside it."""
    study, planned = store.study(), replicates(store.plan())
    found = {r.cell.id: r for r in store.results()}
    results = {i: found[i] for g in planned for i in g.ids if i in found}
    everything = wide(results.values())
    tuned = tunings(planned, everything)
    groups = chosen_cells(planned, tuned)
    kept = {i for g in groups for i in g.ids}
    data = everything[everything["cell"].isin(kept)]
    names = metrics(data)
    summaries, against = aggregate(groups, data, results), references(study, groups)
    pairing = Pairing(data, lambda cell: load_items(store.cells_folder / cell / FILE))
    wanted = deciding_metric(study.comparison, (g.setting.task for g in planned), names)
    answered = wanted if wanted in names and metric(wanted).better != "none" else "eval_loss"
    told = dict.fromkeys(
        (answered, "eval_loss", *(m for m in names if is_accuracy(m)), *(m for m in ("forgetting",) if m in names))
    )
    return View(
        folder=store.folder,
        study=study,
        planned=planned,
        groups=groups,
        results=MappingProxyType(results),
        data=data,
        metrics=names,
        metric=answered,
        summaries=summaries,
        references=MappingProxyType(against),
        pairing=pairing,
        comparisons=compare(pairing, against, tuple(told), study.comparison),
        tunings=tuned,
        styles=MappingProxyType(styles(summaries)),
        other=make_view(other) if other else None,
    )
