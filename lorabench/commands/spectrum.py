"""What the commands spectrum and quantization-error print: text, JSON or a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench.errors import LorabenchError
from lorabench.formatting import one_line, plural

if TYPE_CHECKING:
    from lorabench.report.adapter_summary import Examined
    from lorabench.report.blocks import Section
    from lorabench.report.quantization_page import ModuleError
    from lorabench.spectra.quantization_error import QuantizationError
    from lorabench.workflows.spectrum import QuantizationErrors


def spectrum_text(found: Examined) -> str:
    """The groups as an aligned table, notes below."""
    from lorabench.report.adapter_summary import grid, lead, likeness_words
    from lorabench.report.column_legend import legend

    heads, rows = grid(found.summary)
    lines = [
        one_line(found.title),
        *(f"  {name:<8} {one_line(value)}" for name, value in found.facts),
        "",
        *aligned([heads, *rows]),
        "",
        lead(found.summary.model),
    ]
    if found.likeness is not None:
        lines += ["", likeness_words(found.likeness)]
    lines += ["", "columns:", *(f"  {line}" for line in legend(heads)), ""]
    return "\n".join([*lines, *(f"note: {one_line(n)}" for n in found.notes)]).rstrip()


def spectrum_json(found: Examined) -> str:
    """Every module and every group; what is not known is left out."""
    return json.dumps(found.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)


def write_page(found: Examined, path: str) -> Path:
    """Writes the page of spectrum; LorabenchError where it cannot."""
    from lorabench.report.adapter_page import examined_sections

    return _write(path, found.title, f"{plural(len(found.spectra), 'module')}.", examined_sections(found))


def _write(path: str, title: str, told: str, sections: tuple[Section, ...]) -> Path:
    from lorabench.record.store import write_atomically
    from lorabench.report.page import sections_page

    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, sections_page(title, told, sections))
    except OSError as e:
        raise LorabenchError(f"{path} cannot be written ({e.strerror}); choose another file with --html FILE") from None
    return target


def errors_text(errors: Sequence[QuantizationError], note: str | None = None) -> str:
    """Means by form and module type, the worst module of each form, and what the columns mean."""
    from lorabench.report.column_legend import legend
    from lorabench.report.quantization_page import group_rows

    heads, rows = group_rows(_module_errors(errors))
    meanings = [f"  {line}" for line in legend(heads)]
    return "\n".join(
        [
            *aligned([heads, *rows]),
            "",
            "columns (nothing was trained):",
            *meanings,
            *([f"note: {one_line(note)}"] if note else []),
        ]
    )


def write_errors_page(
    model: str, errors: Sequence[QuantizationError], path: str, adapter: str | None = None, note: str | None = None
) -> Path:
    """Writes the page of quantization-error; LorabenchError where it cannot."""
    from lorabench.report.quantization_page import quantization_sections

    told = f"{plural(len({e.module for e in errors}), 'linear module')} of {model}."
    return _write(
        path, f"{model}: error of quantisation", told, quantization_sections(_module_errors(errors), adapter, note)
    )


def _module_errors(errors: Sequence[QuantizationError]) -> tuple[ModuleError, ...]:
    """The same without tensors, as the report shows it."""
    from lorabench.report.quantization_page import ModuleError

    return tuple(
        ModuleError(
            e.module, e.form, e.relative_error, e.maximum_error, e.signal_to_noise, e.spectrum.stable_rank, e.repair
        )
        for e in errors
    )


def errors_json(errors: QuantizationErrors) -> str:
    """A row per module and form."""
    return json.dumps(errors.to_dict(), indent=1, allow_nan=False)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns: texts to the left, numbers to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, c)) for c in columns]
    text = [not any(f[:1].isdigit() or f[:1] == "−" for f in c[1:]) for c in columns]
    rows = [[one_line(f) for f in row] for row in rows]
    return [
        "  ".join(f.ljust(w) if t else f.rjust(w) for f, w, t in zip(row, widths, text, strict=True)).rstrip()
        for row in rows
    ]
