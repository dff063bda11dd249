"""The priors: each has a source, and what follows from them is worked out here by hand."""

from __future__ import annotations

import re
from math import hypot, sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from lorabench.advice import priors as module
from lorabench.advice.candidates import candidate_specs
from lorabench.advice.priors import Fact, learning_rate, published, rank_by_capacity, rules
from lorabench.advice.text import quality as in_words
from lorabench.evidence import library

PLAIN = yaml.safe_load(Path(module.__file__).with_name("priors.yaml").read_text(encoding="utf-8"))
GROUPS = [
    *((part, PLAIN[part]) for part in ("lora", "learning_rate", "update", "rank")),
    *((f"{f['name']}-{f['source'][-8:]}", f) for f in PLAIN["facts"]),
]

# Llama 3.1 8B: hidden 4096, MLP 14336, 8 of 32 key heads of 128, 32 layers. A LoRA pair has rank x (in + out)
# parameters.
PER_RANK = 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))
TRAINABLE = {r: r * PER_RANK for r in (1, 2, 4, 8, 16, 32, 64, 128, 256)}
T4, T3, T1 = 2.7764451, 3.1824463, 12.7062047  # Student's t, 97.5 %, with 4, 3 and 1 degrees of freedom
T4_ONE = 2.1318468  # 95 %


@pytest.mark.parametrize(("name", "group"), GROUPS, ids=[name for name, _ in GROUPS])
def test_every_value_has_a_source_with_authors_and_a_year(name, group):
    sources = {k.removesuffix("source").removesuffix("_"): v for k, v in group.items() if k.endswith("source")}
    assert sources
    for source in sources.values():
        assert re.match(r"([A-Z][\w-]+ (et al\.|and [A-Z]\w+)|lorabench) 20\d\d, ", source)
    for key in (k for k in group if not k.endswith("source")):
        assert any(key.startswith(of) for of in sources), f"{name}.{key} has no source"


def test_every_prior_is_in_a_group_that_is_tested_here_and_scores_come_in_pairs():
    assert set(PLAIN) == {"ranks", "lora", "learning_rate", "update", "rank", "facts"}
    assert all(len(f["scores"]) == len(f["reference_scores"]) == len(f["draws"]) for f in PLAIN["facts"])


def test_lora_against_full_fine_tuning_is_the_mean_and_t_interval_of_five_published_pairs():
    # theirs - ours: -0.4 -0.5 0.9 -1.1 1.3; mean 0.2 / 5; squared deviations 0.1936 + 0.2916 + 0.7396 + 1.2996 + 1.5876
    # = 4.112
    q, told = published("lora", "none", None)
    half = T4 * sqrt(4.112 / 4 / 5)
    assert (q.worse, q.low, q.high) == pytest.approx((0.04, 0.04 - half, 0.04 + half), abs=1e-6)
    one_sided = T4_ONE * sqrt(4.112 / 4 / 5)
    assert one_sided + 0.04 > 1
    assert q.bound == pytest.approx(0.04 + one_sided, abs=1e-6)
    assert (q.basis, q.metric, q.margin, q.enough) == ("published", "points", 1.0, None)
    assert [w.source for w in told] == ["Dettmers et al. 2023, arXiv:2305.14314, Table 3"]


def test_nf4_adds_its_four_models_in_quadrature():
    # eight pairs: -0.6 1.1 | -0.3 -0.1 | 0.4 1.3 | 0.0 -1.4, two for each model, whose rounded weights they share: no
    # eight independent draws. means 0.25 -0.2 0.85 -0.7; mean 0.2 / 4; squared deviations 0.04 + 0.0625 + 0.64 + 0.5625
    # = 1.305
    nf4 = next(f for f in rules().facts if f.name == "nf4").worse
    half = T3 * sqrt(1.305 / 3 / 4)
    assert nf4.pairs == 4
    assert (nf4.value, *nf4.interval) == pytest.approx((0.05, 0.05 - half, 0.05 + half), abs=1e-6)
    q, told = published("lora", "nf4", None)
    both = hypot(T4 * sqrt(4.112 / 4 / 5), half)
    assert (q.worse, q.low, q.high) == pytest.approx((0.09, 0.09 - both, 0.09 + both), abs=1e-6)
    assert len(told) == 2
    assert "over 5 models that share training and test data, RougeL" in told[0].text
    assert "over 4 models (8 pairs) that share training and test data, 5-shot MMLU" in told[1].text


