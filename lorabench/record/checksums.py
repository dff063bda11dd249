"""The checksums of a record, so that one that was cut, changed or lost a file is never read as if it were whole.

result.json lists the files beside it and ends with a checksum of itself:

    "files": {"curve.csv": {"bytes": 967, "sha256": "5f1c..."}, ...},
    "checksum": "9b0e..."              SHA-256 of all bytes before this line

A record without them is of an earlier version and is read as before. log.txt and checkpoint.pt are not listed: no
number is read from them. Weights (adapter/, model/) may be gone as a whole, since `save` and users take them away.

What is looked at: result.json's own checksum, and that each file is there in its size, whenever the record is read; the
contents of a file that was written to after result.json, then too; the contents of all but weights where they are
about to be read (`contents`), of weights where these are (`weights`). Costs about 0.1 ms a cell with small files, and
0.6 s a GB of weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic_core import to_json  # json's own takes ten times as long where it indents

from lorabench.errors import DamagedRecordError
from lorabench.record.cell_files import ADAPTER, MODEL

FILES, CHECKSUM = "files", "checksum"
UNLISTED = ("result.json", "log.txt", "checkpoint.pt")
AGAIN = "run the study again, which sets the cell's record aside and repeats it"
_PASSING = (".old", ".partial", ".new")  # endings of what is being replaced


def sealed(plain: Mapping[str, object], folder: Path) -> bytes:
    """The text of a result.json with the checksums of the files that lie beside it, and its own."""
    marks = {name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for name, path in _listed(folder)}
    body = to_json({**plain, FILES: marks}, indent=1).removesuffix(b"\n}") + b",\n"
    return body + _last_line(body).encode()


def files_of(plain: dict[str, object], raw: bytes, where: Path) -> dict[str, object]:
    """Takes the checksums out of a result.json's content and returns what it says of the files beside it, nothing where
    it has none; DamagedRecordError where its own is not that of its bytes (`raw`)."""
    if CHECKSUM not in plain:
        return {}
    body = raw[: raw.rfind(f' "{CHECKSUM}"'.encode())]
    if raw[len(body) :] != _last_line(body).encode():
        raise DamagedRecordError(damaged(where, "its checksum is not that of its contents"))
    del plain[CHECKSUM]
    files = plain.pop(FILES, {})
    return files if isinstance(files, dict) else {}


def check_files(
    folder: Path, files: Mapping[str, object], written_at: int, *, contents: bool = False, weights: bool = False
) -> None:
    """DamagedRecordError where a listed file is not what it was when its result was written, at written_at (ns)."""
    for name, mark in files.items():
        is_weight = name.partition("/")[0] in (ADAPTER, MODEL)
        try:
            state = os.stat(f"{folder}/{name}")
        except FileNotFoundError:
            if is_weight and not (folder / name.partition("/")[0]).exists():
                continue
            raise DamagedRecordError(damaged(folder / name, "it is gone")) from None
        if not isinstance(mark, dict) or state.st_size != mark.get("bytes"):
            size = mark.get("bytes") if isinstance(mark, dict) else None
            raise DamagedRecordError(damaged(folder / name, f"it has {state.st_size} bytes, and {size} were written"))
        if (state.st_mtime_ns > written_at or (weights if is_weight else contents)) and _digest(
            folder / name
        ) != mark.get("sha256"):
            raise DamagedRecordError(damaged(folder / name, "its contents are not those that were written"))


def damaged(path: Path, reason: str) -> str:
    """The sentence on a damaged file of a record."""
    return f"{path} is damaged ({reason}); {AGAIN}"


def _listed(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        passing = any(part.startswith(".") or part.endswith(_PASSING) for part in parts)
        if path.is_file() and not passing and "/".join(parts) not in UNLISTED:
            yield "/".join(parts), path


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _last_line(body: bytes) -> str:
    return f' "{CHECKSUM}": "{hashlib.sha256(body).hexdigest()}"\n}}\n'
