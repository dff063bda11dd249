"""One comparison, one verdict: answer, table, rank curve, gap, front, recommendation and `lorabench recommend` say the
same of the same pair, on many stores."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from lorabench.advice import text as advice_words
from lorabench.advice.candidates import candidate_specs
from lorabench.advice.evidence import FULL, Here
from lorabench.advice.from_study import comparison_groups_in
from lorabench.advice.selection import enough
from lorabench.analysis.verdict import LEVEL_WITH, Comparison, leader
from lorabench.record.result import CellResult, Fault, Reading
from lorabench.report import answer_text, comparison_text, recommendation_text
from lorabench.report.dataframe import conditions
from lorabench.report.tables import table_of
from lorabench.report.view import View, make_view
from lorabench.sections import accuracy_memory, answer, quantization_gap, rank_curve, recommendation
from lorabench.workflows.recommend import recommend
from tests.report.stores import STUDY, filled

MODEL = "lorabench/tiny-300k"
KINDS = {
    "one seed": STUDY.replace("seeds: [0, 1]", "seeds: [0]"),
    "three seeds": STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"),
    "lost cells": STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"),
    "reference lost": STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"),
    "still running": STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"),
    "tuned": (
        STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]").replace(
            "learning_rate: 3e-3}", "learning_rate: {tune: [1e-3, 3e-3]}}"
        )
    ),
    "accuracy": STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]") + "comparison: {metric: python-docs-cloze/acc}\n",
    "reference is a rank": (
        STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]").replace(
            "reference: {method: {name: full}}",
            "reference: {method: {name: lora}, method.rank: 16, quantization: none}",
        )
    ),
}


def store_of(folder: Path, kind: str, draw: int) -> View:
    """Losses near each other, so that every verdict comes up: gaps of some hundredths, noise of some thousandths."""
    rng = random.Random(draw * 101 + len(kind))
    gaps: dict[tuple[str, int | None, str], float] = {}
    noise = rng.choice((0.001, 0.004, 0.02))

    def change(result: CellResult) -> CellResult | None:
        cell = result.cell
        key = (cell.method.name, cell.method.rank, cell.quantization.name)
        gap = gaps.setdefault(key, rng.choice((-0.03, -0.01, 0.0, 0.0, 0.01, 0.03, 0.1)))
        lost = (
            kind == "lost cells" and cell.method.rank in (4, 16) and cell.seed == 2 and cell.quantization.name == "nf4"
        )
        if lost or (kind == "reference lost" and cell.method.name == "full" and cell.seed == 0):
            return result.model_copy(
                update={"outcome": "diverged", "readings": (), "error": Fault(kind="Diverged", message="no")}
            )
        if kind == "still running" and cell.method.rank == 1 and cell.seed == 2:
            return None
        if kind == "accuracy" or cell.method.name == "base":
            return result
        value = 2.0 + 0.05 * cell.seed + gap + noise * rng.gauss(0, 1)
        return result.model_copy(
            update={
                "readings": (
                    *(r for r in result.readings if r.metric != "eval_loss"),
                    Reading(metric="eval_loss", value=value, stderr=0.001, count=64),
                )
            }
        )

    return make_view(filled(folder, KINDS[kind], change))


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], View]:
    folder = tmp_path_factory.mktemp("stores")
    return {
        (kind, draw): store_of(folder / f"{i}-{draw}", kind, draw) for i, kind in enumerate(KINDS) for draw in range(3)
    }


def pair(view: View, ours: str, theirs: str) -> Comparison | None:
    return view.analysis.verdicts.of(view.analysis.metric, ours, theirs)


def test_the_stores_show_every_verdict(views: dict[tuple[str, int], View]) -> None:
    assert {c.verdict for v in views.values() for c in v.analysis.comparisons} == {
        "better",
        "equivalent",
        "non-inferior",
        "worse",
        "not decisive",
    }


def test_no_two_claims_of_a_pair_exclude_each_other(views: dict[tuple[str, int], View]) -> None:
    for view in views.values():
        for c in (c for c in view.analysis.comparisons if c.margin is not None):
            for one in (c, c.mirrored()):
                assert one.within(one.margin or 0.0) == (one.verdict in LEVEL_WITH)
                assert not one.beyond(one.margin or 0.0) or one.verdict == "worse"
                assert not any(one.within(t) and one.beyond(t) for t in (0.0, 0.001, 0.1))
            assert c.mirrored().mirrored() == c
            assert {c.verdict, c.mirrored().verdict} != {"better"} and {c.verdict, c.mirrored().verdict} != {"worse"}


def test_sections_and_table_give_the_pairs_own_verdict(views: dict[tuple[str, int], View]) -> None:
    for view in views.values():
        rows = conditions(view).set_index("condition")
        for c in (c for c in view.analysis.comparisons if c.metric == view.analysis.metric):
            assert rows.loc[c.condition, f"{c.metric}_verdict"] == c.verdict
            assert comparison_text.verdict(c) in answer_text.sentence(view, c)
            assert pair(view, c.condition, c.reference) is c
            assert pair(view, c.reference, c.condition) == c.mirrored()
        for p in accuracy_memory.compute(view):
            told = None if p.by is None else view.analysis.verdicts.own(view.analysis.metric, p.condition, p.by)
            if told is not None and p.tier in ("dominated", "level", "open"):
                assert {"worse": "dominated", "not decisive": "open"}.get(told.verdict, "level") == p.tier
        for curve in rank_curve.curves(view, view.analysis.metric):
            at = {p.rank: p.condition for p in curve.points}
            for step in curve.knee.passed:
                c = pair(view, at[step.rank], at[curve.best or 0])
                assert c is not None and c.verdict in LEVEL_WITH
            if curve.knee.failed is not None and curve.knee.failed.bound is not None:
                c = pair(view, at[curve.knee.failed.rank], at[curve.best or 0])
                assert c is not None and c.verdict not in LEVEL_WITH
        for gap in quantization_gap.compute(view, view.analysis.metric):
            if (
                len(gap.gaps) == 1
                and (
                    c := view.analysis.verdicts.own(
                        view.analysis.metric, gap.gaps[0].condition, gap.gaps[0].unquantized_counterpart
                    )
                )
                is not None
            ):
                assert gap.pooled is not None and gap.pooled.verdict == c.verdict


def test_what_is_recommended_is_level_with_what_the_answer_calls_best(views: dict[tuple[str, int], View]) -> None:
    for view in views.values():
        best = leader(view.analysis.summaries, view.analysis.metric)
        assert best is not None
        assert f"with {best.label.text} (" in answer_text.best_sentence(view)
        (r,) = recommendation.compute(view)
        assert r.best.condition == best.condition
        assert r.best.label in recommendation_text.sentence(r, recommendation.metric(view.analysis.metric))
        for o in r.options:
            c = None if o is r.best else pair(view, o.condition, r.best.condition)
            if enough(o, r.options, r.margin or 0.0) and o is not r.best:
                assert c is not None and c.verdict in LEVEL_WITH
            if c is not None and c.verdict in ("worse", "not decisive"):
                assert o not in r.enough
        (j,) = (j for j, column in enumerate(table_of(view).columns) if column.key == view.analysis.metric)
        bold = {row.condition for row in table_of(view).rows if (v := row.values[j]) and v.best}
        assert not bold or best.condition in bold


def test_recommend_says_of_a_pair_what_the_report_says(views: dict[tuple[str, int], View]) -> None:
    for (kind, _), view in views.items():
        (contest,) = comparison_groups_in(view.analysis, Here(MODEL, 327_680), view.analysis.folder)
        best = leader(view.analysis.summaries, view.analysis.metric)
        assert best is not None and contest.best.condition == best.condition
        full = next(
            (
                g.condition
                for g in view.analysis.groups
                if g.setting.method.name == "full" and view.analysis.summary(g.condition).comparable
            ),
            None,
        )
        for way in contest.results:
            against = full if way.quality.against == FULL and full is not None else contest.best.condition
            if way.option.condition == against:
                continue
            c = pair(view, way.option.condition, against)
            said = advice_words.quality(way.quality)
            assert c is not None
            assert ("shown to be within" in said.replace("not shown", "")) == (c.verdict in LEVEL_WITH), said
            assert ("shown to be beyond" in said) <= (c.verdict == "worse"), said
            if kind == "one seed":
                assert said.endswith("one seed: not decisive)")
                assert way.option.condition == way_best(contest, view, way.key)


def test_one_seed_decides_nothing_anywhere(views: dict[tuple[str, int], View]) -> None:
    for (kind, _), view in views.items():
        seeds = kind != "one seed"
        (r,) = recommendation.compute(view)
        assert (r.chosen is not None, bool(r.enough)) == (seeds, seeds)
        (contest,) = comparison_groups_in(view.analysis, Here(MODEL, 327_680), view.analysis.folder)
        assert contest.decides == seeds
        specs = candidate_specs(327_680, None, {8: 40_960}, contest)
        assert any(s.quality.basis == "measured" for s in specs) == seeds
        if not seeds:
            assert {d.kind for d in answer.compute(view, view.analysis.metric)} == {"open"}
            assert {c.verdict for c in view.analysis.comparisons} == {"not decisive"}
            assert all(s.method.rank in (8, None) for s in specs), "by the rules, not of the study"
            shown = [s for s in specs if contest.result(s.key)]
            assert shown and all(s.evidence[-1].kind == "cells" for s in shown), "its numbers stand beside"


def way_best(contest, view, key):  # type: ignore[no-untyped-def]
    """Of a way's conditions the one of the best mean, which is all that one seed can give."""
    of = [g for g in view.analysis.groups if (g.setting.method.name, g.setting.quantization.name) == key]
    return min(of, key=lambda g: view.analysis.summary(g.condition).mean(view.analysis.metric)).condition


