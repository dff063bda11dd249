"""What save asks for stays, and nothing else; what is repeated is what failed or is missing."""

from dataclasses import replace
from pathlib import Path

from lorabench.config.grid import expand
from lorabench.config.load import read_study
from lorabench.config.source import parse_source
from lorabench.record.result import REPEATED, CellResult, Fault, Reading
from lorabench.record.store import Store
from lorabench.runner.keep import notes, remove_unneeded_weights
from lorabench.runner.plan import Plan, make_plan, readable_results
from lorabench.runner.progress import Tally
from lorabench.runner.repeat import missing_analyses, phases_of, repeatable_phases
from lorabench.runner.run import refuse_mixture

STUDY = """
schema: 1
name: s
model: lorabench/tiny-300k
task: python-docs
method: full
training: {{steps: 5, learning_rate: {rate}}}
save: {{full: {full}}}
seeds: [0, 1]
"""


def stored(tmp_path, losses, rate="1e-3", full="best"):
    """A store whose cells finish one after another with these (validation, test) losses, each with a model."""
    study = read_study(parse_source(STUDY.format(rate=rate, full=full), "s.yaml", Path.cwd()))
    cells, store = expand(study), Store(tmp_path)
    store.save_plan(study, cells)
    kept = []
    for cell, (validation, test) in zip(cells, losses, strict=True):
        model = store.partial(cell.id) / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_text("")
        readings = (Reading(metric="validation_loss", value=validation), Reading(metric="eval_loss", value=test))
        store.put(CellResult(cell=cell, outcome="finished", readings=readings, started_at="2026-01-01"))
        remove_unneeded_weights(store, cells, cell, "eval_loss")
        kept.append([c.id for c in cells if (store.cells_folder / c.id / "model").exists()])
    return store, cells, kept


def test_the_better_seed_keeps_its_weights_and_all_or_none_does_as_it_says(tmp_path):
    _, cells, kept = stored(tmp_path / "best", [(1.0, 2.0), (1.0, 1.5)])
    assert kept == [[cells[0].id], [cells[1].id]]
    _, cells, kept = stored(tmp_path / "all", [(1.0, 2.0), (1.0, 1.5)], full="all")
    assert kept[-1] == [c.id for c in cells]
    assert stored(tmp_path / "none", [(1.0, 2.0), (1.0, 1.5)], full="none")[2] == [[], []]


def test_the_chosen_rate_is_known_when_all_cells_are_there(tmp_path):
    losses = {(1e-4, 0): (2.0, 1.0), (1e-4, 1): (2.0, 1.1), (1e-3, 0): (1.0, 1.9), (1e-3, 1): (1.2, 1.8)}
    study = read_study(parse_source(STUDY.format(rate="{tune: [1e-4, 1e-3]}", full="best"), "s.yaml", Path.cwd()))
    order = [losses[(c.training.fixed_learning_rate, c.seed)] for c in expand(study)]
    _, cells, kept = stored(tmp_path, order, rate="{tune: [1e-4, 1e-3]}")
    best = next(c.id for c in cells if (c.training.fixed_learning_rate, c.seed) == (1e-3, 1))
    assert kept[-1] == [best], "lowest validation loss of the rates, lowest test loss of its seeds"


def test_a_failed_evaluation_is_wholly_repeated_and_a_finished_cell_where_something_lacks(tmp_path):
    store, cells, _ = stored(tmp_path, [(1.0, 2.0), (1.0, 1.5)], full="all")
    result, folder = store.get(cells[0].id), store.cells_folder / cells[0].id
    failed = result.model_copy(
        update={"outcome": "failed", "error": Fault(kind="OSError", message="x", phase="evaluate")}
    )
    assert phases_of(cells[0], failed, folder) == REPEATED
    assert (
        phases_of(
            cells[0], failed.model_copy(update={"error": Fault(kind="OSError", message="x", phase="train")}), folder
        )
        == ()
    )
    assert phases_of(cells[0], result, folder) == ("decompose",), "its spectra are not there"
    (folder / "spectra.safetensors").write_text("")
    assert phases_of(cells[0], result, folder) == ()
    assert phases_of(cells[0], result, folder, again=True) == ("evaluate",)
    assert phases_of(
        cells[0], result.model_copy(update={"faults": (Fault(kind="E", message="x", phase="measure"),)}), folder
    ) == ("measure",)


def test_what_was_not_kept_is_told(tmp_path):
    store, cells, _ = stored(tmp_path, [(1.0, 2.0), (1.0, 1.5)], full="none")
    results = readable_results(store, cells)
    phases, notices = repeatable_phases(store, cells, results, again=False, all_trained=False)
    assert phases == {} and len(notices) == 2
    assert "save.full: all" in notices[0]
    plan = Plan(store.study(), store, cells, (), {}, results=results)
    assert "not kept" not in " ".join(notes(plan)), "nothing is to run"
    assert "are not kept" in notes(replace(plan, pending=cells))[0]


def test_spectra_that_are_asked_for_later_are_told_with_what_makes_them(tmp_path):
    store, cells, _ = stored(tmp_path / "all", [(1.0, 2.0), (1.0, 1.5)], full="all")
    results = readable_results(store, cells)
    (sentence,) = missing_analyses(store, cells, results)
    assert sentence.startswith("2 finished cells have no spectra") and f"lorabench evaluate {store.folder}" in sentence
    for cell in cells:
        (store.cells_folder / cell.id / "spectra.safetensors").write_text("")
    assert missing_analyses(store, cells, results) == ()
    store, cells, _ = stored(tmp_path / "none", [(1.0, 2.0), (1.0, 1.5)], full="none")
    assert "the weights of 2 were not kept" in missing_analyses(store, cells, readable_results(store, cells))[0]


def test_spectra_of_values_alone_are_fewer_than_full_ones(tmp_path):
    store, cells, _ = stored(tmp_path, [(1.0, 2.0), (1.0, 1.5)], full="all")
    results = readable_results(store, cells)
    for cell in cells:
        (store.cells_folder / cell.id / "spectra.safetensors").write_text("")
    asked = [c.model_copy(update={"analysis": c.analysis.model_copy(update={"spectra": "full"})}) for c in cells]
    before = [c.model_copy(update={"analysis": c.analysis.model_copy(update={"spectra": "values"})}) for c in cells]
    results = {c.id: results[c.id].model_copy(update={"cell": c}) for c in before}
    assert "2 finished cells have no spectra, or fewer" in missing_analyses(store, asked, results)[0]
    assert missing_analyses(store, before, results) == ()


def test_before_a_run_each_stored_result_is_read_once(tmp_path, monkeypatch):
    store, cells, _ = stored(tmp_path, [(1.0, 2.0), (1.0, 1.5)], full="all")
    read = []
    get = Store.get
    monkeypatch.setattr(Store, "get", lambda self, i, *cell, **how: read.append(i) or get(self, i, *cell, **how))
    plan = make_plan(store.study(), tmp_path)
    refuse_mixture(plan, "local")
    notes(plan)
    Tally.of(plan, workers=1)
    assert sorted(read) == sorted(c.id for c in cells)
