"""Results directories from several machines become one: every cell once, by a stated rule, and no time of one machine
beside another's."""

import json
import shutil
import subprocess

import pandas as pd
import pytest

import lorabench as lb
from lorabench.analysis.findings.registry import check
from lorabench.analysis.study import analyse
from lorabench.commands.main import main
from lorabench.config import expand, load_study
from lorabench.errors import LorabenchError
from lorabench.record.archive import pack
from lorabench.record.merged import merged_of
from lorabench.record.result import CellResult, Environment
from lorabench.record.store import Store
from lorabench.report.tables import study_table
from lorabench.workflows.merge import merge
from tests import synthetic

STUDY = """
schema: 1
name: joined
question: Which rank?
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 8}
training: {steps: 4}
analysis: {spectra: values}
grid: {method.rank: [RANKS]}
include: [{method: {name: full}}, {method: base}]
seeds: [SEEDS]
"""
CARD = Environment(device="NVIDIA A10", driver="CUDA 12.8", packages={"torch": "2.13"})
OTHER = Environment(device="NVIDIA H100", driver="CUDA 12.8", packages={"torch": "2.12"})


@pytest.fixture
def ran(tmp_path):
    """ran(name, ranks, seeds, environment, only) fills a results directory with drawn results of some cells."""

    def fill(name, ranks="2, 4", seeds="0, 1", environment=CARD, only=None, change=None, text=STUDY):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.replace("RANKS", ranks).replace("SEEDS", seeds))
        study = load_study(path)
        store = Store(tmp_path / name)
        store.save_plan(study, expand(study))
        for i, cell in enumerate(store.plan()):
            if only is None or i in only:
                result = synthetic.open_worker().run(cell, store.partial(cell.id), lambda event: None)
                result = result.model_copy(update={"environment": environment})
                store.put(change(result) if change else result)
        return store

    return fill


def scaled(name, factor):
    def change(result: CellResult) -> CellResult:
        readings = [
            r.model_copy(update={"value": r.value * factor}) if r.metric == name else r for r in result.readings
        ]
        return result.model_copy(update={"readings": tuple(readings)})

    return change


def test_two_halves_of_a_study_are_the_whole(ran, tmp_path):
    whole = ran("whole")
    number = len(whole.plan())
    halves = [ran(f"half{i}", only=range(i, number, 2)) for i in (0, 1)]
    joined = merge([h.folder for h in halves], tmp_path / "out").store
    assert joined.results() == whole.results()
    assert joined.plan() == whole.plan()
    assert study_table(joined) == study_table(whole)
    assert joined.unreadable() == ()
    assert sorted(p.name for p in joined.cells_folder.iterdir()) == sorted(c.id for c in whole.plan())


def test_seeds_and_ranks_of_several_machines_are_joined_and_what_no_one_ran_is_missing(ran, tmp_path):
    parts = [ran("a", seeds="0, 1"), ran("b", seeds="2"), ran("c", ranks="8", seeds="0, 1")]
    joined = merge([p.folder for p in parts], tmp_path / "out").store
    study = joined.study()
    assert study.seeds == (0, 1, 2)
    assert study.grid == {"method.rank": (2, 4, 8)}
    again = expand(load_study(joined.folder / "study.yaml"))
    assert {c.id for c in again} == {c.id for c in joined.plan()}, "the joined study is the study of the joined cells"
    base = [c for c in joined.plan() if c.method.name == "base"]
    assert len(base) == 1, "an untrained base has no seed to vary"
    missing = [c for c in joined.plan() if joined.get(c.id) is None]
    assert [(c.method.rank, c.seed) for c in missing] == [(8, 2)]


def test_grids_that_differ_in_several_axes_become_further_conditions(ran, tmp_path):
    more = STUDY.replace("grid: {method.rank: [RANKS]}", "grid: {method.rank: [RANKS], quantization: [nf4]}")
    parts = [ran("a"), ran("b", text=more)]
    joined = merge([p.folder for p in parts], tmp_path / "out").store
    again = expand(load_study(joined.folder / "study.yaml"))
    assert {c.id for c in again} == {c.id for c in joined.plan()} == {c.id for p in parts for c in p.plan()}
    assert len(joined.results()) == len(joined.plan())


