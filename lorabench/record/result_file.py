"""A cell's result.json, read and checked (record.checksums)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lorabench.config.paths import IMPORTED
from lorabench.config.study import Cell
from lorabench.errors import DamagedRecordError, StoreError
from lorabench.record.checksums import AGAIN, check_files, files_of
from lorabench.record.result import CellResult


def read_result(
    path: Path,
    cell: Cell | None = None,
    *,
    contents: bool = False,
    weights: bool = False,
    expected: Cell | None = None,
) -> CellResult:
    """The result in a cell's result.json; FileNotFoundError where there is none, StoreError where it cannot be read,
    DamagedRecordError where it or a file beside it is not what was written.

    `cell` is whose it is, where that is known: then the file's own copy need not be checked again. `expected`: whose it
    is, but its copy may have other settings that do not count in an id; one that is the same need not be checked.
    `contents`: those of the files beside it are about to be read; `weights`: those of its weights.
    """
    try:
        with path.open("rb") as stream:
            raw, state = stream.read(), os.fstat(stream.fileno())
        plain = json.loads(raw.decode("utf-8"))
        if plain.get("schema") != 1:
            raise StoreError(
                f"{path} has schema {plain.get('schema')!r}; this version of lorabench reads 1: install the version"
                " that wrote it, or run the cell again"
            )
        try:
            check_files(path.parent, files_of(plain, raw, path), state.st_mtime_ns, contents=contents, weights=weights)
        except DamagedRecordError:
            if os.stat(path).st_ino == state.st_ino:
                raise
            return read_result(  # it was replaced in the meantime
                path, cell, contents=contents, weights=weights, expected=expected
            )
        if expected is not None and plain.get("cell") == plain_cell(expected):
            cell = expected
        if cell is not None and "cell" in plain:
            return CellResult.model_validate({**plain, "cell": cell})
        return CellResult.model_validate(plain, context=IMPORTED if plain.get("cell", {}).get("imported") else None)
    except FileNotFoundError:
        raise
    except OSError as e:
        raise StoreError(f"{path} cannot be read ({e.strerror}); {AGAIN}") from None
    except (ValueError, AttributeError, TypeError, RecursionError) as e:
        raise DamagedRecordError(f"{path} cannot be read ({first_line(e)}); {AGAIN}") from None


def plain_cell(cell: Cell) -> dict[str, object]:
    """A cell as plan.json and result.json have it. There None is a value: full fine-tuning has rank None, not the
    default; a cell that lorabench runs says nothing of an import, as it did before there was any."""
    return cell.model_dump(mode="json", exclude={"imported"} if cell.imported is None else None)


def first_line(error: Exception) -> str:
    """An error's first line, or the name of its class where it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__
