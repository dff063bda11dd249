"""Files that importers are given, and the JSON in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lorabench.errors import DataError


def files_in(paths: Sequence[Path], pattern: str) -> tuple[Path, ...]:
    """The files among paths, and those below its folders whose names match; DataError where one is absent, or nothing
    matches."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_file():
            found.setdefault(path)
        elif path.is_dir():
            inside = sorted(p for p in path.rglob(pattern) if p.is_file())
            if not inside:
                raise DataError(f"{path} holds no file {pattern}; give a folder of results, or a file of them")
            found |= dict.fromkeys(inside)
        else:
            raise DataError(f"there is no file or folder {path}; give a folder of results, or a file of them")
    return tuple(found)


def read_json(path: Path) -> tuple[str, dict[str, object]]:
    """The text of a file and its JSON object; DataError where it has none."""
    try:
        text = path.read_text(encoding="utf-8")
        plain = json.loads(text)
    except UnicodeDecodeError:
        raise DataError(f"{path} is damaged (it is no UTF-8 text); get it from its source again") from None
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror}); check its permissions") from None
    except RecursionError:
        raise DataError(f"{path} is damaged (nested too deeply); get it from its source again") from None
    except ValueError as e:
        if text.strip() and not text.lstrip().startswith("{"):
            raise DataError(f"{path} holds no JSON object; leave it out") from None
        at_end = isinstance(e, json.JSONDecodeError) and e.pos >= len(text.rstrip()) - 1
        end = "it ends in the middle" if at_end or "Unterminated" in str(e) else str(e)
        raise DataError(
            f"{path} is {'empty' if not text.strip() else f'truncated or damaged ({end})'};"
            " get it from its source again"
        ) from None
    if not isinstance(plain, dict):
        raise DataError(f"{path} holds no JSON object; leave it out")
    return text, plain
