"""The library read: frames with their types, what may be selected from them, and what each source is.

gap = value - full_value, with the sign turned where lower is better: above 0 the adapter is better than full
scaling = alpha / rank, or alpha / sqrt(rank) for rslora (Kalajdzievski 2023, arXiv:2312.03732)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lorabench.errors import LorabenchError, unknown
from lorabench.evidence.schema import (
    FLAGS,
    LEARNING_RATES,
    RANK_RATE_SWEEP,
    RESULTS,
    TASK_KINDS,
    TASK_SYNONYMS,
    UNUSABLE,
    VERSION,
    Column,
)

if TYPE_CHECKING:
    import pandas as pd

DATA = Path(__file__).with_name("data")
NEAR = 2.0
"""A model is near a size within this factor each way, the step between neighbouring sizes of a family (7B, 13B, 33B,
65B): 8B takes 4B to 16B."""


@dataclass(frozen=True)
class EvidenceSource:
    """One paper, repository or page."""

    id: str
    """short and stable: first author and year of a paper, else a name"""
    title: str
    """as it calls itself"""
    kind: str
    """paper, repository, documentation, report or issue"""
    arxiv: str
    """number with the version that was read; empty where it has none"""
    year: int | None
    """of the version that was read; absent where it is not known"""
    cautions: tuple[str, ...]
    """what is to be known before its numbers are used"""


@cache
def sources() -> tuple[EvidenceSource, ...]:
    """All sources, in the order of their ids."""
    read = yaml.safe_load((DATA / "sources.yaml").read_text(encoding="utf-8"))
    if read["version"] != VERSION:
        raise LorabenchError(f"the evidence has version {read['version']}, {VERSION} is read; install lorabench again")
    return tuple(
        EvidenceSource(
            name,
            s["title"],
            s["kind"],
            str(s.get("arxiv", "")),
            s.get("year"),
            tuple(s.get("cautions", ())),
        )
        for name, s in sorted(read["sources"].items())
    )


def results() -> pd.DataFrame:
    """One published value a row (schema.RESULTS), with `gap` and `scaling` added; a copy that may be changed."""
    return _results().copy()


def learning_rates() -> pd.DataFrame:
    """One published learning rate a row (schema.LEARNING_RATES); a copy that may be changed."""
    return _learning_rates().copy()


def rank_rate_sweep() -> pd.DataFrame:
    """One cell of a sweep over ranks and rates a row (schema.RANK_RATE_SWEEP); a copy that may be changed."""
    return _rank_rate_sweep().copy()


@cache
def _results() -> pd.DataFrame:
    frame = _read("results.csv", RESULTS)
    sign = frame.higher_is_better.map({True: 1.0, False: -1.0})
    frame["gap"] = (sign * (frame.value - frame.full_value)).round(6).where(frame.method != "full")
    rank = frame["rank"].astype("float64")
    frame["scaling"] = frame.alpha / rank.where(frame.method != "rslora", rank**0.5)
    return frame


@cache
def _learning_rates() -> pd.DataFrame:
    frame = _read("learning_rates.csv", LEARNING_RATES)
    frame["ratio_to_full"] = frame.ratio_to_full.fillna(frame.learning_rate / frame.full_learning_rate)
    return frame


@cache
def _rank_rate_sweep() -> pd.DataFrame:
    return _read("rank_rate_sweep.csv", RANK_RATE_SWEEP)


def _read(name: str, columns: Sequence[Column]) -> pd.DataFrame:
    import pandas as pd

    kinds = {c.name: c.kind for c in columns}
    dtypes = {"name": "category", "text": "str", "flag": "str", "number": "float64", "whole": "Int64"}
    frame = pd.read_csv(
        DATA / name,
        dtype={c: dtypes[k] for c, k in kinds.items()},
        keep_default_na=False,
        na_values={c: [""] for c, k in kinds.items() if k in ("number", "whole")},
    )
    for column, kind in kinds.items():
        if kind == "flag":
            frame[column] = frame[column] == "1"
    return frame


def task_kind_of(word: str) -> str:
    """The task kind that a word means: its own name, or a synonym; LorabenchError for other words."""
    plain = word.strip().lower().replace(" ", "-")
    kind = TASK_SYNONYMS.get(plain, plain)
    if kind not in TASK_KINDS:
        raise LorabenchError(unknown("task kind", word, (*TASK_KINDS, *TASK_SYNONYMS)))
    return kind


def select(
    frame: pd.DataFrame,
    *,
    model_parameters: float | None = None,
    task_kind: str | None = None,
    method: str | None = None,
    quantization: str | None = None,
    source: str | None = None,
    rank: int | None = None,
    aspect: str | None = None,
    exclude: Iterable[str] = UNUSABLE,
) -> pd.DataFrame:
    """The rows of one of the library's frames that match everything that is asked for.

    Args:
        frame: one of the library's frames.
        model_parameters: models within a factor of NEAR of this size; those of unknown size are left out.
        task_kind: one of schema.TASK_KINDS, or a synonym.
        method: full, lora, dora, ...
        quantization: of the frozen base.
        source: id of a source.
        rank: of the adapter.
        aspect: task, forgetting or training.
        exclude: flags whose rows are left out, where the frame has flags.
    Raises:
        LorabenchError: a value that no row has, of results or of learning rates.
    """
    keep = frame.index == frame.index
    if model_parameters is not None:
        if not model_parameters > 0:
            raise LorabenchError(f"a model of {model_parameters:g} parameters cannot be; give a size such as 8B")
        distance = (frame.parameters / model_parameters).map(math.log).abs()
        keep &= (distance <= math.log(NEAR) + 1e-9).to_numpy()
    wanted = {
        "task_kind": None if task_kind is None else task_kind_of(task_kind),
        "method": method,
        "quantization": quantization,
        "source": source,
        "aspect": aspect,
    }
    for column, value in wanted.items():
        if value is None or column not in frame.columns:
            continue
        known = sorted({str(v) for f in (frame, _results(), _learning_rates()) for v in _values(f, column)})
        if value not in known:
            raise LorabenchError(unknown(column.replace("_", " "), value, known))
        keep &= (frame[column] == value).to_numpy()
    if rank is not None and "rank" in frame.columns:
        keep &= (frame["rank"] == rank).fillna(False).to_numpy(dtype=bool)
    elif rank is not None and "rank_low" in frame.columns:
        within = (frame.rank_low <= rank) & (frame.rank_high >= rank)
        keep &= within.fillna(False).to_numpy(dtype=bool)
    for flag in exclude:
        if flag not in FLAGS:
            raise LorabenchError(unknown("flag", flag, FLAGS))
        if flag in frame.columns:
            keep &= ~frame[flag].to_numpy(dtype=bool)
    return frame[keep]


def _values(frame: pd.DataFrame, column: str) -> Iterable[object]:
    """That a column can have: of a category those of the whole file, though rows may be gone."""
    if column not in frame.columns:
        return ()
    series = frame[column]
    return series.cat.categories if hasattr(series, "cat") else series.unique()
