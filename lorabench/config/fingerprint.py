"""What makes two cells the same: a hash over the canonical JSON of all that affects the outcome.

Paths do not count, what they lead to does: a model is its configuration, tokenizer and weights, data is
its bytes. The device does not count either: a store belongs to one machine, and each result names it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from lorabench import plugins
from lorabench.config import hub
from lorabench.config.checkpoint_files import hash_file, stored_tensors
from lorabench.config.frozen import Frozen
from lorabench.config.gguf_file import gguf_of
from lorabench.config.imported import declared
from lorabench.config.paths import model_directory
from lorabench.config.precision import is_large
from lorabench.config.settings import ModelSpec, TaskSpec
from lorabench.config.study import Cell, Condition, Fingerprints
from lorabench.errors import LorabenchError, ModelError

IDENTITY_VERSION = 1


def canonical_json(value: object) -> str:
    """Sorted keys, no spaces; floats as repr, so that 1e-3 and 0.001 are one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def identity(cell: Cell) -> tuple[dict[str, object], str]:
    """What a cell's id is made of but its seed, and its condition's id, in which a tuned learning rate stands for the
    whole grid."""
    if cell.imported is not None:
        own: dict[str, object] = {**declared(cell), "identity_version": IDENTITY_VERSION}
        return own, digest(own)
    parts = counted(cell)
    parts["model"] = {"fingerprint": cell.fingerprints.model, "dtype": cell.model.dtype}
    if not cell.analysis.truncation:
        del parts["analysis"]  # the ids of cells that ask for none are as they were before there was any
    own = {**parts, "data": cell.fingerprints.data, "identity_version": IDENTITY_VERSION}
    if cell.fingerprints.large and cell.model.dtype == "auto" and plugins.load("methods", cell.method.name).TRAINS_BASE:
        own["evaluated"] = "in the base's precision"  # it was in float32, beside adapters in bfloat16
    if not cell.tuned_over:
        return own, digest(own)
    condition = {**own, "training": {**parts["training"], "learning_rate": {"tune": cell.tuned_over}}}
    return {**own, "validated": True}, digest(condition)  # chosen by its validation loss: it has one more reading


def digest(content: Mapping[str, object]) -> str:
    """12 hex digits of the SHA-256 of canonical JSON."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]


def counted(cell: Cell) -> dict[str, dict[str, object]]:
    """A cell's settings as plain data, without those that do not count in an id; paths are left out, since what they
    lead to counts."""
    plain: dict[str, dict[str, object]] = cell.model_dump(
        mode="json", exclude={"fingerprints", "seed", "tuned_over", "save", "imported"}
    )
    for part in ("method", "training", "evaluation", "analysis", "task"):
        for name in uncounted(getattr(cell, part)):
            plain[part].pop(name, None)
    for name in path_fields(cell.task):
        plain["task"].pop(name, None)
    del plain["evaluation"]["include_path"]
    if plain["evaluation"]["forgetting"] not in ("self", "none"):
        plain["evaluation"]["forgetting"] = "file"
    return plain


def path_fields(options: TaskSpec) -> frozenset[str]:
    """The names of a task's options that are files."""
    return frozenset(plugins.load("tasks", options.name).PATH_FIELDS)


def uncounted(part: Frozen) -> frozenset[str]:
    """A part's fields that do not count in an id: no outcome depends on them, or they came later and stand at their
    default."""
    return part.ASIDE | {name for name, default in _later(type(part)) if getattr(part, name) == default}


@lru_cache(maxsize=256)
def _later(kind: type[Frozen]) -> tuple[tuple[str, object], ...]:
    """The fields of a kind that came later, with their defaults."""
    return tuple((name, kind.model_fields[name].default) for name in kind.LATER)


def fingerprints(condition: Condition) -> Fingerprints:
    """Hashes of the model and of everything that the task and the evaluation read."""
    data = hashlib.sha256(plugins.load("tasks", condition.task.name).fingerprint(condition.task).encode())
    evaluation = condition.evaluation
    if evaluation.forgetting not in ("self", "none"):
        data.update(hash_path(evaluation.forgetting).encode())
    if evaluation.include_path:
        data.update(hash_path(evaluation.include_path).encode())
    model = fingerprint_model(condition.model.name, condition.model.revision)
    return Fingerprints(model=model, data=data.hexdigest()[:16], large=may_be_large(condition.model.name))


