"""What is dominated, on the Pareto front and without a place on it: planted, and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lorabench.analysis.aggregate import aggregate
from lorabench.analysis.pairing import Pairing
from lorabench.analysis.pareto import pareto
from lorabench.analysis.verdict import Verdicts
from lorabench.record.result import CellResult
from lorabench.report import answer_text
from lorabench.report.blocks import Points
from lorabench.report.view import make_view
from tests.analysis.decided import PLANTED, THREE, ZERO, with_values
from tests.report.stores import STUDY, filled


def test_only_what_is_worse_beyond_doubt_is_dominated(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, THREE, with_values(PLANTED)))
    found = {
        view.analysis.label(p.condition): p
        for p in pareto(view.analysis.summaries, "eval_loss", view.analysis.verdicts)
    }
    assert {n: p.tier for n, p in found.items()} == {
        "LoRA r=1": "front",
        "LoRA r=1 nf4": "dominated",
        "LoRA r=4": "front",
        "LoRA r=4 nf4": "level",
        "LoRA r=16 nf4": "front",
        "LoRA r=16": "level",
        "full": "front",
    }
    assert view.analysis.label(found["LoRA r=16"].by or "") == "LoRA r=16 nf4", (
        "0.01 nats behind, beyond doubt, and within the margin of 0.02"
    )
    one = make_view(filled(tmp_path / "one", STUDY.replace("seeds: [0, 1]", "seeds: [0]"), with_values(PLANTED)))
    assert not any(p.tier == "dominated" for p in pareto(one.analysis.summaries, "eval_loss", one.analysis.verdicts)), (
        "one seed puts nothing beyond doubt"
    )


def test_a_condition_with_broken_cells_neither_stands_on_the_front_nor_wins(tmp_path: Path) -> None:
    """The best and the smallest by far, of the seeds that finished."""
    from lorabench.analysis.pareto import MEMORY
    from lorabench.sections import accuracy_memory

    change = with_values(PLANTED | {("lora", 1, "none"): (1.0, 1e5)}, noise=0.0004)

    def broken(result: CellResult) -> CellResult:
        hit = result.cell.method.rank == 1 and result.cell.quantization.name == "none" and result.cell.seed == 2
        return result.model_copy(update={"outcome": "diverged", "readings": ()}) if hit else change(result)

    view = make_view(filled(tmp_path, THREE, broken))
    hit = next(s.condition for s in view.analysis.summaries if s.label.text == "LoRA r=1")
    points = {p.condition: p for p in accuracy_memory.compute(view)}
    assert points[hit].tier == "broken"
    assert points[hit].memory == min(p.memory for p in points.values())
    assert all(p.by != hit for p in points.values())
    whole = [p for c, p in points.items() if c != hit]
    cheapest = min(whole, key=lambda p: p.memory)
    assert cheapest.tier == "front", "what a broken one would have dominated stands where it stood without it"
    shown = accuracy_memory.section(view)
    assert shown is not None
    words = " ".join(shown.blocks[-1].alternative)  # type: ignore[union-attr]
    assert (
        "LoRA r=1: held-out loss 1.000" in words
        and "of 3 cells 1 did not finish, so it has no place on the front" in words
    )
    (listed,) = (b for b in shown.blocks if isinstance(b, Points))
    assert (
        "Not placed, since some of their cells did not finish and the mean of the others flatters them: LoRA r=1."
        in listed.items[-1]
    )
    front = next(
        x for x in accuracy_memory.drawing(view, accuracy_memory.compute(view)).lines if x.label == "Pareto front"
    )
    assert points[hit].memory not in [1e6 * x for x in front.x]
    c = view.analysis.comparison("eval_loss", hit)
    assert c is not None and c.decisive and c.difference < 0
    assert c.verdict == "not decisive", "of survivors nothing good is said"
    assert answer_text.sentence(view, c).endswith("not decisive, since 1 cell of it did not finish, which flatters it.")
    assert view.analysis.summary(hit).mean(MEMORY) is not None


def test_of_equal_conditions_few_are_called_dominated(tmp_path: Path) -> None:
    """Twelve alphas that change nothing, at rising memory, three seeds: over 100 draws of the noise."""
    view = make_view(
        filled(tmp_path, ZERO.replace("SEEDS", "[0, 1, 2]").replace("[8, 16, 32, 64]", str(list(range(8, 20)))))
    )
    draw, hit = np.random.default_rng(0), 0
    for _ in range(100):
        data = view.analysis.data.assign(
            eval_loss=2 + 0.01 * draw.standard_normal(len(view.analysis.data)),
            train_peak_bytes=1e6 * view.analysis.data["alpha"],
        )
        hit += any(
            p.tier == "dominated"
            for p in pareto(
                aggregate(view.analysis.groups, data),
                "eval_loss",
                Verdicts(Pairing(data), view.analysis.study.comparison),
            )
        )
    assert hit <= 12
