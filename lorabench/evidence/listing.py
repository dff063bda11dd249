"""What of the library answers a question: rows that match, in a readable order; what was left out, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lorabench.evidence import library
from lorabench.evidence.schema import FLAGS, TASK_KINDS, UNUSABLE, VERSION
from lorabench.formatting import plural

if TYPE_CHECKING:
    import pandas as pd

    from lorabench.evidence.library import EvidenceSource


@dataclass(frozen=True)
class PublishedEvidence:
    """Published results, or published learning rates; `frame()`, `to_dict()`."""

    rows: pd.DataFrame
    """that match, sorted by task, size of the model, source, table and rank"""
    left_out: Mapping[str, int]
    """rows that match and are not shown, by the reason: a flag, or forgetting and training for what they tell of"""

    def frame(self) -> pd.DataFrame:
        """A row per published value or rate; the columns are those of lorabench.evidence.schema."""
        return self.rows.copy()

    @cached_property
    def sources(self) -> tuple[EvidenceSource, ...]:
        """The sources of the rows."""
        named = set(self.rows.source)
        return tuple(s for s in library.sources() if s.id in named)

    def to_dict(self) -> dict[str, object]:
        """What `lorabench evidence --json` prints: fields that are absent, and flags that are not set, are left out."""
        return {
            "version": VERSION,
            "rows": [_plain(row) for row in self.rows.to_dict(orient="records")],
            "left_out": dict(self.left_out),
            "sources": [source_dict(s) for s in self.sources],
        }

    def __repr__(self) -> str:
        return f"PublishedEvidence of {plural(len(self.rows), 'row')} from {plural(len(self.sources), 'source')}"


def evidence(
    *,
    model_size: float | None = None,
    task: str | None = None,
    method: str | None = None,
    quantization: str | None = None,
    source: str | None = None,
    rank: int | None = None,
    everything: bool = False,
    learning_rates: bool = False,
) -> PublishedEvidence:
    """Published results of fine-tuning with LoRA and its relatives, with source, exact place and flags.

    Args:
        model_size: parameters, such as 8e9: models within a factor of 2 of it.
        task: kind of task (classification, instruction, math, code, commonsense, generation, continued-pretraining,
            other), or another word for one (chat).
        method: full, lora, dora, pissa, ...
        quantization: of the frozen base: none, nf4, int8, ...
        source: id of a source, such as biderman-2024.
        rank: of the adapter.
        everything: with rows that no answer rests on (failed runs, misprints, repeated and converted ones), and with
            those that tell of forgetting or of the training itself.
        learning_rates: published learning rates in place of results.
    Returns:
        PublishedEvidence: the rows, what was left out and why, and the sources.
    Raises:
        LorabenchError: a value that no row has.
    Example:
        >>> import lorabench as lb
        >>> math = lb.evidence(model_size=8e9, task="math", method="lora", source="biderman-2024").frame()
        >>> math[(math["rank"] == 256) & (math.epochs == 4)].gap.tolist()
        [-1.7]
    """
    frame = library.learning_rates() if learning_rates else library.results()
    asked: dict[str, Any] = {
        "model_parameters": model_size,
        "task_kind": task,
        "method": method,
        "quantization": quantization,
        "source": source,
        "rank": rank,
    }
    rows = library.select(frame, **asked, exclude=())
    left_out: dict[str, int] = {}
    if not everything and not learning_rates:
        for flag in UNUSABLE:
            left_out[flag] = int(rows[flag].sum())
            rows = rows[~rows[flag]]
        for aspect in ("forgetting", "training"):
            left_out[aspect] = int((rows.aspect == aspect).sum())
            rows = rows[rows.aspect != aspect]
    return PublishedEvidence(_sorted(rows), {reason: n for reason, n in left_out.items() if n})


def flags_of(row: Mapping[Any, object]) -> list[str]:
    """Names of the flags that a row of results() has."""
    return [flag for flag in FLAGS if row.get(flag)]


def source_dict(source: EvidenceSource) -> dict[str, object]:
    """A source as plain values."""
    plain = {"id": source.id, "title": source.title, "kind": source.kind, "arxiv": source.arxiv, "year": source.year}
    return {k: v for k, v in plain.items() if v} | {"cautions": list(source.cautions)}


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    order = {kind: i for i, kind in enumerate(TASK_KINDS)}
    rank = "rank" if "rank" in rows.columns else "rank_low"
    keys = {
        "kind": rows.task_kind.astype(str).map(lambda kind: order.get(kind, len(order))),
        "size": rows.parameters.fillna(float("inf")),
        "place": rows.source.astype(str),
        "line": rows.index.to_series(),
    }
    if "table" in rows.columns:  # a table's rows stay together, full fine-tuning first
        keys["line"] = keys["line"].groupby(rows.table, observed=True).transform("min")
        keys["adapted"] = rows.method != "full"
        keys["name"] = rows.method.astype(str)
    keys["rank"] = rows[rank].astype("float64").fillna(0.0)
    return rows.loc[rows.assign(**{f"_{k}": v for k, v in keys.items()}).sort_values([f"_{k}" for k in keys]).index]


def _plain(row: Mapping[Any, Any]) -> dict[str, object]:
    """Without what is absent: empty text, a flag that is not set, a number that was not printed."""
    plain: dict[str, object] = {}
    for name, value in row.items():
        if value is None or value == "" or value is False or value != value or str(value) == "<NA>":
            if name == "higher_is_better":
                plain[name] = bool(value)
            continue
        plain[str(name)] = value
    return plain
