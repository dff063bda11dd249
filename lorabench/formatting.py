"""Numbers and names as people read them: the only place where seconds and bytes become something else.

Sizes are decimal (1 MB is 1,000,000 bytes) with three significant digits, losses have three decimals,
shares are percent with one. A difference carries its sign; an absent value is a dash.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Sequence
from textwrap import wrap

DASH = "–"
_BETWEEN = "  "  # two columns of a table
_WHOLE = 20  # characters: a number with its unit and error
_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def number(value: float, unit: str) -> str:
    """A value in its unit, which is named where it is not plain from the column's head (see `head_unit`)."""
    if not math.isfinite(value):
        return DASH
    if value < 0:
        shown = number(-value, unit)
        return "−" + shown if any(c in "123456789" for c in shown) else shown  # no "−0.0"
    if unit == "bytes":
        return size(value)
    if unit == "count":
        return count(value)
    if unit == "whole":
        return f"{value:,.0f}"
    if unit == "seconds":
        return seconds(value)
    if unit == "tokens/s":
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    if unit == "share":
        return f"{100 * value:.1f}"
    if unit == "percent":
        return f"{value:#.3g}" if 0 < value < 100 else f"{value:.0f}"
    return decimals(value)


def as_computed(shown: float, unit: str) -> float:
    """What is written as tables show it, in the unit that is computed in: a point is a hundredth of a share."""
    return shown / 100 if unit == "share" else shown


def difference(value: float, unit: str) -> str:
    """A signed difference; +0.000 is told from an exact 0."""
    shown = number(abs(value), unit)
    return shown if value == 0 else f"{'+' if value > 0 else '−'}{shown}"


def head_unit(unit: str, signed: bool = False) -> str:
    """What stands under a column's name; empty where values or name say it (bytes, percent)."""
    if unit == "share":
        return "points" if signed else "%"
    return {"nats": "nats", "bits": "bits", "bits per parameter": "bits"}.get(unit, "")


def decimals(value: float) -> str:
    """0.034, 2.031, 12.03, 0.00042: three decimals, fewer above 10, two digits of what is smaller than a thousandth."""
    if value == 0:
        return "0"
    if value >= 1e6:
        return f"{value:.2e}"
    if value >= 10:
        return f"{value:,.{max(0, 4 - len(str(int(value))))}f}"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1g}"


def percent(value: float) -> str:
    """12 %; 3.4 %; 0.05 %; below 0.01 %."""
    if value < 0.01:
        return "less than 0.01 %"
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %" if value >= 1 else f"{value:.2f} %"


def size(value: float) -> str:
    """1.23 MB; 512 B."""
    for i, (name, one) in enumerate(_UNITS):
        if value >= one * 0.9995 and (value >= one or i < len(_UNITS)):  # 999.9 kB rounds to 1.00 MB
            return f"{_three(value / one)} {name}"
    return f"{value:.0f} B"


def count(value: float) -> str:
    """1,234; 4.72M; 8.03B."""
    for name, one in (("B", 1e9), ("M", 1e6)):
        if value >= one * 0.9995:
            return f"{_three(value / one)}{name}"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def seconds(value: float) -> str:
    """0.42 s; 83 s; 4 min 10 s; 2 h 5 min."""
    if value < 120:
        return f"{_three(value)} s"
    whole = round(value)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def duration(seconds: float) -> str:
    """ "0.4 s", "41 s", "3 min 20 s", "2 h 05 min" """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s" if whole < 600 else f"{round(whole / 60)} min"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _three(value: float) -> str:
    digits = len(str(int(value))) if value >= 1 else 0
    shown = f"{value:.{max(0, 3 - max(digits, 1))}f}"
    return f"{value:.0f}" if digits >= 3 else shown


def one_line(text: str) -> str:
    """A name without line breaks and control characters (an escape sequence in a model's name stays without effect)."""
    return "".join(
        " " if c in "\n\r\t" else "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c
        for c in text
    )


def error_line(error: BaseException, most: int | None = None) -> str:
    """What an error says, on one line of at most so many characters; the name of its class where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def plural(n: int, word: str) -> str:
    """1 seed; 2 seeds; 12,000 seeds."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def first_names(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """ "a, b and 3 more": the first `most` of them by name."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,), width: int | None = None) -> list[str]:
    """Rows of fields as lines of columns: those with an index in `left` to the left, the others to the right.

    Within `width`, where one is given and it does not do: texts of several words take several lines; if that is not
    enough, the columns follow each other in blocks that all open with those at the left, which name the rows.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is None or _across(widths) <= width:
        return [_line(row, widths, left) for row in rows]
    narrow = [_narrowest(column) for column in zip(*rows, strict=True)]
    if _across(narrow) <= width:
        for i in range(len(widths)):  # the first columns keep what room there is
            widths[i] = min(widths[i], width - _across([*narrow[:i], *narrow[i + 1 :], 0]))
            narrow[i] = widths[i]
        return _folded(rows, widths, left)
    lines: list[str] = []
    names = next((i for i in range(len(narrow)) if i not in left), 1)
    rest = list(range(names, len(narrow)))
    while rest:
        taken = [*range(names), rest.pop(0)]
        while rest and _across([narrow[i] for i in (*taken, rest[0])]) <= width:
            taken.append(rest.pop(0))
        part = [[row[i] for i in taken] for row in rows]
        at_left = [place for place, i in enumerate(taken) if i in left]
        lines += [*([""] if lines else []), *_folded(part, [narrow[i] for i in taken], at_left)]
    return lines


def _across(widths: Sequence[int]) -> int:
    return sum(widths) + len(_BETWEEN) * (len(widths) - 1)


def _line(fields: Sequence[str], widths: Sequence[int], left: Collection[int]) -> str:
    return _BETWEEN.join(
        field.ljust(width) if i in left else field.rjust(width)
        for i, (field, width) in enumerate(zip(fields, widths, strict=True))
    ).rstrip()


def _narrowest(column: Sequence[str]) -> int:
    """What numbers need whole (a field of up to _WHOLE characters is not folded below the head), and words at least."""
    head, *below = column
    words = max((len(word) for field in column for word in field.split()), default=0)
    return max(words, min(_WHOLE, max(map(len, below), default=len(head))))


def _folded(rows: Sequence[Sequence[str]], widths: Sequence[int], left: Collection[int]) -> list[str]:
    """Rows of which a field that is too long goes on below itself; heads stand next to what they head."""
    lines = []
    for n, row in enumerate(rows):
        fields = [wrap(f, w, break_long_words=False, break_on_hyphens=False) for f, w in zip(row, widths, strict=True)]
        height = max(1, *map(len, fields))
        padded = [[""] * (height - len(f)) + f if n == 0 else f + [""] * (height - len(f)) for f in fields]
        lines += [_line(part, widths, left) for part in zip(*padded, strict=True)]
    return lines


def block(title: str, rows: Sequence[tuple[str, object]]) -> str:
    """A title, and below it a line for each name with its value."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)])