def test_from_a_billion_tokens_on_continued_pretraining_speaks_and_its_gap_grows():
    # Biderman et al., second version, rank 256: 2.2 and -1.2 at 2B tokens, 5.0 and 4.2 at 8B, 3.9 and 9.1 at 20B
    below, at_2b, at_8b, at_20b = (published("lora", "none", n)[0] for n in (10**9 - 1, 10**9, 8 * 10**9, 20 * 10**9))
    assert below.worse == pytest.approx(0.04)
    assert (at_2b.worse, at_2b.high) == pytest.approx((0.5, 0.5 + T1 * 1.7), abs=1e-5)
    assert (at_8b.worse, at_8b.high) == pytest.approx((4.6, 4.6 + T1 * 0.4), abs=1e-5)
    assert (at_20b.worse, at_20b.high) == pytest.approx((6.5, 6.5 + T1 * 2.6), abs=1e-5)


def test_amounts_of_tokens_are_told_apart_halfway_in_ratio():
    edges = sorted({edge for f in rules().facts for edge in f.tokens})
    assert edges == [0, 1e9, pytest.approx(sqrt(2e9 * 8e9)), pytest.approx(sqrt(8e9 * 20e9), rel=0.01), float("inf")]


def test_published_pairs_of_continued_pretraining_are_cells_of_the_library():
    """Not the lower values of the paper's first version: 17.5 and 18.7."""
    cells = library.results()
    cells = cells[(cells.source == "biderman-2024") & (cells.task_kind == "continued-pretraining")]
    cells = cells[cells.aspect == "task"]
    facts = [f for f in rules().facts if "Biderman" in f.source]
    assert len(facts) == 3
    for fact in facts:
        tokens = float(re.search(r"after (\d+)B tokens", fact.what)[1]) * 1e9
        for task, ours, full in zip(("StarCoder", "OpenWebMath"), fact.scores, fact.reference_scores, strict=True):
            rows = cells[cells.task.str.startswith(task) & (cells.train_tokens == tokens)]
            assert rows[rows["rank"] == 256].value.tolist() == [ours]
            assert rows[rows.method == "full"].value.tolist() == [full]


def test_full_fine_tuning_is_what_others_are_held_against():
    q, told = published("full", "none", 10**10)
    assert (q.worse, q.low, q.high, q.enough, told) == (0.0, 0.0, 0.0, True, ())


@pytest.mark.parametrize(
    ("method", "quantization"), [("dora", "none"), ("pissa", "none"), ("rslora", "nf4"), ("lora", "hqq")]
)
def test_what_nobody_published_has_no_number(method, quantization):
    q, told = published(method, quantization, None)
    assert (q.basis, q.worse, q.low, q.high, q.margin, q.enough, told) == ("none", None, None, None, None, None, ())
    assert in_words(q) == "no evidence"
    assert not re.search(r"\d", in_words(q))


def test_an_unknown_fact_beside_a_known_one_is_no_evidence(monkeypatch):
    others = tuple(f for f in rules().facts if f.name != "nf4")
    changed = rules().model_copy(update={"facts": others})
    monkeypatch.setattr(module, "rules", lambda: changed)
    assert published("lora", "none", None)[0].basis == "published"
    assert published("lora", "nf4", None)[0].basis == "none"
    nf4 = next(f for f in candidate_specs(8 * 10**9, None, TRAINABLE) if f.quantization.name == "nf4")
    assert "no evidence of its quality" in nf4.caveats


def test_the_ranks_of_llama_8b_are_counted_as_by_hand():
    from lorabench.memory.parameters import count_parameters
    from lorabench.memory.validate import model_from

    assert TRAINABLE[8] == 20_971_520
    counted = count_parameters(model_from("llama-3.1-8b"), list(TRAINABLE), rules().lora.target_modules)
    assert {c.rank: c.trainable_parameters for c in counted} == TRAINABLE


def test_bits_a_parameter_are_what_the_stored_study_of_facts_shows():
    """Mean and t interval over the three seeds of rank 1, the only rank that knew less than half of the data."""
    cells = pd.read_csv(Path(__file__).parents[2] / "reports" / "facts" / "cells.csv")
    seen = cells[cells["rank"] == 1].learned_bits_per_parameter
    half = 4.3026527 * seen.std() / sqrt(3)  # Student's t, 97.5 %, 2 degrees of freedom
    rule = rules().rank
    assert (rule.bits_per_parameter, *rule.bits_per_parameter_interval) == pytest.approx(
        (seen.mean(), seen.mean() - half, seen.mean() + half), abs=0.005
    )
    known = cells.groupby("rank").learned_bits.mean() / cells.information_bits.max()
    assert known.index[known < 0.5].tolist() == [1]


