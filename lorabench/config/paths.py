"""Where names in a study lead: shipped models, local directories, data files.

A relative path is looked up from the working directory, then from the study file's folder, and is kept
as an absolute path, so that a stored study runs from anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from lorabench.config import gguf
from lorabench.config.checkpoint_files import adapter_sentence
from lorabench.config.gguf_file import gguf_of
from lorabench.errors import ModelError

SHIPPED = "lorabench/"
MODELS = Path(__file__).parent.parent / "models"
Context = Mapping[str, Sequence[Path]]
"""what validation needs beside the data: `folders` that relative paths are looked up from; none for a stored cell"""
IMPORTED: Context = {"imported": ()}
"""of a stored cell that was imported: it may name methods, quantizations and tasks that are no plug-ins"""


def shipped_models() -> dict[str, Path]:
    """Name (lorabench/tiny-1m) to directory, of the models within the package."""
    return {SHIPPED + f.parent.name: f.parent for f in sorted(MODELS.glob("*/config.json"))}


def model_directory(name: str) -> Path | None:
    """The directory of a shipped or local model, None for a hub id; of a GGUF file the one that describes it."""
    shipped = shipped_models().get(name)
    if shipped:
        return shipped
    if name.endswith(gguf.SUFFIX) and Path(name).is_file():
        return gguf.described(name)
    return Path(name) if Path(name).is_absolute() else None


def model_source(name: str) -> str:
    """What transformers and other tools take for a model: its directory, or its hub id."""
    return str(model_directory(name) or name)


def model_label(name: str) -> str:
    """What tables call a model: the last part of a directory's path, a hub id or shipped name as it is."""
    return Path(name).name if Path(name).is_absolute() else name


def gguf_sentence(name: str) -> str | None:
    """How a model that is a GGUF file is stored and what becomes of that; None of every other model."""
    folder = model_directory(name) if name.endswith(gguf.SUFFIX) else None
    file = gguf_of(folder) if folder else None
    return f"{model_label(name)} {file.words}" if file else None


def short_model(name: str) -> str:
    """The same within a condition's name, where a shipped model needs no "lorabench/" before it."""
    return model_label(name).removeprefix("lorabench/")


def find_file(name: str, context: Context | None) -> str | None:
    """The absolute path of an existing file or folder, None where there is none."""
    path = _resolve(name, context)
    return str(path) if path else None


def _resolve(name: str, context: Context | None) -> Path | None:
    folders = (context or {}).get("folders", ())
    for folder in (Path.cwd(), *folders):
        path = (folder / Path(name).expanduser()).resolve()
        if path.exists():
            return path
    return None


def find_model(name: str, context: Context | None, revision: str | None = None) -> str:
    """A shipped name or hub id as it is, a local directory or GGUF file (of the hub: owner/repository/file.gguf) as its
    absolute path; ValueError where it is none of them."""
    if context is None or context is IMPORTED:  # a stored cell: what was found then may be elsewhere by now
        return name
    if name.endswith(gguf.SUFFIX):
        return _find_gguf(name, context, revision)
    if name.startswith(SHIPPED):
        if name not in shipped_models():
            from lorabench.errors import unknown

            raise ValueError(unknown("shipped model", name, shipped_models()))
        return name
    if SHIPPED + name in shipped_models():
        raise ValueError(f"the shipped model is called {SHIPPED}{name}")
    path = _resolve(name, context)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if path and path.is_dir() and (path / "config.json").exists():
        return str(path)
    if path and path.is_dir() and (path / "adapter_config.json").exists():
        raise ValueError(adapter_sentence(path))
    if path and path.is_dir() and (files := sorted(f.name for f in path.glob(f"*{gguf.SUFFIX}"))):
        raise ValueError(
            f"{name} holds GGUF files and no config.json; name the one that is meant: model: {{name: {name},"
            f" gguf_file: {files[0]}}}{f' (or one of {len(files) - 1} others)' if len(files) > 1 else ''}"
        )
    if path and looks_local:
        reason = "holds no config.json" if path.is_dir() else "is a file"
        raise ValueError(
            f"{name} {reason}; a local model is a transformers directory with config.json, tokenizer and safetensors,"
            " or a GGUF file (not another weight file alone)"
        )
    if looks_local:
        raise ValueError(
            f"there is no directory {name}; give a shipped model ({', '.join(shipped_models())}), a directory or a"
            " hub id"
        )
    return name


def _find_gguf(name: str, context: Context, revision: str | None) -> str:
    """The absolute path of a GGUF file that can be a model; a link of the hub's cache stays one, since what it leads to
    has no ending."""
    folders = (Path.cwd(), *context.get("folders", ()))
    places = (Path(os.path.abspath(folder / Path(name).expanduser())) for folder in folders)
    path = next((place for place in places if place.is_file()), None)
    repository, _, file = name.rpartition("/")
    try:
        if path is None and repository.count("/") == 1 and not name.startswith((".", "/", "~")):
            path = gguf.hub_file(repository, file, revision)
        if path is not None:
            gguf.described(path)
            return str(path)
    except ModelError as e:
        raise ValueError(str(e)) from None
    raise ValueError(
        f"there is no GGUF file {name}; give the path of a file, or owner/repository/file.gguf for one of the hub"
    )


def with_gguf_file(model: Mapping[str, object]) -> dict[str, object]:
    """A model's settings with gguf_file joined to its name: folder/file.gguf, or owner/repository/file.gguf."""
    name, file = model.get("name"), model.get("gguf_file")
    if not isinstance(file, str) or not isinstance(name, str):
        return dict(model)
    return {**model, "name": f"{name.rstrip('/')}/{file}", "gguf_file": None}


def _find_file(name: str, info: ValidationInfo) -> str:
    if info.context is None or info.context is IMPORTED:  # a stored cell, as above
        return name
    path = _resolve(name, info.context)
    if path is None:
        raise ValueError(f"there is no file or folder {name} (looked in {Path.cwd()} and in the study's folder)")
    return str(path)


DataFile = Annotated[str, AfterValidator(_find_file)]
