"""A table of the literature that needs no training: published values, and what each is to be compared with.

The file holds a base setting as a study has, and `rows`: changes to it, the quantity that is computed, and the value as
printed. `lorabench table studies/paper/NAME.yaml` shows both and the difference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from lorabench.config.explain import paths_of, sentence
from lorabench.config.frozen import Frozen, Number
from lorabench.config.plain_settings import lay
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.config.source import Source
from lorabench.errors import StudyError, unknown

Quantity = Literal[
    "trainable_parameters", "square_matrix_parameters", "adapter_bytes", "weight_bytes", "parameter_bytes",
    "bits_per_parameter",
    "peak_bytes", "step_bytes", "base_bytes", "trained_bytes", "optimizer_bytes", "activation_bytes",
]  # fmt: skip
UNITS: dict[str, str] = {
    "trainable_parameters": "whole",
    "square_matrix_parameters": "whole",
    "bits_per_parameter": "bits",
}  # all others: bytes
_SCALES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "bits": 1.0}
_PRINTED = re.compile(r"(?:(over|under|about) )?(\d+(?:\.(\d+))?) ?(\w*)")
_BASE = ("model", "quantization", "method", "training", "quantity", "bytes_each")
_HEAD = ("schema", "name", "question", "source", "rows")


@dataclass(frozen=True)
class Published:
    """A value as a paper prints it."""

    text: str
    relation: str
    """over, under, about, or empty"""
    value: float
    step: float
    """one unit of the last printed digit"""

    def agreement(self, computed: float) -> str:
        """How our value stands to the printed one, in words."""
        if self.relation in ("over", "under"):
            return "holds" if (computed > self.value) == (self.relation == "over") else "does not hold"
        if round(computed / self.step) == round(self.value / self.step):
            return "to the digit"
        away = abs(computed / self.value - 1)
        if self.relation == "about":
            return "roughly" if away <= 0.1 else "differs"
        if int(computed / self.step) == round(self.value / self.step):
            return "cut, not rounded"
        return next((f"within {percent} %" for percent in (1, 5) if away <= percent / 100), "differs")


def published(text: str) -> Published:
    """Reads "4.7 M", "over 780 GB", "4.127"; ValueError for other words."""
    match = _PRINTED.fullmatch(text.strip())
    if match is None or match.group(4) not in _SCALES:
        raise ValueError(
            f"'{text}' is not a published value; write it as 4.7 M, over 780 GB or 4.127 (units:"
            f" {', '.join(filter(None, _SCALES))})"
        )
    scale = _SCALES[match.group(4)]
    return Published(
        text, match.group(1) or "", float(match.group(2)) * scale, scale * 10.0 ** -len(match.group(3) or "")
    )


class PaperRow(Frozen):
    """One value of the table: the setting it belongs to, and what the paper prints."""

    name: str = Field(min_length=1)
    """what the value is of"""
    quantity: Quantity
    """what is computed"""
    published: str | None = None
    """as printed, with its unit: 4.7 M, over 780 GB, 4.127; absent where lorabench's value stands alone"""
    note: str = ""
    """why the two differ"""
    model: ModelSpec | None = None
    quantization: QuantizationSpec = QuantizationSpec()
    method: MethodSpec = MethodSpec()
    training: TrainingSpec = TrainingSpec()
    bytes_each: Number | None = Field(None, gt=0)
    """of adapter_bytes and parameter_bytes: bytes a parameter"""
    parameters: Number | None = Field(None, gt=0)
    """of square_matrix_parameters: those of the imagined model"""

    @field_validator("published")
    @classmethod
    def _read(cls, text: str | None) -> str | None:
        if text is not None:
            published(text)
        return text


class Paper(Frozen):
    """A table of the literature."""

    name: str
    question: str
    source: str
    rows: Annotated[tuple[PaperRow, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Reproduced:
    """A row and what lorabench computes for it."""

    row: PaperRow
    value: float


def is_paper(source: Source) -> bool:
    """Whether a file is a table of the literature and no study."""
    return "rows" in source.data


def read_paper(source: Source) -> Paper:
    """The table of a source; StudyError with its place where something is amiss."""
    data = source.data
    for key in data:
        if key not in (*_HEAD, *_BASE):
            raise StudyError(f"{source.at((key,))}: {unknown('key', key, [*_HEAD, *_BASE])}")
    entries = data["rows"]
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        raise StudyError(f"{source.at(('rows',))}: rows must be a list of mappings, at least one")
    base = {key: data[key] for key in _BASE if key in data}
    rows = tuple(_row(base, entry, i, source) for i, entry in enumerate(entries))
    if len({UNITS.get(r.quantity, "bytes") for r in rows}) > 1:
        raise StudyError(
            f"{source.at(('rows',))}: the rows' quantities have several units; give each unit a file of its own"
        )
    missing = [key for key in ("schema", "name", "question", "source") if not data.get(key)]
    if missing:
        raise StudyError(f"{source.name}: '{missing[0]}' is missing; a table of the literature needs it")
    return Paper(name=str(data["name"]), question=str(data["question"]), source=str(data["source"]), rows=rows)


def _row(base: dict[str, object], entry: dict[str, object], index: int, source: Source) -> PaperRow:
    plain = dict(base)
    allowed = paths_of(PaperRow)
    for dotted, value in entry.items():
        if dotted not in allowed:
            raise StudyError(f"{source.at(('rows', index, dotted))}: {unknown('key of a row', dotted, allowed)}")
        lay(plain, dotted.split("."), value)
    try:
        row = PaperRow.model_validate(plain, context={"folders": (source.folder,)})
    except ValidationError as e:
        route, words = sentence(e, PaperRow)
        raise StudyError(f"{source.at(('rows', index, *route))}: {words}") from None
    needs = {"square_matrix_parameters": "parameters", "parameter_bytes": "bytes_each"}.get(row.quantity)
    if needs and getattr(row, needs) is None:
        raise StudyError(f"{source.at(('rows', index))}: quantity {row.quantity} needs '{needs}'")
    if row.model is None and row.quantity != "square_matrix_parameters":
        raise StudyError(f"{source.at(('rows', index))}: quantity {row.quantity} needs a model")
    return row