# ---- the two examples


SIX = STUDY.replace("seeds: [0, 1]", "seeds: [0, 1]")


def noisy(result: CellResult) -> CellResult:
    """Every adapter 0.1 nats and more behind full fine-tuning, by an interval of two seeds that leaves out the margin,
    and by no correction for six."""
    cell = result.cell
    if cell.method.name not in ("lora", "full"):
        return result
    wobble = 0.001 * (1 + (cell.method.rank or 0) / 16 + (cell.quantization.name == "nf4"))
    value = 2.0 + (0.0 if cell.method.name == "full" else 0.1 + wobble * 2 * (1 if cell.seed else -1))
    readings = (*(r for r in result.readings if r.metric != "eval_loss"), Reading(metric="eval_loss", value=value))
    return result.model_copy(update={"readings": readings})


@pytest.mark.usefixtures("formula", "nothing_at_hand")
def test_six_that_are_not_decisive_are_not_shown_to_be_beyond_the_margin(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, SIX, noisy))
    found = [c for c in view.analysis.comparisons if c.metric == "eval_loss"]
    assert any(c.low is not None and c.low > 0.02 and c.verdict == "not decisive" for c in found), (
        "alone it would be beyond"
    )
    said = answer_text.counts(
        view, answer.compute_decisions(view.analysis.summaries, view.analysis.comparisons, "eval_loss")
    )
    assert said == ("Of 6 conditions compared with full: 6 not decisive.",)
    asked = recommend(MODEL, "24GB", 128, batch_size=4, studies=[view.analysis.folder])
    text = " ".join(advice_words.as_text(asked).split())
    assert "beyond" not in text
    assert "not decisive once corrected for the 6 comparisons of the study" in text
    assert not [
        q
        for r in advice_words.as_plain(asked)["recommendations"]
        if "within_margin" in (q := r["quality"]) and q["basis"] == "measured" and q["worse"] != 0
    ]


