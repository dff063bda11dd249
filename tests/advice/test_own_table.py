"""A table of the user's own, imported, beside the model and the task that it is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorabench.advice.evidence import Here
from lorabench.advice.from_study import comparison_groups_in
from lorabench.advice.own_gaps import own_gaps
from lorabench.analysis.study import analyse
from lorabench.api.imports import import_results
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
