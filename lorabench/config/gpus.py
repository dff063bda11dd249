"""Known graphics cards (models/gpus.yaml), by name or by the size of their memory, and this machine's CPU as one of
them.

A name is understood as people and drivers write it: "rtx4090", "4090" and "NVIDIA GeForce RTX 4090" are one card.
Vendor words are left out, a size ("40GB") and a bus ("PCIe", "SXM4") choose between cards of one chip, and every other
word must be the card's own, so that "RTX 4090 Laptop GPU" and "RTX 4070 Ti SUPER" are not the cards whose names they
hold.

A size in GB is a class of cards as they are sold: "12GB" has what the least of the known 12 GB cards lets PyTorch use,
11.6 GiB. Between the known classes at least the lowest share that any of them has (0.91, with ECC), and never less than
a smaller class. A size in GiB or MiB is an amount of usable memory, as PyTorch prints it, and taken as it is.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from lorabench.config.paths import MODELS
from lorabench.config.trainer import OWN
from lorabench.errors import LorabenchError

MOST_GIB = 100 * 1024  # a larger size is a slip of the keyboard: the largest card has 288
GIB = {"m": 1 / 1024, "g": 1, "t": 1024}
_SIZE = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+|nan|inf(?:inity)?))\s*([mgt])(i?)b?", re.IGNORECASE)
_SEVERAL = re.compile(
    r"(?P<before>\d{1,6})\s*[x×*]\s*(?P<card>.*\S)|(?P<first>.*\S)\s*[x×*:]\s*(?P<after>\d{1,6})", re.IGNORECASE
)
_APPLE = re.compile(r"(?:apple)?m[1-9](?:pro|max|ultra)?|mps|metal|apple.*")
_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""oneDNN's names of the instruction sets that multiply in float32 alone"""
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_SIZE_IN_NAME = re.compile(r"(?<![a-z0-9])(\d+)\s*(?:gb|gib|g)(?![a-z0-9])")
_BUS = re.compile(r"pcie?|sxm\d?")
_VENDOR = re.compile(r"nvidia|amd|tesla|geforce|instinct|gpu|generation|graphics|hbm\w*")


@dataclass(frozen=True)
class MeasuredCard:
    """What `lorabench calibrate` measured on a card, in place of what is assumed of all cards."""

    words: str
    """what was measured when, on one line"""
    context_bytes: int | None = None
    """CUDA context of a training process"""
    errors: tuple[float, float] | None = None
    """measured over predicted bytes of lorabench's own loop, least and most; absent of other versions"""
    steps: tuple[tuple[int, int, int, float], ...] = ()
    """flops, bytes moved, kernels and seconds of an optimizer step, a tuple for each that was timed"""

    def sentences(self, own: bool) -> list[str]:
        """The line beside a prediction of lorabench's own loop, or of another trainer, whose range stays its own."""
        if own:
            return [self.words]
        return [f"{self.words}; for another trainer only the CUDA context is corrected"] if self.context_bytes else []


