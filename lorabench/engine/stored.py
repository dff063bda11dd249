"""Whether a checkpoint's tensors are those of its model, told by names and shapes before any weight is read.

transformers fills what it does not find with random numbers and drops what it does not know; it says so in a log, not
by an error. Here its own loader runs over tensors of the meta device, made from the files' headers, so that its
renamings and merged experts count; what is then missing, unexpected or of another shape is a ModelError with the names.

Names that a wrapper left (spectra.names), a prefix that all names share (Lightning's model.) and a doubled first part
are put right where the model then fits to the last tensor.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from safetensors import safe_open
from transformers.pytorch_utils import Conv1D

from lorabench.config.checkpoint import CheckpointQuantization
from lorabench.config.checkpoint_files import weight_files
from lorabench.config.gguf_file import gguf_of
from lorabench.engine.gguf_names import gguf_names
from lorabench.engine.stored_codes import CONSTANTS, as_weights, owner_of, refuse_other_modules, undeclared, unquantized
from lorabench.engine.tensors import described, some
from lorabench.errors import ModelError
from lorabench.formatting import error_line
from lorabench.spectra.gguf_weights import dequantized
from lorabench.spectra.names import plain
from lorabench.spectra.tensor_file import read_pickled

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Names = dict[str, str]
"""name in the files: name that is handed to transformers"""

_WITHIN = {"module", "_module"}  # DDP and the like around a part of a model
_FOREIGN = re.compile(
    r"\.(qweight|qzeros|g_idx|scales|weight_packed|weight_scale(_inv|_2)?|input_scale|\w+_blocks|\w+_scales|codes|codebooks)$"
)
_COMPUTED = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|position_ids|(attn|attention)\.(bias|masked_bias|causal_mask))$"
)  # masks and the like, which are computed anew
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class Faults:
    """By what a checkpoint and its model differ."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    """name, shape in the file, shape by the configuration"""
    broken: tuple[str, ...] = ()
    """what transformers could not put together"""

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.mismatched) + len(self.broken)

    @property
    def words(self) -> str:
        """ "missing: a, b and 3 more; unexpected: c; d has shape 4 x 8, its configuration 4 x 16"."""
        parts = [
            f"{kind}: {some(names)}"
            for kind, names in (("missing", self.missing), ("unexpected", self.unexpected))
            if names
        ]
        parts += [
            f"{name} has shape {_shape(stored)}, but config.json implies {_shape(expected)}"
            for name, stored, expected in self.mismatched[:3]
        ]
        parts += [f"{len(self.mismatched) - 3} more have a different shape"] if len(self.mismatched) > 3 else []
        return "; ".join(parts or self.broken)


def fitting_names(model: PreTrainedModel, folder: Path, stored: CheckpointQuantization | None) -> Names:
    """The names by which a folder's tensors fit a model (its meta model on the meta device); ModelError where none make
    it whole.
    """
    if (gguf := gguf_of(folder)) is not None:
        return gguf_names(model, gguf)
    files = weight_files(folder)
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds an adapter (adapter_config.json) beside a model, and transformers would load the "
            "adapter's base with both; move one of them to its own folder"
        )
    headers = described(files)
    weights = as_weights(headers, folder, stored)
    best: tuple[Names, Faults] | None = None
    for names in _candidates(list(weights)):
        quantized = {names[owner] for n in headers if CONSTANTS.search(n) and (owner := owner_of(n)) in names}
        faults = _faults(model, {names[n]: tensor for n, tensor in weights.items()}, quantized)
        if not faults:
            if stored is not None:
                refuse_other_modules(model, quantized, folder, stored)
            return names
        if best is None or len(faults) < len(best[1]):
            best = names, faults
    assert best is not None
    raise ModelError(sentence(folder, best[1], weights))


def sentence(folder: Path | str, faults: Faults, names: Iterable[str] = ()) -> str:
    """What is wrong with the weights, and what to do."""
    if adapters := [n for n in names if ".lora_" in n]:
        return (
            f"the weights in {folder} contain an unmerged adapter ({some(adapters)}); merge it first "
            "(PEFT: merge_and_unload, save_pretrained), or give the base as the model"
        )
    if foreign := [n for n in names if _FOREIGN.search(n)]:
        return undeclared(folder, foreign)
    return (
        f"the weights in {folder} do not match its config.json: {faults.words}; use weights and "
        "config.json of the same, complete checkpoint"
    )


class LoadingInfo(TypedDict):
    """What transformers' from_pretrained returns beside the model with output_loading_info."""

    missing_keys: Collection[str]
    unexpected_keys: Collection[str]
    mismatched_keys: Collection[tuple[str, Sequence[int], Sequence[int]]]
    """name, shape in the file, shape by the configuration"""
    error_msgs: Collection[str]


