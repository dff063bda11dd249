"""Well-known cases answered as published experience has them, and what a stored study makes of an answer."""

from __future__ import annotations

import re
from functools import cache

import pytest

from lorabench import plugins
from lorabench.advice.cheapest_change import cheapest_change
from lorabench.advice.text import as_text, epoch
from lorabench.advice.types import Candidate, Needs, Workload
from lorabench.config.gpus import find_gpu, gpus
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec
from lorabench.errors import LorabenchError
from lorabench.workflows.recommend import emit, recommend
from tests.advice.formula_memory import FormulaMemory

# QLoRA: Dettmers et al. 2023, arXiv:2305.14314; figure 6: 6.9, 11.3, 24.7 and 45.0 GB for 7B, 13B, 33B and 65B (rank
# 64, 512 tokens, batch 1, checkpointing). litgpt: tutorials/resource-tables.md of 2023-10, one A100-40GB, rank 8 on q
# and v, 1304 tokens, no checkpointing. LLaMA-Factory: README, "Hardware Requirement", estimates (7B: full 120 GB, 60 GB
# in pure bfloat16, LoRA 16 GB; QLoRA of 7B to 70B: 6, 12, 24, 48 GB). Qwen: README, "Profiling of Memory and Speed",
# one A100-80GB (Q-LoRA 72B: 61.4 GB at 512 tokens; LoRA 72B: 217.7 GB over four cards).
CASES = [
    ("llama-2-7b", "8GB", 512, "lora", "nf4", True, "QLoRA figure 6: 6.9 GB"),
    ("llama-2-7b", "rtx3060-12gb", 512, "lora", "nf4", True, "QLoRA figure 6: 6.9 GB; Qwen: Q-LoRA 7B 11.5 GB"),
    ("llama-2-7b", "rtx3060-12gb", 512, "lora", "none", False, "LLaMA-Factory: 16 GB; the weights alone are 13.5 GB"),
    ("llama-2-7b", "t4", 512, "lora", "none", False, "LLaMA-Factory: 16 GB, and a T4 leaves 14.6 GiB of its 16"),
    ("llama-2-7b", "rtx4090", 1304, "lora", "none", True, "litgpt: 21.30 GB"),
    ("llama-2-7b", "a100-40gb", 512, "full", "none", False, "LLaMA-Factory: 60 GB even in pure bfloat16"),
    pytest.param("llama-2-13b", "rtx4080", 512, "lora", "nf4", True, "QLoRA figure 6: 11.3 GB", marks=pytest.mark.slow),
    ("llama-2-13b", "rtx4090", 512, "lora", "none", False, "litgpt: 38.12 GB; the weights alone are 26 GB"),
    (
        "llama-2-13b",
        "a100-40gb",
        512,
        "lora",
        "none",
        True,
        "litgpt: 38.12 GB, even at 1304 tokens without checkpointing",
    ),
    (
        "llama-30b",
        "rtx4090",
        512,
        "lora",
        "nf4",
        True,
        "QLoRA abstract and section 5: Guanaco 33B trained on one 24 GB card",
    ),
    ("llama-30b", "rtx4080", 512, "lora", "nf4", False, "QLoRA figure 6: the model alone is 19.3 GB"),
    pytest.param(
        "llama-65b",
        "rtx-a6000",
        512,
        "lora",
        "nf4",
        True,
        "QLoRA abstract: 65B on one 48 GB card; figure 6: 45.0 GB",
        marks=pytest.mark.slow,
    ),
    pytest.param("llama-2-70b", "a100-80gb", 512, "lora", "nf4", True, "Qwen: 61.4 GB", marks=pytest.mark.slow),
    ("llama-2-70b", "a100-80gb", 512, "lora", "none", False, "Qwen: 217.7 GB"),
    pytest.param(
        "llama-2-70b",
        "a100-40gb",
        512,
        "lora",
        "nf4",
        False,
        "LLaMA-Factory: 48 GB; litgpt: 37.2 GB untrained",
        marks=pytest.mark.slow,
    ),
]


@cache
def answer(model, gpu, length, batch=1):
    return recommend(model, gpu, length, batch_size=batch)


