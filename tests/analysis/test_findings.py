"""Findings follow from the data: each appears where it is planted, with its cells and numbers, and none in a clean
study."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from lorabench.analysis.findings.base import Finding, Kind, Severity
from lorabench.analysis.findings.registry import CHECKS, check
from lorabench.analysis.findings.training import fall
from lorabench.analysis.findings.values import choices
from lorabench.config import expand
from lorabench.record import store as stores_module
from lorabench.record.result import CellResult, Fault, Reading
from lorabench.record.unreached import Unreached
from lorabench.report import view as view_module
from lorabench.report.blocks import Code, Notice, Text
from lorabench.report.view import View, make_view
from lorabench.sections import findings as section_module
from tests import synthetic
from tests.report.stores import ONLY_FULL, filled, study_of

Change = Callable[[CellResult], CellResult | None]
ACC = "python-docs-cloze/acc"
CLEAN = """
schema: 1
name: clean
model: lorabench/tiny-300k
task: {name: python-docs}
method: {name: lora, rank: 4, alpha: 8}
training: {steps: 40, batch_size: 4, sequence_length: 64, learning_rate: {tune: [3e-4, 3e-3, 3e-2]}}
include:
  - {method: {name: lora, rank: 16, alpha: 32}}
  - {method: full, training.learning_rate: {tune: [1e-4, 1e-3, 1e-2]}}
  - {method: base}
