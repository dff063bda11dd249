"""Findings about a study's design and hyperparameters: each appears where it is planted, with its cells and numbers."""

from __future__ import annotations

from pathlib import Path

from lorabench.record.result import CellResult
from tests.analysis.planted import ACC, FIXED, Change, ids, quick, seen, text  # noqa: F401  (a fixture of every test)
from tests.report.stores import ONLY_FULL

# design


def test_a_metric_that_nobody_measured(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(*FIXED, ("{accuracy_margin: 0.1}", "{metric: hellaswag/acc}")))
    sentence = found["metric_absent"].sentence
    assert "is hellaswag/acc, which none of the 4 finished cells has; the report answers with eval_loss" in sentence
    assert ACC in sentence
    assert set(found["metric_absent"].cells) == set(view.analysis.results)


def test_one_seed_and_few_seeds(tmp_path: Path) -> None:
    view, one = seen(tmp_path / "a", text(*FIXED))
    assert one["one_seed"].sentence.startswith("None of the 3 trained conditions")
    assert set(one["one_seed"].cells) == ids(view, lambda r: r.cell.method.name != "base")
    assert "few_seeds" not in one
    _, few = seen(tmp_path / "b", text(*FIXED, seeds="[0, 1, 2]"))
    assert few["few_seeds"].sentence.startswith("3 seeds give wide intervals (a t factor of 4.3")
    assert "one_seed" not in few


def keep_seeds(full: int, four: int) -> Change:
    """Of five seeds so many finished."""
    return lambda r: (
        None if r.cell.seed >= {"full": full, 4: four}.get(r.cell.method.rank or r.cell.method.name, 5) else r
    )


def test_one_condition_with_many_seeds_silences_no_warning_about_the_others(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(*FIXED, seeds="[0, 1, 2, 3, 4]"), keep_seeds(full=3, four=2))
    sentence = found["few_seeds"].sentence
    assert sentence.startswith("2 of 3 trained conditions have 2 to 4 finished seeds (LoRA r=4")
    assert "full 3), which give wide intervals (a t factor of 12.7 with 2" in sentence
    assert set(found["few_seeds"].cells) == ids(view, lambda r: r.cell.method.name == "full" or r.cell.method.rank == 4)
    assert "one_seed" not in found


def test_conditions_with_one_seed_are_named_beside_others_with_more(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(*FIXED, seeds="[0, 1, 2, 3, 4]"), keep_seeds(full=1, four=3))
    assert found["one_seed"].sentence.startswith(
        "1 of 3 trained conditions has a single finished seed (full), so the noise between seeds is unknown: no"
        " difference of theirs"
    )
    assert set(found["one_seed"].cells) == ids(view, lambda r: r.cell.method.name == "full")
    assert found["few_seeds"].sentence.startswith("1 of 3 trained conditions has 2 to 4 finished seeds (LoRA r=4")
    assert set(found["few_seeds"].cells) == ids(view, lambda r: r.cell.method.rank == 4)


def test_a_metric_that_some_conditions_lack_is_told_though_others_have_it(tmp_path: Path) -> None:
    def lost(r: CellResult) -> CellResult:
        return (
            r.model_copy(update={"readings": tuple(x for x in r.readings if x.metric != "eval_loss")})
            if r.cell.method.rank == 4
            else r
        )

    view, found = seen(tmp_path, text(*FIXED), lost)
    assert "comparison.metric is eval_loss, which the one finished cell of LoRA r=4" in found["metric_absent"].sentence
    assert set(found["metric_absent"].cells) == ids(view, lambda r: r.cell.method.rank == 4)


def test_a_comparison_in_another_metric_is_none_in_the_studys_own(tmp_path: Path) -> None:
    """Seeds of the accuracy are shared with the reference, those of the loss are not."""

    def apart(r: CellResult) -> CellResult:
        gone = {"full": 1, 4: 0}.get(r.cell.method.rank or r.cell.method.name)
        return (
            r.model_copy(update={"readings": tuple(x for x in r.readings if x.metric != "eval_loss")})
            if r.cell.seed == gone
            else r
        )

    view, found = seen(tmp_path, text(*FIXED, seeds="[0, 1]"), apart)
    assert "1 of 3 conditions share no finished seed with their reference (full)" in found["no_reference"].sentence
    assert (
        view.analysis.comparison(
            ACC, next(s.condition for s in view.analysis.summaries if s.label.text.startswith("LoRA r=4"))
        )
        is not None
    )


def test_rates_of_a_grid_are_no_seeds(tmp_path: Path) -> None:
    _, found = seen(tmp_path, text(), lambda r: r)
    assert "one_seed" in found


def test_seeds_that_did_not_finish_do_not_count(tmp_path: Path) -> None:
    _, found = seen(tmp_path, text(*FIXED, seeds="[0, 1, 2]"), lambda r: r if r.cell.seed == 0 else None)
    assert "one_seed" in found


def test_untuned_rates_are_named_by_method(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(*FIXED))
    finding = found["untuned_rates"]
    assert "(LoRA 0.003; full 0.001)" in finding.sentence
    assert finding.conditions == ()
    assert set(finding.cells) == ids(view, lambda r: r.cell.method.name != "base")
    assert "shared_rate" not in found


