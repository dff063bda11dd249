"""What of an adapter's file was trained beside its factors, and what is only saved along.

    modules_to_save             whole modules, under their own names or behind modules_to_save.<adapter>
    trainable_token_indices     <embedding>.token_adapter.trainable_tokens_delta, one row a token
    bias: all, lora_only        the biases of the base; lora_bias: those of every lora_B
    saved along                 base_layer and original_module (frozen copies), and an embedding that PEFT saves when it
                                was resized

Without a configuration every further tensor counts as trained, since loralib and mlx save what was trained and nothing
else; unless the file holds the weights of adapted modules themselves: then it is the state of the whole model, of which
nobody can say.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from lorabench.record.trained import Trained
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.layouts import bias_module, is_side
from lorabench.spectra.names import plain, unwrapped

_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}  # what PEFT trains of its own accord
_SAVED = re.compile(r"\.modules_to_save\.[^.]+")
_FROZEN = re.compile(r"\.(?:base_layer|original_module|trainable_tokens_original|token_indices)(?:\.|$)")


def trained(adapter: Adapter) -> Trained:
    """Counts of an adapter's file, without reading its tensors where the format allows."""
    own = {n for e in adapter.entries for n in e.tensors()} - {e.alpha for e in adapter.entries if e.alpha}
    if str(adapter.config.get("init_lora_weights")).lower() == "mica":
        own -= {e.b for e in adapter.entries}
    facts = {n for e in adapter.entries for n in e.tensors()} - own
    elsewhere: Counter[str] = Counter()
    along: Counter[str] = Counter()
    counted: set[str] = set()
    whole = _is_whole(adapter)
    for name in adapter.file.names():
        if name in own or name in facts or is_side(name) or (bare := _SAVED.sub("", unwrapped(name))) in counted:
            continue
        counted.add(bare)  # with bias: all PEFT saves the biases of whole modules under both of their names
        what, was_trained = _kind(adapter, unwrapped(name), whole)
        (elsewhere if was_trained else along)[what] += math.prod(adapter.file.shape(name))
    return Trained(sum(math.prod(adapter.file.shape(n)) for n in own), dict(elsewhere), dict(along))


def saved_modules(adapter: Adapter) -> tuple[str, ...]:
    """The names by which a configuration has modules trained and saved whole."""
    task = str(adapter.config.get("task_type") or "").rpartition(".")[2]
    return (*(adapter.config.get("modules_to_save") or ()), *_HEADS.get(task, ()))


def _is_whole(adapter: Adapter) -> bool:
    """Whether a file is the state of a whole model: it has weights of the modules that are adapted."""
    modules = {e.module for e in adapter.entries}
    return any(
        n.endswith(".weight") and ".lora_" not in n and plain(n).removesuffix(".weight") in modules
        for n in adapter.file.names()
    )


def _kind(adapter: Adapter, name: str, whole: bool) -> tuple[str, bool]:
    """(what a tensor is, whether it was trained)."""
    if bias_module(name) is not None:
        return "biases of lora_B", True
    module, _, last = name.rpartition(".")
    if ".token_adapter.trainable_tokens_delta" in name:
        return f"tokens of {name.partition('.token_adapter.')[0]}", True
    if _SAVED.search(name):
        return _SAVED.split(name)[0], True
    if _FROZEN.search(name) and not (last == "bias" and ".base_layer." in name):
        return _FROZEN.split(name)[0], False
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        if ".".join(parts[:end]).endswith(
            saved_modules(adapter)
        ):  # as PEFT matches them: "norm" is every name that ends so
            return ".".join(parts[:end]), True
    if last == "bias" and adapter.config.get("bias", "none") != "none":
        return "biases", True
    if adapter.config or whole:
        return _FROZEN.split(name)[0].removesuffix(f".{last}") or name, False
    return "biases" if last == "bias" and len(parts) > 2 else parts[0] or name, True
