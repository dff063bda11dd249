"""What a run does with records that are no longer what was written, and with those that a killed run was replacing.

    cells/<id>.damaged/      a record that could not be read; .damaged-2 is the next one of the same cell
    cells/<id>.old/          a record that was being replaced when its runner was killed: put back where the new one had
                             not taken its place

Both happen under the cell's claim, so that runners which share a folder do it once.
"""

from __future__ import annotations

import itertools
import shutil
from contextlib import suppress
from pathlib import Path

from lorabench.errors import StoreError
from lorabench.record.store import Store
from lorabench.record.whole_files import sync


def set_aside(store: Store, cell_id: str) -> Path | None:
    """Moves a claimed cell's record away where it cannot be read; returns where to, None where there was no need."""
    try:
        store.get(cell_id, contents=True)
    except StoreError:
        for n in itertools.count(1):
            target = store.cells_folder / f"{cell_id}.damaged{f'-{n}' if n > 1 else ''}"
            if not target.exists():
                (store.cells_folder / cell_id).rename(target)
                sync(store.cells_folder)
                return target
    return None


def refuse_links(store: Store) -> None:
    """StoreError where a folder in a results directory is a symbolic link: what a run writes and removes there would be
    somebody else's. The directory itself may be one."""
    for name in ("cells", "claims", "base", "packs"):
        if (store.folder / name).is_symlink():
            raise StoreError(
                f"{store.folder / name} is a symbolic link, through which nothing is written; move its contents in its"
                f" place, or link {store.folder} as a whole"
            )


def put_back(store: Store) -> bool:
    """Gives each record that a killed run was replacing its place again, and removes what has a new one in its place;
    whether there was any."""
    left = [path for path in store.cells_folder.glob("*.old") if not path.is_symlink()]
    for old in left:
        final = old.with_suffix("")
        with store.claim(final.name) as mine, suppress(FileNotFoundError):
            if mine and final.exists():
                shutil.rmtree(old)
            elif mine:
                old.rename(final)
                sync(store.cells_folder)
    return bool(left)