def entry(found, method, quantization):
    return next(
        (e for e in found if (e.candidate.method.name, e.candidate.quantization.name) == (method, quantization)), None
    )


@pytest.mark.usefixtures("traces", "nothing_at_hand")
@pytest.mark.parametrize(
    ("model", "gpu", "length", "method", "quantization", "fits", "source"),
    CASES,
    ids=lambda v: v if isinstance(v, str) and len(v) < 13 else "fits" if v is True else "",
)
def test_published_experience_is_met(model, gpu, length, method, quantization, fits, source):
    asked = answer(model, gpu, length)
    fit, out = (entry(found, method, quantization) for found in (asked.ranked, asked.excluded))
    if fits:
        assert fit is not None, source
        assert 0 <= fit.headroom_bytes == asked.memory_bytes - fit.needs.high_bytes
        return
    assert fit is None, source
    assert out is not None and out.over_bytes > 0, source
    assert out.cheapest_change


@pytest.mark.usefixtures("traces", "nothing_at_hand")
def test_full_fine_tuning_of_7b_with_adamw_does_not_fit_80_gb():
    """LLaMA-Factory: 120 GB with float32 weights; PEFT's README: a 7B model runs out of memory on an A100-80GB. A paged
    8-bit optimizer helps."""
    full = entry(answer("llama-2-7b", "a100-80gb", 512).ranked, "full", "none")
    assert full is None or full.candidate.optimizer == "paged-adamw-8bit"


@pytest.mark.slow
@pytest.mark.usefixtures("traces", "nothing_at_hand")
def test_the_micro_batch_that_ran_out_of_memory_on_40_gb_is_not_proposed():
    """litgpt: 7B at 1304 tokens without checkpointing takes 29.07 GB for two sequences and runs out of memory with
    four."""
    lora = entry(answer("llama-2-7b", "a100-40gb", 1304, 4).ranked, "lora", "none").candidate
    assert lora.gradient_checkpointing or lora.micro_batch_size <= 2


@pytest.mark.usefixtures("traces", "nothing_at_hand")
def test_what_is_taken_is_near_what_was_measured():
    """litgpt, 7B at 1304 tokens without checkpointing: 21.30 GB with one sequence and adapters on q and v; adapters on
    every layer take a little more."""
    lora = entry(answer("llama-2-7b", "rtx4090", 1304).ranked, "lora", "none")
    assert (lora.candidate.micro_batch_size, lora.candidate.gradient_checkpointing) == (1, False)
    assert 21.30e9 < lora.needs.peak_bytes < 1.2 * 21.30e9


@pytest.mark.usefixtures("traces", "nothing_at_hand")
def test_where_nothing_fits_the_text_says_what_would():
    asked = answer("llama-2-70b", "8GB", 512)
    text = " ".join(as_text(asked).split())
    assert asked.ranked == ()
    assert all(e.over_bytes > 0 for e in asked.excluded)
    least = min(e.needs.high_bytes for e in asked.excluded)
    for words in (
        "Nothing that was tried fits.",
        "The least demanding is LoRA r=8",
        "base in NF4",
        "Shorter sequences would not make it fit: what it holds between steps is too much",
        "it fits on a40",
    ):
        assert words in text
    named = re.search(r"it fits on ([\w-]+)", text).group(1)
    assert (
        gpus()[named].memory_bytes
        >= least
        > max(c.memory_bytes for c in gpus().values() if c.memory_bytes < gpus()[named].memory_bytes)
    )


