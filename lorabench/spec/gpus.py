"""Known graphics cards (models/gpus.yaml), by name or by the size of their memory, and this machine's CPU as one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

import yaml

from lorabench.errors import LorabenchError, unknown
from lorabench.spec.paths import MODELS

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(gb|gib)", re.IGNORECASE)


@dataclass(frozen=True)
class Gpu:
    """What a card has; rates are absent where only a size was given."""

    name: str
    memory_bytes: int
    """nominal: drivers keep a few hundred MB of it"""
    bandwidth: float | None = None
    """bytes a second"""
    bf16_flops: float | None = None
    """dense, a second; float16 on cards without bfloat16"""
    aliases: tuple[str, ...] = ()
    kind: Literal["cuda", "cpu"] = "cuda"


@cache
def gpus() -> dict[str, Gpu]:
    """All cards by name, smallest first."""
    plain = yaml.safe_load((MODELS / "gpus.yaml").read_text(encoding="utf-8"))["gpus"]
    cards = [
        Gpu(name, int(c["memory_gib"] * 2**30), c["bandwidth_gb_s"] * 1e9, c["bf16_tflops"] * 1e12, tuple(c.get("aliases", ())))
        for name, c in plain.items()
    ]
    return {c.name: c for c in sorted(cards, key=lambda c: (c.memory_bytes, c.name))}


def find_gpu(text: str) -> Gpu:
    """A card by name or alias, or one of a size: "24GB" is 24 * 2**30 bytes, as cards are sold; "cpu" is this machine. LorabenchError for any other word."""
    if _plain(text) == "cpu":
        import psutil

        return Gpu("cpu", int(psutil.virtual_memory().total), kind="cpu")
    size = _SIZE.fullmatch(text.strip())
    if size:
        return Gpu(text.strip(), int(float(size.group(1)) * 2**30))
    cards = {w: c for c in gpus().values() for w in (c.name, *c.aliases)}
    found = {_plain(w): c for w, c in cards.items()}.get(_plain(text))
    if found is None:
        raise LorabenchError(unknown("gpu", text, gpus()) + ", a size such as 24GB, or cpu for this machine")
    return found


def _plain(name: str) -> str:
    """"RTX 4090" and "rtx4090" are one card."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
