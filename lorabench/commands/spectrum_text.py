"""What the commands spectrum, truncate and quantization-error print: text, JSON or a page."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lorabench.commands.output import columns
from lorabench.errors import LorabenchError
from lorabench.formatting import count, one_line, plural

if TYPE_CHECKING:
    from lorabench.report.adapter_summary import Examined
    from lorabench.report.blocks import Section
    from lorabench.report.quantization_page import ModuleError
    from lorabench.spectra.quantization_error import QuantizationError
    from lorabench.workflows.spectrum_results import QuantizationErrors, TruncatedAdapter

Item = TypeVar("Item")


def spectrum_text(adapter: Examined) -> str:
    """The groups as an aligned table, notes below."""
    from lorabench.report.adapter_summary import grid, lead, similarity_words
    from lorabench.report.column_legend import legend

    heads, rows = grid(adapter.summary)
    lines = [
        one_line(adapter.title),
        *(f"  {name:<8} {one_line(value)}" for name, value in adapter.facts),
        "",
        *_columns([heads, *rows]),
        "",
        lead(adapter.summary.model),
    ]
    if adapter.similarity is not None:
        lines += ["", similarity_words(adapter.similarity)]
    lines += ["", "columns:", *(f"  {line}" for line in legend(heads)), ""]
    return "\n".join([*lines, *(f"note: {one_line(n)}" for n in adapter.notes)]).rstrip()


def spectrum_json(adapter: Examined) -> str:
    """Every module and every group; what is not known is left out."""
    return json.dumps(adapter.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)


def write_page(adapter: Examined, path: str) -> Path:
    """Writes the page of spectrum; LorabenchError where it cannot."""
    from lorabench.report.adapter_page import examined_sections

    return _write(path, adapter.title, f"{plural(len(adapter.spectra), 'module')}.", examined_sections(adapter))


def _write(path: str, title: str, subtitle: str, sections: tuple[Section, ...]) -> Path:
    from lorabench.record.whole_files import write_atomically
    from lorabench.report.page import sections_page

    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, sections_page(title, subtitle, sections))
    except OSError as e:
        raise LorabenchError(f"{path} cannot be written ({e.strerror}); choose another file with --html FILE") from None
    return target


def truncation_text(written: TruncatedAdapter) -> str:
    """What is left of an adapter that was cut, notes below."""
    ranks = sorted(r for r in written.ranks.values() if r)
    span = f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"
    emptied = len(written.ranks) - len(ranks)
    without = f", {plural(emptied, 'module')} of {len(written.ranks)} left out" if emptied else ""
    size = f"{count(written.parameters)} of {count(written.parameters_before)} parameters"
    notes = [*written.notes]
    if written.parameters >= written.parameters_before:
        notes.append("nothing was cut, the adapter has no higher rank")
    if written.left_out:
        more = " ..." if len(written.left_out) > 3 else ""
        notes.append(
            "left out, since their meaning is not known without adapter_config.json: "
            f"{', '.join(written.left_out[:3])}{more}"
        )
    energy = f"{100 * written.kept_energy:.2f} % of the energy"
    return "\n".join([f"{written.folder}: {span}{without}, {size}, {energy}", *(f"note: {one_line(n)}" for n in notes)])


def errors_text(result: QuantizationErrors) -> str:
    """Means by form and module type, the worst module of each form, and what the columns mean."""
    from lorabench.report.column_legend import legend
    from lorabench.report.quantization_page import group_rows

    heads, rows = group_rows(_module_errors(result.errors))
    lines = [*_columns([heads, *rows]), "", "columns (nothing was trained):", *(f"  {line}" for line in legend(heads))]
    return "\n".join([*lines, *([f"note: {one_line(result.note)}"] if result.note else [])])


def write_errors_page(result: QuantizationErrors, path: str) -> Path:
    """Writes the page of quantization-error; LorabenchError where it cannot."""
    from lorabench.report.quantization_page import quantization_sections

    subtitle = f"{plural(len({e.module for e in result.errors}), 'linear module')} of {result.model}."
    sections = quantization_sections(_module_errors(result.errors), result.adapter, result.note)
    return _write(path, f"{result.model}: error of quantization", subtitle, sections)


def _module_errors(errors: Sequence[QuantizationError]) -> tuple[ModuleError, ...]:
    """The same without tensors, as the report shows it."""
    from lorabench.report.quantization_page import ModuleError

    return tuple(
        ModuleError(
            e.module, e.form, e.relative_error, e.maximum_error, e.signal_to_noise, e.spectrum.stable_rank, e.repair
        )
        for e in errors
    )


def errors_json(result: QuantizationErrors) -> str:
    """A row per module and form."""
    return json.dumps(result.to_dict(), indent=1, allow_nan=False)


def counted(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Items as they come, counted on the terminal where there is one."""
    live = sys.stderr.isatty()
    for n, item in enumerate(items, 1):
        if live:
            print(f"\r{what} {n}", end="", file=sys.stderr, flush=True)
        yield item
    if live:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns: texts to the left, numbers to the right."""
    left = [
        i
        for i, column in enumerate(zip(*rows, strict=True))
        if not any(f[:1].isdigit() or f[:1] == "−" for f in column[1:])
    ]
    return columns([[one_line(f) for f in row] for row in rows], left)
