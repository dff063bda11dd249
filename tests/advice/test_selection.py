"""The choice among a study's conditions: never worse with more memory, never larger with more tolerance, and no
preference where nothing is decided."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lorabench.advice.selection import Option, comparison_groups, enough, select, trained_options, tuned
from lorabench.record.result import CellResult
from lorabench.report.view import View, make_view
from tests.report.stores import STUDY, filled

INF = float("inf")


def option(
    name: str,
    parameters: int,
    bound: float | None,
    *,
    worse: float = 0.01,
    peak: int | None = 100,
    family: int = -1,
    rank: int | None = None,
    cost: str = "",
) -> Option:
    return Option(name, name, family, rank, cost or name, parameters, peak, 2.0 + worse, worse, bound, 3)


def test_with_one_seed_nothing_is_chosen_the_best_mean_neither() -> None:
    best = replace(option("best", 40, 0.0, worse=0.0), repeated=False, seeds=1, best=True)
    other = replace(option("other", 10, 0.001), repeated=False, seeds=1)
    for tolerated in (0.0, 0.02, 1e9):
        assert select((best, other), tolerated) is None
    assert select((replace(best, repeated=True, seeds=2), other), 0.02) is not None


def ranks(bounds: dict[int, float | None], best: int) -> tuple[Option, ...]:
    """One family whose best rank is given."""
    return tuple(
        option(f"r{r}", 10 * r, b, worse=0.0 if r == best else 0.01, peak=100 + r, family=0, rank=r)
        for r, b in bounds.items()
    )


def random_options(seed: int, n: int = 12) -> tuple[Option, ...]:
    """Families, loners, ties, missing peaks and missing bounds; one is the best."""
    draw = random.Random(seed)
    made = []
    for i in range(n):
        family = draw.choice((-1, 0, 1))
        worse = draw.choice((0.0, 0.01, 0.02, 0.05))
        bound = draw.choice((None, worse + 0.01, worse + 0.02, worse + 0.2))
        peak, parameters = draw.choice((None, 100, 120, 150, 200)), draw.choice((10, 20, 40))
        made.append(
            option(
                f"{i:02}", parameters, bound, worse=worse, peak=peak, family=family, rank=i + 1 if family >= 0 else None
            )
        )
    made[0] = option("best", 40, 0.0, worse=0.0, peak=200)
    return tuple(made)


def key(o: Option | None) -> tuple[float, float, str]:
    """By which one choice is better than another."""
    return (INF, INF, "") if o is None else (o.trainable_parameters, o.peak_bytes or 0, o.condition)


def names(given: Sequence[Option], tolerated: float) -> list[str]:
    return [o.label for o in given if enough(o, given, tolerated)]


@pytest.mark.parametrize("seed", range(20))
def test_more_memory_or_more_tolerance_never_gives_a_worse_choice(seed: int) -> None:
    given = random_options(seed)
    limits = [50.0, 100.0, 120.0, 199.0, 200.0, 1e9, None]
    tolerances = [0.0, 0.01, 0.02, 0.03, 0.1, 1.0]
    for tolerated in tolerances:
        found = [key(select(given, tolerated, m)) for m in limits]
        assert found == sorted(found, reverse=True)
        assert found[0] == key(None)
    for memory in limits:
        found = [key(select(given, t, memory)) for t in tolerances]
        assert found == sorted(found, reverse=True)


def test_without_a_measured_peak_an_option_is_chosen_only_where_there_is_no_limit() -> None:
    given = (option("best", 40, 0.0, worse=0.0), option("unknown", 10, 0.01, peak=None))
    assert key(select(given, 0.02))[2] == "unknown"
    assert key(select(given, 0.02, 1e15))[2] == "best"
    assert select(given, 0.02, 99) is None


def test_a_rank_that_fails_ends_the_chain() -> None:
    given = ranks({1: 0.015, 2: 0.03, 4: 0.01, 16: 0.0}, best=16)
    assert names(given, 0.02) == ["r4", "r16"]  # rank 1 is within 0.02 by luck alone
    assert key(select(given, 0.02))[2] == "r4"
    assert key(select(given, 0.03))[2] == "r1"


def test_a_rank_above_its_familys_best_is_tested_alone() -> None:
    given = ranks({4: 0.01, 8: 0.0, 16: 0.5, 32: 0.01}, best=8)
    assert names(given, 0.02) == ["r4", "r8", "r32"]


def test_what_has_no_bound_is_never_chosen() -> None:
    given = (option("best", 40, 0.0, worse=0.0), option("silent", 10, None, worse=0.0))
    assert [key(select(given, t))[2] for t in (0.0, 10.0)] == ["best", "best"]
    assert select(given[1:], 10.0) is None


def test_of_equal_parameters_the_least_memory_is_chosen() -> None:
    given = (option("best", 40, 0.0, worse=0.0), option("a", 10, 0.01, peak=120), option("b", 10, 0.01, peak=110))
    assert key(select(given, 0.02))[2] == "b"


def test_of_one_cost_the_best_mean_is_chosen_whatever_the_noise_of_the_peak() -> None:
    given = (
        option("best", 40, 0.0, worse=0.0, peak=200),
        option("fast", 10, 0.019, worse=0.015, peak=109, cost="r8"),
        option("right", 10, 0.012, worse=0.01, peak=110, cost="r8"),
    )
    assert key(select(given, 0.02))[2] == "right"
    assert key(select(given, 0.02, 109)) == key(None)  # a peak below it by noise alone makes no room
    assert [o.label for o in tuned(given)] == ["best", "right"]


def of(view: View) -> tuple[Option, ...]:
    (groups,) = comparison_groups(view.analysis.groups)
    return trained_options(groups, view.analysis.summaries, view.analysis.verdicts, view.analysis.metric)


def test_the_options_of_a_store_stand_beside_the_best_and_hold_no_untrained_base(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path))
    given = of(view)
    assert [o.label for o in given] == [s.label.text for s in view.analysis.summaries if s.method != "base"]
    best = [o for o in given if o.bound == 0.0]
    assert [o.label for o in best] == ["full"]
    assert all(o.worse == pytest.approx(o.mean - best[0].mean) for o in given)
    assert all(o.bound > o.worse for o in given if o is not best[0] and o.bound is not None)
    assert {o.family for o in given if o.rank} == {0, 1}  # with and without nf4
    assert best[0].family == -1
    assert key(select(given, 0.02))[2] == best[0].condition


def test_one_seed_is_judged_over_items(tmp_path: Path) -> None:
    given = of(make_view(filled(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0]"))))
    assert all(o.seeds == 1 and o.bound is not None for o in given)


def test_a_condition_with_a_broken_replicate_is_no_option(tmp_path: Path) -> None:
    def breaks(result: CellResult) -> CellResult:
        return (
            result.model_copy(update={"outcome": "failed"})
            if result.cell.method.rank == 16 and result.cell.seed == 0
            else result
        )

    assert not [o for o in of(make_view(filled(tmp_path, change=breaks))) if o.rank == 16]


def test_conditions_of_two_models_are_never_held_against_each_other(tmp_path: Path) -> None:
    text = STUDY.replace(
        "  method.rank: [1, 4, 16]\n  quantization: [none, nf4]\n",
        "  model: [lorabench/tiny-300k, lorabench/tiny-1m]\n  method.rank: [1, 4]\n",
    )
    assert sorted(len(g) for g in comparison_groups(make_view(filled(tmp_path, text)).analysis.groups)) == [
        2,
        4,
    ]  # full and base are of the first alone


def test_a_metric_without_better_and_worse_has_no_options(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path))
    (groups,) = comparison_groups(view.analysis.groups)
    assert trained_options(groups, view.analysis.summaries, view.analysis.verdicts, "train_tokens") == ()
    higher = trained_options(groups, view.analysis.summaries, view.analysis.verdicts, "python-docs-cloze/acc")
    assert all(o.worse >= 0 for o in higher)
