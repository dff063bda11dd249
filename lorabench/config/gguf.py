"""GGUF files (llama.cpp's) as models: what their headers say, and the folder that the rest of lorabench reads them by.

    described   a folder of the user's cache with config.json and tokenizer, made once from the header by transformers'
                own reading, and gguf.json: the file, its type (Q4_1, Q4_K_M, F16), its architecture, names and shapes
    weights     stay in the file; transformers dequantizes them when a cell loads (spectra.gguf_weights)

The header is read by the gguf package, which maps the file and reads no weight. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorabench import formatting
from lorabench.config.checkpoint_files import hash_file, refuse_pointer
from lorabench.config.gguf_file import NAME, GgufFile, gguf_of
from lorabench.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFReader

SUFFIX = ".gguf"
_LARGE_WORDS = 200  # characters of a library's reason


def described(path: str | Path) -> Path:
    """The folder that describes a GGUF file, made where it is not there yet (some seconds, in a process of its own,
    since transformers imports torch).

    ModelError where the file is missing, damaged, no model that transformers reads, or of a type that cannot be
    dequantized.
    """
    path = Path(path)
    try:
        state = path.stat()
    except OSError as e:
        raise ModelError(f"there is no GGUF file {path} ({e.strerror}); give the path of a local copy") from None
    return _described(str(path), state.st_size, state.st_mtime_ns)


def is_described(path: str | Path) -> bool:
    """Whether that folder is there already; True for what is no file, of which `described` tells."""
    try:
        state = Path(path).stat()
    except OSError:
        return True
    return gguf_of(_folder(str(path), state.st_size, state.st_mtime_ns)) is not None


@lru_cache(maxsize=64)
def _folder(path: str, size: int, changed: int) -> Path:
    mark = hashlib.sha256(f"{hash_file(Path(path))}:{path}:{version('transformers')}".encode()).hexdigest()[:16]
    return _cache() / mark


@lru_cache(maxsize=64)
def _described(path: str, size: int, changed: int) -> Path:
    folder = _folder(path, size, changed)
    if gguf_of(folder) is None:
        header = read_header(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ModelError(
                f"{folder} cannot be made ({e.strerror}), where the configuration and tokenizer of {path} are kept; set"
                " XDG_CACHE_HOME to a folder that can be written"
            ) from None
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            _describe(Path(path), Path(made))
            (Path(made) / NAME).write_text(json.dumps(asdict(header)), encoding="utf-8")
            for file in sorted(Path(made).iterdir(), key=lambda f: f.name == NAME):  # gguf.json last: then it is whole
                os.replace(file, folder / file.name)
    return folder


def hub_file(repository: str, file: str, revision: str | None = None) -> Path:
    """A GGUF file of a hub repository, from the local cache, else downloaded whole; ModelError where it is in
    neither.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    from lorabench.config import hub

    try:
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        pass
    named = f"{repository}/{file}{f' at revision {revision}' if revision else ''}"
    if not hub.answers():
        raise ModelError(
            f"{named} is not on this machine, and {hub.why_not()}; give the path of a local copy as the model"
        )
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as e:  # the client's own classes, which differ between its versions
        reason = " ".join(str(e).split())[:_LARGE_WORDS]
        raise ModelError(f"{named} cannot be downloaded ({reason}); look up the repository's files") from None


def _cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lorabench" / "gguf"


def _describe(path: Path, folder: Path) -> None:
    """Configuration and tokenizer by transformers, in a process of its own."""
    words = [sys.executable, "-m", "lorabench.engine.gguf_description", str(path), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(f"{path} is no model that transformers reads: {reason[:_LARGE_WORDS]}; {_OTHER}")


_OTHER = "take another GGUF of a decoder (llama, qwen2, gemma, ...), or the transformers folder that it was made from"


def read_header(path: str | Path) -> GgufFile:
    """What a GGUF file's header says; no weight is read. ModelError as `described`."""
    path = Path(path)
    refuse_pointer(path)
    with path.open("rb") as stream:
        start = stream.read(4)
    if start != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file (it does not begin with GGUF); download it again")
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ModelError(
            f"{path} can be read with the package gguf alone, which is not installed: pip install gguf"
        ) from None
    try:
        reader = GGUFReader(path)
        architecture = str(_value(reader, "general.architecture") or "")
        tensors = {t.name: tuple(int(n) for n in reversed(t.shape)) for t in reader.tensors}
        stored = Counter[str]()
        for tensor in reader.tensors:
            stored[tensor.tensor_type.name] += int(tensor.n_elements)
        fault = _fault(reader, architecture, tensors) or _undequantizable(stored)
        kind = _type(reader, stored)
    except Exception as e:  # whatever a mapped file that ends early raises: IndexError, ValueError, KeyError, ...
        reason = " ".join(str(e).split())[:120]
        if "version" not in reason:  # numpy's words on arrays that are too short
            reason = f"its {formatting.size(path.stat().st_size)} end before what its header names"
        raise ModelError(
            f"{path} is not a complete GGUF file ({reason}); it is damaged or truncated, download it again"
        ) from None
    if fault:
        raise ModelError(f"{path} {fault}")
    return GgufFile(str(path), kind, architecture, tensors, dict(stored))


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _fault(reader: GGUFReader, architecture: str, tensors: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why a sound GGUF file is no model of its own."""
    kind, parts = _value(reader, "general.type"), _value(reader, "split.count")
    if kind == "adapter":
        return "is an adapter, not a model; give the GGUF of its base"
    if parts and int(parts) > 1:
        return f"is one of {parts} parts of a model; join them first (llama-gguf-split --merge)"
    if kind not in (None, "model") or not architecture or not tensors:
        return f"holds no language model (general.type {kind}, {len(tensors)} tensors); {_OTHER}"
    return None


def _undequantizable(stored: Mapping[str, int]) -> str | None:
    """The sentence for a type that the gguf package has no dequantization of, tried on one block of zeros."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    for name in stored:
        kind = GGMLQuantizationType[name]
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            return (
                f"holds weights in {name}, which the gguf package cannot dequantize; allowed: F32, F16, BF16, Q4_0 to"
                " Q8_0, the K types and most IQ types; take the same model in one of these"
            )
    return None


def _type(reader: GGUFReader, stored: Mapping[str, int]) -> str:
    """llama.cpp's word for the file (general.file_type) where it agrees with the tensors, else the type of most
    numbers."""
    from gguf import LlamaFileType

    most = max(stored, key=lambda name: stored[name])
    try:
        word = LlamaFileType(int(_value(reader, "general.file_type"))).name
    except (ValueError, TypeError):
        return most
    word = word.removeprefix("MOSTLY_").removeprefix("ALL_")
    return word if word.startswith(most) else most