seeds: [0, 1, 2, 3, 4]
reference: {method: {name: full}}
evaluation: {lm_eval: [python-docs-cloze], limit: 200}
comparison: {accuracy_margin: 0.1}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No spectra and no fsync: a third of the time is left."""
    monkeypatch.setattr(synthetic, "spectra", lambda cell: ())
    monkeypatch.setattr(synthetic, "directions", lambda cell: {})
    monkeypatch.setattr(synthetic, "truncations", lambda cell, learned: ())
    monkeypatch.setattr(stores_module, "sync", lambda path: None)


def text(*changes: tuple[str, str], seeds: str = "[0]") -> str:
    """The clean study with few seeds and with changes, each of which must find its place."""
    made = CLEAN
    for old, new in (("[0, 1, 2, 3, 4]", seeds), *changes):
        assert old in made, old
        made = made.replace(old, new)
    return made


FIXED = (("{tune: [3e-4, 3e-3, 3e-2]}", "3e-3"), ("{tune: [1e-4, 1e-3, 1e-2]}", "1e-3"))


def seen(folder: Path, study: str, change: Change = lambda r: r) -> tuple[View, dict[str, Finding]]:
    store = filled(folder, study, change)
    view, planned = make_view(store), {c.id for c in store.plan()}
    for f in view.findings:
        assert any(c.isdigit() for c in f.sentence) or any(c in f.sentence for c in f.conditions), (
            f"{f.kind} names no value"
        )
        assert set(f.cells) <= planned
        assert len(f.cells) == len(set(f.cells)) > 0
        assert len(f.conditions) == len(set(f.conditions))
    return view, {f.kind: f for f in view.findings}


def ids(view: View, wanted: Callable[[CellResult], bool]) -> set[str]:
    return {i for i, r in view.analysis.results.items() if wanted(r)}


def with_values(result: CellResult, **values: float) -> CellResult:
    """The result with other values; acc stands for the accuracy."""
    named = {(ACC if name == "acc" else name): v for name, v in values.items()}
    return result.model_copy(
        update={
            "readings": tuple(r.model_copy(update={"value": named.get(r.metric, r.value)}) for r in result.readings)
        }
    )


def ended(result: CellResult, outcome: str, kind: str = "Fault") -> CellResult:
    return result.model_copy(update={"outcome": outcome, "readings": (), "error": Fault(kind=kind, message="planted")})


# the set is closed


def test_every_kind_is_a_function_and_the_gravest_come_first() -> None:
    assert tuple(f.__name__ for f in CHECKS) == get_args(Kind)
    made = {}
    for function in CHECKS:
        calls = [
            n
            for n in ast.walk(ast.parse(inspect.getsource(function)))
            if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Finding"
        ]
        assert len(calls) == 1, function.__name__
        made[function.__name__] = [a.value for a in calls[0].args[:3] if isinstance(a, ast.Constant)]
    assert all(kind == head[0] for kind, head in made.items())
    order = get_args(Severity)
    assert [head[1] for head in made.values()] == sorted((head[1] for head in made.values()), key=order.index)
    assert len({head[2] for head in made.values()}) == len(made), "a title stands for one kind"


def test_every_kind_is_planted_below_or_among_those_of_the_data() -> None:
    source = "".join(
        Path(__file__).with_name(name).read_text(encoding="utf-8")
        for name in ("test_findings.py", "test_findings_data.py")
    )
    assert [k for k in get_args(Kind) if f'["{k}"]' not in source] == []


def test_a_clean_study_has_no_findings(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(seeds="[0, 1, 2, 3, 4]"))
    assert found == {}
    assert len(view.analysis.results) == 46
    assert section_module.section(view) is None


# cells


def test_a_phase_that_failed_after_training_is_named_with_its_cells(tmp_path: Path) -> None:
    fault = Fault(kind="MemoryError", message="planted", phase="decompose")
    view, found = seen(
        tmp_path,
        text(*FIXED, seeds="[0, 1]"),
        lambda r: r.model_copy(update={"faults": (fault,)}) if r.cell.method.rank == 4 and r.cell.seed == 1 else r,
    )
    assert found["analysis_failed"].sentence.startswith(
        "A phase after training failed (decompose in 1 cell; planted), and its numbers are absent."
    )
    assert set(found["analysis_failed"].cells) == ids(view, lambda r: bool(r.faults))


def test_failed_cells_are_named_with_their_faults(tmp_path: Path) -> None:
    view, found = seen(
        tmp_path,
        text(*FIXED, seeds="[0, 1]"),
        lambda r: ended(r, "failed", "KeyError") if r.cell.method.rank == 4 else r,
    )
    assert found["failed"].sentence.startswith("2 of 7 cells failed (KeyError 2 times).")
    assert set(found["failed"].cells) == ids(view, lambda r: r.cell.method.rank == 4)
    assert [label.partition(",")[0] for label in found["failed"].conditions] == ["LoRA r=4"]


def test_diverged_cells_are_named_with_their_rate(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(("{tune: [3e-4, 3e-3, 3e-2]}", "2.0"), FIXED[1]))
    assert found["diverged"].sentence.startswith("2 of 4 cells lost a finite loss")
    assert "(2)" in found["diverged"].sentence
    assert set(found["diverged"].cells) == ids(view, lambda r: r.cell.method.name == "lora")


def test_cells_out_of_memory_are_named_with_their_batch(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(*FIXED, ("{method: full,", "{method: full, training.batch_size: 4096,")))
    assert found["out_of_memory"].sentence.startswith("1 of 4 cells did not fit")
    assert "4096" in found["out_of_memory"].sentence
    assert set(found["out_of_memory"].cells) == ids(view, lambda r: r.cell.method.name == "full")


def test_skipped_cells_are_a_caution(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(*FIXED), lambda r: ended(r, "skipped") if r.cell.method.rank == 16 else r)
    assert found["skipped"].sentence.startswith("1 of 4 cells was not run")
    assert set(found["skipped"].cells) == ids(view, lambda r: r.cell.method.rank == 16)
    assert found["skipped"].severity == "caution"


def test_missing_cells_count_at_every_rate_since_the_choice_waits_for_them(tmp_path: Path) -> None:
    def leave_out(r: CellResult) -> CellResult | None:
        return None if r.cell.method.name == "base" or r.cell.training.fixed_learning_rate == 3e-2 else r

    view, found = seen(tmp_path, text(), leave_out)
    missing = found["missing"]
    assert missing.sentence.startswith(
        "3 of 10 cells have not been run yet, 2 of them at rates that are not the chosen ones"
    )
    assert set(missing.cells).isdisjoint(view.analysis.results)
    assert len(missing.cells) == len(missing.conditions) == 3
    assert "base" in missing.conditions


def test_cells_that_broke_at_other_rates_are_a_note_and_nothing_worse(tmp_path: Path) -> None:
    def odd(r: CellResult) -> CellResult:
        return (
            ended(r, "failed" if r.cell.method.rank == 4 else "diverged")
            if r.cell.training.fixed_learning_rate == 3e-2
            else r
        )

    view, found = seen(tmp_path, text(seeds="[0, 1]"), odd)
    broke = found["rates_broke"]
    assert broke.sentence.startswith(
        "4 of 19 cells broke at rates that were not chosen (2 failed, 2 diverged; rates 0.03)."
    )
    assert "retry" in broke.sentence
    assert set(broke.cells) == ids(view, lambda r: r.cell.training.fixed_learning_rate == 3e-2)
    assert broke.severity == "note"
    assert not {"failed", "diverged"} & set(found)


def test_a_chosen_rate_that_broke_counts_as_broken(tmp_path: Path) -> None:
    """No rate is whole: one seed of each breaks, so the chosen rate has a broken cell."""
    _, found = seen(
        tmp_path,
        text(seeds="[0, 1]"),
        lambda r: ended(r, "failed") if r.cell.method.name == "full" and r.cell.seed else r,
    )
    assert found["failed"].sentence.startswith("1 of 7 cells failed")
    assert found["rates_broke"].sentence.startswith("2 of 19 cells broke")


def test_different_environments_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    def moved(r: CellResult) -> CellResult:
        assert r.environment is not None
        packages = {"torch": "2.9" if r.cell.method.name == "full" else "2.8", "peft": "0.18"}
        return r.model_copy(update={"environment": r.environment.model_copy(update={"packages": packages})})

    view, found = seen(tmp_path, text(*FIXED), moved)
    assert "Cells ran in 2 environments, told apart by torch (2.8: 3, 2.9: 1)" in found["mixed_environments"].sentence
    assert "peft" not in found["mixed_environments"].sentence
    assert set(found["mixed_environments"].cells) == ids(view, lambda r: r.cell.method.name == "full")


@pytest.mark.parametrize(("others", "told"), [("AVX2", True), (None, False)])  # absent: stored before it was recorded
def test_processors_of_other_instructions_are_other_environments(
    others: str | None, told: bool, tmp_path: Path
) -> None:
    def on(r: CellResult) -> CellResult:
        assert r.environment is not None
        instructions = others if r.cell.method.name == "full" else "AVX512 with BF16"
        return r.model_copy(update={"environment": r.environment.model_copy(update={"instructions": instructions})})

    _, found = seen(tmp_path, text(*FIXED), on)
    assert ("mixed_environments" in found) == told
    assert not told or "instructions (AVX512 with BF16: 3, AVX2: 1)" in found["mixed_environments"].sentence


def test_conditions_of_one_model_that_were_evaluated_in_different_precisions(tmp_path: Path) -> None:
    """As full fine-tuning in float32 and adapters on bfloat16 were; where it is recorded that all were evaluated alike,
    nothing is said."""

    def stored(old: bool) -> Change:
        def change(r: CellResult) -> CellResult:
            dtype = "float32" if r.cell.method.name == "full" else "bfloat16"
            assert r.resolved is not None
            return r.model_copy(
                update={
                    "resolved": r.resolved.model_copy(
                        update={"dtype": dtype, "eval_dtype": None if old else "bfloat16"}
                    )
                }
            )

        return change

    view, found = seen(tmp_path / "old", text(*FIXED), stored(True))
    sentence = found["mixed_precision"].sentence
    assert "(bfloat16: 3, float32: 1; the numbers count cells)" in sentence
    forgets = ids(view, lambda r: r.value("forgetting") is not None)
    assert forgets
    assert f"Forgetting of {len(forgets)} cells may be counted from a base in another precision" in sentence
    assert set(found["mixed_precision"].cells) == set(view.analysis.results)
    assert "mixed_precision" not in seen(tmp_path / "new", text(*FIXED), stored(False))[1]
    half = seen(tmp_path / "half", text(*FIXED), lambda r: stored(r.cell.method.name != "full")(r))[1][
        "mixed_precision"
    ]
    assert half.sentence.startswith("Forgetting of 2 cells may be counted")
    dtypes = ("name: python-docs}", "name: python-docs}\ngrid: {model.dtype: [float32, bfloat16]}")
    declared = seen(
        tmp_path / "axis",
        text(*FIXED, dtypes),
        lambda r: r.model_copy(
            update={
                "resolved": (
                    r.resolved
                    and r.resolved.model_copy(
                        update={"dtype": "bfloat16" if r.cell.model.dtype == "bfloat16" else "float32"}
                    )
                )
            }
        ),
    )[1]
    assert "mixed_precision" not in declared, "an axis of the study is no oversight"


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
        "1 of 3 trained conditions has a single finished seed (full), so how far a repetition would land is unknown: no"
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
    assert finding.sentence.startswith("3 of 3 chosen learning rates end their grid")
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


# values


def test_a_base_that_is_better_than_what_was_trained(tmp_path: Path) -> None:
    view, found = seen(
        tmp_path, text(*FIXED), lambda r: with_values(r, eval_loss=3.5) if r.cell.method.rank == 4 else r
    )
    noisy = seen(
        tmp_path / "noisy", text(*FIXED), lambda r: with_values(r, eval_loss=3.2003) if r.cell.method.rank == 4 else r
    )[1]
    assert "base_better" not in noisy, "a worse mean alone is no harm"
    finding = found["base_better"]
    assert finding.sentence.startswith("1 of 3 trained conditions")
    assert "held-out loss of LoRA r=4" in finding.sentence
    assert "3.500 nats, of base 3.200 nats" in finding.sentence
    assert set(finding.cells) == ids(view, lambda r: r.cell.method.name == "base" or r.cell.method.rank == 4)


def test_a_better_base_is_seen_in_accuracies_and_only_at_its_own_quantisation(tmp_path: Path) -> None:
    both = (
        "  - {method: base}",
        (
            "  - {method: base}\n  - {method: base, quantization: nf4}\n  - {method: {name: lora, rank: 4, alpha: 8},"
            " quantization: nf4}"
        ),
    )

    def planted(r: CellResult) -> CellResult:
        return (
            with_values(r, acc=0.6 if r.cell.method.name == "base" else 0.5)
            if r.cell.quantization.name == "nf4"
            else with_values(r, acc=0.3 if r.cell.method.name == "base" else 0.55)
        )

    _, found = seen(tmp_path, text(*FIXED, both), planted)
    assert found["base_better"].sentence.startswith("1 of 4 trained conditions")
    assert "python-docs-cloze accuracy of LoRA r=4 nf4" in found["base_better"].sentence
    assert "50.0 %, of base nf4 60.0 %" in found["base_better"].sentence


def test_an_accuracy_of_guessing(tmp_path: Path) -> None:
    def planted(r: CellResult) -> CellResult:
        if r.cell.method.rank != 4:
            return r
        return r.model_copy(
            update={
                "readings": (
                    *(x for x in r.readings if x.metric != ACC),
                    Reading(metric=ACC, value=0.3, stderr=0.03, count=200),
                )
            }
        )

    view, found = seen(tmp_path, text(*FIXED), planted)
    assert (
        "30.0 % (95 % interval over items 24.1 to 35.9 %), of guessing among 4 choices 25.0 %"
        in found["at_chance"].sentence
    )
    assert found["at_chance"].sentence.startswith("1 of 3 conditions")
    assert set(found["at_chance"].cells) == ids(view, lambda r: r.cell.method.rank == 4)


def test_without_a_number_of_choices_the_base_is_what_an_accuracy_must_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ("lm_eval: [python-docs-cloze]", "lm_eval: [hellaswag]")
    assert "at_chance" not in seen(tmp_path / "a", text(*FIXED, other))[1]
    monkeypatch.setattr(synthetic, "BASE_GAP", 0.33)  # LoRA of rank 4 gains 0.06 nats on it
    view, found = seen(tmp_path / "b", text(*FIXED, other))
    finding = found["at_chance"]
    assert "hellaswag accuracy of LoRA r=4" in finding.sentence
    assert "of the untrained base" in finding.sentence
    assert "guessing" not in finding.sentence
    assert ids(view, lambda r: r.cell.method.rank == 4) <= set(finding.cells)


def test_the_number_of_choices_is_the_plug_ins_own(tmp_path: Path) -> None:
    from lorabench.tasks import python_docs
    from lorabench.tasks._cloze import cloze_items

    split = python_docs.split_topics(python_docs._topics())
    cell = expand(study_of(tmp_path, ONLY_FULL))[0]
    assert {len(i.choices) for i in cloze_items(tuple(split.train.values()), tuple(split.test.values())[:1])} == {
        choices(ACC, cell)
    }
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f"row {i},{i % 3}\n" for i in range(60)), encoding="utf-8"
    )
    task = (
        f'{{name: classify, train: {tmp_path}/rows.csv, prompt: "{{text}}", choices: {{"0": " a", "1": " b", "2": "'
        ' c"}}'
    )
    labelled = expand(study_of(tmp_path, ONLY_FULL.replace("{name: python-docs}", task)))[0]
    assert choices("classify/acc", labelled) == 3
    assert choices("hellaswag/acc", labelled) is None


def test_too_few_items_say_how_many_are_needed(tmp_path: Path) -> None:
    view, found = seen(tmp_path, text(*FIXED, ("accuracy_margin: 0.1", "accuracy_margin: 0.01")))
    sentence = found["few_items"].sentence
    errors = [
        max(d.item_errors)
        for c in view.analysis.comparisons
        if c.metric == ACC and (d := view.analysis.pairing.difference(ACC, c.condition, c.reference)) and d.item_errors
    ]
    needed = 200 * (1.96 * min(errors) / 0.01) ** 2
    said = int(sentence.partition("about ")[2].partition(" ")[0].replace(",", ""))
    assert said == pytest.approx(needed, rel=0.06)
    assert "200 items leave a difference uncertain by" in sentence
    assert "within 1 point of accuracy" in sentence
    assert set(found["few_items"].cells) == ids(view, lambda r: r.cell.method.name != "base")


def test_a_pair_that_is_told_well_enough_silences_no_other(tmp_path: Path) -> None:
    """LoRA r=16 answers as full does but for one item of 200, LoRA r=4 at random."""
    import numpy as np

    from lorabench.record.items import FILE, Items, save_items

    store = filled(tmp_path, text(*FIXED, ("accuracy_margin: 0.1", "accuracy_margin: 0.02"), seeds="[0, 1]"))
    draw = np.random.default_rng(0)
    right = (draw.random(200) < 0.6).astype(float)
    for cell in store.plan():
        own = (draw.random(200) < 0.6).astype(float) if cell.method.rank == 4 else right.copy()
        own[0] = cell.method.rank == 16
        save_items(store.cells_folder / cell.id / FILE, {ACC: Items(own)})
    found = {f.kind: f for f in make_view(store).findings}
    assert found["few_items"].sentence.startswith(
        "In 1 of 2 comparisons the two conditions cannot be called equivalent within 2 points"
    )
    assert "LoRA r=4" in found["few_items"].sentence
    assert "LoRA r=16" not in found["few_items"].sentence


def test_ten_items_that_all_agree_are_too_few(tmp_path: Path) -> None:
    from lorabench.record.items import FILE, Items, save_items

    store = filled(tmp_path, text(*FIXED, seeds="[0, 1]"))
    for cell in store.plan():
        save_items(store.cells_folder / cell.id / FILE, {ACC: Items([1.0] * 10)})
    found = {f.kind: f for f in make_view(store).findings}
    assert "10 items leave a difference uncertain by" in found["few_items"].sentence


def test_few_right_answers_are_held_against_guessing_by_the_binomial_distribution(tmp_path: Path) -> None:
    """All right, which the normal interval takes for certain: by guessing among four 6 % of two items are, 1.6 % of
    three."""
    from scipy import stats

    def planted(n: int) -> Change:
        return lambda r: r.model_copy(
            update={
                "readings": (
                    *(x for x in r.readings if x.metric != ACC),
                    Reading(metric=ACC, value=1.0, stderr=0.0, count=n),
                )
            }
        )

    for n in (2, 3):
        told = "at_chance" in seen(tmp_path / str(n), text(*FIXED), planted(n))[1]
        assert told is bool(stats.binomtest(n, n, 0.25, alternative="greater").pvalue > 0.025)
    assert told is False


def test_the_needed_items_follow_the_formula_of_paired_proportions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 p (1 - p) (1 - rho) / n, with p and rho read from the answers themselves."""
    import numpy as np

    from lorabench.record.items import FILE, load_items

    monkeypatch.setattr(synthetic, "ITEMS", 2000)
    view, found = seen(
        tmp_path,
        text(
            *FIXED,
            ("accuracy_margin: 0.1", "accuracy_margin: 0.005"),
            ("  - {method: {name: lora, rank: 16, alpha: 32}}\n", ""),
        ),
    )
    a, b = (
        load_items(view.analysis.file(i, FILE))[ACC].sums for i in ids(view, lambda r: r.cell.method.name != "base")
    )
    p, rho = (a.mean() + b.mean()) / 2, np.corrcoef(a, b)[0, 1]
    said = int(found["few_items"].sentence.partition("about ")[2].partition(" ")[0].replace(",", ""))
    assert said == pytest.approx(1.96**2 * 2 * p * (1 - p) * (1 - rho) / 0.005**2, rel=0.1)