def test_a_cell_of_two_directories_is_there_once_by_the_stated_rule(ran, tmp_path):
    failed = lambda r: r.model_copy(update={"outcome": "failed", "readings": ()})  # noqa: E731
    first = ran("first", only=[0, 1, 2], change=scaled("eval_loss", 1.05))
    second = ran("second", only=[1, 2, 3], environment=OTHER)
    third = ran("third", only=[3, 4], change=failed)
    joined = merge([first.folder, second.folder, third.folder], tmp_path / "out")
    results = joined.store.results()
    assert [r.environment.device for r in results] == ["NVIDIA A10"] * 3 + ["NVIDIA H100", "NVIDIA A10"]
    assert [r.outcome for r in results] == ["finished"] * 4 + ["failed"]
    merged = merged_of(joined.store.folder)
    assert [s.cells for s in merged.sources] == [3, 1, 1]
    assert [t.cell for t in merged.twice] == [c.id for c in joined.store.plan()[1:3]]
    assert merged.twice[0].kept == pytest.approx(1.05 * merged.twice[0].other)
    assert "2 cells finished in two directories, 0 of them with the same eval_loss" in joined.words()[-1]
    found = {f.kind: f for f in check(analyse(joined.store))}
    assert found["merged_differ"].cells == tuple(t.cell for t in merged.twice)
    assert "more than the study's margin of 0.02" in found["merged_differ"].sentence


def test_times_of_different_machines_are_neither_averaged_nor_ranked(ran, tmp_path):
    one = ran("one", seeds="0, 1", change=scaled("tokens_per_second", 1.0))
    two = ran("two", seeds="2", environment=OTHER, change=scaled("tokens_per_second", 9.0))
    three = ran("three", ranks="8", seeds="2", environment=OTHER, change=scaled("tokens_per_second", 9.0))
    joined = merge([s.folder for s in (one, two, three)], tmp_path / "out").store
    analysis = analyse(joined)
    assert analysis.timed_on == "NVIDIA A10"
    for summary in analysis.summaries:
        speed = summary.statistics.get("tokens_per_second")
        assert speed is None or (speed.mean, speed.std, speed.n) in {(20_000, 0, 2), (20_000, None, 1)}
    by_rank = {analysis.group(s.condition).setting.method.rank: s for s in analysis.summaries}
    assert "tokens_per_second" not in by_rank[8].statistics, "it ran on the other machine alone"
    assert by_rank[8].statistics["eval_loss"].n == 1
    assert by_rank[4].statistics["eval_loss"].n == 3, "quality is of all machines"
    rows = analysis.cells
    assert set(rows.groupby("machine")["tokens_per_second"].max()) == {20_000, 180_000}, "cells.csv keeps what was read"
    found = {f.kind: f for f in check(analysis)}
    assert "device (NVIDIA A10: " in found["mixed_environments"].sentence
    assert "times are shown of NVIDIA A10 alone" in found["mixed_environments"].sentence
    assert any("those shown are of NVIDIA A10 alone" in note for note in study_table(joined).notes)


def test_one_machine_says_nothing_of_machines(ran, tmp_path):
    analysis = analyse(ran("one"))
    assert analysis.timed_on is None
    assert "machine" not in analysis.cells


def test_two_processors_are_two_machines_where_both_are_known(ran, tmp_path):
    def cpu(name):
        return Environment(device="cpu", processor=name, instructions="AVX2")

    ran("a", seeds="0", environment=cpu("EPYC 7763"))
    ran("b", seeds="1", environment=cpu("Xeon 8481C"))
    ran("c", seeds="2", environment=cpu(None))
    two = merge([tmp_path / n for n in "ab"], tmp_path / "two").store
    assert analyse(two).timed_on in ("cpu (EPYC 7763)", "cpu (Xeon 8481C)")
    assert analyse(merge([tmp_path / n for n in "ac"], tmp_path / "unknown").store).timed_on is None