def test_the_cheapest_change_is_one_that_the_method_allows():
    """PiSSA begins from the singular vectors of unquantized weights; LoRA's base may be stored in 4 bits."""
    card = find_gpu("24GB")

    def needs(c):
        high = (10 if c.quantization.name == "nf4" else 30) * 2**30
        return Needs(1, high, high, high)

    def told(method):
        spec = (
            MethodSpec(name="full", rank=None, alpha=None, dropout=None, target_modules=None)
            if method == "full"
            else MethodSpec(name=method, rank=8, alpha=16)
        )
        asked = Candidate(spec, QuantizationSpec(name="none"), 1, 1, True, "adamw", 1e-4, "constant", 0.0, 0.0, 1.0)
        memory = FormulaMemory(card.memory_bytes, needs, lambda c: lengths[c.method.name])
        return cheapest_change(asked, needs(asked), memory, adapters)

    lengths, adapters = {"lora": 0, "pissa": 0}, True
    assert "NF4" in told("lora")
    assert told("pissa").startswith("a card of 32.2 GB or more")
    lengths["pissa"] = 300
    assert told("pissa") == "sequences of at most 300 tokens"
    assert told("full").startswith("train adapters instead, or take a card of")
    adapters = False
    assert told("full").startswith("a card of")


@pytest.mark.usefixtures("nothing_at_hand")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"priority": "beauty"}, "priority"),
        ({"batch_size": 0}, "global batch size 0 is below 1"),
        ({"examples": 0}, "examples 0 is below 1"),
        ({"tokens": -5}, "tokens -5 is below 1"),
        ({"tolerated_loss": 0}, "tolerated loss of 0 is not a number above 0"),
        ({"tolerated_loss": float("inf")}, "tolerated loss of inf is not a number above 0"),
        ({"examples": 200, "tokens": 100}, "100 tokens in 200 examples is less than one each"),
        ({"tolerated_loss": float("nan")}, "tolerated loss of nan"),
        ({"studies": ["nowhere"]}, "nowhere"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_traced(changes, words):
    with pytest.raises(LorabenchError, match=words) as told:
        recommend("lorabench/tiny-300k", "24GB", 128, **changes)
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("formula", "nothing_at_hand")
def test_a_preset_is_known_by_its_hub_id_in_what_is_written(tmp_path):
    asked = recommend("llama-3.2-1b", "24GB", 128)
    assert asked.workload.model.name == "meta-llama/Llama-3.2-1B"
    (path,) = emit(asked, plugins.load("emitters", "trl").emit, 1, tmp_path)
    assert "--model_name_or_path=meta-llama/Llama-3.2-1B " in path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("formula", "nothing_at_hand")
def test_what_an_answer_leaves_out_or_assumes_is_noted():
    notes = " ".join(recommend("llama-3.2-1b", "t4", 128, examples=100, tokens=1_000_000).notes)
    for words in (
        "t4 does not compute in bfloat16",
        "10,000 tokens per example do not fit into 128",
        "An int8 base is left out",
        "others are compared with it",
    ):
        assert words in notes
    unused = recommend("llama-3.2-1b", "24GB", 128, tolerated_loss=0.5).notes
    assert any("was not used" in n for n in unused)


@pytest.mark.usefixtures("formula", "nothing_at_hand")
def test_experts_that_are_neither_adapted_nor_quantized_are_told():
    for model, told in (("mixtral-8x7b", True), ("llama-3.2-1b", False)):
        found = recommend(model, "1000GB", 128).ranked
        assert {
            any("experts are neither" in c for c in r.caveats) for r in found if r.candidate.method.name == "lora"
        } == {told}
        assert not any(
            "experts are neither" in c for r in found if r.candidate.method.name == "full" for c in r.caveats
        )


def test_an_epoch_of_short_examples_takes_less_than_one_of_full_sequences():
    model = ModelSpec(name="llama-3.2-1b")
    short, share = Workload(model, 2048, 16, 20_000, 6_000_000), 300 / 2048
    assert epoch((1.0, 4.0), short, 1250, 1) == pytest.approx((1250 * share, 5000 * share))
    assert epoch((1.0, 4.0), short, 1250, 2) == pytest.approx(
        (1250 * share, 5000 * 2 * share)
    )  # one of two sequences may be as long as both
    assert epoch((1.0, 4.0), short, 1250, 16) == pytest.approx((1250 * share, 5000.0))
    assert epoch((1.0, 4.0), Workload(model, 2048, 16, 20_000, None), 1250, 1) == (1250.0, 5000.0)
    assert epoch((1.0, 4.0), Workload(model, 2048, 16, 10, 10**11), 1, 1) == (1.0, 4.0)
