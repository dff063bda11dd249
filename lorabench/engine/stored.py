"""Whether a checkpoint's tensors are those of its model, told by names and shapes before any weight is read.

transformers fills what it does not find with random numbers and drops what it does not know; it says so in a log, not by an
error. Here its own loader runs over tensors of the meta device, made from the files' headers, so that its renamings and merged
experts count; what is then missing, unexpected or of another shape is a ModelError with the names.

Names that a wrapper left (spectra.names), a prefix that all names share (Lightning's model.) and a doubled first part are put right
where the model then fits to the last tensor.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import math
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.pytorch_utils import Conv1D

from lorabench.errors import ModelError
from lorabench.spec.checkpoint import CheckpointQuantization
from lorabench.spec.checkpoint_files import Stored, stored_tensors, weight_files
from lorabench.spectra.names import plain

Names = dict[str, str]
"""name in the files: name that is handed to transformers"""

_WITHIN = {"module", "_module"}  # DDP and the like around a part of a model
_CONSTANTS = re.compile(r"\.(SCB|weight_format|weight\.(nested_)?(absmax|quant_map)|weight\.quant_state\.bitsandbytes__\w+)$")
_FOREIGN = re.compile(r"\.(qweight|qzeros|g_idx|scales|weight_packed|weight_scale(_inv|_2)?|input_scale|\w+_blocks|\w+_scales|codes|codebooks)$")
_COMPUTED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids|(attn|attention)\.(bias|masked_bias|causal_mask))$")  # masks and the like, which are computed anew
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


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
        """"missing: a, b and 3 more; unexpected: c; d has shape 4 x 8, its configuration 4 x 16"."""
        parts = [f"{kind}: {some(names)}" for kind, names in (("missing", self.missing), ("unexpected", self.unexpected)) if names]
        parts += [f"{name} has shape {_shape(seen)}, and {_shape(wanted)} by config.json" for name, seen, wanted in self.mismatched[:3]]
        parts += [f"{len(self.mismatched) - 3} more have another shape"] if len(self.mismatched) > 3 else []
        return "; ".join(parts or self.broken)


def fitting_names(model: Any, folder: Path, stored: CheckpointQuantization | None) -> Names:
    """The names by which a folder's tensors fit a model (its skeleton on the meta device); ModelError where none make it whole."""
    files = weight_files(folder)
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder} holds an adapter (adapter_config.json) beside a model, and transformers would load the adapter's base with both; move one of them to a folder of its own")
    described = _described(files)
    found = _plain(described, folder, stored)
    best: tuple[Names, Faults] | None = None
    for names in _candidates(list(found)):
        quantised = {names[owner] for n in described if _CONSTANTS.search(n) and (owner := _owner(n)) in names}
        faults = _faults(model, {names[n]: tensor for n, tensor in found.items()}, quantised)
        if not faults:
            if stored is not None:
                _refuse_other_modules(model, quantised, folder, stored)
            return names
        if best is None or len(faults) < len(best[1]):
            best = names, faults
    assert best is not None
    raise ModelError(sentence(folder, best[1], found))


def sentence(folder: Path | str, faults: Faults, found: Iterable[str] = ()) -> str:
    """What is wrong with the weights, and what to do."""
    if adapters := [n for n in found if ".lora_" in n]:
        return f"the weights in {folder} hold an adapter that is not merged ({some(adapters)}); merge it first (PEFT: merge_and_unload, save_pretrained), or give the base as the model"
    if foreign := [n for n in found if _FOREIGN.search(n)]:
        return _undeclared(folder, foreign)
    return f"the weights in {folder} are not those of its config.json: {faults.words}; take weights and config.json of one checkpoint, and all of it"


def loading_faults(info: Mapping[str, Any]) -> Faults:
    """transformers' account of a loading (output_loading_info) without what is computed anew."""
    unexpected = tuple(sorted(n for n in info["unexpected_keys"] if not _COMPUTED.search(n)))
    mismatched = tuple(sorted((n, tuple(seen), tuple(wanted)) for n, seen, wanted in info["mismatched_keys"]))
    return Faults(tuple(sorted(info["missing_keys"])), unexpected, mismatched, tuple(info["error_msgs"]))


