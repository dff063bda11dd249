"""Ranks that rules name before training: each setting of a study, or a model with data, under all probes. Heavy arm."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from lorabench import plugins
from lorabench.config.condition_labels import condition_labels
from lorabench.config.grid import expand
from lorabench.config.load import read_study
from lorabench.config.source import Source, override
from lorabench.config.study import Cell, Study
from lorabench.errors import DataError, LorabenchError
from lorabench.workflows.probe_defaults import BATCHES, MEAN_RANK, STEPS

if TYPE_CHECKING:
    import pandas as pd

HIGH_RANK = 64  # of the short training: above what it is to find
TEXT_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True, eq=False)
class ProbedRanks:
    """What one probe says of one setting."""

    probe: str
    source: str
    """paper and equation"""
    spreads: bool
    """whether it spreads a given budget over the modules, and so names no rank of its own"""
    ranks: Mapping[str, int]
    """by full module name; 0 leaves a module out"""
    seconds: float
    """of computing it, the passes that it shares with others included"""
    training_steps: float
    """what it cost, in optimizer steps of the setting"""

    @property
    def by_kind(self) -> dict[str, float]:
        """Median over the layers, by the module's last name."""
        kinds = dict.fromkeys(name.rpartition(".")[2] for name in self.ranks)
        return {k: statistics.median(r for n, r in self.ranks.items() if n.rpartition(".")[2] == k) for k in kinds}

    @property
    def rank(self) -> int | None:
        """The uniform rank that holds the most demanding kind of module; absent where a budget is spread."""
        return None if self.spreads else max(1, math.ceil(max(self.by_kind.values())))


@dataclass(frozen=True, eq=False)
class ProbedSetting:
    """One setting (model, quantization, data, modules) under all probes."""

    cell: Cell
    """the cell whose base, data and batches were taken"""
    label: str
    results: tuple[ProbedRanks, ...]


