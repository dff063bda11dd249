"""Names of tensors and modules: what wrappers put into them, and what a module is called elsewhere.

    plain        drops what training put around a model: torch.compile (_orig_mod), FSDP (_fsdp_wrapped_module,
                 _fpw_module), checkpointing (_checkpoint_wrapped_module), DDP and DeepSpeed (module. in front),
                 Lightning Fabric (_forward_module), PEFT (everything up to base_model.model., and base_layer)
    near_names   the same module in checkpoints of other versions: a text model's layers stand in model.,
                 language_model.model. or model.language_model. (renamed in transformers 4.52 and 5), those of a vision
                 tower with or without vision_model.
    tied_names   where the weight of an output layer is that of the input embedding, and the other way round

Names alone: whether a checkpoint has a tensor of such a name is asked by `files`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_WRAPPERS = frozenset(
    ("_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module")
)
_IN_PATTERNS = re.compile(rf"(?:{'|'.join(sorted(_WRAPPERS))})\\?\.")
_PEFT = re.compile(r"^(?:.*\.)?base_model\.(?:module\.)?model\.")
_FRONT = re.compile(r"^(?:module\.)+")
_TEXT_FRONTS = (
    "", "model.", "model.language_model.", "language_model.model.", "language_model.", "model.text_model.",
    "language_model.model.model.", "model.language_model.model.", "thinker.model.", "thinker.model.language_model.",
    "llm.model.", "model.llm.", "text_model.model.", "transformer.", "model.decoder.", "decoder.",
)  # fmt: skip
_HEAD_FRONTS = ("thinker.", "llm.", "text_model.")
_TEXT_PARTS = frozenset(("model", "language_model", "text_model", "thinker", "llm", "transformer", "decoder"))
_TEXT_STARTS = re.compile(r"(?:^|\.)(?P<core>(?:layers|h|blocks)\.\d+\..+|embed_tokens|wte|norm|final_layernorm|ln_f)$")
_HEADS, _EMBEDDINGS = (
    ("lm_head", "output", "embed_out"),
    ("embed_tokens", "wte", "tok_embeddings", "embed_in", "word_embeddings", "shared"),
)


def plain(name: str) -> str:
    """A tensor's or module's name as the model itself has it: "base_model.model._orig_mod.model.layers.0.q_proj" is
    "model.layers.0.q_proj"."""
    return ".".join(p for p in unwrapped(name).split(".") if p != "base_layer")


def unwrapped(name: str) -> str:
    """The same with base_layer kept, which tells an adapted module's frozen weight from what was trained."""
    bare = ".".join(p for p in name.split(".") if p not in _WRAPPERS)
    return _FRONT.sub("", _PEFT.sub("", _FRONT.sub("", bare)))


def unwrapped_pattern(pattern: str) -> str:
    """A pattern of module names, without the wrappers that a compiled or sharded model put into it."""
    return _IN_PATTERNS.sub("", pattern).removeprefix("module.")


def near_names(module: str) -> tuple[str, ...]:
    """Other names of one module, the likeliest first, without its own; none that could be another module of the same
    model."""
    return tuple(dict.fromkeys(n for n in _renamed(module) if n != module))


def tied_names(module: str) -> tuple[str, ...]:
    """Of an output layer the names of the input embedding, of an embedding those of the output layer; they share one
    weight where a checkpoint has one of the two alone."""
    front, _, last = module.rpartition(".")
    if last in _HEADS and _is_text(front):
        return tuple(f + e for f in _TEXT_FRONTS for e in _EMBEDDINGS)
    if last in _EMBEDDINGS and _is_text(front):
        return (*_HEADS, *(f + h for f in _TEXT_FRONTS[1:] for h in _HEADS))
    return ()


def _renamed(module: str) -> Iterator[str]:
    if match := _TEXT_STARTS.search(module):
        front, core = module[: match.start("core")].rstrip("."), match["core"]
        if _is_text(front):
            yield from (f + core for f in _TEXT_FRONTS)
    front, _, last = module.rpartition(".")
    if last in _HEADS and _is_text(front):
        yield from (f + last for f in (*_TEXT_FRONTS, *_HEAD_FRONTS))
    parts = module.split(".")
    if (
        parts[-1] == "gate" and len(parts) > 1 and parts[-2] in ("mlp", "block_sparse_moe")
    ):  # the router of Mixtral, renamed in transformers 5
        yield ".".join([*parts[:-2], "block_sparse_moe" if parts[-2] == "mlp" else "mlp", "gate"])
    if "vision_model" in parts:  # vision_tower.vision_model.encoder is vision_tower.encoder since transformers 5
        at = parts.index("vision_model")
        yield from _with_and_without_model([*parts[:at], *parts[at + 1 :]])
    elif (at := next((i for i, p in enumerate(parts) if p in ("vision_tower", "image_tower", "video_tower")), -1)) >= 0:
        yield from _with_and_without_model([*parts[: at + 1], "vision_model", *parts[at + 1 :]])


def _with_and_without_model(parts: list[str]) -> Iterator[str]:
    name = ".".join(parts)
    yield from (name, name.removeprefix("model."), f"model.{name}")


def _is_text(front: str) -> bool:
    return not front or set(front.split(".")) <= _TEXT_PARTS
