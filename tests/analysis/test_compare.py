"""Paired differences, against scipy and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lorabench.analysis.compare import compare, references
from lorabench.analysis.conditions import replicates
from lorabench.analysis.pairing import Pairing
from lorabench.config import expand
from lorabench.config.settings import ComparisonSpec
from tests.report.stores import STUDY, study_of


def data(**values: dict[int | None, float]) -> pd.DataFrame:
    rows = [
        {"cell": f"{c}{s}", "condition": c, "seed": s, "outcome": "finished", "eval_loss": v}
        for c, by_seed in values.items()
        for s, v in by_seed.items()
    ]
    made = pd.DataFrame(rows)
    made["seed"] = made["seed"].astype("Float64").astype("Int64")
    return made


def only(frame: pd.DataFrame):  # type: ignore[no-untyped-def]
    return next(iter(compare(Pairing(frame), {"a": "b"}, ["eval_loss"], ComparisonSpec())), None)


def test_interval_and_p_are_those_of_the_paired_t_test() -> None:
    a, b = [2.1, 2.4, 2.2, 2.6], [2.0, 2.1, 2.2, 2.2]
    found = only(data(a=dict(enumerate(a)), b=dict(enumerate(b))))
    oracle = stats.ttest_rel(a, b)
    interval = oracle.confidence_interval(0.95)
    assert (found.low, found.high, found.p_value) == pytest.approx((interval.low, interval.high, oracle.pvalue))
    assert found.difference == pytest.approx(0.2)
    assert found.pairs == 4


def test_two_seeds_by_hand() -> None:
    found = only(data(a={0: 1.1, 1: 1.3}, b={0: 1.0, 1: 1.0}))
    half = 12.7062047 * math.sqrt(0.02) / math.sqrt(2)  # t(0.975, 1 df), std of 0.1 and 0.3
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half))
    assert not found.decisive


def test_only_seeds_of_both_sides_pair() -> None:
    found = only(data(a={0: 1.0, 1: 2.0, 7: 90.0}, b={1: 1.5, 0: 0.4, 8: -90.0}))
    assert found.pairs == 2
    assert found.difference == pytest.approx(0.55)


def test_one_pair_has_no_interval_and_is_never_decisive() -> None:
    found = only(data(a={0: 1.0}, b={0: 0.5}))
    assert (found.pairs, found.low, found.high, found.p_value) == (1, None, None, None)
    assert not found.decisive


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_differences_that_do_not_vary_have_no_interval(shift: float) -> None:
    found = only(data(a={0: 0.3 + shift, 1: 0.7 + shift}, b={0: 0.3, 1: 0.7}))
    assert found.difference == pytest.approx(shift)
    assert found.low is None
    assert found.p_value is None


def test_without_a_common_seed_there_is_no_comparison() -> None:
    assert only(data(a={0: 1.0}, b={1: 1.0})) is None
    assert only(data(a={None: 1.0}, b={0: 1.0})) is None
    assert only(data(a={0: 1.0})) is None


def test_unfinished_replicates_do_not_count() -> None:
    frame = data(a={0: 1.0, 1: 5.0}, b={0: 0.5, 1: 0.5})
    frame.loc[1, "outcome"] = "diverged"
    assert only(frame).pairs == 1


def test_intervals_cover_the_true_difference_as_often_as_they_say() -> None:
    draw, covered = np.random.default_rng(0), 0
    for _ in range(600):
        shared = draw.normal(0, 1, 4)
        a, b = 0.3 + shared + draw.normal(0, 0.2, 4), shared + draw.normal(0, 0.2, 4)
        found = only(data(a=dict(enumerate(a)), b=dict(enumerate(b))))
        covered += found.low <= 0.3 <= found.high
    assert 0.92 < covered / 600 < 0.975


def names(folder: Path, text: str) -> dict[str, str]:
    study = study_of(folder, text)
    groups = replicates(expand(study))
    said = {
        g.condition: f"{g.setting.method.name} {g.setting.method.rank} {g.setting.quantization.name}" for g in groups
    }
    return {said[c]: said[r] for c, r in references(study, groups).items()}


def test_full_fine_tuning_is_the_reference_by_default(tmp_path: Path) -> None:
    found = names(tmp_path, STUDY.replace("reference: {method: {name: full}}\n", ""))
    assert len(found) == 7
    assert set(found.values()) == {"full None none"}


def test_without_full_fine_tuning_there_is_none(tmp_path: Path) -> None:
    text = STUDY.replace("reference: {method: {name: full}}\n", "").replace(
        "  - {method: {name: full}, quantization: none, training.learning_rate: 1e-3}\n", ""
    )
    assert names(tmp_path, text) == {}


def test_a_partial_reference_takes_the_nearest_match(tmp_path: Path) -> None:
    found = names(
        tmp_path,
        STUDY.replace(
            "reference: {method: {name: full}}",
            "reference: {method: {name: lora}, quantization: none, method.rank: 16}",
        ),
    )
    assert found["lora 16 nf4"] == "lora 16 none"
    assert "lora 16 none" not in found


def test_verdicts_of_a_family_are_corrected_by_holm() -> None:
    draw = np.random.default_rng(3)
    reference = draw.normal(2, 0.1, 5)
    values = {
        f"c{i}": dict(enumerate(reference + shift + draw.normal(0, 0.02, 5)))
        for i, shift in enumerate((0.0, 0.03, 0.06, 0.5))
    }
    frame = data(r=dict(enumerate(reference)), **values)
    found = compare(Pairing(frame), dict.fromkeys(values, "r"), ["eval_loss"], ComparisonSpec(loss_margin=0.01))
    alone = sorted((stats.ttest_rel(list(v.values()), reference).pvalue, c) for c, v in values.items())
    running, wanted = 0.0, {}
    for place, (p, c) in enumerate(alone):
        running = max(running, min(1.0, (4 - place) * p))
        wanted[c] = running
    assert {c.condition: c.p_adjusted for c in found} == pytest.approx(wanted)
    assert all(c.decisive == (wanted[c.condition] < 0.05) for c in found)
    assert [c.verdict for c in found[:1]] + [c.verdict for c in found[3:]] == ["not decisive", "worse"]


def test_a_small_difference_is_equivalent_even_where_it_is_decisive() -> None:
    a, b = [1.001, 1.102, 1.203, 1.302], [1.0, 1.1, 1.2, 1.3]
    found = next(
        iter(
            compare(
                Pairing(data(a=dict(enumerate(a)), b=dict(enumerate(b)))),
                {"a": "b"},
                ["eval_loss"],
                ComparisonSpec(loss_margin=0.02),
            )
        )
    )
    assert found.decisive
    assert found.verdict == "equivalent"
    strict = next(
        iter(
            compare(
                Pairing(data(a=dict(enumerate(a)), b=dict(enumerate(b)))),
                {"a": "b"},
                ["eval_loss"],
                ComparisonSpec(loss_margin=0.002),
            )
        )
    )
    assert strict.verdict == "worse"


def test_a_missing_significance_is_no_equivalence() -> None:
    found = only(data(a={0: 1.5, 1: 0.6, 2: 1.0}, b={0: 1.0, 1: 1.0, 2: 1.0}))
    assert not found.decisive
    assert not found.equivalent
    assert found.verdict == "not decisive"


def test_a_tuned_condition_finds_its_reference_by_its_grid(tmp_path: Path) -> None:
    text = STUDY.replace("learning_rate: 3e-3}", "learning_rate: {tune: [1e-3, 3e-3]}}")
    assert len(names(tmp_path, text)) == 7