@dataclass(frozen=True, eq=False)
class Probes:
    """All settings of a study; `frame()`, `to_dict()`."""

    settings: tuple[ProbedSetting, ...]

    def frame(self) -> pd.DataFrame:
        """A row per setting and probe: the uniform rank, seconds, and cost in training steps."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "setting": s.label,
                    "probe": r.probe,
                    "rank": r.rank,
                    "seconds": r.seconds,
                    "training_steps": r.training_steps,
                }
                for s in self.settings
                for r in s.results
            ]
        ).astype({"rank": "Int64"})

    def to_dict(self) -> dict[str, object]:
        """What `lorabench probe --json` prints: ranks by module, too."""
        return {
            "settings": [
                {
                    "setting": s.label,
                    "cell": s.cell.id,
                    "probes": [
                        {
                            "probe": r.probe,
                            "source": r.source,
                            "spreads_a_budget": r.spreads,
                            "rank": r.rank,
                            "by_kind": r.by_kind,
                            "ranks": dict(r.ranks),
                            "seconds": round(r.seconds, 2),
                            "training_steps": r.training_steps,
                        }
                        for r in s.results
                    ],
                }
                for s in self.settings
            ]
        }


def study_of(
    model: str, data: str, *, quantization: str = "none", sequence_length: int, batch_size: int, settings: Sequence[str]
) -> Study:
    """A study of one setting, of a model and a file of training data.

    Text files are learned whole; rows (JSONL, JSON, CSV, Parquet, ...) as instructions or conversations.
    DataError where there is no such file; StudyError where it cannot be a study.
    """
    if not Path(data).exists():
        raise DataError(f"there is no file or folder {data} to probe with; give the path of the training data")
    task = "text" if Path(data).suffix.lower() in TEXT_SUFFIXES or Path(data).is_dir() else "instruct"
    plain: dict[str, object] = {
        "schema": 1,
        "name": "probe",
        "model": model,
        "task": {"name": task, "train": data},
        "method": {"name": "lora", "rank": MEAN_RANK, "target_modules": "all-linear"},
        "quantization": quantization,
        "training": {"steps": 1, "batch_size": batch_size, "sequence_length": sequence_length},
        "evaluation": {"lm_eval": [], "forgetting": "none"},
    }
    return read_study(override(Source("probe", plain, {}, Path.cwd()), tuple(settings)))


def probe(
    study: Study,
    *,
    names: Sequence[str] | None = None,
    batches: int = BATCHES,
    steps: int = STEPS,
    mean_rank: int = MEAN_RANK,
    progress: Callable[[str], None] = lambda sentence: None,
) -> Probes:
    """Every setting of a study that adapters are trained in, under probes.

    Args:
        study: whose base settings, data and batches are taken; one cell stands for all that differ in rank, alpha,
            learning rate, method or seed.
        names: of probes (all where absent).
        batches: forward and backward passes, even and at least 2.
        steps: of the short training; 0 leaves out the probes that need one.
        mean_rank: of the budget that some probes spread.
        progress: is told what begins.
    Raises:
        LorabenchError: a probe is unknown, the number of batches is odd, or nothing is adapted.
    """
    if batches < 2 or batches % 2:
        raise LorabenchError(f"batches: {batches}; allowed: an even number from 2, since two halves are compared")
    chosen = plugins_of(names, steps)
    cells = list(_settings(study))
    if not cells:
        raise LorabenchError(f"study {study.name} trains no adapter, so there is no rank to find")
    work = [f"{batches} passes"] * _need_passes(chosen) + [f"{steps} steps"] * _need_steps(chosen)
    settings = []
    for label, cell in cells:
        progress(f"{label}: {', '.join(work)}")
        settings.append(ProbedSetting(cell, label, probe_cell(cell, chosen, batches, steps, mean_rank)))
    return Probes(tuple(settings))


def _settings(study: Study) -> Iterator[tuple[str, Cell]]:
    """One cell for each model, quantization, task and set of modules, of the first seed and the highest rank."""
    cells: dict[tuple[object, ...], Cell] = {}
    for cell in expand(study):
        if cell.method.rank is None:
            continue
        key = (cell.model.name, cell.quantization, cell.task.model_dump_json(), cell.method.target_modules)
        if key not in cells or (cell.method.rank, -cell.seed) > (cells[key].method.rank or 0, -cells[key].seed):
            cells[key] = cell
    declared = {cell.id: cell.condition.model_dump(mode="json") for cell in cells.values()}
    for condition in declared.values():
        condition["method"]["rank"] = None  # it is what is looked for
    labels = condition_labels(declared)
    for cell in cells.values():
        yield f"{cell.model.name}, {labels[cell.id].text}", cell


def plugins_of(names: Sequence[str] | None, steps: int) -> dict[str, ModuleType]:
    """The probes of these names, or all; without those that need steps where there are none."""
    loaded = {name: plugins.load("probes", name) for name in names or plugins.names("probes")}
    able = {name: p for name, p in loaded.items() if steps or "short-training" not in p.READS}
    if names and (lacking := [name for name in loaded if name not in able]):
        raise LorabenchError(f"{lacking[0]} reads a short training, and steps are 0; allow it steps, such as 20")
    return able


def _need_passes(chosen: Mapping[str, ModuleType]) -> bool:
    return any({"short-training"} != p.READS for p in chosen.values())


def _need_steps(chosen: Mapping[str, ModuleType]) -> bool:
    return any("short-training" in p.READS for p in chosen.values())


def probe_cell(
    cell: Cell, chosen: Mapping[str, ModuleType], batches: int, steps: int, mean_rank: int
) -> tuple[ProbedRanks, ...]:
    """One cell's base, data and batches under probes, which share what they read."""
    import torch

    from lorabench.engine.cell_context import CellContext
    from lorabench.engine.cell_load import load_untrained
    from lorabench.engine.module_statistics import gather
    from lorabench.engine.short_training import learned_values

    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        context = CellContext.of(cell, Path(folder), (), lambda event: None, "")
        loaded, targets = load_untrained(context)
        start = time.perf_counter()
        readings = set().union(*(p.READS for p in chosen.values()))
        modules = gather(context, loaded, targets, batches if _need_passes(chosen) else 0, readings)
        passes = time.perf_counter() - start
        short = 0.0
        if _need_steps(chosen):
            start = time.perf_counter()
            rank = min(HIGH_RANK, *(min(m.shape) for m in modules.values()))
            learned = learned_values(context, loaded, targets, steps, rank)
            modules = {name: replace(m, learned=learned[name]) for name, m in modules.items()}
            short = time.perf_counter() - start
    results = []
    for name, plugin in chosen.items():
        start = time.perf_counter()
        ranks = plugin.ranks(modules, mean_rank)
        own = time.perf_counter() - start
        trained = "short-training" in plugin.READS
        each = cell.training.gradient_accumulation
        cost = steps if trained else batches * (2 if "output-gradients" in plugin.READS else 1) / each
        seconds = own + (short if trained else passes)
        results.append(ProbedRanks(name, plugin.SOURCE, plugin.SPREADS, ranks, seconds, cost))
    return tuple(results)
