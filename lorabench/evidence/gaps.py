"""Gaps inside one table, which are all that may be pooled: the same cell differs between papers by 25 points.

    full     an adapter minus full fine-tuning
    rank     a rank minus the lowest of its table, with the same method, storage and targets
    method   another adapter minus LoRA, at the same rank where both print one
    storage  a quantized base minus the 16-bit one, with the same method and rank

Points are percent (a judge's mark of ten counts tenfold); positive is better. Losses stay apart, in nats (`unit`).
Rows that no answer rests on (schema.UNUSABLE) and scores without an end are left out. Rows whose rate is untuned, whose
reference is copied from older work or which were trained for another length are flagged, and a model may give them a
wider spread. The rows are read without pandas, which takes longer to import than they take to read.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from lorabench.evidence.library import DATA
from lorabench.evidence.schema import UNUSABLE

Contrast = Literal["full", "rank", "method", "storage"]
Unit = Literal["points", "nats"]
Row = Mapping[str, str]

ADAPTERS = ("lora", "rslora", "dora", "pissa")
METHODS = ("rslora", "dora", "pissa", "adalora")
STORAGES = ("nf4", "fp4", "int8")
COLLAPSED = 2 / 3
"""of the other score, below which an untuned run has failed: GLUE's binary tasks stand at 0.5 to 0.6 of a good score
where nothing is learned, and DoRA's LoRA rows lose half their points at some ranks and nothing at others"""

TEST_ITEMS = {
    "GSM8K": 1319,  # Cobbe et al. 2021, arXiv:2110.14168
    "HumanEval": 164,  # Chen et al. 2021, arXiv:2107.03374
    "MBPP": 500,  # Austin et al. 2021, arXiv:2108.07732
    "MATH": 5000,  # Hendrycks et al. 2021, arXiv:2103.03874
    "MMLU": 14042,  # Hendrycks et al. 2021, arXiv:2009.03300
    "RTE": 277, "MRPC": 408, "CoLA": 1043, "STS-B": 1500, "QNLI": 5463, "SST-2": 872, "QQP": 40430, "MNLI": 9815,
    # GLUE's development sets: Wang et al. 2018, arXiv:1804.07461
}  # fmt: skip
"""sizes of public test sets, where a row does not name its own"""


@dataclass(frozen=True)
class Gap:
    """What one setting scored more than another of the same table."""

    contrast: Contrast
    source: str
    place: str
    """where it is printed"""
    setting: str
    """the table: gaps of the same one share their reference"""
    model: str
    task: str
    kind: str
    metric: str
    unit: Unit
    method: str
    against_method: str
    rank: float | None
    against_rank: float | None
    storage: str
    against_storage: str
    value: float
    """positive: better than what it is held against"""
    noise: float
    """variance of two scores of other items and seeds, as far as it is known; 0: not known"""
    score: float
    against_score: float
    parameters: float | None
    tokens: float | None
    scaling: float | None
    """alpha / rank, or alpha / sqrt(rank) for rslora; absent where it is not printed"""
    alpha_moves: bool | None
    """whether alpha follows the rank between the two; of rank gaps"""
    untuned: bool
    copied: bool
    unequal: bool

    @property
    def flagged(self) -> bool:
        """Whether what is compared is not alike."""
        return self.untuned or self.copied or self.unequal

    @property
    def collapsed(self) -> bool:
        """Whether one of two untuned runs is so far below the other that its rate failed, which tells nothing of its
        rank or method."""
        low, high = sorted((self.score, self.against_score))
        return self.unit == "points" and self.untuned and 0 <= low < COLLAPSED * high


@dataclass(frozen=True)
class _Cell:
    """A row in numbers."""

    row: Row
    method: str
    rank: float | None
    alpha: float | None
    storage: str
    score: float
    """in points or nats; higher is better"""
    unit: Unit
    noise: float
    """variance"""
    scale: float
    """signed: of a printed value to a score"""


@cache
def published_gaps() -> tuple[Gap, ...]:
    """Every gap of the library's results."""
    with (DATA / "results.csv").open(newline="", encoding="utf-8") as stream:
        return gaps(csv.DictReader(stream))


def gaps(rows: Iterable[Row]) -> tuple[Gap, ...]:
    """Every gap of rows that have the columns of schema.RESULTS as text, of all four contrasts."""
    tables: dict[str, list[_Cell]] = defaultdict(list)
    usable = [r for r in rows if not any(r.get(flag) == "1" for flag in UNUSABLE)]
    items = _items_of_tasks(usable)
    for r in usable:
        if (cell := _cell(r, items)) is not None:
            tables[r["table"]].append(cell)
    found = (g for t in tables.values() for g in (*_full(t), *_rank(t), *_method(t), *_storage(t)))
    return tuple(g for g in found if not g.collapsed)


