"""Where a command's words go: tables and texts to standard output or a file, notes and faults to standard error."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench import plugins
from lorabench.errors import StoreError
from lorabench.formatting import aligned

if TYPE_CHECKING:
    from lorabench.record.store import Store
    from lorabench.report.table_model import Table


def say_unreadable(store: Store) -> int:
    """Tells of results that cannot be read, which tables and reports leave out."""
    sentences = store.unreadable()
    for sentence in sentences:
        say(f"left out: {sentence}", 1)
    return 1 if sentences else 0


def table_text(table: Table, form: str | None = None) -> str:
    """A table as text for the terminal, or in an exporter's form."""
    if form is not None:
        return str(plugins.load("exporters", form).export(table))
    from lorabench.report.tables import as_text

    return str(as_text(table, _terminal_width() or 200)).rstrip("\n")


def columns(rows: Sequence[Sequence[str]], left: Collection[int] = (0,), indent: int = 0) -> list[str]:
    """Rows of fields as lines of columns, within the terminal where there is one, less an indent that is to come."""
    width = _terminal_width()
    return [" " * indent + line for line in aligned(rows, left, width and width - indent)]


def _terminal_width() -> int | None:
    """None for a file or a pipe, which have no width: nothing is to be folded there."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def emit(text: str, output: str | None) -> None:
    """Prints a text, or writes it to a file."""
    if output is None:
        print(text.rstrip("\n"))
        return
    try:
        Path(output).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as e:
        raise StoreError(f"{output} cannot be written ({e.strerror}); choose another file with -o FILE") from None


def note(sentence: str) -> None:
    """What a user is to know beside what was asked for; on standard error, so that a pipe gets the answer alone."""
    print(f"note: {sentence}", file=sys.stderr, flush=True)


def note_first_reading(model: str) -> None:
    """That a GGUF file is read for the first time, which takes ten seconds and more without another sign."""
    if model.endswith(".gguf"):
        from lorabench.config.gguf import is_described

        if not is_described(model):
            note(f"{Path(model).name} is read for the first time: transformers makes its configuration and tokenizer")


def say(sentence: str, code: int) -> int:
    """Tells on standard error what went wrong; returns the exit code."""
    print(f"lorabench: {sentence}", file=sys.stderr, flush=True)
    return code