def test_a_damaged_record_is_named_and_the_other_directory_s_is_taken(ran, tmp_path, capsys):
    one, two = ran("one", only=[0, 1]), ran("two", only=[0])
    for cell in one.plan()[:2]:
        file = one.cells_folder / cell.id / "curve.csv"
        file.write_text(file.read_text()[:-1])
    assert main(["merge", str(one.folder), str(two.folder), "-o", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert err.count("left out: ") == 2
    assert out.startswith("1 of 7 cells have a result")
    assert lb.open_results(tmp_path / "out").results == two.results()


def test_what_a_link_points_to_is_not_copied(ran, tmp_path, capsys):
    one, two = ran("one", only=[0, 1]), ran("two", only=[0])
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    first, second = (one.cells_folder / cell.id for cell in one.plan()[:2])
    (first / "more").symlink_to(tmp_path / "secret")
    (second / "log.txt").unlink(missing_ok=True)
    (second / "log.txt").symlink_to(tmp_path / "secret" / "key")
    assert main(["merge", str(one.folder), str(two.folder), "-o", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("is a symbolic link, which merge does not follow") == 2
    assert not any("secret" in p.read_text("latin-1") for p in (tmp_path / "out" / "cells").rglob("*") if p.is_file())
    assert lb.open_results(tmp_path / "out").results == two.results()


def test_a_disk_that_is_full_is_named_as_such(ran, tmp_path, capsys):
    one, two = ran("one", only=[0, 1]), ran("two", only=[0])
    (tmp_path / "small").mkdir()
    small = tmp_path / "small"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        assert main(["merge", str(one.folder), str(two.folder), "-o", str(small / "out")]) == 2
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert "No space left on device" in capsys.readouterr().err


def test_an_archive_is_joined_too(ran, tmp_path):
    one, two = ran("one", seeds="0"), ran("two", seeds="1")
    pack(two, tmp_path / "kept")
    joined = merge([one.folder, tmp_path / "kept"], tmp_path / "out").store
    assert len(joined.results()) == len(one.results()) + len(two.results()) - 1  # the base


def test_a_merge_that_was_stopped_is_done_again(ran, tmp_path):
    one, two = ran("one", seeds="0"), ran("two", seeds="1")
    whole = merge([one.folder, two.folder], tmp_path / "whole").store
    shutil.copytree(whole.cells_folder, tmp_path / "out" / "cells")
    victim = tmp_path / "out" / "cells" / whole.plan()[0].id
    victim.rename(victim.with_suffix(".partial"))
    assert merge([one.folder, two.folder], tmp_path / "out").store.results() == whole.results()


@pytest.mark.slow
def test_the_joined_folder_is_completed_by_a_run(ran, tmp_path, capsys):
    invented = Environment(device="synthetic")
    one = ran("one", only=[0, 1, 2], environment=invented)
    two = ran("two", ranks="8", seeds="0", environment=invented)
    assert main(["merge", str(one.folder), str(two.folder), "-o", str(tmp_path / "out")]) == 0
    command = ["run", str(tmp_path / "out" / "study.yaml"), "--out", str(tmp_path / "out"), "--executor", "synthetic"]
    assert main(command) == 0
    cells = pd.read_csv(tmp_path / "out" / "cells.csv")
    assert set(cells["outcome"]) == {"finished"} and len(cells) == len(Store(tmp_path / "out").plan())
    assert json.loads((tmp_path / "out" / "merged.json").read_text())["sources"][0]["cells"] == 3


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["one"], "one results directory needs no merging"),
        (["one", "one"], "is named twice"),
        (["one", "nowhere"], "is not a results directory"),
        (["one", "longer"], "training.steps is 9 there and 4 here; merge joins parts of one study"),
        (["one", "invented"], "holds invented results and"),
    ],
)
def test_what_cannot_be_joined_is_one_sentence(ran, tmp_path, capsys, folders, words):
    ran("one", only=[0])
    ran("longer", only=[0], text=STUDY.replace("steps: 4", "steps: 9"))
    ran("invented", only=[1], environment=Environment(device="synthetic"))
    assert main(["merge", *(str(tmp_path / f) for f in folders), "-o", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out" / "plan.json").exists()


def test_a_folder_in_use_is_refused(ran, tmp_path):
    one, two = ran("one", only=[0]), ran("two", only=[1])
    before = one.results()
    with pytest.raises(LorabenchError, match="is in use; choose a new or empty folder with -o DIR"):
        lb.merge([one.folder, two.folder], one.folder)
    assert Store(one.folder).results() == before