def test_where_some_rates_are_tuned_the_others_are_named(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(FIXED[1]))
    finding = found["untuned_rates"]
    assert "for 1 of 3 trained conditions (full 0.001)" in finding.sentence
    assert finding.conditions == ("full",)
    assert set(finding.cells) == ids(view, lambda r: r.cell.method.name == "full")


def test_a_rate_that_full_and_adapters_share(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(FIXED[0], (", training.learning_rate: {tune: [1e-4, 1e-3, 1e-2]}", "")))
    finding = found["shared_rate"]
    assert "Adapters and full fine-tuning share one learning rate (0.003)" in finding.sentence
    assert set(finding.cells) == ids(view, lambda r: r.cell.method.name != "base")
    assert "untuned_rates" not in found


def test_a_rate_that_all_methods_share(tmp_path: Path) -> None:
    full = "{method: full, training.learning_rate: {tune: [1e-4, 1e-3, 1e-2]}}"
    _, found = seen(
        tmp_path, text(FIXED[0], (full, "{method: {name: dora, rank: 4, alpha: 8}}"), ("{name: full}", "{name: dora}"))
    )
    assert found["shared_rate"].sentence.startswith("LoRA and DoRA share one learning rate (0.003)")


def test_a_rate_that_is_an_axis_is_no_untuned_rate(tmp_path: Path) -> None:
    axis = ("include:", "grid: {training.learning_rate: [1e-3, 3e-3], method: [lora, full]}\ninclude:")
    _, found = seen(
        tmp_path,
        text(
            *FIXED,
            axis,
            ("  - {method: {name: lora, rank: 16, alpha: 32}}\n", ""),
            ("  - {method: full, training.learning_rate: 1e-3}\n", ""),
            ("reference: {method: {name: full}}", "reference: {method: {name: full}, training.learning_rate: 1e-3}"),
        ),
    )
    assert not {"untuned_rates", "shared_rate"} & set(found)


def test_a_rate_at_the_edge_says_on_which_side(tmp_path: Path) -> None:
    view, found = seen(
        tmp_path, text(("[3e-4, 3e-3, 3e-2]", "[3e-4, 1e-3, 3e-3]"), ("[1e-4, 1e-3, 1e-2]", "[1e-3, 1e-2, 3e-2]"))
    )
    finding = found["edge_rate"]
    assert finding.sentence.startswith("3 of 3 chosen learning rates are at the edge of their grid")
    assert "the lowest was chosen by full (0.001 of 0.001 to 0.03): try lower ones" in finding.sentence
    assert "(0.003 of 0.0003 to 0.003)" in finding.sentence
    assert "try higher ones" in finding.sentence
    assert set(finding.cells) == ids(
        view,
        lambda r: (
            r.cell.tuned_over != ()
            and r.cell.training.fixed_learning_rate == (1e-3 if r.cell.method.name == "full" else 3e-3)
        ),
    )


def test_alpha_that_stays_while_the_rank_varies(tmp_path: Path) -> None:
    view, found = seen(tmp_path / "a", text(*FIXED, ("rank: 16, alpha: 32", "rank: 16, alpha: 8")))
    assert "LoRA: alpha 8, alpha / rank from 2 at rank 4 to 0.5 at rank 16" in found["scaling_moves"].sentence
    assert set(found["scaling_moves"].cells) == ids(view, lambda r: r.cell.method.name == "lora")
    rslora = (("rank: 16, alpha: 32", "rank: 16, alpha: 8"), ("name: lora", "name: rslora"))
    assert (
        "alpha / sqrt(rank) from 4 at rank 4 to 2 at rank 16"
        in seen(tmp_path / "b", text(*FIXED, *rslora))[1]["scaling_moves"].sentence
    )


def test_a_grid_of_ranks_and_alphas_keeps_a_line_of_one_scaling(tmp_path: Path) -> None:
    grid = ("include:", "grid: {method.rank: [4, 8], method.alpha: [8, 16]}\ninclude:")
    assert "scaling_moves" not in seen(tmp_path, text(*FIXED, grid))[1]


def test_nothing_to_compare_with(tmp_path: Path) -> None:
    alone = seen(tmp_path / "a", ONLY_FULL)[1]["no_reference"]
    assert alone.sentence.startswith("full is the only condition")
    view, found = seen(
        tmp_path / "b", text(*FIXED, ("reference: {method: {name: full}}", "reference: {method: {name: base}}"))
    )
    assert "3 of 3 conditions share no finished seed with their reference (base)" in found["no_reference"].sentence
    assert set(found["no_reference"].cells) == ids(view, lambda r: r.cell.method.name != "base")
    without = text(
        *FIXED, ("reference: {method: {name: full}}\n", ""), ("  - {method: full, training.learning_rate: 1e-3}\n", "")
    )
    assert "2 of 2 conditions have no reference (LoRA r=4" in seen(tmp_path / "c", without)[1]["no_reference"].sentence