@pytest.mark.parametrize(
    ("tokens", "rank"),
    [  # 0.44 bits a parameter: rank 8 learns 9,227,468.8 bits
        (1, 8),
        (9_227_468, 8),
        (9_227_469, 16),
        (18_454_937, 16),
        (18_454_938, 32),
        (40_000_000, 64),
        (147_639_500, 128),
        (147_639_501, 256),
        (295_279_001, 256),
    ],
)
def test_the_rank_rises_where_what_was_measured_no_longer_holds_a_bit_a_token(tokens, rank):
    found, witness, caveat = rank_by_capacity(TRAINABLE, tokens)
    assert (found, witness.kind) == (rank, "rule")
    assert ("a higher rank is safer" in caveat) == (0.38 * TRAINABLE[rank] < tokens)
    assert witness.text.startswith(f"rank {rank}: ") and "[0.38, 0.51]" in witness.text
    assert "studies/facts.yaml" in witness.source and "Schulman et al. 2025" in witness.source


def test_data_beyond_the_highest_rank_is_said():
    found, _, caveat = rank_by_capacity(TRAINABLE, 295_279_003)
    assert found == 256 and "than rank 256 was seen to learn" in caveat and "Allen-Zhu" in caveat
    found, _, caveat = rank_by_capacity(TRAINABLE, 1_342_177_281)  # two bits of each of 671,088,640 parameters
    assert found == 256 and "more than rank 256 can learn" in caveat and "Allen-Zhu" in caveat


def test_unknown_data_gives_the_floor_and_says_so():
    found, witness, caveat = rank_by_capacity(TRAINABLE, None)
    assert (found, witness.source) == (8, rules().rank.floor_source)
    assert "--tokens" in caveat


@pytest.mark.parametrize("tokens", [None, 1, 10**12])
def test_a_model_too_small_for_the_floor_gets_its_highest_rank(tokens):
    assert rank_by_capacity({1: 100, 2: 200, 4: 400}, tokens)[0] == 4


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [(6_738_415_616, 2e-4), (13_015_864_320, 2e-4), (32_528_943_616, 1e-4), (65_285_660_672, 1e-4)],
)
def test_rates_are_those_of_the_qlora_paper_and_full_fine_tuning_takes_a_tenth(parameters, rate):
    assert learning_rate("lora", parameters)[0] == rate
    assert learning_rate("full", parameters)[0] == pytest.approx(rate / 10)
    assert learning_rate("full", parameters)[1].source != learning_rate("lora", parameters)[1].source


def test_minus_signs_replace_no_hyphen_of_a_sentence():
    texts = [
        w.text
        for method, quantization in (("lora", "none"), ("lora", "nf4"), ("lora", "int8"))
        for w in published(method, quantization, None)[1]
    ]
    for text in texts:
        assert not re.search(r"[A-Za-z]−|−[A-Za-z]", text)
        assert not re.search(r"[\[ ]-\d", text)
        assert "−0.0 " not in text


def test_swapped_pairs_change_the_sign_alone():
    fact = next(f for f in rules().facts if f.name == "nf4")
    swapped = Fact(**{**fact.model_dump(), "scores": fact.reference_scores, "reference_scores": fact.scores}).worse
    assert swapped.value == pytest.approx(-fact.worse.value)
    assert swapped.interval == pytest.approx(tuple(-e for e in reversed(fact.worse.interval)))


def test_an_interval_over_draws_holds_the_truth_where_one_over_pairs_does_not():
    """Four models, two pairs each that share half of their noise: 2,000 tables drawn anew."""
    draw = np.random.default_rng(0)
    held = {"draws": 0, "pairs": 0}
    names = tuple(f"m{i // 2}" for i in range(8))
    for _ in range(2000):
        away = np.repeat(draw.normal(0, 1, 4), 2) + draw.normal(0, 1, 8)
        for how, of in (("draws", names), ("pairs", tuple(map(str, range(8))))):
            fact = Fact(
                varies="method",
                name="a",
                reference_name="b",
                what="",
                draws=of,
                unit="model",
                common="",
                source="",
                scores=tuple(-away),
                reference_scores=(0.0,) * 8,
            )
            low, high = fact.worse.interval
            held[how] += low <= 0 <= high
    assert held["draws"] / 2000 == pytest.approx(0.95, abs=0.015)
    assert held["pairs"] / 2000 < 0.91
