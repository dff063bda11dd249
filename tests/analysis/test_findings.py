"""Findings follow from the data: each appears where it is planted, with its cells and numbers, and none in a clean
study."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import get_args

from lorabench.analysis.findings.base import Kind, Severity
from lorabench.analysis.findings.registry import CHECKS, check
from lorabench.report import view as view_module
from lorabench.report.blocks import Code, Notice, Text
from lorabench.sections import findings as section_module
from tests.analysis.planted import FIXED, ended, ids, quick, seen, text  # noqa: F401  (a fixture of every test)

# the set is closed


def test_every_kind_is_a_function_and_the_gravest_come_first() -> None:
    assert tuple(f.__name__ for f in CHECKS) == get_args(Kind)
    made = {}
    for function in CHECKS:
        calls = [
            n
            for n in ast.walk(ast.parse(inspect.getsource(function)))
            if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Finding"
        ]
        assert len(calls) == 1, function.__name__
        made[function.__name__] = [a.value for a in calls[0].args[:3] if isinstance(a, ast.Constant)]
    assert all(kind == head[0] for kind, head in made.items())
    order = get_args(Severity)
    assert [head[1] for head in made.values()] == sorted((head[1] for head in made.values()), key=order.index)
    titles = [head[2] for head in made.values() if len(head) > 2]  # one is built from what became of the rows
    assert len(titles) >= len(made) - 1
    assert len(set(titles)) == len(titles), "a title stands for one kind"


def test_every_kind_is_planted_below_or_among_those_of_the_data() -> None:
    here = Path(__file__).parent
    planting = (*here.glob("test_findings*.py"), here.parent / "workflows" / "test_merge.py")
    source = "".join(path.read_text(encoding="utf-8") for path in planting)
    assert [k for k in get_args(Kind) if f'["{k}"]' not in source] == []


def test_a_clean_study_has_no_findings(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(seeds="[0, 1, 2, 3, 4]"))
    assert found == {}
    assert len(view.analysis.results) == 46
    assert section_module.section(view) is None


# how they are shown


def test_the_section_shows_grave_things_first_and_the_cells_behind(tmp_path: Path) -> None:
    view, _ = seen(tmp_path, text(*FIXED), lambda r: ended(r, "failed") if r.cell.method.rank == 4 else r)
    shown = section_module.section(view)
    assert shown is not None
    assert [b.title for b in shown.blocks if isinstance(b, Notice)] == [f.title for f in view.findings]
    assert isinstance(shown.blocks[0], Text) and shown.blocks[0].text.startswith("Numbers are absent")
    code = shown.blocks[-1]
    assert isinstance(code, Code)
    assert next(iter(ids(view, lambda r: r.outcome == "failed"))) in code.text.splitlines()[0]


def test_no_finding_needs_a_finished_cell(tmp_path: Path) -> None:
    _, found = seen(tmp_path, text(), lambda r: None)
    assert set(found) == {"missing"}
    assert check is view_module.check


def test_long_lists_are_cut_and_say_by_how_much() -> None:
    assert section_module._short(("a", "b", "c"), 3) == ("a", "b", "c")
    assert section_module._short(("a", "b", "c", "d", "e"), 3) == ("a", "b", "c", "and 2 more")