def test_a_prediction_that_missed_has_its_sign(tmp_path: Path) -> None:
    def planted(r: CellResult) -> CellResult:
        peak = r.value("train_peak_bytes")
        factor = {4: 1.2, 16: 0.9}.get(r.cell.method.rank or 0)
        return r if peak is None or factor is None else with_values(r, predicted_train_peak_bytes=round(peak * factor))

    view, found = seen(tmp_path, text(*FIXED), planted)
    sentence = found["prediction_off"].sentence
    assert "off by more than 5 % in 2 of 3 conditions" in sentence
    assert "+20.0 %" in sentence
    assert "−10.0 %" in sentence
    assert set(found["prediction_off"].cells) == ids(view, lambda r: r.cell.method.name == "lora")


def test_a_checkpoint_that_was_quantised_already_is_told(tmp_path: Path) -> None:
    def planted(r: CellResult) -> CellResult:
        assert r.resolved is not None
        return (
            r
            if r.cell.method.rank != 4
            else r.model_copy(update={"resolved": r.resolved.model_copy(update={"stored_quantised": True})})
        )

    view, found = seen(tmp_path, text(*FIXED), planted)
    assert "lorabench/tiny-300k (none) is stored quantised and was read so" in found["stored_quantised"].sentence
    assert set(found["stored_quantised"].cells) == ids(view, lambda r: r.cell.method.rank == 4)


