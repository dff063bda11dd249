"""A results directory as one small file, results.json.gz: the plan, every result and what was left of it at lower
ranks, without curves, items, spectra and adapters.

    {"schema": 1, "plan": plan.json's content, "results": {cell id: result.json's content},
     "truncations": {cell id: truncation.csv's content}}        where cells have it

So that the results of a study can be kept beside its report and be learned from. Without items, single seeds are
compared as if their test items were not the same, more widely than in the results directory. The same store gives the
same bytes.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorabench.errors import StoreError
from lorabench.record.checksums import CHECKSUM, FILES
from lorabench.record.store import Store

FILE = "results.json.gz"
_CUTS = "truncation.csv"


def pack(store: Store, folder: str | Path) -> Path:
    """Writes a store's archive into a folder; StoreError where the store cannot be read."""
    store.plan()  # says what is wrong with it, if anything is
    results: dict[str, object] = {}
    truncations: dict[str, str] = {}
    for cell in store.plan():
        path = store.cells_folder / cell.id / "result.json"
        if store.get(cell.id, cell) is not None:
            plain = json.loads(path.read_text(encoding="utf-8"))
            results[cell.id] = {k: v for k, v in plain.items() if k not in (FILES, CHECKSUM)}  # the files stay behind
            if (cut := path.with_name(_CUTS)).is_file():
                truncations[cell.id] = cut.read_text(encoding="utf-8", errors="replace")
    plan = json.loads((store.folder / "plan.json").read_text(encoding="utf-8"))
    archive = {"schema": 1, "plan": plan, "results": results}
    if truncations:
        archive["truncations"] = truncations
    target = Path(folder) / FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(json.dumps(archive, separators=(",", ":")).encode(), mtime=0))
    return target


@contextmanager
def opened(folder: str | Path) -> Iterator[Store]:
    """The store of a results directory, or of the archive in a folder, unpacked for as long as it is open; StoreError
    where there is neither."""
    path = Path(folder) / FILE
    if Store(folder).exists() or not path.is_file():
        yield Store.open(folder)
        return
    with tempfile.TemporaryDirectory(prefix="lorabench-") as scratch:
        unpack(path, Path(scratch))
        yield Store.open(scratch)


def unpack(path: Path, target: Path) -> None:
    """An archive's plan and results as a results directory has them; StoreError where it cannot be read."""
    try:
        plain = json.loads(gzip.decompress(path.read_bytes()))
        if plain["schema"] != 1:
            raise StoreError(
                f"{path} has schema {plain['schema']!r}; this version of lorabench reads 1: install the version that"
                " wrote it"
            )
        results, truncations = plain["results"], plain.get("truncations", {})
        (target / "plan.json").write_text(json.dumps(plain["plan"]), encoding="utf-8")
        for cell_id, result in results.items():
            if not cell_id.isalnum():  # a file's name, from a file that anyone may have made
                raise ValueError(f"{cell_id!r} is not a cell's id")
            folder = target / "cells" / cell_id
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
            if cell_id in truncations:
                (folder / _CUTS).write_text(truncations[cell_id], encoding="utf-8", newline="")
    except (
        OSError,
        EOFError,
        zlib.error,
        MemoryError,
        RecursionError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as e:
        raise StoreError(
            f"{path} cannot be read ({' '.join(str(e).split())[:200]}); get it from its source again"
        ) from None
