"""What plan.json holds beside the study: its cells, and what changed between runs.

Seeds of one condition are checked once, so that a large plan is read in a fraction of the time that its cells would
take one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import TypeAdapter
from pydantic_core import to_json

from lorabench.config.frozen import Frozen
from lorabench.config.study import Cell
from lorabench.record.result_file import plain_cell

_CELLS = TypeAdapter(tuple[Cell, ...])


class Earlier(Frozen):
    """A change between two runs in one results directory, which left finished cells behind."""

    at: str
    """ISO 8601, UTC"""
    words: str
    """what changed, a sentence"""
    cells: tuple[str, ...]
    """ids of the finished cells of before, which the study no longer asks for"""


EARLIER = TypeAdapter(tuple[Earlier, ...])


def plan_text(plan: dict[str, object], cells: Iterable[Cell]) -> str:
    """The text of plan.json with these cells."""
    whole = {**plan, "cells": [plain_cell(c) for c in cells]}
    return to_json(whole, indent=1).decode() + "\n"  # json's own takes ten times as long where it indents


def read_cells(plain: object, context: object = None) -> tuple[Cell, ...]:
    """The cells of a plan.json; ValidationError where they are not what this version writes."""
    if not isinstance(plain, list):
        return _CELLS.validate_python(plain, context=context)
    cells = []
    first: dict[str, Cell] = {}
    for one in plain:
        seed = one.get("seed") if isinstance(one, dict) else None
        key = json.dumps({**one, "seed": 0}) if type(seed) is int else ""
        if key in first:
            cells.append(first[key].model_copy(update={"seed": seed}))
            continue
        cells.append(Cell.model_validate(one, context=context))
        if key:
            first[key] = cells[-1]
            _ = first[key].identity  # which its copies have in common
    return tuple(cells)
