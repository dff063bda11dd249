"""What is read back of a measured card is what was written; other versions and damaged files are told from it."""

import json
from datetime import UTC, datetime

import pytest

from lorabench.config.gpus import find_gpu
from lorabench.errors import LorabenchError
from lorabench.record.card_calibration import (
    CalibrationRow,
    CardCalibration,
    calibrated_card,
    file_name,
    installed_versions,
    read_calibration,
    write_calibration,
)

HERE = installed_versions()
OLDER = {**HERE, "torch": "2.1.0"}


def row(measured, predicted=1_000_000, trainer="lorabench", **more):
    return CalibrationRow(
        trainer=trainer,
        model="smollm2-135m",
        quantization="none",
        rank=16,
        batch_size=4,
        sequence_length=1024,
        predicted_bytes=predicted,
        measured_bytes=measured,
        **more,
    )


def card(*rows, name="NVIDIA GeForce RTX 4090", packages=HERE, day=1, context_bytes=300_000_000):
    return CardCalibration(
        card=name,
        measured_at=datetime(2026, 11, day, tzinfo=UTC).isoformat(),
        packages=packages,
        memory_bytes=24 * 2**30,
        context_bytes=context_bytes,
        rows=rows,
    )


@pytest.fixture
def stored(tmp_path):
    def store(calibration):
        path = tmp_path / file_name(calibration.card)
        write_calibration(calibration, path)
        return path

    return store


THREE = (row(980_000), row(1_000_000), row(1_020_000))


def test_it_comes_back_as_it_was_written_with_its_ratios_in_short(stored):
    fault = row(None, step_seconds=None, fault="OutOfMemoryError: CUDA out of memory")
    trained = row(1_300_000, trainer="transformers", reserved_bytes=1_430_000)
    written = card(*THREE, fault, trained)
    path = stored(written)
    assert read_calibration(path).model_copy(update={"summary": None}) == written
    assert json.loads(path.read_text())["summary"] == {
        "measured_over_predicted_least": 0.98,
        "measured_over_predicted_median": 1.0,
        "measured_over_predicted_most": 1.02,
        "reserved_over_allocated_median": 1.1,
    }
    assert [p.name for p in path.parent.iterdir()] == ["nvidia-geforce-rtx-4090.json"]  # nothing left beside it


def test_factors_are_the_range_of_the_own_loop_widened_by_its_size(stored, tmp_path):
    stored(card(*THREE, row(2_000_000, trainer="transformers")))
    measured = calibrated_card("rtx4090", tmp_path).measured
    assert measured.words == "calibrated on this card 2026-11-01: 3 rows, 0.98 to 1.02"
    assert measured.errors == pytest.approx((0.96, 1.04))  # 1 -+ 0.02 * (3 + 1) / (3 - 1)
    assert measured.context_bytes == 300_000_000


@pytest.mark.parametrize(
    ("rows", "factors"),
    [
        ((row(900_000), row(920_000)), (0.88, 1.0)),  # 0.91 -+ 0.01 * 3, and the prediction itself
        ((row(1_100_000), row(1_100_000)), (1.0, 1.1)),
        ((row(1_100_000),), None),  # one row has no range
        ((), None),
    ],
)
def test_the_range_holds_the_prediction_and_needs_two_rows(rows, factors):
    found = card(*rows).factors
    assert found is None if factors is None else found == pytest.approx(factors)


def test_other_versions_leave_the_context_and_are_named(stored, tmp_path):
    stored(card(*THREE, row(1_000_000, work=(1, 1, 1), step_seconds=1.0), packages=OLDER))
    measured = calibrated_card("rtx4090", tmp_path).measured
    assert measured.context_bytes == 300_000_000
    assert measured.errors is None and measured.steps == ()
    assert "old (torch 2.1.0)" in measured.words


def test_a_later_build_of_the_same_version_is_not_old():
    assert card(packages={"torch": "2.13.0+cu128"}).outdated({"torch": "2.13.1"}) is None
    assert card(packages={"torch": "2.13.0"}).outdated({"torch": "2.14.0"}) == "torch 2.13.0"


def test_only_the_file_of_the_card_is_read_and_of_two_the_later_one(stored, tmp_path):
    stored(card(*THREE, day=1, context_bytes=1))
    stored(card(*THREE, name="GeForce RTX 4090", day=2, context_bytes=2))
    stored(card(*THREE, name="NVIDIA H200", day=3, context_bytes=3))
    (tmp_path / "nvidia-geforce-rtx-3090.json").write_text("{")
    assert calibrated_card("4090", tmp_path).measured.context_bytes == 2
    assert calibrated_card("24GB", tmp_path).measured is None  # a size is no card
    assert calibrated_card("a100-40gb", tmp_path) == find_gpu("a100-40gb")
    assert calibrated_card("rtx4090", None).measured is None


def test_a_card_in_no_list_is_known_by_its_drivers_name_once_measured(stored, tmp_path):
    with pytest.raises(LorabenchError, match="unknown gpu"):
        calibrated_card("NVIDIA Unheard Of 9000", tmp_path)
    stored(card(*THREE, name="NVIDIA Unheard Of 9000"))
    found = calibrated_card("NVIDIA Unheard Of 9000", tmp_path)
    assert (found.name, found.memory_bytes, found.bandwidth) == ("NVIDIA Unheard Of 9000", 24 * 2**30, None)
    assert found.measured.context_bytes == 300_000_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace('"measured_at"', '"measured"'),
        lambda text: text.replace("2026-11-01", "yesterday"),
        lambda text: text.replace('"measured_bytes": 980000', '"measured_bytes": -1'),
    ],
)
def test_a_damaged_file_is_one_sentence_that_says_what_to_do(stored, tmp_path, damage):
    path = stored(card(*THREE))
    path.write_text(damage(path.read_text()))
    with pytest.raises(LorabenchError) as told:
        calibrated_card("rtx4090", tmp_path)
    assert str(path) in str(told.value) and "\n" not in str(told.value)
    assert "lorabench calibrate" in str(told.value) and "--no-calibration" in str(told.value)


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LorabenchError, match=r"cannot be written .* --out FILE"):
        write_calibration(card(*THREE), tmp_path / "file" / "cpu.json")