@dataclass(frozen=True)
class Gpu:
    """What a card has; bandwidth and FLOP/s are absent where only a size was given."""

    name: str
    memory_bytes: int
    """usable: what PyTorch names as a known card's total capacity in public error messages, the lowest seen or a little
    below; of a size in GB that of the least card of its class, of one in GiB as typed"""
    bandwidth: float | None = None
    """bytes a second"""
    bf16_flops: float | None = None
    """dense, a second; float16 on cards without bfloat16"""
    aliases: tuple[str, ...] = ()
    kind: Literal["cuda", "cpu"] = "cuda"
    fp32_flops: float | None = None
    """a second, outside the tensor cores"""
    bf16: bool = True
    """whether it computes in bfloat16; where it does not the engine leaves mixed precision off, products of bfloat16
    weights go through float32, and on a CPU weights are float32 by themselves"""
    capability: int = 8
    """major compute capability"""
    nominal_gib: float | None = None
    """as sold, and as its driver names it; absent of this machine and of an amount in GiB"""
    measured: MeasuredCard | None = field(default=None, compare=False)
    """on the user's own card"""

    @property
    def capacity(self) -> str:
        """ "24 GB card: 23.6 GiB = 25.3 GB usable": GB as sold, GiB as PyTorch prints it, decimal GB as all predictions
        are shown."""
        usable = f"{_three(self.memory_bytes / 2**30)} GiB = {_three(self.memory_bytes / 1e9)} GB"
        if self.kind == "cpu":
            return f"{usable} of memory"
        return f"{usable} usable" if self.nominal_gib is None else f"{self.nominal_gib:g} GB card: {usable} usable"

    def precision_note(self, trainer: str) -> str | None:
        """What a CPU without bfloat16 means for lorabench's own loop; None elsewhere."""
        if self.kind != "cpu" or self.bf16 or trainer != OWN:
            return None
        return (
            "this CPU does not compute in bfloat16: weights are float32 where model.dtype is auto; bfloat16 has half of"
            " their bytes and takes 2 to 5 times as long"
        )


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
            capability=c.get("capability", 8),
            nominal_gib=c["memory_gib"],
        )
        for name, c in plain.items()
    ]
    return {c.name: c for c in sorted(cards, key=lambda c: (c.memory_bytes, c.name))}


def cpu_has_bfloat16(elsewhere: Callable[[], bool] = lambda: False) -> bool:
    """Whether products in bfloat16 are quick on this machine's CPU: it has instructions for them (AVX-512 BF16, AMX,
    ARM's BF16), and oneDNN, which takes the products, may use these.

    elsewhere: tells of the instructions where the system does not, as Linux does.
    """
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", ""))
    if most.upper() in _WITHOUT_BFLOAT16:
        return False
    flags = _cpu_flags()
    return elsewhere() if flags is None else bool(flags & {"avx512_bf16", "amx_tile", "bf16"})


