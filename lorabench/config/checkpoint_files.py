"""The weight files of a checkpoint's folder: which they are, whether all are there and whole, and what their headers
tell.

A safetensors file is eight bytes (the length of the header), the header (JSON: name -> dtype, shape, where the bytes
lie) and the bytes; so names and shapes of any number of gigabytes are read in milliseconds. Pickled files (.bin) are
only looked for here: reading them takes torch.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorabench.config.gguf_file import gguf_of
from lorabench.errors import ModelError
from lorabench.formatting import first_names

KINDS = (("model", ".safetensors"), ("pytorch_model", ".bin"))  # in transformers' order
_POINTER = b"version https://git-lfs.github.com"
_NAMED = 3  # files in a sentence
_LARGEST_HEADER = 100 * 2**20  # what safetensors itself allows
SAMPLE_ABOVE = (
    256 * 2**20
)  # larger weight files are hashed by size, ends and 64 evenly spread blocks: 8B parameters in under 1 s
BLOCK = 2**16


@dataclass(frozen=True)
class Stored:
    """A tensor as a file's header describes it."""

    dtype: str
    """safetensors' name: F32, BF16, I8, F8_E4M3, ..."""
    shape: tuple[int, ...]
    file: Path


def weight_files(folder: str | Path) -> tuple[Path, ...]:
    """The files of a checkpoint's weights, as transformers would take them; ModelError where they are missing, in part
    or as a whole, or mere pointers."""
    folder = Path(folder)
    if (gguf := gguf_of(folder)) is not None:
        return _checked_files((Path(gguf.file),))
    for stem, suffix in KINDS:
        whole, index = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
        if whole.is_file():
            return _checked_files((whole,))
        if index.is_file():
            return _checked_files(_files_of_index(index))
    raise ModelError(_without_weights(folder))


def described_shards(folder: str | Path) -> bool:
    """Whether the index of a folder's shards has the part (metadata) that transformers does not read it without; True
    where the weights are in one file."""
    for stem, suffix in KINDS:
        whole, index = Path(folder) / f"{stem}{suffix}", Path(folder) / f"{stem}{suffix}.index.json"
        if whole.is_file() or index.is_file():
            return whole.is_file() or isinstance(json.loads(index.read_text(encoding="utf-8")).get("metadata"), dict)
    return True


def has_weights(folder: str | Path) -> bool:
    """Whether a folder has weights at all, whole or not."""
    return any(
        (Path(folder) / f"{stem}{suffix}{end}").is_file() for stem, suffix in KINDS for end in ("", ".index.json")
    )


def stored_tensors(files: Sequence[Path]) -> dict[str, Stored]:
    """Name to what the headers of safetensors files say of each tensor; ModelError where a file is damaged or cut
    off."""
    return {name: tensor for file in files for name, tensor in _header(file).items()}


def refuse_pointer(file: Path) -> None:
    """ModelError where a file is what Git leaves in place of one that Git LFS has not fetched, or where it cannot be
    read at all."""
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_POINTER))
    except FileNotFoundError:
        raise
    except OSError as e:
        raise ModelError(f"{file} cannot be read ({e.strerror}); fix its permissions") from None
    if start == _POINTER:
        raise ModelError(
            f"{file} is a Git LFS pointer, not the file itself; fetch it with git lfs pull, or download it again"
        )


def hash_file(file: Path) -> str:
    """SHA-256 of a file's size and bytes; of a large one's size, ends and samples between."""
    size = file.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        if size <= SAMPLE_ABOVE:
            while block := stream.read(2**20):
                total.update(block)
        else:
            for i in range(66):
                stream.seek((size - BLOCK) * i // 65)
                total.update(stream.read(BLOCK))
    return total.hexdigest()


def _checked_files(files: Sequence[Path]) -> tuple[Path, ...]:
    missing = [f.name for f in files if not f.is_file()]
    if missing:
        raise ModelError(
            f"{files[0].parent} lacks {first_names(missing, _NAMED)}, which its index names; download what is missing"
        )
    for file in files:
        refuse_pointer(file)
    return tuple(files)


def _files_of_index(index: Path) -> tuple[Path, ...]:
    refuse_pointer(index)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise ModelError(f"{index} names files outside its folder; download it again")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise ModelError(f"{index} cannot be read ({' '.join(str(e).split())[:120]}); download it again") from None
    if not names:
        raise ModelError(f"{index} lists no files; download it again")
    return tuple(index.parent / name for name in names)


def _header(file: Path) -> dict[str, Stored]:
    damaged = f"{file} is not a complete safetensors file (%s); it is damaged or truncated, download it again"
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
            raise ModelError(damaged % f"{size:,} bytes without a header")
        try:
            entries = json.loads(stream.read(length))
            tensors = {
                n: Stored(str(e["dtype"]), tuple(e["shape"]), file) for n, e in entries.items() if n != "__metadata__"
            }
            end = max((e["data_offsets"][1] for n, e in entries.items() if n != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ModelError(damaged % "its header is not readable") from None
    if 8 + length + end != size:
        raise ModelError(damaged % f"its header describes {8 + length + end:,} bytes, the file has {size:,}")
    return tensors


def _without_weights(folder: Path) -> str:
    """The sentence for a folder that has none of the files, by what it has instead."""
    names = sorted(f.name for f in folder.iterdir()) if folder.is_dir() else []

    def of(*suffixes: str) -> list[str]:
        return [n for n in names if n.endswith(suffixes)]

    if "adapter_config.json" in names:
        return adapter_sentence(folder)
    if gguf := of(".gguf"):
        return (
            f"{folder} holds weights as GGUF ({first_names(gguf, _NAMED)}) beside its config.json; name the file"
            f" itself as the model: {folder / gguf[0]}, which brings its own configuration and tokenizer"
        )
    if shards := [n for n in names if n.startswith(("model-0", "pytorch_model-0"))]:
        return (
            f"{folder} holds shards ({first_names(shards, _NAMED)}) without the index that names them"
            " (model.safetensors.index.json); download it"
        )
    if other := of(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5"):
        return (
            f"{folder} holds {first_names(other, _NAMED)}, but no weights as transformers names them"
            " (model.safetensors, pytorch_model.bin or their shards); convert it to a transformers folder"
        )
    return f"{folder} holds no weights (model.safetensors, pytorch_model.bin or their shards); download them"


def adapter_sentence(folder: Path) -> str:
    """The sentence for an adapter's folder in the place of a model's."""
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    of = f"an adapter of {base}" if base else "an adapter"
    return (
        f"{folder} is {of}, not a model; give {base or 'its base'} as the model, or merge the adapter into its base"
        " first (PEFT: merge_and_unload, save_pretrained)"
    )
