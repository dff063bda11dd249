"""Files that are whole or not there: written aside, synced and renamed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Temporary file, fsync, rename: a reader sees the old text or the new, never half."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_where_changed(path: Path, text: str) -> None:
    """The same, but that a file which holds the text already is left as it is."""
    try:
        if path.read_bytes() == text.encode():
            return
    except OSError:
        pass
    write_atomically(path, text)


def stamp(path: str | Path) -> tuple[int, int] | None:
    """What changes when a file is written anew; None where there is none."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """The same for all that is below a folder, the folder last."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