def loading_faults(info: LoadingInfo) -> Faults:
    """transformers' account of a loading (output_loading_info) without what is computed anew."""
    unexpected = tuple(sorted(n for n in info["unexpected_keys"] if not _COMPUTED.search(n)))
    mismatched = tuple(sorted((n, tuple(stored), tuple(expected)) for n, stored, expected in info["mismatched_keys"]))
    return Faults(tuple(sorted(info["missing_keys"])), unexpected, mismatched, tuple(info["error_msgs"]))


def renamed(folder: Path, names: Names) -> dict[str, object]:
    """The tensors of a folder under other names, none of them read yet; those of a GGUF file dequantized."""
    if (gguf := gguf_of(folder)) is not None:
        return dict(dequantized(gguf, folder))
    files = weight_files(folder)
    if files[0].suffix == ".safetensors":
        opened = [safe_open(f, framework="pt", device="cpu") for f in files]
        return {_with(n, names): file.get_slice(n) for file in opened for n in file.keys()}  # noqa: SIM118  (no mapping)
    return {_with(n, names): tensor for f in files for n, tensor in read_pickled(f, unwrap=False).items()}


def _with(name: str, names: Names) -> str:
    """The new name of a tensor, or of a constant beside it."""
    if name in names:
        return names[name]
    owner = owner_of(name)
    return (
        names[owner] + name.removeprefix(owner)
        if name.startswith(owner)
        else names[owner].removesuffix("weight") + name.rpartition(".")[2]
    )


def _candidates(names: list[str]) -> Iterator[Names]:
    """Ways to read the names, the one as they are first; none in which two become one."""
    bare = {n: plain(n) for n in names}
    inner = {n: ".".join(p for p in new.split(".") if p not in _WITHIN) for n, new in bare.items()}
    earlier: list[Names] = []
    for candidate in (
        {n: n for n in names},
        bare,
        inner,
        {n: re.sub(r"^(\w+)\.\1\.", r"\1.", new) for n, new in inner.items()},
        *_unprefixed(inner),
    ):
        if candidate not in earlier and len(set(candidate.values())) == len(candidate):
            earlier.append(candidate)
            yield candidate


def _unprefixed(names: Names) -> Iterator[Names]:
    """Without the first part that all names share, and without the next, ..."""
    while names and len({n.split(".")[0] for n in names.values()}) == 1 and all("." in n for n in names.values()):
        names = {old: new.partition(".")[2] for old, new in names.items()}
        yield names


def _faults(model: Any, tensors: dict[str, torch.Tensor], quantized: set[str]) -> Faults:
    """What transformers' loader makes of the tensors, on the meta device; bitsandbytes' layers hold GPT-2's weights the
    other way round.
    """
    from lorabench.engine.library_messages import quiet

    config = model.config
    with quiet():
        try:
            _, info = type(model).from_pretrained(
                None,
                config=unquantized(config),
                state_dict=tensors,
                dtype=torch.float32,
                device_map={"": "meta"},
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except RuntimeError as e:  # experts that cannot be merged
            missing = _gaps(tensors)
            return Faults(missing=missing, broken=() if missing else (error_line(e, 200),))
    faults = loading_faults(info)
    turned = [
        m
        for m in faults.mismatched
        if m[0] in quantized
        and m[1] == m[2][::-1]
        and isinstance(model.get_submodule(m[0].removesuffix(".weight")), Conv1D)
    ]
    return replace(faults, mismatched=tuple(m for m in faults.mismatched if m not in turned))


def _gaps(names: Iterable[str]) -> tuple[str, ...]:
    """Names that numbered ones leave out: experts.3.w1.weight where all other experts of all layers have one."""
    numbered: dict[str, set[tuple[str, ...]]] = {}
    for name in names:
        numbered.setdefault(_NUMBER.sub("*", name), set()).add(tuple(_NUMBER.findall(name)))
    missing = []
    for pattern, numbers in numbered.items():
        for expected in itertools.product(*map(set, zip(*numbers, strict=True))):
            if expected not in numbers:
                left = iter(expected)
                missing.append(re.sub(r"\*", lambda _, left=left: next(left), pattern))  # type: ignore[misc]
    return tuple(sorted(missing))


def _shape(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes)) or "()"
