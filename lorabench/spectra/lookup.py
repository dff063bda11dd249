"""The base weight that a change belongs to, in the change's own orientation.

A module's weight is looked for by its own name, by the names that other versions give it, and of an output layer by
that of the embedding that it is tied to. Convolutions are flat as (out, in * kernel), one expert is a slice of its
stack (or is put together where the checkpoint holds it apart), layers that layer_replication made share the weight of
the layer they were made of. kohya writes _ for every dot: such a name is a base's where exactly one of the base's names
reads so.
"""

from __future__ import annotations

import re
from functools import lru_cache

import torch

from lorabench.errors import ModelError
from lorabench.spectra.delta import Delta
from lorabench.spectra.files import Weights
from lorabench.spectra.names import near_names, plain, tied_names

_TOWERS = ("vision", "visual", "image", "video", "audio", "speech", "vit")
_KOHYA = re.compile(r"^lora_(?:unet|te\d?|transformer|prior|llm)?_?")


def weight_of(base: Weights, delta: Delta) -> torch.Tensor | None:
    """Of a change, as (out, in); None where the base has none of its name and size."""
    return base_weight(
        base,
        delta.origin or delta.module,
        (delta.out_features, delta.in_features),
        delta.is_embedding,
        delta.expert,
        delta.stack,
    )


def base_weight(
    base: Weights,
    module: str,
    shape: tuple[int, int],
    is_embedding: bool = False,
    expert: int | None = None,
    stack: str | None = None,
) -> torch.Tensor | None:
    """A module's weight of (out, in), an embedding's as (dim, rows); None where the base has none of that name and
    size."""
    if expert is not None:
        return None if stack is None else _of_stack(base, stack, expert, shape)
    stored = (shape[1], shape[0]) if is_embedding else shape
    if (inner := f"{module}.in_proj_weight") in _stored(
        base
    ):  # nn.MultiheadAttention, whose query, key and value are one parameter
        merged = base.tensor(inner)
        return merged if tuple(merged.shape) == shape else None
    for name in _names(base, module):
        weight = base.weight(name, stored)
        if weight is None:
            weight = _flat(base, name, stored)
        if weight is not None:
            return weight.T if is_embedding else weight
    return None


def lacking(base: Weights, module: str, shape: tuple[int, int], declared: str | None = None) -> str:
    """Why a base has no weight for a module: another size, or other names."""
    name = next((n for m in _names(base, module) if (n := base.find(m)) is not None), None)
    if name is not None:
        why = f"its {name} is {' x '.join(map(str, base.shape(name)))}"
    else:
        names = (
            [n for n in base.names() if n.endswith(f".{module.rpartition('.')[2]}.weight")]
            or [n for n in base.names() if re.search(r"\.\d+\.", n)]
            or base.names()
        )
        like = next(iter(names), "none")
        why = f"its names are like {like}"
    return f"{base.place} has no weight {module} of {shape[0]} x {shape[1]} ({why})" + (
        f"; the adapter says that it was trained on {declared}" if declared else ""
    )


def _names(base: Weights, module: str) -> tuple[str, ...]:
    if "." not in module and (core := _KOHYA.sub("", module)) != module:
        return _underscored(base, core)
    stored = _stored(base)
    if f"{module}.weight" in stored:
        return (module,)
    near = [n for n in near_names(module) if f"{n}.weight" in stored]
    if near:
        return tuple(near) if len(near) == 1 else ()
    own = base.find(module)
    if own is not None:
        return (module,) if _tower(module) == _tower(own) else ()
    last = f"{module.rpartition('.')[2]}.weight"
    if any(n == last or n.endswith(f".{last}") for n in stored):
        return ()  # the base has a layer of that name, elsewhere: what it is tied to is not this one
    tied = [n for n in tied_names(module) if f"{n}.weight" in stored]
    return tuple(tied) if len(tied) == 1 else ()


@lru_cache(maxsize=4)
def _stored(base: Weights) -> frozenset[str]:
    """The names in a base, asked for once for all modules."""
    return frozenset(plain(n) for n in base.names())


def _tower(name: str) -> set[str]:
    """The parts of a name that tell a vision or audio tower from the text model beside it: their layers have the same
    names and often the same sizes."""
    return {p for p in name.split(".") if p.startswith(_TOWERS)}


def _underscored(base: Weights, core: str) -> tuple[str, ...]:
    names = [n.removesuffix(".weight") for n in base.names() if n.endswith(".weight")]
    flat = [n for n in names if n.replace(".", "_") == core] or [
        n for n in names if n.replace(".", "_").endswith(f"_{core}")
    ]
    return tuple(flat) if len(flat) == 1 else ()


def _flat(base: Weights, module: str, shape: tuple[int, int]) -> torch.Tensor | None:
    """A convolution's weight, flat; None for what is none, or of another size."""
    name = base.find(module)
    if name is None or len(base.shape(name)) < 3:
        return None
    tensor = base.tensor(name)
    if not tensor.is_floating_point():
        return None
    if not bool(torch.isfinite(tensor.float()).all()):
        raise ModelError(
            f"{base.place}: {name} holds values that are not finite; the checkpoint is damaged, or its training"
            " diverged"
        )
    flat = tensor.reshape(tensor.shape[0], -1)
    return flat if tuple(flat.shape) == shape else None


def _of_stack(base: Weights, stack: str, expert: int, shape: tuple[int, int]) -> torch.Tensor | None:
    """One matrix of a stack of (experts, out, in), or of (experts, in, out) as some models store it; None where a
    square one leaves that open."""
    stored = _stored(base)
    name = (
        stack
        if stack in stored
        else next((n for n in stored if n.endswith(f".{stack}") or stack.endswith(f".{n}")), None)
    )
    if name is None:
        return _of_single(base, stack, expert, shape)
    if len(base.shape(name)) != 3 or not 0 <= expert < base.shape(name)[0]:
        return None
    matrix = base.tensor(name)[expert]
    if not matrix.is_floating_point() or shape[0] == shape[1]:
        return None
    return matrix if tuple(matrix.shape) == shape else matrix.T if tuple(matrix.T.shape) == shape else None


_SINGLE = {"gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")), "down_proj": (("down_proj",), ("w2",))}


def _of_single(base: Weights, stack: str, expert: int, shape: tuple[int, int]) -> torch.Tensor | None:
    """The same from a checkpoint that holds every expert apart, as most do: transformers stacks them when it loads (its
    conversion_mapping), the gate above the projection up."""
    block, last = (
        stack.rpartition(".experts.")[0].rpartition(".")[0],
        stack.rpartition(".")[2],
    )  # between them the mixture's own name: mlp, block_sparse_moe
    fronts = [
        f
        for f in _mixtures(base)
        if (layer := f.rpartition(".")[0]) == block or layer.endswith(f".{block}") or block.endswith(f".{layer}")
    ]
    if len(fronts) != 1:
        return None
    for names in _SINGLE.get(last, ()):
        matrices = [base.weight(f"{fronts[0]}.experts.{expert}.{n}") for n in names]
        if all(f is not None and f.is_floating_point() for f in matrices):
            whole = torch.cat([f for f in matrices if f is not None])
            return whole if tuple(whole.shape) == shape else None
    return None


@lru_cache(maxsize=4)
def _mixtures(base: Weights) -> frozenset[str]:
    """The modules whose experts a base holds apart."""
    return frozenset(n.partition(".experts.0.")[0] for n in base.names() if ".experts.0." in n)
