"""What analysis and report do grows as the conditions do, not as their pairs."""

from __future__ import annotations

import cProfile
from datetime import date
from pathlib import Path

from lorabench.analysis.study import analyse
from lorabench.record.store import Store
from lorabench.report.page import page
from lorabench.report.view import make_view
from tests.report.stores import filled

STUDY = """
schema: 1
name: growth
model: lorabench/tiny-300k
task: {{name: python-docs}}
method: {{name: lora, alpha: 16}}
training: {{steps: 4, batch_size: 4, sequence_length: 64, learning_rate: 3e-3}}
grid:
  method.rank: [1, 4]
  training.batch_size: {sizes}
  training.sequence_length: {lengths}
include:
  - {{method: {{name: full}}, training.learning_rate: 1e-3}}
  - {{method: {{name: base}}}}
seeds: [0, 1]
reference: {{method: {{name: full}}}}
"""


def calls(store: Store) -> dict[str, int]:
    """How often each function of the package is called for the page of a store."""
    profile = cProfile.Profile()
    profile.enable()
    page(make_view(store), date(2026, 1, 1))
    profile.disable()
    counts: dict[str, int] = {}
    for entry in profile.getstats():
        if not isinstance(entry.code, str) and "/lorabench/" in entry.code.co_filename:
            place = f"{entry.code.co_filename}:{entry.code.co_firstlineno} {entry.code.co_name}"
            counts[place] = counts.get(place, 0) + entry.callcount
    return counts


def test_no_function_of_a_report_is_called_for_pairs_of_conditions(tmp_path: Path) -> None:
    few, many = (
        filled(tmp_path / str(n), STUDY.format(sizes=list(range(4, 4 + n)), lengths=list(range(16, 16 + n))))
        for n in (4, 7)
    )
    more = len(analyse(many).groups) / len(analyse(few).groups)
    before, after = calls(few), calls(many)
    pairs = {
        place: (before.get(place, 0), count)
        for place, count in after.items()
        if count > 1000 and count > 1.5 * more * before.get(place, 0)
    }
    assert not pairs, sorted(pairs)
