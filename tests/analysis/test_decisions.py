"""Pareto front, decision and twins across studies: planted, and by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lorabench.analysis.decisions import compute_decisions
from lorabench.record.result import CellResult, Reading
from lorabench.report import answer_text
from lorabench.report.blocks import Points
from lorabench.report.view import make_view
from lorabench.sections import answer
from tests.analysis.decided import PLANTED, THREE, ZERO, with_values
from tests.report.stores import filled


def test_the_cheapest_level_condition_is_the_decision(tmp_path: Path) -> None:
    level = PLANTED | {
        ("lora", 16, "none"): (2.1005, 3e6),
        ("lora", 16, "nf4"): (2.1, 2.9e6),
        ("lora", 4, "none"): (2.099, 2e6),
    }
    view = make_view(filled(tmp_path, THREE, with_values(level, noise=0.0005)))
    (found,) = compute_decisions(view.analysis.summaries, view.analysis.comparisons, "eval_loss")
    assert (found.kind, view.analysis.label(found.chosen.condition)) == ("level", "LoRA r=4")
    assert found.memory == pytest.approx(2 / 9)
    assert (found.compared, found.worse, found.equivalent, found.undecided) == (6, 3, 3, 0)
    said = answer_text.decision(view, found)
    assert said.startswith("LoRA r=4 does as well as full: held-out loss −0.001 nats (95 % interval")
    assert "within the margin of 0.02 nats" in said
    assert said.endswith(
        "with 22.2 % of its training memory (a difference from zero is not decisive). It takes the least memory of 3"
        " that do as well or better."
    )


def test_where_all_are_worse_the_nearest_is_named_with_its_interval(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, THREE, with_values(PLANTED)))
    (found,) = compute_decisions(view.analysis.summaries, view.analysis.comparisons, "eval_loss")
    assert found.kind == "behind"
    said = answer_text.decision(view, found)
    assert said.startswith("None of the 6 conditions reaches full: the nearest, LoRA r=16 nf4, ends 0.0")
    assert "95 % interval 0.0" in said and "3 seeds" in said


@pytest.mark.parametrize("seeds", ["[0]", "[0, 1]", "[0, 1, 2, 3, 4]"])
def test_a_planted_zero_is_not_decisive_on_the_first_screen(tmp_path: Path, seeds: str) -> None:
    view = make_view(filled(tmp_path, ZERO.replace("SEEDS", seeds)))
    (found,) = compute_decisions(view.analysis.summaries, view.analysis.comparisons, "eval_loss")
    assert answer_text.decision(view, found).startswith("Not decisive: ")
    assert not any(c.decisive for c in view.analysis.comparisons)


def test_a_condition_with_broken_cells_is_no_decision(tmp_path: Path) -> None:
    change = with_values(PLANTED | {("lora", 1, "none"): (1.0, 1e5)})

    def broken(result: CellResult) -> CellResult:
        hit = result.cell.method.rank == 1 and result.cell.seed == 2
        return result.model_copy(update={"outcome": "diverged"}) if hit else change(result)

    view = make_view(filled(tmp_path, THREE, broken))
    (found,) = compute_decisions(view.analysis.summaries, view.analysis.comparisons, "eval_loss")
    assert view.analysis.label(found.chosen.condition) != "LoRA r=1"


def test_survivors_may_be_called_worse_but_not_as_good(tmp_path: Path) -> None:
    for value, verdict in ((3.5, "worse"), (2.0, "not decisive")):
        change = with_values(
            PLANTED | {("full", None, "none"): (2.0, 9e6), ("lora", 1, "none"): (value, 1e6)}, noise=0.0004
        )

        def broken(result: CellResult, change: Any = change) -> CellResult:
            hit = result.cell.method.rank == 1 and result.cell.seed == 2
            return result.model_copy(update={"outcome": "failed", "readings": ()}) if hit else change(result)

        view = make_view(filled(tmp_path / verdict[:5], THREE, broken))
        c = view.analysis.comparison(
            "eval_loss", next(s.condition for s in view.analysis.summaries if s.label.text == "LoRA r=1")
        )
        assert c is not None
        assert c.verdict == verdict


def test_the_undecided_one_is_named_where_a_nearer_one_is_worse_beyond_doubt(tmp_path: Path) -> None:
    near = PLANTED | {("lora", 16, "none"): (2.16, 3e6), ("lora", 16, "nf4"): (2.9, 2.9e6)}
    sure = with_values(near, noise=0.0004)

    def change(result: CellResult) -> CellResult:
        if (result.cell.method.rank, result.cell.quantization.name) != (4, "none"):
            return sure(result)
        kept = tuple(r for r in result.readings if r.metric != "eval_loss")
        return result.model_copy(
            update={"readings": (*kept, Reading(metric="eval_loss", value=2.3 + 0.4 * (result.cell.seed - 1)))}
        )

    view = make_view(filled(tmp_path, THREE, change))
    (found,) = compute_decisions(view.analysis.summaries, view.analysis.comparisons, "eval_loss")
    assert (found.kind, found.undecided) == ("open", 1)
    said = answer_text.decision(view, found)
    assert said.startswith(
        "Not decisive: the data do not distinguish LoRA r=4, the best by the mean of 1 that are not decided, from full"
    )


def test_a_reference_that_lost_cells_is_said_to_flatter(tmp_path: Path) -> None:
    def lost(result: CellResult) -> CellResult:
        hit = result.cell.method.name == "full" and result.cell.seed == 2
        return result.model_copy(update={"outcome": "diverged"}) if hit else result

    view = make_view(filled(tmp_path, THREE, lost))
    (found,) = compute_decisions(view.analysis.summaries, view.analysis.comparisons, "eval_loss")
    assert answer_text.decision(view, found).endswith(
        "1 cell of full did not finish, and those that did may flatter it."
    )


def test_an_interval_in_a_sentence_holds_the_size_that_stands_before_it(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, THREE))
    told = 0
    for c in (c for c in view.analysis.comparisons if c.low is not None):
        said = answer_text.sentence(view, c)
        found = re.search(r"ends ([\d.]+) \S+ (above|below) .*interval\D*? ([−\d.]+) to ([−\d.]+),", said)
        assert found, said
        size, low, high = (float(found[i].replace("−", "-")) for i in (1, 3, 4))
        assert low <= size <= high, said
        told += found[2] == "below"
    assert told > 3


TWO_FAMILIES = """
schema: 1
name: families
model: lorabench/tiny-300k
task: {name: python-docs}
method: {name: lora, rank: 4, alpha: 16}
training: {steps: 40, batch_size: 4, sequence_length: 64, learning_rate: 3e-3}
grid: {quantization: [none, nf4]}
include:
  - {method: {name: dora}, quantization: none}
  - {method: {name: rslora}, quantization: none}
  - {method: {name: pissa}, quantization: none}
