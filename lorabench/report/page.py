"""The report: one HTML file that needs nothing else, made of the plug-ins under sections/.

plotly.js is embedded once (4.8 MB) and the page forbids itself any request (Content-Security-Policy).
Everything but our own style and script goes through jinja2's escaping; figures travel as JSON in which
no `<` stands. The same store gives the same bytes, but for the date.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lorabench import formatting, plugins
from lorabench.record.result import BROKEN
from lorabench.record.store import Store
from lorabench.record.whole_files import write_atomically
from lorabench.report.blocks import Block, Figure, Notice, Section, Text
from lorabench.report.table_model import Table, heading, parts
from lorabench.report.view import View, make_view

_NOT_YET = "Not complete"
_WAITING = 12  # conditions that are named
_FOLDER = Path(__file__).parent


def write_report(store: Store, path: str | Path, today: date | None = None, other: Store | None = None) -> Path:
    """Writes the report of a store, beside another one where that is given; `today` is the date it bears, with the time
    of day where the study is not complete."""
    return write_page(make_view(store, other), path, today)


def write_page(view: View, path: str | Path, today: date | None = None) -> Path:
    """The same of a study that is analysed already."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, page(view, today or datetime.now(UTC)))
    return target


def page(view: View, today: date) -> str:
    """The whole page as text."""
    finished, total = (sum(getattr(s.outcomes, n) for s in view.analysis.summaries) for n in ("finished", "total"))
    subtitle = (
        f"{formatting.plural(len(view.analysis.summaries), 'condition')}, {finished} of"
        f" {formatting.plural(total, 'cell')} finished."
    )
    planned = sum(len(g.ids) for g in view.analysis.planned)
    if planned > total:
        subtitle = f"{subtitle[:-1]} at the chosen learning rates; {planned} cells in all."
    blocks, first = sections(view), unfinished(view)
    if first:
        blocks = (Section(_NOT_YET, first), *(_so_far(section) for section in blocks))
    elif isinstance(today, datetime):
        today = today.date()
    return sections_page(view.analysis.study.name, subtitle, blocks, today)


def unfinished(view: View) -> tuple[Block, ...]:
    """What a reader must know of a study whose cells have not all been run, or of the other one beside it; empty where
    all have."""
    blocks: list[Block] = []
    studies = [(view.analysis, "This study")]
    if view.other:
        studies.append((view.other.analysis, f"The other study, {view.other.analysis.study.name},"))
    for one, whose in studies:
        planned = sum(len(g.ids) for g in one.planned)
        missing = [len(g.ids) - sum(i in one.results for i in g.ids) for g in one.planned]
        if not sum(missing):
            continue
        ended = list(one.results.values())
        broken = sum(r.outcome in BROKEN for r in ended)
        parts = [
            f"{sum(r.outcome == 'finished' for r in ended)} of {formatting.plural(planned, 'cell')} have finished",
            f"{broken} ended without finishing" if broken else "",
            f"{sum(missing)} have no result yet",
        ]
        waiting = [
            f"{one.label(g.condition)} ({n} of {len(g.ids)})" for g, n in zip(one.planned, missing, strict=True) if n
        ]
        more = (f"and {len(waiting) - _WAITING} more",) if len(waiting) > _WAITING else ()
        again = (
            "Everything below about these conditions is provisional. Rebuild the report when more cells have finished"
            " (lorabench report DIR); lorabench run resumes a study that was stopped and rebuilds the report itself."
        )
        blocks.append(
            Notice(
                f"{whose} is still running, or was stopped",
                f"{', '.join(p for p in parts if p)}. {again}",
                ("without a result: " + waiting[0], *waiting[1:_WAITING], *more),
            )
        )
    return tuple(blocks)


def _so_far(section: Section) -> Section:
    """The section with its decisions marked as those of the cells that have finished."""
    blocks = (
        replace(b, text=f"So far: {b.text}") if isinstance(b, Text) and b.tone == "lead" else b for b in section.blocks
    )
    return replace(section, blocks=tuple(blocks))


def sections_page(title: str, subtitle: str, sections: tuple[Section, ...], today: date | None = None) -> str:
    """A page of sections below a title and a sentence."""
    figures = {b.name: json.loads(b.plot.to_json()) for s in sections for b in s.blocks if isinstance(b, Figure)}
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            subtitle=subtitle,
            sections=sections,
            today=_stamp(today or datetime.now(UTC).date()),
            figures=_as_script(figures),
            plotly=_plotly() if figures else "",
        )
    )


def _stamp(day: date) -> str:
    return f"{day:%Y-%m-%d %H:%M} UTC" if isinstance(day, datetime) else day.isoformat()


def table_page(table: Table) -> str:
    """A page with one table and no script."""
    return _environment().get_template("table_page.html").render(table=table)


def sections(view: View) -> tuple[Section, ...]:
    """The sections that have something to show, by their ORDER."""
    modules = sorted(
        (plugins.load("sections", name) for name in plugins.names("sections")), key=lambda m: (m.ORDER, m.__name__)
    )
    return tuple(s for m in modules if (s := m.section(view)) is not None)


def _as_script(value: object) -> Markup:
    """JSON that cannot end the script element it stands in, nor open a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@lru_cache(maxsize=1)
def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        css=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        js=Markup((_FOLDER / "page.js").read_text(encoding="utf-8")),
        heading=heading,
        parts=parts,
        plural=formatting.plural,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["whole_numbers"] = whole_numbers
    return environment


def whole_numbers(text: str) -> Markup:
    """Text in which no line ends within 3e-05: browsers break after a hyphen."""
    return Markup(re.sub(r"[+−]?\d[\d.]*e-\d+", r'<span class="number">\g<0></span>', str(escape(text))))
