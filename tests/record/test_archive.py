"""An archive holds what a report and a recommendation need of a study, and nothing that it says is believed as a
path."""

import gzip
import json

import pytest

from lorabench.config import expand, load_study
from lorabench.errors import StoreError
from lorabench.record.archive import FILE, opened, pack
from lorabench.record.store import Store
from lorabench.record.truncations import load_truncations
from lorabench.report.view import make_view
from tests import synthetic

STUDY = """
schema: 1
name: archived
question: Which rank?
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 8}
training: {steps: 10}
analysis: {truncation: [1, 2]}
grid: {method.rank: [2, 8]}
include: [{method: {name: full}}]
seeds: [0, 1]
"""


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    study = load_study(path)
    cells = expand(study)
    made = Store(tmp_path / "store")
    made.save_plan(study, cells)
    worker = synthetic.open_worker()
    for cell in cells[:-1]:  # one has no result yet
        made.put(worker.run(cell, made.partial(cell.id), lambda event: None))
    return made


def test_what_is_opened_from_an_archive_is_what_was_packed(store, tmp_path):
    pack(store, tmp_path / "kept")
    with opened(tmp_path / "kept") as again:
        assert again.plan() == store.plan()
        assert again.results() == store.results()
        unpacked, original = (make_view(s).analysis for s in (again, store))
        assert [s.statistics["eval_loss"].mean for s in unpacked.summaries] == [
            s.statistics["eval_loss"].mean for s in original.summaries
        ]


def test_what_was_left_at_lower_ranks_is_kept(store, tmp_path):
    written = {f.parent.name: load_truncations(f) for f in store.cells_folder.glob("*/truncation.csv")}
    assert written
    pack(store, tmp_path / "kept")
    with opened(tmp_path / "kept") as again:
        assert {f.parent.name: load_truncations(f) for f in again.cells_folder.glob("*/truncation.csv")} == written


def test_the_same_store_gives_the_same_bytes(store, tmp_path):
    assert pack(store, tmp_path / "a").read_bytes() == pack(store, tmp_path / "b").read_bytes()


def test_a_results_directory_is_opened_as_it_is(store):
    with opened(store.folder) as again:
        assert again.folder == store.folder


def test_a_folder_with_neither_is_one_sentence(tmp_path):
    with pytest.raises(StoreError, match="is not a results directory"), opened(tmp_path):
        pass


@pytest.mark.parametrize(
    "bad",
    [
        b"nonsense",
        gzip.compress(b"[]", mtime=0),
        gzip.compress(b"{}", mtime=0),
        gzip.compress(b'{"schema": 2}', mtime=0),
        gzip.compress(b'{"schema": 1, "plan": {}, "results": {"a": {}}, "truncations": {"a": 3}}', mtime=0),
        gzip.compress(b'{"schema": 1, "plan": {}, "results": {"a": {}}, "truncations": 3}', mtime=0),
    ],
)
def test_a_broken_archive_is_one_sentence(bad, tmp_path):
    (tmp_path / FILE).write_bytes(bad)
    with pytest.raises(StoreError, match=r"cannot be read|this version of lorabench reads 1"), opened(tmp_path):
        pass


def test_an_id_that_leads_elsewhere_is_refused(store, tmp_path):
    path = pack(store, tmp_path / "kept")
    plain = json.loads(gzip.decompress(path.read_bytes()))
    plain["results"]["../../outside"] = next(iter(plain["results"].values()))
    path.write_bytes(gzip.compress(json.dumps(plain).encode()))
    with pytest.raises(StoreError, match="not a cell's id"), opened(path.parent):
        pass
    assert not (tmp_path / "outside").exists()