seeds: [0, 1, 2]
reference: {method: {name: lora}, quantization: none}
evaluation: {lm_eval: []}
"""


@pytest.mark.parametrize(("width", "decisive"), [(0.04, False), (0.001, True)])
def test_one_comparison_has_one_verdict_in_all_sections(tmp_path: Path, width: float, decisive: bool) -> None:
    """nf4 against its twin: p = 0.049 alone, which is also the only pair of its type, and 0.2 among the study's four
    comparisons."""
    from lorabench.sections import accuracy_memory, quantization_gap

    def change(result: CellResult) -> CellResult:
        cell, nf4 = result.cell, result.cell.quantization.name == "nf4"
        loss = 2.1 + width * (cell.seed - 1) if nf4 else 2.0 if cell.method.name == "lora" else 1.9 + 0.3 * cell.seed
        memory = 2e6 if nf4 else 1e6 if cell.method.name == "lora" else 0.5e6 + 1e5 * len(cell.method.name)
        kept = tuple(r for r in result.readings if r.metric not in ("eval_loss", "train_peak_bytes"))
        return result.model_copy(
            update={
                "readings": (
                    *kept,
                    Reading(metric="eval_loss", value=loss),
                    Reading(metric="train_peak_bytes", value=memory),
                )
            }
        )

    view = make_view(filled(tmp_path, TWO_FAMILIES, change))
    nf4 = next(s.condition for s in view.analysis.summaries if s.label.text == "LoRA r=4 nf4")
    told = view.analysis.comparison("eval_loss", nf4)
    assert told is not None and told.p_value is not None and told.p_value < 0.05
    assert told.verdict == ("worse" if decisive else "not decisive")
    (gap,) = quantization_gap.compute(view, "eval_loss")
    assert gap.pooled is not None
    assert (gap.pooled.verdict, gap.pooled.p_adjusted, gap.pooled.p_equivalent) == (
        told.verdict,
        told.p_adjusted,
        told.p_equivalent,
    )
    assert quantization_gap.headline(view)[0].endswith(
        "worse." if decisive else "not decisive among so many comparisons."
    )
    tier = {p.condition: p.tier for p in accuracy_memory.compute(view)}[nf4]
    assert tier == ("dominated" if decisive else "open")


def test_where_every_condition_lost_cells_the_page_says_so_and_no_reason_is_invented(tmp_path: Path) -> None:
    from lorabench.sections import accuracy_memory

    def change(result: CellResult) -> CellResult:
        hit = result.cell.seed == 1 and result.cell.training.steps
        return result.model_copy(update={"outcome": "out_of_memory", "readings": ()}) if hit else result

    view = make_view(filled(tmp_path, THREE, change))
    assert compute_decisions(view.analysis.summaries, view.analysis.comparisons, "eval_loss") == ()
    found = [c for c in view.analysis.comparisons if c.metric == "eval_loss"]
    assert len(found) == 6 and all(c.broken == 1 for c in found)
    made = answer.section(view)
    assert made is not None
    text = " ".join(b.text for b in made.blocks if hasattr(b, "text"))
    assert "some cells did not finish, so nothing is decided from those that did" in text
    assert "shares a finished seed" not in text, "they do, and are compared below"
    for c in found:
        assert c.difference > 0 and not c.flattered, "what is behind is not flattered into being behind"
        assert c.verdict == "not decisive" and not c.beyond(0.0), (
            "full lost a cell as well, and what is left of it flatters it"
        )
        lost = ": not decisive, since 1 cell of the reference did not finish, which flatters it."
        assert answer_text.sentence(view, c).endswith(
            (lost, ": not decisive among so many comparisons.", ": not decisive.")
        )
    front = accuracy_memory.section(view)
    assert front is not None
    (listed,) = (b for b in front.blocks if isinstance(b, Points))
    assert listed.items[0] == "No condition is on the front: every trained one has cells that did not finish."
