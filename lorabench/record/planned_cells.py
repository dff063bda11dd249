"""The cells in plan.json, written and read; seeds of one condition are checked once, so that a large plan is read in a
fraction of the time that its cells would take one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import TypeAdapter
from pydantic_core import to_json

from lorabench.config.study import Cell
from lorabench.record.result_file import plain_cell

_CELLS = TypeAdapter(tuple[Cell, ...])


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
