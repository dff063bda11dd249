"""Findings about cells follow from what became of them: each appears where it is planted, with its cells and
numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorabench.record.result import CellResult, Fault
from lorabench.report.tables import table_of
from tests.analysis.planted import FIXED, Change, ended, ids, quick, seen, text  # noqa: F401  (a fixture of every test)

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
    assert found["diverged"].sentence.startswith("2 of 4 cells diverged: the loss is no longer finite")
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
        "3 of 10 cells have not been run yet, 2 of them at rates that are not chosen so far"
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
        "4 of 19 cells ended early at learning rates that were not chosen (2 failed, 2 diverged; rates 0.03)."
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
    assert found["rates_broke"].sentence.startswith("2 of 19 cells ended early")


def test_different_environments_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    def moved(r: CellResult) -> CellResult:
        assert r.environment is not None
        packages = {"torch": "2.9" if r.cell.method.name == "full" else "2.8", "peft": "0.18"}
        return r.model_copy(update={"environment": r.environment.model_copy(update={"packages": packages})})

    view, found = seen(tmp_path, text(*FIXED), moved)
    assert "Cells ran in 2 environments, which differ in torch (2.8: 3, 2.9: 1)" in found["mixed_environments"].sentence
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


def test_a_base_from_a_gguf_file_is_told_in_the_findings_and_below_the_table(tmp_path: Path) -> None:
    def planted(r: CellResult) -> CellResult:
        assert r.resolved is not None
        return r.model_copy(update={"resolved": r.resolved.model_copy(update={"stored_type": "Q4_1"})})

    view, found = seen(tmp_path, text(*FIXED), planted)
    assert "lorabench/tiny-300k (Q4_1) is a GGUF file, whose weights were dequantized" in found["gguf"].sentence
    assert set(found["gguf"].cells) == ids(view, lambda r: True)
    assert table_of(view).notes[0].startswith("The base is lorabench/tiny-300k, a GGUF file in Q4_1, dequantized")