def number(text: str | None) -> float | None:
    """A number, where the cell holds one and nothing else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _items_of_tasks(rows: Sequence[Row]) -> dict[str, float]:
    found: dict[str, float] = {}
    for r in rows:
        if n := number(r["test_items"]):
            found[r["task"]] = max(n, found.get(r["task"], 0.0))
    return found


def _cell(r: Row, items: Mapping[str, float]) -> _Cell | None:
    value, judged = number(r["value"]), r["metric"] == "MT-Bench"
    if value is None or r["aspect"] != "task" or not (r["unit"] in ("points", "nats") or judged):
        return None
    scale = (10.0 if judged else 1.0) * (1.0 if r["higher_is_better"] == "1" else -1.0)
    unit: Unit = "nats" if r["unit"] == "nats" else "points"
    noise = _noise(r, abs(value * scale), abs(scale), _items(r, items) if r["unit"] == "points" else 0.0)
    rank, alpha = number(r["rank"]), number(r["alpha"])
    return _Cell(r, r["method"], rank, alpha, r["quantization"], value * scale, unit, noise, scale)


def _items(r: Row, items: Mapping[str, float]) -> float:
    own = number(r["test_items"]) or items.get(r["task"])
    named = (n for name, n in TEST_ITEMS.items() if name in r["task"] or name in r["metric"])
    return float(own or next(named, 0))


def _noise(r: Row, score: float, scale: float, items: float) -> float:
    """Of one score: binomial over its items, and the printed spread over its seeds; squared."""
    share = min(max(score / 100, 0.02), 0.98)
    over_items = 1e4 * share * (1 - share) / items if items else 0.0
    printed = number(r["error"])
    if printed is None:
        return over_items
    squared = (printed * scale) ** 2
    return squared if r["error_kind"] == "item-standard-error" else over_items + squared / (number(r["seeds"]) or 1.0)


def _full(table: Sequence[_Cell]) -> Iterable[Gap]:
    own = [c for c in table if c.method == "full" and c.storage == "none"]
    for c in table:
        if c.method not in ADAPTERS or c.storage != "none":
            continue
        printed = number(c.row["full_value"])
        if own:
            reference, noise = sum(f.score for f in own) / len(own), own[0].noise
        elif printed is not None:
            reference, noise = printed * c.scale, c.noise
        else:
            continue
        yield _gap("full", c, reference, noise, against_method="full")


def _groups(table: Sequence[_Cell], but: str) -> Iterable[list[_Cell]]:
    """Cells that are alike but for one thing."""
    found: dict[tuple[object, ...], list[_Cell]] = defaultdict(list)
    for c in table:
        if c.method in (*ADAPTERS, "adalora") and (but != "rank" or c.rank):
            parts = {"method": c.method, "rank": c.rank, "storage": c.storage, "targets": c.row["target_modules"]}
            found[tuple(v for k, v in parts.items() if k != but)].append(c)
    return found.values()


def _mean(cells: Sequence[_Cell]) -> _Cell:
    return replace(cells[0], score=sum(c.score for c in cells) / len(cells))


def _rank(table: Sequence[_Cell]) -> Iterable[Gap]:
    for group in _groups(table, "rank"):
        by_rank: dict[float, list[_Cell]] = defaultdict(list)
        for c in group:
            by_rank[c.rank or 0.0].append(c)
        ranks = sorted(by_rank)
        lowest = _mean(by_rank[ranks[0]])
        for r in ranks[1:]:
            c = _mean(by_rank[r])
            moves = None if c.alpha is None or lowest.alpha is None else c.alpha != lowest.alpha
            gap = _gap("rank", c, lowest.score, lowest.noise, against_rank=lowest.rank)
            yield replace(
                gap, alpha_moves=moves, setting=f"{gap.setting} {c.method} {c.storage} {c.row['target_modules']}"
            )


def _method(table: Sequence[_Cell]) -> Iterable[Gap]:
    for group in _groups(table, "method"):
        if not (lora := [c for c in group if c.method == "lora"]):
            continue
        reference = _mean(lora)
        for m in METHODS:
            if same := [c for c in group if c.method == m]:
                yield _gap("method", _mean(same), reference.score, reference.noise, against_method="lora")


def _storage(table: Sequence[_Cell]) -> Iterable[Gap]:
    for group in _groups(table, "storage"):
        if not (plain := [c for c in group if c.storage == "none"]):
            continue
        reference = _mean(plain)
        for s in STORAGES:
            if same := [c for c in group if c.storage == s]:
                yield _gap("storage", _mean(same), reference.score, reference.noise, against_storage="none")


def _gap(
    contrast: Contrast,
    c: _Cell,
    reference: float,
    noise: float,
    *,
    against_method: str | None = None,
    against_rank: float | None = None,
    against_storage: str | None = None,
) -> Gap:
    r, known = c.row, c.noise > 0 and noise > 0
    scaling = None
    if c.alpha and c.rank:
        scaling = c.alpha / (math.sqrt(c.rank) if c.method == "rslora" else c.rank)
    return Gap(
        contrast, r["source"], r["where"], r["table"], r["model"], r["task"], r["task_kind"], r["metric"], c.unit,
        c.method, against_method or c.method, c.rank, against_rank if contrast == "rank" else c.rank, c.storage,
        against_storage or c.storage, c.score - reference, c.noise + noise if known else 0.0, c.score, reference,
        number(r["parameters"]), number(r["train_tokens"]), scaling, None, r["untuned_rate"] == "1",
        contrast == "full" and r["copied_reference"] == "1", r["unequal_length"] == "1",
    )  # fmt: skip
