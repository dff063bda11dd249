"""Findings about a task's rows: each where it is planted, with its counts and shares, and none where there is nothing
to tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorabench.analysis.findings.base import Finding
from lorabench.record.data import DataFacts, SplitFacts
from lorabench.record.result import CellResult, Reading
from lorabench.report.view import make_view
from tests.analysis.planted import quick  # noqa: F401  (a fixture of every test)
from tests.report.stores import STUDY, filled

CLEAN = {"train": {"read": 900, "whole_at": 50}, "validation": {"read": 100}, "test": {"read": 300, "whole_at": 50}}
KINDS = {
    "rows_lost",
    "test_leaked",
    "few_test_rows",
    "rows_dropped",
    "responses_cut",
    "prompts_leaked",
    "unseen_labels",
    "one_sided_labels",
    "rows_changed",
    "test_rows_differ",
}


def facts(
    train: dict[str, Any] | None = None,
    validation: dict[str, Any] | None = None,
    test: dict[str, Any] | None = None,
    **others: Any,
) -> DataFacts:
    given = {"train": train, "validation": validation, "test": test}
    return DataFacts(**{name: SplitFacts(**(CLEAN[name] | (split or {}))) for name, split in given.items()}, **others)


def counted(
    made: DataFacts | None, where: Callable[[CellResult], bool] = lambda r: True
) -> Callable[[CellResult], CellResult]:
    """Results that bring these counts, as far as they are of the chosen cells."""

    def change(result: CellResult) -> CellResult:
        assert result.resolved is not None
        return result.model_copy(
            update={"resolved": result.resolved.model_copy(update={"data": made if where(result) else facts()})}
        )

    return change


def seen(folder: Path, change: Callable[[CellResult], CellResult]) -> dict[str, Finding]:
    return {f.kind: f for f in make_view(filled(folder, change=change)).findings if f.kind in KINDS}


def test_clean_rows_and_results_without_counts_say_nothing(tmp_path: Path) -> None:
    assert seen(tmp_path / "a", counted(facts())) == {}
    assert seen(tmp_path / "b", counted(None)) == {}


def test_dropped_rows_are_graver_the_more_they_are(tmp_path: Path) -> None:
    found = {}
    for share, dropped in {"most": 200, "some": 30, "single": 3}.items():
        found[share] = seen(tmp_path / share, counted(facts(test={"dropped": dropped, "whole_at": 412}, items=300)))
    assert list(found["most"]) == ["rows_lost"] and found["most"]["rows_lost"].severity == "grave"
    assert "200 of 300 test rows" in found["most"]["rows_lost"].sentence
    assert (
        "in 64 tokens" in found["most"]["rows_lost"].sentence
        and "A training.sequence_length of 412 keeps 95 %" in found["most"]["rows_lost"].sentence
    )
    assert list(found["some"]) == ["rows_dropped"] and found["some"]["rows_dropped"].severity == "caution"
    assert (
        "The loss leaves them out (270 test rows), the accuracy does not (300)."
        in found["some"]["rows_dropped"].sentence
    )
    assert list(found["single"]) == ["rows_changed"] and found["single"]["rows_changed"].severity == "note"
    assert "3 of 300 test rows were dropped for their length" in found["single"]["rows_changed"].sentence


def test_the_finding_names_the_conditions_it_is_about(tmp_path: Path) -> None:
    found = seen(tmp_path, counted(facts(train={"dropped": 90}), lambda r: r.cell.method.name == "full"))
    assert found["rows_dropped"].conditions == ("full",)
    assert "90 of 900 training rows" in found["rows_dropped"].sentence


def test_cut_responses(tmp_path: Path) -> None:
    found = seen(tmp_path, counted(facts(train={"cut": 144, "whole_at": 333}, test={"cut": 3})))
    assert (
        "the response of 144 of 900 training rows and 3 of 300 test rows is cut at its end"
        in found["responses_cut"].sentence
    )
    assert "333 keeps 95 %" in found["responses_cut"].sentence


def test_conditions_that_are_tested_on_other_rows(tmp_path: Path) -> None:
    found = seen(tmp_path / "a", counted(facts(test={"dropped": 10, "cut": 4}), lambda r: r.cell.method.name == "full"))
    sentence = found["test_rows_differ"].sentence
    assert "256 of 300 rows in LoRA r=1, " in sentence and "; 256 of 290 rows, 4 of those cut, in full)" in sentence
    assert found["test_rows_differ"].severity == "caution" and "full" in found["test_rows_differ"].conditions
    assert "test_rows_differ" not in seen(tmp_path / "b", counted(facts(test={"dropped": 10, "cut": 4})))


def test_test_rows_beyond_max_sequences_are_told(tmp_path: Path) -> None:
    def seen(folder: Path, read: int) -> dict[str, Finding]:
        return {f.kind: f for f in make_view(filled(folder, change=counted(facts(test={"read": read})))).findings}

    found = seen(tmp_path / "a", 1024)
    assert (
        "over the first 256 of 1,024 test rows" in found["rows_unmeasured"].sentence
        and "2.0 times as narrow" in found["rows_unmeasured"].sentence
    )
    assert "rows_unmeasured" not in seen(tmp_path / "b", 256)


def test_test_rows_in_training(tmp_path: Path) -> None:
    found = seen(tmp_path / "many", counted(facts(test={"in_training": 30, "prompt_in_training": 40})))
    assert list(found) == ["test_leaked"] and found["test_leaked"].severity == "grave"
    assert "30 of 300 test rows (10.0 %) are also training rows" in found["test_leaked"].sentence
    found = seen(tmp_path / "few", counted(facts(test={"in_training": 2, "prompt_in_training": 9, "in_validation": 4})))
    assert list(found) == ["prompts_leaked"]
    assert (
        "9 of 300 test rows have the prompt of a training row (2 its response, too); 4 of 300 test rows are validation"
        " rows" in found["prompts_leaked"].sentence
    )
    blocks = facts(test={"in_training": 9}, unit="blocks")
    assert seen(tmp_path / "blocks", counted(blocks)) == {}, "running text repeats a sentence here and there"


def test_a_test_of_a_handful_of_rows(tmp_path: Path) -> None:
    found = seen(tmp_path / "a", counted(facts(test={"read": 3})))
    assert "measured on 3 rows" in found["few_test_rows"].sentence and found["few_test_rows"].severity == "grave"
    assert seen(tmp_path / "b", counted(facts(test={"read": 30}))) == {}
    assert seen(tmp_path / "c", counted(facts(test={"read": 20}, unit="blocks"))) == {}, "a block holds many tokens"


def test_labels(tmp_path: Path) -> None:
    found = seen(
        tmp_path / "a",
        counted(facts(train={"labels": {"0": 500, "1": 400}}, test={"labels": {"0": 100, "1": 150, "2": 50}})),
    )
    assert list(found) == ["unseen_labels"]
    assert "50 of 300 test rows have a label that no training row has (2)" in found["unseen_labels"].sentence
    found = seen(
        tmp_path / "b", counted(facts(train={"labels": {"0": 500, "1": 400}}, test={"labels": {"0": 30, "1": 270}}))
    )
    assert list(found) == ["one_sided_labels"]
    sentence = found["one_sided_labels"].sentence
    assert "90.0 % of the 300 test rows have the label 1" in sentence
    assert "the best accuracy" not in sentence, "the accuracies of this study are of other items"


@pytest.mark.parametrize(("accuracy", "told"), [(2 / 3, True), (0.6, True), (0.7, True), (0.75, False)])
def test_an_accuracy_that_always_saying_one_label_would_have_too(tmp_path: Path, accuracy: float, told: bool) -> None:
    counts = counted(facts(train={"labels": {"0": 500, "1": 400}}, test={"labels": {"0": 100, "1": 200}}))

    def change(result: CellResult) -> CellResult:
        others = tuple(r for r in result.readings if not r.metric.endswith("/acc"))
        return counts(
            result.model_copy(
                update={"readings": (*others, Reading(metric=f"{result.cell.task.name}/acc", value=accuracy))}
            )
        )

    found = seen(tmp_path, change)
    assert list(found) == (["one_sided_labels"] if told else [])
    if told:
        assert (
            "66.7 % of the 300 test rows have the label 1, so always saying it is right as often; the best accuracy"
            f" here is {100 * accuracy:.1f} %" in found["one_sided_labels"].sentence
        )


def test_labels_that_are_about_even_are_not_one_sided_however_low_the_accuracy(tmp_path: Path) -> None:
    counts = counted(facts(train={"labels": {"0": 500, "1": 400}}, test={"labels": {"0": 147, "1": 153}}))

    def change(result: CellResult) -> CellResult:
        others = tuple(r for r in result.readings if not r.metric.endswith("/acc"))
        return counts(
            result.model_copy(update={"readings": (*others, Reading(metric=f"{result.cell.task.name}/acc", value=0.5))})
        )

    assert "one_sided_labels" not in seen(tmp_path, change)


def test_repeated_rows_are_a_note(tmp_path: Path) -> None:
    found = seen(tmp_path, counted(facts(train={"repeated": 450})))
    assert list(found) == ["rows_changed"]
    assert "450 of 900 training rows repeat an earlier one" in found["rows_changed"].sentence


def test_rates_that_a_handful_of_rows_chose(tmp_path: Path) -> None:
    def kinds(folder: Path, kept: int) -> dict[str, Finding]:
        tuned = STUDY.replace("learning_rate: 3e-3", "learning_rate: {tune: [1e-3, 3e-3]}")
        view = make_view(filled(folder, tuned, counted(facts(validation={"read": kept}))))
        assert view.analysis.tunings
        return {f.kind: f for f in view.findings}

    assert "few_validation_rows" not in kinds(tmp_path / "many", 60)
    finding = kinds(tmp_path / "few", 8)["few_validation_rows"]
    assert "were chosen by no more than 8 validation rows" in finding.sentence and finding.severity == "caution"
