"""LaTeX table in booktabs style, best values bold"""

from __future__ import annotations

from lorabench.formatting import one_line
from lorabench.report.table_model import Column, Table, Value, heading, shown

EXTENSION = "tex"
_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "[": "{[}",  # after \\ a bracket or star would be read as its argument
        "*": "{*}",
        "±": r"$\pm$",
        "−": "$-$",
        "–": "--",
        "Δ": r"$\Delta$",
        "\N{REPLACEMENT CHARACTER}": "?",
    }
)


def export(table: Table) -> str:
    """A table environment; the document needs the packages booktabs and (for quotes) T1 font encoding."""
    heads = [escape(label) + (f" ({escape(unit)})" if unit else "") for label, unit in map(heading, table.columns)]
    spec = "".join("r" if c.align == "right" else "l" for c in table.columns)
    rows = [[_cell(v, c) for v, c in zip(r.values, table.columns, strict=True)] for r in table.rows]
    label = "".join(c if c.isascii() else "-" for c in table.name)
    lines = [
        r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(' '.join((table.title + '.', *table.notes)))}}}",
        rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{spec}}}",
        r"    \toprule",
        f"    {' & '.join(heads)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Value | None, column: Column) -> str:
    text = escape(shown(value, column))
    return rf"\textbf{{{text}}}" if value and value.best else text


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return one_line(text).translate(_ESCAPES)
