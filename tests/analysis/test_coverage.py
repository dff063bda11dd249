"""Intervals cover the planted truth as often as they say: 200 studies drawn through the synthetic executor's surface.

Every study has three seeds of its own and, for the accuracy, 200 items of its own. The noise there is uniform, not
normal, so the losses' t intervals need not be exact; 95 % of 200 has a standard deviation of 1.5 points.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from lorabench.analysis.pairing import Pairing
from lorabench.config import Cell, expand
from lorabench.record.items import Items
from tests.report.stores import study_of
from tests.synthetic import GAP, QUANTIZED, expected, items

STUDIES, SEEDS = 200, 3
TEXT = """
schema: 1
name: many
model: lorabench/tiny-300k
task: {name: python-docs}
method: {name: lora, alpha: 16}
training: {steps: 4, learning_rate: 3e-3}
grid: {method.rank: [3, 8], quantization: [none, nf4]}
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Pairing, dict[str, list[dict[str, float]]]]]:
    """For each study its pairing, and the expected readings by condition."""
    conditions = expand(study_of(tmp_path_factory.mktemp("coverage"), TEXT))
    made = []
    for k in range(STUDIES):
        rows, kept, known = [], dict[str, Mapping[str, Items]](), dict[str, list[dict[str, float]]]()
        for first in conditions:
            name = f"r{first.method.rank} {first.quantization.name}"
            for seed in range(SEEDS * k, SEEDS * (k + 1)):
                cell = seeded(first, seed, k)
                readings = expected(cell)
                found = items(cell, readings)
                kept[cell.id] = found
                known.setdefault(name, []).append(readings)
                rows.append(
                    {
                        "cell": cell.id,
                        "condition": name,
                        "seed": seed,
                        "outcome": "finished",
                        "eval_loss": readings["eval_loss"],
                        "set/acc": found[f"set{k}/acc"].value,
                    }
                )
        data = pd.DataFrame(rows)
        made.append((Pairing(data, lambda cell, kept=kept, k=k: {"set/acc": kept[cell][f"set{k}/acc"]}), known))  # type: ignore[misc]
    return made


def seeded(cell: Cell, seed: int, study: int) -> Cell:
    return cell.model_copy(
        update={"seed": seed, "evaluation": cell.evaluation.model_copy(update={"lm_eval": (f"set{study}",)})}
    )


def test_loss_intervals_cover_the_planted_difference(
    drawn: list[tuple[Pairing, dict[str, list[dict[str, float]]]]],
) -> None:
    truths = {
        ("r3 none", "r8 none"): GAP / 2 - GAP / 3,
        ("r3 nf4", "r3 none"): QUANTIZED["nf4"],
        ("r8 nf4", "r3 none"): QUANTIZED["nf4"] + GAP / 3 - GAP / 2,
    }
    for (ours, theirs), truth in truths.items():
        covered = 0
        for pairing, _ in drawn:
            found = pairing.difference("eval_loss", ours, theirs)
            assert found is not None
            assert found.basis == "seeds"
            low, high = found.interval or (0.0, 0.0)
            covered += low <= truth <= high
        assert 0.9 <= covered / STUDIES <= 0.99


def test_accuracy_intervals_cover_the_planted_difference_over_other_items(
    drawn: list[tuple[Pairing, dict[str, list[dict[str, float]]]]],
) -> None:
    chance: dict[str, list[float]] = {}
    for k, (_, known) in enumerate(drawn):
        for name, readings in known.items():
            chance.setdefault(name, []).extend(r[f"set{k}/acc"] for r in readings)
    for ours, theirs in (("r3 none", "r8 none"), ("r3 nf4", "r3 none")):
        truth = statistics.fmean(chance[ours]) - statistics.fmean(chance[theirs])
        covered = over_seeds_alone = 0
        for pairing, _ in drawn:
            found = pairing.difference("set/acc", ours, theirs)
            assert found is not None
            assert found.basis in ("seeds and items", "items")
            low, high = found.interval or (0.0, 0.0)
            covered += low <= truth <= high
            over_seeds_alone += found.seed_error is not None and abs(found.value - truth) <= 4.303 * found.seed_error
        assert covered / STUDIES >= 0.93
        assert over_seeds_alone < covered, "seeds alone forget that other items would give another answer"


def test_a_planted_zero_is_called_different_no_more_often_than_it_may(tmp_path: Path) -> None:
    text = TEXT.replace(
        "grid: {method.rank: [3, 8], quantization: [none, nf4]}", "grid: {method.alpha: [8, 16]}"
    ).replace("alpha: 16", "rank: 3")
    first, second = expand(study_of(tmp_path, text))
    wrong = 0
    for k in range(STUDIES):
        rows = [
            {"cell": c.id, "condition": n, "seed": c.seed, "outcome": "finished", "eval_loss": expected(c)["eval_loss"]}
            for n, one in (("a", first), ("b", second))
            for c in (one.model_copy(update={"seed": s}) for s in range(SEEDS * k, SEEDS * (k + 1)))
        ]
        found = Pairing(pd.DataFrame(rows)).difference("eval_loss", "a", "b")
        assert found is not None
        assert found.p_value is not None
        wrong += found.p_value < 0.05
    assert wrong / STUDIES <= 0.1
