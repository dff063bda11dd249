"""Known graphics cards (models/gpus.yaml), by name or by the size of their memory, and this machine's CPU as one of them.

A name is understood as people and drivers write it: "rtx4090", "4090" and "NVIDIA GeForce RTX 4090" are one card. Vendor words are
left out, a size ("40GB") and a bus ("PCIe", "SXM4") choose between cards of one chip, and every other word must be the card's own, so that
"RTX 4090 Laptop GPU" and "RTX 4070 Ti SUPER" are not the cards whose names they hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

import yaml

from lorabench.errors import LorabenchError, unknown
from lorabench.spec.paths import MODELS

MOST_GIB = 100 * 1024  # a larger size is a slip of the keyboard: the largest card has 288
GIB = {"gb": 1, "gib": 1, "tb": 1024, "tib": 1024}  # as cards are sold: a 24GB card has 24 * 2**30 bytes
_SIZE = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*(gb|gib|tb|tib)", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_SIZE_IN_NAME = re.compile(r"(?<![a-z0-9])(\d+)\s*(?:gb|gib|g)(?![a-z0-9])")
_BUS = re.compile(r"pcie?|sxm\d?")
_VENDOR = re.compile(r"nvidia|amd|tesla|geforce|instinct|gpu|generation|graphics|hbm\w*")


@dataclass(frozen=True)
class Gpu:
    """What a card has; rates are absent where only a size was given."""

    name: str
    memory_bytes: int
    """usable: what PyTorch names as a known card's total capacity in public error messages, the lowest seen or a little below; a size that was typed is as typed"""
    bandwidth: float | None = None
    """bytes a second"""
    bf16_flops: float | None = None
    """dense, a second; float16 on cards without bfloat16"""
    aliases: tuple[str, ...] = ()
    kind: Literal["cuda", "cpu"] = "cuda"
    fp32_flops: float | None = None
    """a second, outside the tensor cores"""
    bf16: bool = True
    """whether it computes in bfloat16; where it does not the engine leaves mixed precision off, and products of bfloat16 weights go through float32"""
    nominal_gib: float | None = None
    """as sold, and as its driver names it"""


@cache
def gpus() -> dict[str, Gpu]:
    """All cards by name, smallest first."""
    plain = yaml.safe_load((MODELS / "gpus.yaml").read_text(encoding="utf-8"))["gpus"]
    cards = [
        Gpu(
            name,
            int(c["usable_gib"] * 2**30),
            bandwidth=c["bandwidth_gb_s"] * 1e9,
            bf16_flops=c["bf16_tflops"] * 1e12,
            aliases=tuple(c.get("aliases", ())),
            fp32_flops=c["fp32_tflops"] * 1e12,
            bf16=c.get("bf16", True),
            nominal_gib=c["memory_gib"],
        )
        for name, c in plain.items()
    ]
    return {c.name: c for c in sorted(cards, key=lambda c: (c.memory_bytes, c.name))}


def find_gpu(text: str) -> Gpu:
    """A card by name, one of a size ("24GB", "1TB"), or "cpu", this machine; LorabenchError for any other word, and for a name of two cards."""
    shown = _short(text)
    if not shown:
        raise LorabenchError("no gpu is named; say a card such as rtx4090, a size such as 24GB, or cpu for this machine")
    if shown.lower() == "cpu":
        import psutil

        return Gpu("cpu", int(psutil.virtual_memory().total), kind="cpu")
    size = _SIZE.fullmatch(text.strip())
    if size:
        gib = float(size.group(1)) * GIB[size.group(2).lower()]  # infinite for 400 digits
        if not 2**-30 <= gib <= MOST_GIB:  # a byte at least
            raise LorabenchError(f"a gpu of {shown} cannot be meant; say a size above 0 and up to {MOST_GIB // 1024}TB, such as 24GB")
        return Gpu(text.strip(), int(gib * 2**30))
    found = cards_named(text)
    if len(found) == 1:
        return found[0]
    if found:
        raise LorabenchError(f"gpu '{shown}' may be {' or '.join(c.name for c in found)}; say which")
    if _NUMBER.fullmatch(text.strip()):
        raise LorabenchError(f"gpu '{shown}' is a number without a unit; say {shown if len(shown) < 5 else 24}GB for a size")
    raise LorabenchError(unknown("gpu", shown, gpus()) + ", a size such as 24GB, or cpu for this machine")


def cards_named(text: str) -> list[Gpu]:
    """The cards that a name, typed or a driver's, may mean: none where unknown, more than one where it leaves the size open."""
    exact = [c for c in gpus().values() if _chip(text) in map(_chip, (c.name, *c.aliases))]
    if exact:
        return exact
    chip, gib, bus = _parts(text)
    alike = [c for c in gpus().values() if _parts(c.name)[0] == chip and gib in (None, c.nominal_gib)]
    on_bus = [c for c in alike if _parts(c.name)[2] == "pcie"]
    return on_bus if bus == "pcie" and on_bus else [c for c in alike if c not in on_bus]


def _parts(name: str) -> tuple[str, int | None, str]:
    """"NVIDIA A100-PCIE-40GB" is (a100, 40, pcie)."""
    rest = name.lower()
    size = _SIZE_IN_NAME.search(rest)
    if size:
        rest = rest[: size.start()] + " " + rest[size.end() :]
    words = re.findall(r"[a-z0-9]+", rest)
    bus = next((w for w in words if _BUS.fullmatch(w)), "")
    gib = int(size.group(1)) if size and len(size.group(1)) < 6 else -1 if size else None
    return _chip(" ".join(w for w in words if w != bus)), gib, bus


def _chip(name: str) -> str:
    """"NVIDIA GeForce RTX 4090", "rtx4090" and "4090" are one word."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "".join(w for w in words if not _VENDOR.fullmatch(w)).removeprefix("rtx")


def _short(text: str) -> str:
    """On one line, and no longer than an error has room for."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."
