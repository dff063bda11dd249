"""Claims about the clause that says why a quantized base needs more memory than an unquantized one."""

from __future__ import annotations

import pytest

from lorabench.advice.ranking import _explained
from lorabench.advice.types import Candidate, Needs, Quality, RankedCandidate
from lorabench.config.settings import MethodSpec, QuantizationSpec


def entry(quantization: str, peak: int, micro: int = 4) -> RankedCandidate:
    candidate = Candidate(
        MethodSpec(name="lora", rank=8),
        QuantizationSpec(name=quantization),
        micro,
        16 // micro,
        False,
        "adamw",
        2e-4,
        "constant",
        0.0,
        0.0,
        1.0,
    )
    return RankedCandidate(candidate, Needs(1000, peak, peak, peak), 0, Quality("none", "full fine-tuning"))


@pytest.mark.parametrize(
    ("peak", "micro", "clause"),
    [
        (675_000_000, 4, "it needs 12.0 MB more memory than on an unquantized base: the weights of so small a model"),
        (675_000_000, 8, "it needs 12.0 MB more memory than on an unquantized base: the memory that quantization"),
        (600_000_000, 4, ""),
    ],
)
def test_more_memory_on_a_quantized_base_has_a_reason_and_less_has_none(peak: int, micro: int, clause: str) -> None:
    plain, quantized = entry("none", 663_000_000), entry("nf4", peak, micro)
    caveats = _explained(quantized, [plain, quantized]).caveats
    assert [c.startswith(clause) for c in caveats] == ([True] if clause else [])
    assert _explained(plain, [plain, quantized]) is plain
