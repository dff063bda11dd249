"""How trainers name an adapter's tensors: which belong to which module, and what each is.

    PEFT        base_model.model.<module>.lora_A.weight (r, in), .lora_B.weight (out, r), .lora_magnitude_vector; an
                adapter's name may stand before .weight; lora_embedding_A (r, rows), lora_embedding_B (dim, r);
                lora_diag (r) of KaSA, lora_E (r, 1) of AdaLoRA; of target_parameters one .base_layer more for every
                parameter but the last of a module
    loralib     <module>.lora_A, <module>.lora_B
    kohya       lora_unet_down_blocks_0_..._to_q.lora_down.weight (r, in), .lora_up.weight (out, r), .alpha
    diffusers   <model>.<module>.lora_A.weight as PEFT; older: .lora.down.weight, .lora_linear_layer.up.weight,
                .processor.to_q_lora.down.weight
    mlx         <module>.lora_a (in, r), .lora_b (r, out), .m of DoRA; of experts (experts, r, in) and (experts, out, r)
    torchtune   <module>.lora_a.weight (r, in), .lora_b.weight (out, r), .magnitude

What is not one of these, but is named lora_ or as another kind of adapter names its tensors, is refused by its name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from lorabench.errors import ModelError
from lorabench.record.spectrum import by_layer
from lorabench.spectra.names import plain, unwrapped

Layout = Literal["peft", "kohya", "diffusers", "mlx", "torchtune"]

_END = r"(?:\.(?!weight$|bias$)(?P<adapter>[^.]+))?(?:\.weight)?$"
_KEYS: tuple[tuple[Layout, re.Pattern[str], Mapping[str, str]], ...] = (
    (
        "peft",
        re.compile(r"^(?P<module>.+)\.lora_(?P<part>embedding_A|embedding_B|A|B|magnitude_vector|E|diag)" + _END),
        {
            "A": "a",
            "B": "b",
            "embedding_A": "a",
            "embedding_B": "b",
            "magnitude_vector": "magnitude",
            "E": "e",
            "diag": "diag",
        },
    ),
    (
        "kohya",
        re.compile(r"^(?P<module>.+)\.(?P<part>lora_down|lora_up|dora_scale|alpha)(?:\.weight)?$"),
        {"lora_down": "a", "lora_up": "b", "dora_scale": "magnitude", "alpha": "alpha"},
    ),
    (
        "diffusers",
        re.compile(r"^(?P<module>.+)\.(?:lora|lora_linear_layer)\.(?P<part>down|up)\.weight$"),
        {"down": "a", "up": "b"},
    ),
    (
        "diffusers",
        re.compile(r"^(?P<module>.+\.(?:processor\.)?to_(?:q|k|v|out))_lora\.(?P<part>down|up)\.weight$"),
        {"down": "a", "up": "b"},
    ),
    (
        "mlx",
        re.compile(r"^(?P<module>.+)\.(?P<part>lora_a|lora_b|m)$"),
        {"lora_a": "a", "lora_b": "b", "m": "magnitude"},
    ),
    (
        "torchtune",
        re.compile(r"^(?P<module>.+)\.(?P<part>lora_a\.weight|lora_b\.weight|magnitude)$"),
        {"lora_a.weight": "a", "lora_b.weight": "b", "magnitude": "magnitude"},
    ),
)
_BIAS = re.compile(r"^(?P<module>.+)\.lora_B(?:\.(?!bias$)[^.]+)?\.bias$")
_SIDE = re.compile(
    r"\.lora_(?:velora_embed|monteclora_sampler|dropout)(?:\.|$)"
)  # of VeLoRA's backward pass and MonteCLoRA's sampling: no part of the change
_FACTORS = ("scale", "scaling", "scalar")  # beside a module's factors: whether it is in them already, no format says
_OTHER_KINDS = {
    "hada_": "LoHa", "lokr_": "LoKr", "oft_": "OFT", "boft_": "BOFT", "ia3_": "(IA)^3", "vera_": "VeRA",
    "pvera_": "PVeRA", "vblora_": "VB-LoRA", "fourierft_": "FourierFT", "hra_": "HRA", "randlora_": "RandLoRA",
    "c3a_": "C3A", "shira_": "SHiRA", "road_": "RoAd", "miss_": "MiSS", "bone_": "Bone", "waveft_": "WaveFT",
    "delora_": "DeLoRA", "gralora_": "GraLoRA", "hira_": "HiRA", "poly_": "Poly", "adamss_": "AdaMSS", "lily_": "Lily",
    "glora_": "GLoRA", "tinylora_": "TinyLoRA", "psoft_": "PSOFT", "osf_": "OSF", "unilora_": "Uni-LoRA",
    "ln_tuning_": "LN tuning", "prompt_embeddings": "prompt tuning", "adaption_": "adaption prompts",
    "xlora_": "X-LoRA", "internal_xlora_classifier": "X-LoRA", "linear_in": "Megatron or NeMo",
    "linear_out": "Megatron or NeMo", "lora_mid": "LoCon with a Tucker core", "lora_left": "LoCon with a Tucker core",
}  # fmt: skip
_OTHERS = re.compile(rf"(?:^|\.)({'|'.join(sorted(map(re.escape, _OTHER_KINDS), key=len, reverse=True))})")


@dataclass(frozen=True)
class Entry:
    """The tensors of one adapted module (or of one expert of a stack), by name in the file."""

    module: str
    """as the model has it, without what wrappers put into the name"""
    a: str
    b: str
    magnitude: str | None = None
    e: str | None = None
    """the singular values of AdaLoRA"""
    diag: str | None = None
    """the singular values of KaSA"""
    alpha: str | None = None
    layout: Layout = "peft"
    is_embedding: bool = False
    nest: int = 0
    """of target_parameters: how many wrappers of the same module are around this one"""
    expert: int | None = None
    experts: int = 1
    """of a stack: how many share the two tensors"""
    parameter: str | None = None
    """of target_parameters: the parameter of the module that is adapted"""
    stack: str | None = None
    """of an expert: the full name of the parameter that holds all of them"""
    owner: str | None = None
    """of an expert: the module whose factors are shared"""

    @property
    def key(self) -> str:
        """The name that PEFT matches rank_pattern and alpha_pattern with."""
        module = self.owner or self.module
        return f"{module}.{self.parameter}" if self.parameter else module

    def tensors(self) -> tuple[str, ...]:
        """The names of all of its tensors."""
        return tuple(n for n in (self.a, self.b, self.magnitude, self.e, self.diag, self.alpha) if n)


def entries(names: Iterable[str], path: object) -> tuple[Entry, ...]:
    """The adapted modules of a file, in the model's order of layers; ModelError where there are none, or the names
    cannot be understood."""
    all_names = tuple(names)
    parts_by_module: defaultdict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    layout: dict[tuple[str, int], Layout] = {}
    name_of_part: dict[tuple[tuple[str, int], str, str | None], str] = {}
    adapters: set[str | None] = set()
    for name in all_names:
        match = _match(name)
        if match is None:
            continue
        kind, part, module, adapter = match
        key = _place(module)
        if (other := name_of_part.setdefault((key, part, adapter), name)) != name:
            raise ModelError(
                f"{path}: {other} and {name} are the same tensor under two names; save the adapter again, from the"
                " unwrapped model"
            )
        parts_by_module[key].setdefault(part, name)
        if part in ("a", "b"):
            layout[key] = kind
            adapters.add(adapter)
    if len(adapters) > 1:
        raise ModelError(
            f"{path} holds several adapters ({', '.join(sorted(map(str, adapters)))}); save only one of them"
        )
    whole = {k: parts for k, parts in parts_by_module.items() if k in layout}
    _refuse_others(all_names, whole, path)
    if not whole:
        some = f"its tensors: {', '.join(all_names[:3])}, ..." if all_names else "it is empty"
        raise ModelError(
            f"{path} holds no LoRA factors ({some}); allowed: lora_A and lora_B as PEFT, loralib or diffusers save"
            " them, and the layouts of kohya, mlx and torchtune"
        )
    modules = []
    for (module, nest), parts in whole.items():
        if not {"a", "b"} <= set(parts):
            raise ModelError(
                f"{path}: {module} has no lora_{'B' if 'a' in parts else 'A'}; the file is incomplete, download it"
                " again"
            )
        embedding = "lora_embedding_" in parts["a"] or (
            layout[module, nest] == "mlx" and module.rpartition(".")[2] in ("embed_tokens", "wte", "tok_embeddings")
        )
        rest = {p: parts.get(p) for p in ("magnitude", "e", "diag", "alpha")}
        modules.append(
            Entry(
                module,
                parts["a"],
                parts["b"],
                **rest,  # type: ignore[arg-type]
                layout=layout[module, nest],
                nest=nest,
                is_embedding=embedding,
            )
        )
    return tuple(sorted(modules, key=lambda e: (by_layer(e.module), -e.nest)))


def bias_module(name: str) -> str | None:
    """The module whose B has this bias (PEFT's lora_bias); None for any other tensor."""
    match = _BIAS.match(unwrapped(name))
    return _place(match["module"])[0] if match else None


def is_side(name: str) -> bool:
    """Whether a tensor serves the training alone and is no part of the change."""
    return bool(_SIDE.search(name))


def _match(name: str) -> tuple[Layout, str, str, str | None] | None:
    bare = unwrapped(name)
    for layout, pattern, parts in _KEYS:
        if match := pattern.match(bare):
            module = match["module"]
            if layout == "diffusers":  # its attention processors held the factors beside the projections
                module = module.replace(".processor.", ".") + (".0" if module.endswith("to_out") else "")
            return layout, parts[match["part"]], module, match.groupdict().get("adapter")
    return None


def _place(module: str) -> tuple[str, int]:
    """A module's own name, and how many base_layer stand behind it."""
    bare = module
    while bare.endswith(".base_layer"):
        bare = bare.removesuffix(".base_layer")
    return plain(bare), module.count(".base_layer") if module != bare else 0


def _refuse_others(names: Iterable[str], whole: Mapping[tuple[str, int], Mapping[str, str]], path: object) -> None:
    own = {n for parts in whole.values() for n in parts.values()}
    for name in names:
        if name in own or is_side(name) or _BIAS.match(unwrapped(name)):
            continue
        if match := _OTHERS.search(name):
            raise ModelError(
                f"{path} has tensors of {_OTHER_KINDS[match[1]]} ({name}), whose change is not scaling * B @ A;"
                " allowed: LoRA (with rsLoRA, DoRA, AdaLoRA, KaSA, BD-LoRA and converted PiSSA)"
            )
        module, _, last = name.rpartition(".")
        if last in _FACTORS and _place(unwrapped(module)) in whole:
            raise ModelError(
                f"{path} has a tensor {name} beside the factors: lorabench does not know whether it multiplies them,"
                " so the change cannot be computed"
            )
        if unknown := next((p for p in name.split(".")[1:] if p.startswith("lora_")), None):
            raise ModelError(
                f"{path} has a tensor {name}: lorabench does not know what {unknown} does to the change, so it cannot"
                " be computed"
            )