@cache
def _cpu_flags() -> frozenset[str] | None:
    try:
        return frozenset(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return None


def find_gpu(text: str | Gpu) -> Gpu:
    """A card by name, one of a class ("24GB", "1TB") or an amount ("23.5GiB", "24000MiB"), or "cpu", this machine; a
    card as it is.

    LorabenchError for any other word, for a name of two cards, and for several cards at once.
    """
    if isinstance(text, Gpu):
        return text
    shown = _short(text)
    if not shown:
        raise LorabenchError(
            "no gpu is named; give a card such as rtx4090, a size such as 24GB, or cpu for this machine"
        )
    if shown.lower() == "cpu":
        import psutil

        return Gpu("cpu", int(psutil.virtual_memory().total), kind="cpu", bf16=cpu_has_bfloat16())
    if size := _SIZE.fullmatch(text.strip()):
        return _card_of_size(text.strip(), float(size.group(1)) * GIB[size.group(2).lower()], bool(size.group(3)))
    matches = cards_named(text)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise LorabenchError(f"gpu '{shown}' may be {' or '.join(c.name for c in matches)}; name one of them")
    several = _SEVERAL.fullmatch(text.strip())
    if several and (
        cards_named(one := several["card"] or several["first"]) or _SIZE.fullmatch(one)
    ):  # "rtx4091" is no "rt" times 4,091
        number, card = int(several["before"] or several["after"]), find_gpu(one)
        if number == 1:
            return card
        raise LorabenchError(
            f"gpu '{shown}' is {number} cards, but memory and time are predicted for a single card; give --gpu"
            f" {_short(card.name)}, which is right where each card has a copy of the whole model (data parallel); for a"
            f" model that is sharded over cards, estimate and check take --gpus {number} --strategy fsdp"
        )
    if _NUMBER.fullmatch(text.strip()):
        raise LorabenchError(
            f"gpu '{shown}' is a number without a unit; give {shown if len(shown) < 5 else 24}GB for a size"
        )
    if _APPLE.fullmatch(re.sub(r"[^a-z0-9]", "", shown.lower())):
        raise LorabenchError(
            f"gpu '{shown}' is not supported: training runs on CUDA or on the CPU, not on Apple's GPUs; give a"
            " size such as 24GB, or cpu for this machine"
        )
    near = f"; did you mean '{_nearest(shown)}'?" if _nearest(shown) else ";"
    raise LorabenchError(
        f"unknown gpu '{shown}'{near} allowed: {', '.join(gpus())}, a size such as 24GB, or cpu for this machine"
    )


def _card_of_size(name: str, gib: float, exact: bool) -> Gpu:
    if not 2**-30 <= gib <= MOST_GIB:  # a byte at least; infinite for 400 digits, and nan is neither
        raise LorabenchError(
            f"no gpu has {_short(name)} of memory; give a size above 0 and up to {MOST_GIB // 1024}TB, such as 24GB"
        )
    if exact:
        return Gpu(name, int(gib * 2**30))
    return Gpu(name, usable_bytes(gib), nominal_gib=gib)


def usable_bytes(nominal_gib: float) -> int:
    """What a card that is sold with so much memory lets PyTorch use at least, by the known cards: rises with the
    size."""
    same = [c.memory_bytes for c in gpus().values() if c.nominal_gib == nominal_gib]
    if same:
        return min(same)
    classes = {c.nominal_gib for c in gpus().values() if c.nominal_gib is not None and c.nominal_gib < nominal_gib}
    share = min(c.memory_bytes / (c.nominal_gib * 2**30) for c in gpus().values() if c.nominal_gib)
    above = [c.memory_bytes for c in gpus().values() if c.nominal_gib and c.nominal_gib > nominal_gib]
    at_least = max([int(share * nominal_gib * 2**30), *(usable_bytes(g) for g in classes)])
    return min([at_least, *above])


def _nearest(text: str) -> str:
    """The card whose chip is spelled most alike; empty where none is."""
    chips = {_chip(c.name): c.name for c in gpus().values()}
    near = difflib.get_close_matches(_chip(text), list(chips), n=1, cutoff=0.6)
    return chips[near[0]] if near else ""


def _three(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.3g}" if 0.001 <= value < 999.5 else f"{value:,.0f}" if value >= 999.5 else f"{value:.1g}"


def cards_named(text: str) -> list[Gpu]:
    """The cards that a name, typed or a driver's, may mean: none where unknown, more than one where it leaves the size
    open."""
    exact = [c for c in gpus().values() if _chip(text) in map(_chip, (c.name, *c.aliases))]
    if exact:
        return exact
    chip, gib, bus = _parts(text)
    alike = [c for c in gpus().values() if _parts(c.name)[0] == chip and gib in (None, c.nominal_gib)]
    on_bus = [c for c in alike if _parts(c.name)[2] == "pcie"]
    return on_bus if bus == "pcie" and on_bus else [c for c in alike if c not in on_bus]


def _parts(name: str) -> tuple[str, int | None, str]:
    """ "NVIDIA A100-PCIE-40GB" is (a100, 40, pcie)."""
    rest = name.lower()
    size = _SIZE_IN_NAME.search(rest)
    if size:
        rest = rest[: size.start()] + " " + rest[size.end() :]
    words = re.findall(r"[a-z0-9]+", rest)
    bus = next((w for w in words if _BUS.fullmatch(w)), "")
    gib = int(size.group(1)) if size and len(size.group(1)) < 6 else -1 if size else None
    return _chip(" ".join(w for w in words if w != bus)), gib, bus


def _chip(name: str) -> str:
    """ "NVIDIA GeForce RTX 4090", "rtx4090" and "4090" are one word."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "".join(w for w in words if not _VENDOR.fullmatch(w)).removeprefix("rtx")


def _short(text: str) -> str:
    """On one line, and no longer than an error has room for."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."
