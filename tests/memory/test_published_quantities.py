"""Every table of studies/paper is computed, and what it says agrees with the paper or says why not."""

from pathlib import Path

import bitsandbytes.functional as F
import pytest
import torch

from lorabench.config.published_tables import PaperRow, is_paper, published, read_paper
from lorabench.config.source import read_source
from lorabench.memory.published_quantities import reproduce
from lorabench.report.paper import paper_table

STUDIES = [
    p for p in sorted((Path(__file__).parents[2] / "studies" / "paper").glob("*.yaml")) if is_paper(read_source(p))
]


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_each_published_value_agrees_or_its_deviation_is_explained(path):
    paper = read_paper(read_source(path))
    made = reproduce(paper)
    for item in made:
        if item.row.published is not None:
            words = published(item.row.published).agreement(item.value)
            assert words in ("to the digit", "holds", "within 1 %") or item.row.note, (
                f"{item.row.name}: {item.value} is {words} of {item.row.published}"
            )
            assert words != "does not hold"
    table = paper_table(paper, made)
    assert len(table.rows) == len(paper.rows) and paper.source in table.notes[0]


@pytest.mark.parametrize(("kind", "double_quant"), [("nf4", False), ("nf4", True), ("fp4", False)])
def test_bits_per_parameter_are_those_of_a_weight_that_bitsandbytes_quantized(kind, double_quant):
    weight = torch.randn(4096, 4096)
    packed, state = F.quantize_4bit(weight, blocksize=64, compress_statistics=double_quant, quant_type=kind)
    kept = [
        packed,
        state.absmax,
        state.code,
        *([state.offset, state.state2.absmax, state.state2.code] if double_quant else []),
    ]
    real = 8 * sum(t.numel() * t.element_size() for t in kept) / weight.numel()
    row = PaperRow(
        name="a",
        quantity="bits_per_parameter",
        model="llama-7b",
        quantization={"name": kind, "double_quant": double_quant},
    )
    (made,) = reproduce(read_paper_of(row))
    assert made.value == pytest.approx(real, rel=1e-3)


def read_paper_of(row):
    from lorabench.config.published_tables import Paper

    return Paper(name="t", question="q", source="s", rows=(row,))


def test_what_is_held_between_steps_adds_up_by_hand():
    """Llama 7B in nf4 with double quantization: 4.127 bits of its linear layers, 2 bytes of embedding, head and
    norms."""
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    rest = 2 * 32_000 * 4096 + 65 * 4096
    row = PaperRow(
        name="a",
        quantity="base_bytes",
        model="llama-7b",
        quantization={"name": "nf4", "double_quant": True},
        training={"sequence_length": 64},
    )
    (made,) = reproduce(read_paper_of(row))
    assert made.value == pytest.approx(linear * (4 + 8 / 64 + 32 / (64 * 256)) / 8 + 2 * rest, rel=1e-3)


def test_a_quantity_that_cannot_be_had_names_its_row():
    from lorabench.errors import LorabenchError

    row = PaperRow(name="the odd one", quantity="bits_per_parameter", model="llama-7b")
    with pytest.raises(LorabenchError, match="row 'the odd one': quantization none stores no weight in fewer bits"):
        reproduce(read_paper_of(row))