@lru_cache(maxsize=256)
def may_be_large(name: str) -> bool:
    """Whether a model's safetensors hold FLOAT32_BELOW numbers or more, by their headers alone.

    True of a hub id: its files may come between two runs, and an id must not change by that.
    """
    directory = model_directory(name)
    if directory is None:
        return True
    gguf = gguf_of(directory)
    total = gguf.numbers if gguf else 0
    for file in directory.glob("*.safetensors"):
        with suppress(ModelError):  # a damaged file is told of when it is loaded
            total += sum(math.prod(t.shape) for t in stored_tensors((file,)).values())
    return is_large(total)


@lru_cache(maxsize=256)
def fingerprint_model(name: str, revision: str | None = None) -> str:
    """Hash of a directory's configuration, tokenizer and weights; a hub id with its commit where that is known
    offline."""
    directory = model_directory(name)
    if directory is None:
        return f"{name}@{revision or 'main'}"
    if not directory.is_dir():
        raise ModelError(f"there is no model directory {name}; give the path of a local copy as the model")
    total = hashlib.sha256()
    for file, mark in model_files(str(directory)):
        total.update(f"{file}:{mark};".encode())
    return total.hexdigest()[:16]


def model_files(directory: str) -> tuple[tuple[str, str], ...]:
    """Name and hash of each file of a model's directory that decides what it is; ModelError where one cannot be
    read."""
    gguf, hashes = gguf_of(directory), []
    if gguf is not None:  # all that the folder holds is made from the file, whatever that is called
        return (("model.gguf", hash_file(Path(gguf.file))),)
    for file in sorted(Path(directory).iterdir()):
        counts = file.suffix in (".json", ".safetensors", ".bin", ".model", ".txt")
        if counts and file.name not in ("generation_config.json", "pretraining.json"):
            try:
                hashes.append((file.name, hash_file(file)))
            except OSError as e:  # a link into a cache that was emptied
                raise ModelError(
                    f"{file} cannot be read ({e.strerror}); download the model again, or fix its permissions"
                ) from None
    return tuple(hashes)


@lru_cache(maxsize=256)
def pinned(model: ModelSpec) -> ModelSpec:
    """A hub model at the commit that its revision means now: of the local cache, else of the hub, so that what is
    hashed is what is loaded.

    A local directory, a commit, and a model that can be asked for nowhere stay as they are.
    """
    if model_directory(model.name) is not None or re.fullmatch(r"[0-9a-f]{40}", model.revision or ""):
        return model
    from huggingface_hub import HfApi, constants

    ref = (
        Path(constants.HF_HUB_CACHE) / f"models--{model.name.replace('/', '--')}" / "refs" / (model.revision or "main")
    )
    if ref.is_file():
        return model.model_copy(update={"revision": ref.read_text().strip()})
    if not hub.answers():
        return model
    try:
        commit = HfApi().model_info(model.name, revision=model.revision, timeout=10).sha
    except Exception:  # no such model, no network, no access: loading it will say which
        return model
    return model.model_copy(update={"revision": commit})


def hash_path(path: str | Path) -> str:
    """SHA-256 of a file, or of all files below a folder with their names."""
    path = Path(path)
    if path.is_file():
        return hash_file(path)
    total = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()):
        total.update(f"{file.relative_to(path)}:{hash_file(file)};".encode())
    return total.hexdigest()


class References:
    """The conditions that match a study's reference, flattened once: a study may have a thousand (each condition's own
    unquantized twin, say)."""

    def __init__(self, plain: Iterable[dict[str, object]]) -> None:
        self._references = [(p, flattened(p)) for p in plain]

    def of(self, condition: Mapping[str, object]) -> dict[str, object]:
        """The one that shares most settings with a condition, of the same model where there is one.

        LorabenchError where two share equally many: the reference must then name more.
        """
        near = [k for k in self._references if k[0]["model"] == condition["model"]] or self._references
        leaves = flattened(condition)
        scored = sorted(
            ((sum(leaves.get(k) == v for k, v in flat.items()), i) for i, (_, flat) in enumerate(near)), reverse=True
        )
        if len(scored) > 1 and scored[0][0] == scored[1][0] and all(condition != p for p, _ in near):
            two = [near[i][1] for _, i in scored[:2]]
            differ = sorted(k for k, v in two[0].items() if two[1].get(k) != v)
            raise LorabenchError(
                f"the reference matches several conditions that differ in {', '.join(differ)}; say in the"
                " reference which value is meant"
            )
        return near[scored[0][1]][0]


def flattened(plain: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as one level: {"method.rank": 8}."""
    flat: dict[str, object] = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            flat.update(flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