def renamed(folder: Path, names: Names) -> dict[str, Any]:
    """The tensors of a folder under other names, none of them read yet."""
    files = weight_files(folder)
    if files[0].suffix == ".safetensors":
        opened = [safe_open(f, framework="pt", device="cpu") for f in files]
        return {_with(n, names): file.get_slice(n) for file in opened for n in file.keys()}  # noqa: SIM118  (no mapping)
    return {_with(n, names): tensor for f in files for n, tensor in read_pickled(f).items()}


def _with(name: str, names: Names) -> str:
    """The new name of a tensor, or of a constant beside it."""
    if name in names:
        return names[name]
    owner = _owner(name)
    return names[owner] + name.removeprefix(owner) if name.startswith(owner) else names[owner].removesuffix("weight") + name.rpartition(".")[2]


def read_pickled(file: Path, where: str = "cpu") -> dict[str, torch.Tensor]:
    """The tensors of a .bin file, mapped and not read; on the device "meta" their shapes alone. ModelError where it holds anything that would have to be run."""
    try:
        found = torch.load(file, weights_only=True, map_location=where, mmap=zipfile.is_zipfile(file) and where == "cpu")
    except pickle.UnpicklingError:
        raise ModelError(f"{file} is damaged, or holds more than tensors, and reading it would run code that stands in it; take safetensors") from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError):
        raise ModelError(f"{file} is no whole file of tensors; it is damaged or cut off, get it anew") from None
    tensors = {str(n): t for n, t in found.items() if isinstance(t, torch.Tensor)} if isinstance(found, dict) else {}
    if not tensors:
        raise ModelError(f"{file} holds no named tensors at its top; save the model with save_pretrained")
    return tensors


def refuse_infinite(folder: Path) -> None:
    """ModelError where a stored weight is not finite: for quantisers that lose it (bitsandbytes on a GPU takes a NaN for a code like any other)."""
    for file in weight_files(folder):
        with contextlib.ExitStack() as stack:
            if file.suffix == ".safetensors":
                opened = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
                names, read = list(opened.keys()), opened.get_tensor
            else:
                tensors = read_pickled(file)
                names, read = list(tensors), tensors.__getitem__
            if bad := [n for n in names if not is_finite(read(n))]:
                raise ModelError(infinite(folder, bad))


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; without a copy of it."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(float(t)) for t in torch.aminmax(tensor))


def infinite(model: Path | str, names: Iterable[str], dtype: str | None = None) -> str:
    """The sentence for weights that are not finite."""
    held = f" in {dtype}" if dtype else ""
    return f"{model} holds weights that are not finite{held} ({some(names)}); the checkpoint is damaged, its training diverged, or its numbers are beyond the dtype: take another checkpoint or model.dtype"