def test_weights_that_are_neither_quantised_nor_adapted_are_told_once_for_all_that_asked(tmp_path: Path) -> None:
    left = Unreached(names=("layers.*.experts.gate_up_proj", "layers.*.experts.down_proj"), parameters=900, of=1000)

    def planted(r: CellResult) -> CellResult:
        assert r.resolved is not None
        return r.model_copy(update={"resolved": r.resolved.model_copy(update={"unreached": left})})

    view, found = seen(tmp_path, text(*FIXED), planted)
    sentence = found["unreached"].sentence
    assert (
        sentence.count(
            "its experts are not adapted (layers.*.experts.gate_up_proj, layers.*.experts.down_proj: 900 of 1,000"
            " parameters, 90 %)"
        )
        == 1
    )
    assert set(found["unreached"].cells) == ids(view, lambda r: r.cell.method.name == "lora")


def test_predictions_that_miss_on_both_sides_do_not_cancel(tmp_path: Path) -> None:
    def planted(r: CellResult) -> CellResult:
        peak = r.value("train_peak_bytes")
        return (
            r
            if peak is None or r.cell.method.rank != 4
            else with_values(r, predicted_train_peak_bytes=round(peak * (1.2 if r.cell.seed else 0.8)))
        )

    _, found = seen(tmp_path, text(*FIXED, seeds="[0, 1]"), planted)
    assert "off by more than 5 % in 1 of 3 conditions" in found["prediction_off"].sentence


