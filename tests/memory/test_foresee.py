"""What is foreseen of a cell is stored by its parts, which sum to the peak."""

import pytest

from lorabench.memory.foresee import foresee
from lorabench.memory.ledger import CATEGORIES
from lorabench.record.foresight import Foresight
from lorabench.record.frames import wide
from lorabench.record.metrics import PREDICTED_PARTS, metric
from lorabench.spec import expand
from tests.report.stores import STUDY, study_of


@pytest.fixture(scope="module")
def foreseen(tmp_path_factory):
    """By method, rank and quantization, of the shipped model."""
    cells = expand(study_of(tmp_path_factory.mktemp("foresee"), STUDY.replace("[1, 4, 16]", "[4]").replace("seeds: [0, 1]", "seeds: [0]")))
    return {(c.method.name, c.method.rank, c.quantization.name): (c, foresee(c)) for c in cells}


def readings_of(foresight):
    return {r.metric: r.value for r in foresight.readings()}


def test_every_category_of_the_ledger_has_its_metric():
    assert tuple(f"predicted_{c}_bytes" for c in CATEGORIES) == PREDICTED_PARTS
    assert all(metric(m).unit == "bytes" and metric(m).better == "none" and metric(m).meaning for m in PREDICTED_PARTS)
    assert len({metric(m).label for m in PREDICTED_PARTS}) == len(CATEGORIES)


@pytest.mark.parametrize("setting", [("lora", 4, "nf4"), ("lora", 4, "none"), ("full", None, "none")])
def test_the_parts_sum_to_the_predicted_peak(foreseen, setting):
    _, foresight = foreseen[setting]
    found = readings_of(foresight)
    assert set(found) == {"predicted_train_peak_bytes", *PREDICTED_PARTS}
    assert sum(found[m] for m in PREDICTED_PARTS) == found["predicted_train_peak_bytes"] == foresight.train_peak_bytes > 0


def test_each_part_is_where_it_belongs(foreseen):
    nf4, lora, full = (readings_of(foreseen[s][1]) for s in (("lora", 4, "nf4"), ("lora", 4, "none"), ("full", None, "none")))
    assert nf4["predicted_weights_bytes"] < lora["predicted_weights_bytes"] == full["predicted_weights_bytes"]
    assert nf4["predicted_quantization_state_bytes"] > 0 == lora["predicted_quantization_state_bytes"] == full["predicted_quantization_state_bytes"]
    assert nf4["predicted_adapters_bytes"] == lora["predicted_adapters_bytes"] > 0 == full["predicted_adapters_bytes"]
    assert full["predicted_optimizer_bytes"] > 10 * lora["predicted_optimizer_bytes"] > 0


def test_the_untouched_base_has_no_prediction(foreseen):
    assert foreseen["base", None, "none"][1] is None


def test_a_prediction_without_parts_stores_its_peak_alone():
    assert readings_of(Foresight(10, 9, 11, 20)) == {"predicted_train_peak_bytes": 10.0}


def test_a_skipped_cell_keeps_the_parts_as_whole_bytes(foreseen):
    cell, foresight = foreseen["lora", 4, "nf4"]
    row = wide([foresight.skipped(cell)]).iloc[0]
    assert [row[m] for m in PREDICTED_PARTS] == [foresight.parts[c] for c in CATEGORIES]
    assert all(str(wide([foresight.skipped(cell)])[m].dtype) == "Int64" for m in PREDICTED_PARTS)
