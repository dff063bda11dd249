"""A table of the user's own, imported, beside the model and the task that it is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorabench.advice.evidence import Here
from lorabench.advice.from_study import comparison_groups_in
from lorabench.advice.own_gaps import own_gaps
from lorabench.analysis.study import analyse
from lorabench.api.imports import import_results
from lorabench.evidence.gaps import Gap
from lorabench.record.archive import opened

HERE = Here("meta-llama/Llama-3.1-8B", 8_030_000_000, "llama", 40_000_000, "instruct", kind="math")


def imported(folder: Path, seeds: int, model: str = "llama-3.1-8b") -> Path:
    """Full fine-tuning and two ranks; neither the model's size nor the tokens are told."""
    rows = ["model,task,method,rank,alpha,target_modules,learning_rate,seed,accuracy,items"]
    for seed in range(seeds):
        rows.append(f"{model},math,full,,,,2e-5,{seed},{62 + 0.3 * seed},1319")
        rows += [
            f"{model},math,lora,{r},16,all-linear,2e-4,{seed},{s + 0.4 * seed},1319" for r, s in ((8, 52), (64, 60))
        ]
    (folder / "mine.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    import_results("csv", folder / "mine.csv", folder / "out")
    return folder / "out"


@pytest.mark.parametrize(
    ("model", "distance", "far"),
    [("llama-3.1-8b", 0.0, ""), ("some-model", float("inf"), "an unknown number of parameters, here 8.03B")],
)
def test_a_table_that_names_the_model_and_the_kind_of_task_is_near_though_it_tells_no_size(
    tmp_path, model, distance, far
):
    with opened(imported(tmp_path, 2, model)) as store:
        (group,) = comparison_groups_in(analyse(store), HERE, tmp_path)
    assert (group.distance, group.far) == (distance, far)


def test_one_seed_has_no_gap_to_pool_and_three_have(tmp_path):
    for seeds, contrasts in ((1, set()), (3, {"full", "rank"})):
        folder = tmp_path / str(seeds)
        folder.mkdir()
        with opened(imported(folder, seeds)) as store:
            assert {g.contrast for g in own_gaps(analyse(store))} == contrasts


def gaps_of(folder: Path, rows: list[str]) -> dict[tuple[str, float | None], Gap]:
    """Of a table of two seeds, by contrast and rank; each row is method, rank, modules, rate, steps and score."""
    lines = ["model,task,method,rank,target_modules,learning_rate,steps,accuracy,seed,items"]
    lines += [f"llama-3.1-8b,math,{row},{seed},1319" for row in rows for seed in (0, 1)]
    (folder / "mine.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    import_results("csv", folder / "mine.csv", folder / "out")
    with opened(folder / "out") as store:
        found = own_gaps(analyse(store))
    assert len({(g.contrast, g.rank) for g in found}) == len(found)
    return {(g.contrast, g.rank): g for g in found}


def test_of_several_rates_the_best_enters_and_one_rate_for_all_is_untuned(tmp_path):
    searched, shared = tmp_path / "searched", tmp_path / "shared"
    for folder in (searched, shared):
        folder.mkdir()
    found = gaps_of(
        searched,
        ["full,,,2e-4,100,40", "full,,,2e-5,100,62", "lora,8,all-linear,2e-5,100,30", "lora,8,all-linear,2e-4,100,60"],
    )
    (gap,) = found.values()
    assert (gap.score, gap.against_score, gap.untuned) == (pytest.approx(60), pytest.approx(62), False)
    rows = ["full,,,2e-4,100,40", "lora,8,all-linear,2e-4,100,58", "lora,64,all-linear,2e-4,100,60"]
    assert {g.untuned for g in gaps_of(shared, rows).values()} == {True}


def test_ranks_of_other_modules_are_not_held_against_each_other_and_another_length_is_flagged(tmp_path):
    found = gaps_of(
        tmp_path,
        [
            "full,,,2e-5,200,64",
            "lora,4,q_proj,3e-4,100,50",
            "lora,8,all-linear,3e-4,100,58",
            "lora,64,all-linear,2e-4,200,61",
        ],
    )
    assert {key: g.unequal for key, g in found.items()} == {
        ("full", 4): True,
        ("full", 8): True,
        ("full", 64): False,
        ("rank", 64): True,
    }
    assert found["rank", 64].against_rank == 8