def test_a_loss_that_still_falls(tmp_path: Path) -> None:
    store = filled(tmp_path, text(*FIXED))
    hit = next(c.id for c in store.plan() if c.method.rank == 4)
    lines = ["step,loss", *(f"{step},{4 - 0.05 * step + 0.001 * (step % 2)}" for step in range(1, 41))]
    (store.cells_folder / hit / "curve.csv").write_text("\n".join(lines), encoding="utf-8")
    found = {f.kind: f for f in make_view(store).findings}
    assert "more than the margin of 0.02 nats in 1 of 3 trained conditions" in found["still_falling"].sentence
    assert "by 0.45" in found["still_falling"].sentence
    assert found["still_falling"].cells == (hit,)


def test_a_fall_that_noise_explains_is_not_told(tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    curve.write_text(
        "step,loss\n" + "".join(f"{s},{3 + 0.3 * synthetic._uniform(str(s))}\n" for s in range(1, 41)), encoding="utf-8"
    )
    found = fall(curve)
    assert found is not None
    assert found[1] > 0.1
    assert fall(tmp_path / "absent.csv") is None
    curve.write_text("step,loss\n1,3.0\n2,2.0\n", encoding="utf-8")
    assert fall(curve) is None


# how they are shown


def test_the_section_shows_grave_things_first_and_the_cells_behind(tmp_path: Path) -> None:
    view, _ = seen(tmp_path, text(*FIXED), lambda r: ended(r, "failed") if r.cell.method.rank == 4 else r)
    shown = section_module.section(view)
    assert shown is not None
    assert [b.title for b in shown.blocks if isinstance(b, Notice)] == [f.title for f in view.findings]
    assert isinstance(shown.blocks[0], Text) and shown.blocks[0].text.startswith("Numbers are absent")
    code = shown.blocks[-1]
    assert isinstance(code, Code)
    assert next(iter(ids(view, lambda r: r.outcome == "failed"))) in code.text.splitlines()[0]


def test_no_finding_needs_a_finished_cell(tmp_path: Path) -> None:
    _, found = seen(tmp_path, text(), lambda r: None)
    assert set(found) == {"missing"}
    assert check is view_module.check


def test_long_lists_are_cut_and_say_by_how_much() -> None:
    assert section_module._short(("a", "b", "c"), 3) == ("a", "b", "c")
    assert section_module._short(("a", "b", "c", "d", "e"), 3) == ("a", "b", "c", "and 2 more")