@pytest.mark.usefixtures("formula", "nothing_at_hand")
def test_where_the_best_mean_does_not_stand_first_the_text_says_why(tmp_path: Path) -> None:
    def change(result: CellResult) -> CellResult:
        cell = result.cell
        ahead = (
            -0.02 if (cell.method.rank, cell.quantization.name) == (16, "none") else 0.05 if cell.method.rank else 0.0
        )
        value = 2.0 + ahead + 0.08 * np.sin(7 * cell.seed + (cell.method.rank or 0) + len(cell.quantization.name))
        readings = (
            *(r for r in result.readings if r.metric != "eval_loss"),
            Reading(metric="eval_loss", value=float(value)),
        )
        return result if cell.method.name == "base" else result.model_copy(update={"readings": readings})

    view = make_view(filled(tmp_path, KINDS["three seeds"], change))
    best = leader(view.analysis.summaries, "eval_loss")
    assert best is not None
    for priority in ("accuracy", "memory"):
        asked = recommend(MODEL, "24GB", 128, batch_size=4, studies=[view.analysis.folder], priority=priority)  # type: ignore[arg-type]
        first = asked.ranked[0].candidate
        same = (first.method.name, first.method.rank, first.quantization.name) == (
            best.method,
            next(g.setting.method.rank for g in view.analysis.groups if g.condition == best.condition),
            "none",
        )
        told = [n for n in asked.notes if n.startswith(f"By its mean {best.label.text} is the best of small; ")]
        assert bool(told) != same
    assert told and told[0].endswith("the order here is by memory.")
