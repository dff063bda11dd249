"""reports/memory-peers.json holds every measured row, and its column of lorabench is what lorabench predicts today."""

import csv
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from lorabench.memory.step_profile import predict_step

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FOUR = ("lorabench", "fitcheck", "canifinetune", "accelerate")


@pytest.fixture(scope="module")
def benchmarks():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import memory_trainers
    import peer_rows

    yield memory_trainers, peer_rows
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def found():
    return json.loads((ROOT / "reports" / "memory-peers.json").read_text())


@pytest.fixture(scope="module")
def published():
    with (ROOT / "benchmarks" / "measured_memory_trainers.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def on_device(benchmarks):
    return json.loads(benchmarks[0].GPU_ROWS.read_text())["rows"]


def test_each_group_holds_all_its_rows_and_each_row_four_answers_or_reasons(found, published, on_device):
    grades = Counter(r["group"].split()[0] for r in found["rows"])
    assert grades == Counter(r["grade"] for r in published) + Counter(H200=len(on_device))
    assert Counter(r["group"] for r in found["rows"]) == {g: e["rows"] for g, e in found["summary"].items()}
    for row in found["rows"]:
        assert set(row["predicted_bytes"]) | set(row["unanswered"]) == set(FOUR), row["setting"]
        assert not set(row["predicted_bytes"]) & set(row["unanswered"]) and all(row["unanswered"].values())
    for entry in found["summary"].values():
        for who in FOUR:
            assert entry[who]["answered"] + sum(entry[who]["unanswered"].values()) == entry["rows"]


def test_fitcheck_errs_on_its_own_rows_as_it_says_of_itself(found):
    """README of fitcheck-llm 0.3.1, its tensors on 57 rows, of which grade A is 35: mean 0.7 %, worst 4.6 %."""
    errors = [abs(r["error_percent"]["fitcheck"]) for r in found["rows"] if r["group"].startswith("A ")]
    assert len(errors) == 35
    assert sum(errors) / len(errors) == pytest.approx(0.7, abs=0.25) and max(errors) <= 4.6


@pytest.mark.parametrize(("number", "group"), [(8, "A nf4 sdpa"), (6, "A nf4 sdpa")])
def test_published_rows_are_predicted_as_they_stand_there(benchmarks, found, published, number, group):
    trainers, _ = benchmarks
    with trainers.old_losses():
        today = trainers.published(published[number])
    stored = next(r for r in found["rows"] if r["setting"] == today["words"] and r["group"] == group)
    assert stored["predicted_bytes"]["lorabench"] == pytest.approx(today["predicted"], rel=1e-3)


def test_a_row_of_the_h200_is_predicted_as_it_stands_there(benchmarks, found, on_device):
    trainers, _ = benchmarks
    row = on_device[10]  # TRL, before Liger's kernels came
    stored = next(r for r in found["rows"] if r["setting"] == row["row"])
    today = predict_step(trainers.measured_setting(row, on_cuda=True)).peak_bytes
    assert stored["predicted_bytes"]["lorabench"] == pytest.approx(today, rel=1e-3)


@pytest.mark.parametrize("peer", FOUR[1:])
def test_lorabench_is_level_or_ahead_in_each_group_that_a_peer_answers(found, peer):
    answered = {g: e[peer] for g, e in found["summary"].items() if e[peer]["answered"]}
    assert answered
    for group, entry in answered.items():
        assert entry["lorabench_median_percent"] <= entry["median_percent"], group
        assert entry["lorabench_worst_percent"] <= entry["worst_percent"], group
