"""A study with its results, and every statistic of them: what findings, tables, sections and advice draw from.

Results are read once, by `analyse`. Each statistic is computed when it is first asked for, and then kept: cells.csv
needs no comparison, a table no finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from lorabench.analysis.aggregate import ConditionSummary, aggregate, metrics
from lorabench.analysis.compare import compare, references
from lorabench.analysis.conditions import Replicates, replicates
from lorabench.analysis.machines import machines, timed_on, without_other_times
from lorabench.analysis.pairing import Pairing
from lorabench.analysis.tuning import Tuning, chosen, chosen_cells, tunings
from lorabench.analysis.verdict import Comparison, Verdicts
from lorabench.config.decision import deciding_metric
from lorabench.config.fingerprint import canonical_json
from lorabench.config.paths import model_label
from lorabench.config.study import Study
from lorabench.record.frames import wide
from lorabench.record.items import FILE, Items, load_items
from lorabench.record.merged import Merged, merged_of
from lorabench.record.metrics import is_accuracy, metric
from lorabench.record.result import CellResult
from lorabench.record.store import Store


@dataclass(frozen=True, eq=False)
class StudyAnalysis:
    """A study with its results, as analysis understands them; two are the same only where they are one object."""

    folder: Path
    """of the store: curves and spectra lie below it"""
    study: Study
    planned: tuple[Replicates, ...]
    """the conditions with the cells at all of their rates"""
    results: Mapping[str, CellResult]
    """by cell id, in the study's order, at all rates"""
    merged: Merged | None = None
    """of a store that was joined from several"""

    # one row a cell

    @cached_property
    def machines(self) -> Mapping[str, str]:
        """Cell id to where it ran."""
        return machines(self.results.values())

    @cached_property
    def timed_on(self) -> str | None:
        """The machine that all times are of; None where every cell ran on one."""
        return timed_on(self.machines, self.finished(self.planned))

    @cached_property
    def _everything(self) -> pd.DataFrame:
        return without_other_times(wide(self.results.values()), self.machines, self.timed_on)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The rows of cells.csv: record.wide of all results, with the choice of each learning rate; the machine of each
        where there are several."""
        rows = wide(self.results.values(), chosen(self.planned, self.results, self.tunings))
        return rows if self.timed_on is None else rows.assign(machine=rows["cell"].map(self.machines))

    @cached_property
    def tunings(self) -> tuple[Tuning, ...]:
        """Of the conditions whose learning rate is tuned."""
        return tunings(self.planned, self._everything)

    @cached_property
    def groups(self) -> tuple[Replicates, ...]:
        """The conditions with the cells at their chosen rates, which all numbers come from."""
        return chosen_cells(self.planned, self.tunings)

    @cached_property
    def bases(self) -> tuple[Replicates, ...]:
        """The conditions that are an untrained base."""
        return tuple(g for g in self.groups if g.setting.method.name == "base")

    @cached_property
    def data(self) -> pd.DataFrame:
        """record.wide of the cells of `groups`: those at rates that were not chosen are left out."""
        return self._everything[self._everything["cell"].isin({i for g in self.groups for i in g.ids})]

    @cached_property
    def gguf_types(self) -> Mapping[str, str]:
        """Each base that came as a GGUF file, and how its weights were stored: Q4_1."""
        found = [(r.cell.model.name, r.resolved.stored_type) for r in self.results.values() if r.resolved]
        return {model_label(name): kind for name, kind in found if kind}

    # one row a condition

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """What was measured."""
        return metrics(self.data)

    @cached_property
    def requested_metric(self) -> str:
        """The metric that the study asks for, measured or not."""
        return deciding_metric(self.study.comparison, (g.setting.task for g in self.planned), self.metrics)

    @cached_property
    def metric(self) -> str:
        """What the answer is about: the study's own, the held-out loss where that was not measured or has no better and
        worse."""
        able = self.requested_metric in self.metrics and metric(self.requested_metric).better != "none"
        return self.requested_metric if able else "eval_loss"

    @cached_property
    def summaries(self) -> tuple[ConditionSummary, ...]:
        """A row per condition, in the study's order."""
        return aggregate(self.groups, self.data, self.results)

    # pairs of conditions

    @cached_property
    def references(self) -> Mapping[str, str]:
        """Condition id to the id of its reference."""
        return MappingProxyType(references(self.study, self.groups))

    @cached_property
    def pairing(self) -> Pairing:
        """The values of any two conditions, paired by seed."""
        return Pairing(self.data, self.items)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Each condition against its reference: in the study's metric, the loss, accuracies and forgetting."""
        accuracies = (m for m in self.metrics if is_accuracy(m))
        forgetting = ("forgetting",) if "forgetting" in self.metrics else ()
        names = tuple(dict.fromkeys((self.metric, "eval_loss", *accuracies, *forgetting)))
        return compare(self.pairing, self.references, names, self.study.comparison)

    @cached_property
    def verdicts(self) -> Verdicts:
        """What may be said of any two conditions."""
        return Verdicts(self.pairing, self.study.comparison, self.comparisons)

    # looked up once for each field of each table: a search would be quadratic in the conditions

    @cached_property
    def by_condition(self) -> Mapping[str, ConditionSummary]:
        """The summary of each condition."""
        return {s.condition: s for s in self.summaries}

    @cached_property
    def _group_of(self) -> dict[str, Replicates]:
        return {g.condition: g for g in self.groups}

    @cached_property
    def _comparison_of(self) -> dict[tuple[str, str], Comparison]:
        return {(c.metric, c.condition): c for c in self.comparisons}

    def group(self, condition: str) -> Replicates:
        """A condition's cells at the chosen rate."""
        return self._group_of[condition]

    def summary(self, condition: str) -> ConditionSummary:
        """The row of a condition."""
        return self.by_condition[condition]

    def label(self, condition: str) -> str:
        """What people call a condition."""
        return self.summary(condition).label.text

    def labels(self, groups: Sequence[Replicates]) -> tuple[str, ...]:
        """What people call them."""
        return tuple(self.label(g.condition) for g in groups)

    def declared(self, condition: str) -> Mapping[str, dict[str, object]]:
        """A condition's setting as plain data."""
        return self.group(condition).declared

    def comparison(self, metric: str, condition: str) -> Comparison | None:
        """A condition against its reference, None where no pair allows it."""
        return self._comparison_of.get((metric, condition))

    @cached_property
    def trained(self) -> tuple[Replicates, ...]:
        """The conditions that train something."""
        return tuple(g for g in self.groups if g.trains)

    def by_task(self) -> dict[str, tuple[str, ...]]:
        """The conditions of each task, by a name that tells the tasks apart."""
        tasks: dict[str, list[str]] = {}
        for g in self.groups:
            tasks.setdefault(canonical_json(g.declared["task"]), []).append(g.condition)
        names = [str(self.declared(members[0])["task"]["name"]) for members in tasks.values()]
        titles = [n if names.count(n) == 1 else f"{n} {i + 1}" for i, n in enumerate(names)]
        return {name: tuple(members) for name, members in zip(titles, tasks.values(), strict=True)}

    # cells and their files

    def outcome(self, cell: str) -> str:
        """How a cell ended; missing where it has not been run."""
        return self.results[cell].outcome if cell in self.results else "missing"

    def finished(self, groups: Sequence[Replicates]) -> tuple[str, ...]:
        """The ids of their finished cells."""
        return tuple(i for g in groups for i in g.ids if self.outcome(i) == "finished")

    def of_condition(self, condition: str) -> tuple[CellResult, ...]:
        """The results of a condition's cells."""
        return tuple(self.results[i] for i in self.summary(condition).cells if i in self.results)

    def items(self, cell_id: str) -> Mapping[str, Items]:
        """What a cell's metrics are means of; nothing where that was not kept."""
        return load_items(self.file(cell_id, FILE))

    def file(self, cell_id: str, name: str) -> Path:
        """A file beside a cell's result; it may be absent."""
        return self.folder / "cells" / cell_id / name


def analyse(store: Store) -> StudyAnalysis:
    """Reads a store's study and results. StoreError where its plan cannot be read; results that cannot be are left
    out."""
    planned = replicates(store.plan())
    by_id = {r.cell.id: r for r in store.results()}
    results = MappingProxyType({i: by_id[i] for g in planned for i in g.ids if i in by_id})
    return StudyAnalysis(store.folder, store.study(), planned, results, merged_of(store.folder))