def some(names: Iterable[str], most: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _described(files: tuple[Path, ...]) -> dict[str, Any]:
    """Name to Stored of safetensors, to a tensor of the meta device of pickled files."""
    if files[0].suffix == ".safetensors":
        return dict(stored_tensors(files))
    return {n: t for f in files for n, t in read_pickled(f, "meta").items()}


def _plain(described: Mapping[str, Any], folder: Path, stored: CheckpointQuantization | None) -> dict[str, torch.Tensor]:
    """The tensors on the meta device, quantised ones as the weights that they stand for; ModelError where the files store otherwise than config.json says."""
    constants = [n for n in described if _CONSTANTS.search(n)]
    if stored is None and constants:
        raise ModelError(_undeclared(folder, constants))
    if stored is not None and not constants:
        raise ModelError(f"config.json in {folder} says that the weights are stored in {stored.words}, and they are not; remove quantization_config from it, or take the files that belong to it")
    if stored is not None:
        _refuse_other_constants(constants, folder, stored)
    shapes = _packed_shapes(described, folder, stored) if stored is not None and stored.form != "int8" else {}
    quantised = {_owner(n) for n in constants}
    weights = {}
    for name, tensor in described.items():
        if name in quantised or not _CONSTANTS.search(name):
            dtype = _dtype(tensor)
            if name not in quantised and dtype is None and name.endswith("weight"):
                seen = f"{name} as {_dtype_name(tensor)}"
                raise ModelError(_undeclared(folder, [seen]) if stored is None else f"the weights in {folder} lack the constants that {seen} is scaled by; take the checkpoint whole")
            weights[name] = torch.empty(shapes.get(name, tuple(tensor.shape)), dtype=dtype or torch.float32, device="meta")
    return weights


def _refuse_other_constants(constants: list[str], folder: Path, stored: CheckpointQuantization) -> None:
    """ModelError where a quantised weight has other constants beside it than its form has."""
    nested = {"weight.nested_absmax", "weight.nested_quant_map"} if stored.double_quant else set()
    four = {"weight.absmax", "weight.quant_map", f"weight.quant_state.bitsandbytes__{stored.form}"} | nested
    needed = {"SCB"} if stored.form == "int8" else four
    kept: dict[str, set[str]] = {}
    for name in constants:
        owner = _owner(name)
        kept.setdefault(owner, set()).add(name.removeprefix(owner.removesuffix("weight")))
    for owner, kinds in sorted(kept.items()):
        if kinds - {"weight_format"} != needed:
            odd = f"has {some(kinds - needed - {'weight_format'})}" if needed <= kinds else f"lacks {some(needed - kinds)}"
            raise ModelError(f"config.json in {folder} says that the weights are stored in {stored.words}, but {owner} {odd}; take weights and config.json of one checkpoint, and all of it")


def _refuse_other_modules(model: Any, quantised: set[str], folder: Path, stored: CheckpointQuantization) -> None:
    """ModelError where other modules are stored quantised than transformers would make by config.json (llm_int8_skip_modules)."""
    try:
        import bitsandbytes
    except (ImportError, OSError):  # which the check of the device tells
        return
    from transformers.quantizers.auto import AutoHfQuantizer

    from lorabench.engine.model import quiet

    made = copy.deepcopy(model)
    quantizer = AutoHfQuantizer.from_config(copy.deepcopy(model.config.quantization_config), pre_quantized=True)
    with torch.device("meta"), quiet():
        quantizer.preprocess_model(model=made, device_map={"": "cpu"}, dtype=torch.float32)
    wanted = {f"{n}.weight" for n, m in made.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit | bitsandbytes.nn.Linear8bitLt)}
    prefix = f"{model.base_model_prefix}."  # which checkpoints of the bare model leave out
    alike = {n if n in wanted else prefix + n if prefix + n in wanted else n.removeprefix(prefix) for n in quantised}
    if odd := sorted(wanted ^ alike):
        how = "stored unquantised" if odd[0] in wanted else "stored quantised"
        raise ModelError(f"{odd[0]} in {folder} is {how}, and by its config.json ({stored.words}, llm_int8_skip_modules) it is not; take the config.json that belongs to the weights")


def _undeclared(folder: Path | str, seen: list[str]) -> str:
    return (
        f"the weights in {folder} are stored quantised ({some(seen)}), but its config.json does not say how (quantization_config); "
        "take the config.json that belongs to them, or the unquantised checkpoint"
    )


def _dtype(tensor: Any) -> torch.dtype | None:
    if isinstance(tensor, Stored):
        return _DTYPES.get(tensor.dtype)
    return tensor.dtype if tensor.dtype in _DTYPES.values() else None


