"""What the meta-analysis says in a recommendation: rank, quality, rate and what is not known; and what a user's own
studies add to it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lorabench.advice.candidates import candidate_specs
from lorabench.advice.own_gaps import own_gaps, with_studies
from lorabench.advice.published_evidence import asked_of, informed, kind_of, limits
from lorabench.analysis.study import analyse
from lorabench.evidence.calibration import published_meta_analyses
from lorabench.evidence.gaps import published_gaps
from lorabench.evidence.library import sources
from lorabench.evidence.meta_analysis import Setting
from lorabench.report.view import make_view
from lorabench.sections.recommendation import published_tables
from tests.advice.test_priors import TRAINABLE
from tests.report.stores import filled

RANKS = [8, 16, 32, 64, 128, 256]


def asked(task="math", tokens=40_000_000):
    return asked_of(task, 8_030_000_000, 4096, "llama", tokens, 16)


def spec_of(quantization="none"):
    specs = candidate_specs(8_030_000_000, 40_000_000, TRAINABLE)
    return next(s for s in specs if s.key == ("lora", quantization))


def informed_of(task="math", quantization="none", priority="accuracy", most=256, tokens=40_000_000):
    return informed(spec_of(quantization), asked(task, tokens), RANKS, priority, lambda s: s.method.rank <= most)


def test_quality_rests_on_named_sources_with_weights_and_a_prediction_interval():
    spec = informed_of()
    first = spec.evidence[0].text
    named = {s.id for s in sources()}
    found = re.findall(r"([a-z][\w-]+) (\d+)\u00a0%", first)
    assert len(found) >= 3
    assert {name for name, _ in found} <= named
    assert sum(int(percent) for _, percent in found) <= 100
    assert re.search(r"80 % of new sources \[", first)
    q = spec.quality
    assert (q.basis, q.against, q.metric) == ("published", "full fine-tuning", "points")
    assert q.low < q.worse < q.bound < q.high


def test_kinds_of_task_are_answered_apart_and_chat_is_instruction():
    worse = {t: informed_of(t).quality.worse for t in ("math", "code", "classification", "continued-pretraining")}
    assert len(set(worse.values())) == 4
    assert informed_of("chat").quality == informed_of("instruct").quality == informed_of("instruction").quality
    assert kind_of("facts") is None


def test_a_storage_adds_its_gap():
    plain, stored = informed_of(), informed_of(quantization="nf4")
    gap = published_meta_analyses()["storage"].predict(
        Setting("math", storage="nf4", rank=256, parameters=8_030_000_000, tokens=40_000_000)
    )
    assert stored.quality.worse - plain.quality.worse == pytest.approx(-gap.mean)
    assert any(e.text.startswith("nf4 against a 16-bit base") for e in stored.evidence)


def test_the_rank_is_one_that_fits_and_what_a_lower_one_costs_is_said():
    spec = informed_of("code", most=64)
    assert spec.method.rank == 64
    (text,) = [e.text for e in spec.evidence if e.text.startswith("rank 64")]
    assert "gap to rank 64" in text and "rank 8: −" in text
    assert informed_of("classification", priority="memory").method.rank < 64


def test_the_rate_has_an_interval_and_a_grid_and_the_middle_is_taken():
    spec = informed_of()
    assert spec.rate_range[0] < spec.rate_grid[0] < spec.learning_rate < spec.rate_grid[2] < spec.rate_range[1]
    assert spec.learning_rate == spec.rate_grid[1]
    (text,) = [e.text for e in spec.evidence if e.text.startswith("learning rate")]
    assert all(f"{r:g}" in text for r in spec.rate_grid)


def test_without_a_task_the_capacity_rule_chooses_the_rank_and_the_rate_is_still_the_models():
    spec = informed_of(None)
    assert spec.method.rank == spec_of().method.rank
    assert spec.quality == spec_of().quality
    assert spec.rate_grid


def test_what_was_measured_by_the_user_stays():
    measured = replace(spec_of(), evidence=(replace(spec_of().evidence[0], kind="cells"),))
    assert informed(measured, asked(), RANKS, "accuracy", lambda s: True) is measured


@pytest.mark.parametrize(
    ("task", "tokens", "words"),
    [
        ("continued-pretraining", 10**12, "No source beyond 20.0B training tokens in continued-pretraining"),
        ("continued-pretraining", 10**6, "No source below 250M training tokens"),
        ("continued-pretraining", 10**9, "One source alone"),
        ("commonsense", 10**8, "No published table holds LoRA against full fine-tuning in commonsense"),
        ("classification", 10**8, "No table of classification names its training tokens"),
    ],
)
def test_what_the_tables_do_not_know_is_said(task, tokens, words):
    assert words in " ".join(limits(asked(task, tokens)))


def test_beyond_175_billion_parameters_nothing_is_published():
    asked_of_much = asked_of("classification", 10**12, 16384, "llama", None, 16)
    assert "No source beyond 175B parameters" in " ".join(limits(asked_of_much))


def test_own_studies_enter_and_how_far_they_move_the_answer_is_said():
    gap = next(g for g in published_gaps() if g.contrast == "full" and g.kind == "math" and g.rank == 16)
    own = replace(gap, source="your runs", value=6.0, noise=0.01)
    moved = with_studies(asked(), [own])
    (sentence,) = moved.moved
    assert re.match(
        r"Own studies \(your runs with \d+ % of the weight\) move what is expected of LoRA of rank 16", sentence
    )
    assert sentence in list(limits(moved))
    before, after = (informed(spec_of(), a, RANKS, "accuracy", lambda s: True) for a in (asked(), moved))
    assert after.quality.worse < before.quality.worse


def test_a_study_judged_by_its_loss_has_no_gaps_in_points(tmp_path):
    assert own_gaps(analyse(filled(tmp_path))) == ()


def classified(folder):
    """A study of a classification task whose metric is an accuracy, three seeds."""
    for name, n in (("train.tsv", 60), ("dev.tsv", 60)):
        rows = [f"{('bad', 'good')[i % 2]} film number {i}\t{i % 2}\n" for i in range(n)]
        (folder / name).write_text("sentence\tlabel\n" + "".join(rows), encoding="utf-8")
    text = (
        "schema: 1\nname: films\nmodel: lorabench/tiny-300k\n"
        "task: {name: classify, train: train.tsv, eval: dev.tsv}\nmethod: {name: lora, alpha: 16}\n"
        "training: {steps: 4, learning_rate: 3e-3, sequence_length: 64}\n"
        "grid: {method.rank: [4, 16], quantization: [none, nf4]}\n"
        "include:\n  - {method: {name: full}, quantization: none, training.learning_rate: 1e-3}\n"
        "seeds: [0, 1, 2]\n"
    )
    return filled(folder, text)


def test_a_study_judged_by_accuracy_has_gaps_in_points_and_its_report_names_published_tables(tmp_path):
    store = classified(tmp_path)
    study = analyse(store)
    found = own_gaps(study)
    assert {g.contrast for g in found} == {"full", "rank", "storage"}
    assert {g.source for g in found} == {"your films"}
    full = next(g for g in found if g.contrast == "full" and g.rank == 16)
    means = {s.method: s.mean("accuracy") for s in study.summaries if s.label and s.method == "full"}
    assert full.against_score == pytest.approx(100 * means["full"])
    assert full.value == pytest.approx(full.score - full.against_score, abs=1e-6)
    assert full.noise > 0
    (sentence,) = published_tables(make_view(store))
    assert sentence.startswith("Published tables of classification (")
    assert "rank 4 " in sentence and "rank 16" in sentence
