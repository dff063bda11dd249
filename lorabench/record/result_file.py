"""A cell's result.json, read and checked."""

from __future__ import annotations

import json
from pathlib import Path

from lorabench.config.paths import IMPORTED
from lorabench.config.study import Cell
from lorabench.errors import StoreError
from lorabench.record.result import CellResult


def read_result(path: Path, cell: Cell | None = None) -> CellResult:
    """The result in a cell's result.json; FileNotFoundError where there is none, StoreError where it cannot be read.

    `cell` is whose it is, where that is known: then the file's own copy need not be checked again.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain.get("schema") != 1:
            raise StoreError(
                f"{path} has schema {plain.get('schema')!r}; this version of lorabench reads 1: install the version"
                " that wrote it, or run the cell again"
            )
        if cell is not None and "cell" in plain:
            return CellResult.model_validate({**plain, "cell": cell})
        return CellResult.model_validate(plain, context=IMPORTED if plain.get("cell", {}).get("imported") else None)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, AttributeError, RecursionError) as e:
        raise StoreError(
            f"{path} cannot be read ({first_line(e)}); delete its folder and run the study again"
        ) from None


def plain_cell(cell: Cell) -> dict[str, object]:
    """A cell as plan.json and result.json have it. There None is a value: full fine-tuning has rank None, not the
    default; a cell that lorabench runs says nothing of an import, as it did before there was any."""
    return cell.model_dump(mode="json", exclude={"imported"} if cell.imported is None else None)


def first_line(error: Exception) -> str:
    """An error's first line, or the name of its class where it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__
