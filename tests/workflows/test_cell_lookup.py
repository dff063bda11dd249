"""A cell or a condition is found by whatever a table, a report or a run calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorabench.api import spectrum
from lorabench.commands import main as cli
from lorabench.errors import StoreError
from lorabench.record.store import Store
from lorabench.workflows import cell_lookup

STUDY = """
schema: 1
name: called
model: lorabench/tiny-300k
task: {name: planted, rank: 2}
training: {steps: 4, sequence_length: 64, learning_rate: {tune: [1.0e-3, 3.0e-3]}}
grid: {method.rank: [1, 4], quantization: [none, nf4]}
include: [{method: {name: full}, training.learning_rate: 1.0e-3}]
seeds: [0, 1]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("named")
    (place / "called.yaml").write_text(STUDY.lstrip())
    assert cli.main(["run", str(place / "called.yaml"), "--out", str(place / "out"), "--executor", "synthetic"]) == 0
    return str(place / "out")


@pytest.mark.parametrize("name", ["LoRA r=4 nf4", "lora rank 4, nf4", "lora r4 nf4", "nf4 lora rank=4"])
def test_a_condition_goes_by_its_label_however_it_is_spelt(folder, name):
    found = cell_lookup.find(name, folder)
    assert found.is_condition and found.title == "LoRA r=4 nf4"
    assert {(c.method.rank, c.quantization.name, c.seed, c.training.fixed_learning_rate) for c in found.cells} == {
        (4, "nf4", s, r) for s in (0, 1) for r in (1e-3, 3e-3)
    }


def test_a_label_that_another_one_begins_with_means_itself(folder):
    assert {c.quantization.name for c in cell_lookup.find("LoRA r=4", folder).cells} == {"none"}


@pytest.mark.parametrize("name", ["full, seed 1", "FULL seed=1", "seed 1 full"])
def test_a_cell_goes_by_its_words(folder, name):
    (cell,) = cell_lookup.find(name, folder).cells
    assert (cell.method.name, cell.seed) == ("full", 1)


def test_the_words_of_a_cell_name_its_rate(folder):
    (cell,) = cell_lookup.find("lora rank 1, learning rate 1e-3, seed 0", folder).cells
    assert (cell.method.rank, cell.quantization.name, cell.training.fixed_learning_rate, cell.seed) == (
        1,
        "none",
        1e-3,
        0,
    )


def test_ids_and_conditions_ids_are_found_by_their_beginning(folder):
    cell = Store(folder).plan()[3]
    assert cell_lookup.find(cell.id[:8], folder).cells == (cell,)
    assert cell in cell_lookup.find(cell.condition_id, folder).cells


def test_what_means_several_or_nothing_is_one_sentence_with_the_near_ones(folder):
    with pytest.raises(
        StoreError,
        match=r"several conditions match 'lora': 'LoRA r=1', 'LoRA r=1 nf4', 'LoRA r=4', 'LoRA r=4 nf4'; write more",
    ):
        cell_lookup.find("lora", folder)
    with pytest.raises(StoreError, match=r"and no condition has that name: there (is|are) .*LoRA r=4"):
        cell_lookup.find("LoRA r=5", folder)
    with pytest.raises(
        StoreError,
        match=(r"no cell in .* has an id starting with 'abcabc'; .*lorabench status .* --cells` lists them"),
    ):
        cell_lookup.find("abcabc", folder)


def test_of_a_condition_the_first_seed_at_the_chosen_rate_is_taken_and_said(folder, capsys):
    from lorabench.report.view import make_view

    told: list[str] = []
    _, result = cell_lookup.find_cell("lora rank 4", folder, told.append)
    (tuning,) = (t for t in make_view(Store(folder)).analysis.tunings if t.condition == result.cell.condition_id)
    assert result.cell.seed == 0 and result.cell.training.fixed_learning_rate == tuning.chosen
    assert told == [
        f"LoRA r=4 has 4 cells; seed 0 at the chosen learning rate {tuning.chosen:g} is shown ({result.cell.id});"
        " give an id for another one"
    ]
    assert cli.main(["spectrum", "lora rank 4", "--in", folder]) == 0
    seen = capsys.readouterr()
    assert f"cell {result.cell.id}" in seen.out and seen.err == f"note: {told[0]}\n"
    assert spectrum("lora rank 4", directory=folder).title == f"cell {result.cell.id}"


def test_explain_shows_a_condition_with_its_means_and_its_cells(folder, capsys):
    from lorabench.report.view import make_view

    assert cli.main(["explain", "LoRA r=1", "--in", folder]) == 0
    out = capsys.readouterr().out
    view = make_view(Store(folder))
    summary = next(s for s in view.analysis.summaries if s.label.text == "LoRA r=1")
    shown = next(line for line in out.splitlines() if line.startswith("  eval_loss "))
    assert (
        f"{summary.mean('eval_loss'):.4g} nats ± {summary.statistics['eval_loss'].ci_half_width:.4g} nats over 2 seeds"
        in shown
    )
    assert (
        f"learning rate {next(t.chosen for t in view.analysis.tunings if t.condition == summary.condition):g}, chosen"
        " by validation loss from 0.001, 0.003" in out
    )
    assert (
        sum(
            line.startswith("  ") and c.id in line
            for c in cell_lookup.find("LoRA r=1", folder).cells
            for line in out.splitlines()
        )
        == 4
    )


def test_status_lists_every_cell_in_a_line_only_when_asked(folder, capsys):
    store = Store(folder)
    assert cli.main(["status", folder]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"each cell with its id and result: lorabench status {folder} --cells"
    ]
    assert cli.main(["status", folder, "--cells"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    for result in store.results():
        line = lines[result.cell.id]
        assert (
            "finished" in line
            and f"{result.value('eval_loss'):.4g} nats" in line
            and f"seed {result.cell.seed}" in line
        )
        assert f" {result.value('train_seconds'):.1f} " in line


def test_places_are_searched_where_no_directory_is_named(folder, monkeypatch, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "called").symlink_to(Path(folder))
    monkeypatch.chdir(tmp_path)
    assert cell_lookup.find("lora rank 4, nf4", None).store.folder == Path("runs/called")
    with pytest.raises(StoreError, match=r"looked in runs/ \(called\): name another directory with --in DIR"):
        cell_lookup.find("nothing like it", None)
