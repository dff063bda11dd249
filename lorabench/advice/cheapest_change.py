"""What would make a candidate fit that does not: another quantization, adapters, shorter sequences, else a larger
card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lorabench.advice.candidates import stored_as
from lorabench.advice.memory_oracle import MemoryOracle
from lorabench.advice.text import title
from lorabench.advice.types import Candidate, Excluded, Needs
from lorabench.config.gpus import gpus
from lorabench.config.validity import takes_quantized_base
from lorabench.formatting import size

SHORTEST = 64  # tokens: nobody would train on shorter sequences
NAMED_CARDS = 3


def cheapest_change(candidate: Candidate, needs: Needs, memory: MemoryOracle, adapters_fit: bool) -> str:
    """The cheapest change that makes a candidate fit; `adapters_fit` tells whether any candidate with adapters does."""
    if candidate.method.name == "full":
        return _larger_card(needs.high_bytes, "train adapters instead, or take " if adapters_fit else "")
    quantizable = candidate.quantization.name in ("none", "int8") and takes_quantized_base(candidate.method.name)
    if quantizable:
        nf4 = memory.needs(replace(candidate, quantization=stored_as("nf4")))
        if nf4.high_bytes <= memory.memory_bytes:
            return f"store the base in NF4 ({size(nf4.high_bytes)} at most)"
    if (length := memory.longest_sequence(candidate)) >= SHORTEST:
        return f"sequences of at most {length:,} tokens"
    return _larger_card(needs.high_bytes, "")


def what_would_fit(excluded: Sequence[Excluded], memory: MemoryOracle) -> tuple[str, ...]:
    """Where nothing fits: what would make the least demanding candidate fit."""
    least = min(excluded, key=lambda e: e.needs.high_bytes)
    high, length = least.needs.high_bytes, memory.longest_sequence(least.candidate)
    name = title(least.candidate)
    sentences = [f"The least demanding is {name}, at micro-batch 1 with checkpointing: {size(high)} at most."]
    if length >= SHORTEST:
        sentences.append(f"It would fit with sequences of at most {length:,} tokens.")
    else:
        limit = f" before {length} tokens" if length else ": what it holds between steps is too much"
        sentences.append(f"Shorter sequences would not make it fit{limit}.")
    cards = _cards_holding(high)
    more = " and larger cards" if len(cards) > NAMED_CARDS else ""
    sentences.append(
        f"At this length it fits on {', '.join(cards[:NAMED_CARDS])}{more}."
        if cards
        else "No known card holds it at this length."
    )
    return tuple(sentences)


def _larger_card(high_bytes: int, before: str) -> str:
    cards = _cards_holding(high_bytes)
    if not cards:
        return f"{before}more memory than any known card has"
    return f"{before}a card of {size(high_bytes)} or more ({', '.join(cards[:NAMED_CARDS])})"


def _cards_holding(high_bytes: int) -> list[str]:
    return [card.name for card in gpus().values() if card.memory_bytes >= high_bytes]