def _dtype_name(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _owner(constant: str) -> str:
    """The weight that a constant of bitsandbytes belongs to."""
    kept = _CONSTANTS.sub("", constant)
    return f"{kept}.weight"


def _packed_shapes(described: Mapping[str, Any], folder: Path, stored: CheckpointQuantization) -> dict[str, tuple[int, ...]]:
    """The shapes of 4-bit weights, which the file keeps as JSON beside the packed bytes; ModelError where it names another form than config.json."""
    shapes = {}
    for name, tensor in described.items():
        if ".quant_state.bitsandbytes__" not in name:
            continue
        state = _json_of(name, tensor)
        if state.get("quant_type") != stored.form or ("nested_blocksize" in state) != stored.double_quant:
            seen = str(state.get("quant_type")) + (" with double quantisation" if "nested_blocksize" in state else "")
            raise ModelError(f"config.json in {folder} says that the weights are stored in {stored.words}, but {_owner(name)} is in {seen}; take the config.json that belongs to them")
        shapes[_owner(name)] = tuple(state["shape"])
    return shapes


def _json_of(name: str, tensor: Any) -> dict[str, Any]:
    try:
        if isinstance(tensor, Stored):
            with safe_open(tensor.file, framework="pt", device="cpu") as file:
                tensor = file.get_tensor(name)
        return dict(json.loads(bytes(tensor.tolist()).decode()))
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as e:
        raise ModelError(f"{name} is no description of a 4-bit weight ({_line(e)}); save the checkpoint anew as safetensors") from None


def _candidates(names: list[str]) -> Iterator[Names]:
    """Ways to read the names, the one as they are first; none in which two become one."""
    bare = {n: plain(n) for n in names}
    inner = {n: ".".join(p for p in new.split(".") if p not in _WITHIN) for n, new in bare.items()}
    tried: list[Names] = []
    for way in ({n: n for n in names}, bare, inner, {n: re.sub(r"^(\w+)\.\1\.", r"\1.", new) for n, new in inner.items()}, *_unprefixed(inner)):
        if way not in tried and len(set(way.values())) == len(way):
            tried.append(way)
            yield way


def _unprefixed(names: Names) -> Iterator[Names]:
    """Without the first part that all names share, and without the next, ..."""
    while names and len({n.split(".")[0] for n in names.values()}) == 1 and all("." in n for n in names.values()):
        names = {old: new.partition(".")[2] for old, new in names.items()}
        yield names


def _faults(model: Any, tensors: dict[str, torch.Tensor], quantised: set[str]) -> Faults:
    """What transformers' loader makes of the tensors, on the meta device; bitsandbytes' layers hold GPT-2's weights the other way round."""
    from lorabench.engine.model import quiet

    config = model.config
    with quiet():
        try:
            _, info = type(model).from_pretrained(
                None, config=_unquantised(config), state_dict=tensors, dtype=torch.float32, device_map={"": "meta"}, output_loading_info=True, ignore_mismatched_sizes=True
            )
        except RuntimeError as e:  # experts that cannot be merged
            lost = _gaps(tensors)
            return Faults(missing=lost, broken=() if lost else (_line(e),))
    faults = loading_faults(info)
    turned = [m for m in faults.mismatched if m[0] in quantised and m[1] == m[2][::-1] and isinstance(model.get_submodule(m[0].removesuffix(".weight")), Conv1D)]
    return replace(faults, mismatched=tuple(m for m in faults.mismatched if m not in turned))


def _gaps(names: Iterable[str]) -> tuple[str, ...]:
    """Names that numbered ones leave out: experts.3.w1.weight where all other experts of all layers have one."""
    seen: dict[str, set[tuple[str, ...]]] = {}
    for name in names:
        seen.setdefault(_NUMBER.sub("*", name), set()).add(tuple(_NUMBER.findall(name)))
    lost = []
    for pattern, numbers in seen.items():
        for wanted in itertools.product(*map(set, zip(*numbers, strict=True))):
            if wanted not in numbers:
                left = iter(wanted)
                lost.append(re.sub(r"\*", lambda _, left=left: next(left), pattern))  # type: ignore[misc]
    return tuple(sorted(lost))


def _unquantised(config: Any) -> Any:
    config = copy.deepcopy(config)
    for part in (config, config.get_text_config()):
        if getattr(part, "quantization_config", None) is not None:
            del part.quantization_config
    return config


def _shape(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes)) or "()"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
