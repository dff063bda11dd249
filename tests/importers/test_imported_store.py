"""An imported study is read like any other, cannot be run, and loosens nothing for studies that are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import lorabench as lb
from lorabench.advice.candidates import candidate_specs
from lorabench.advice.evidence import Here
from lorabench.advice.from_study import comparison_groups_in
from lorabench.advice.priors import rules
from lorabench.analysis.findings.registry import check
from lorabench.analysis.study import analyse
from lorabench.commands.main import main
from lorabench.config.explain import paths_of
from lorabench.config.settings import MethodSpec
from lorabench.record.archive import opened, pack
from lorabench.record.store import Store
from tests.importers.peft_files import FULL, LORA, write

LOHA = {
    "run_info.peft_config": {"peft_type": "LOHA", "r": 32, "alpha": 64},
    "run_info.experiment_name": "loha/x-rank32",
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    for name, changes in (("lora", {}), ("full", FULL), ("loha", LOHA)):
        write(folder / "files" / f"{name}.json", changes)
    return lb.import_results("peft", folder / "files", folder / "store")


def test_commands_read_it_like_any_other(imported, capsys):
    folder = str(imported.store.folder)
    for words in (["table", folder], ["report", folder], ["status", folder], ["explain", "LoHa r=32", "--in", folder]):
        assert main(words) == 0
    told = capsys.readouterr().out
    assert "LoHa r=32" in told
    assert "imported (peft): nothing of it was run here, and nothing is left to run" in told
    assert "lorabench run" not in told
    assert "training.autocast" not in told  # which the file does not tell
    assert lb.open_results(folder).wide()["method"].tolist() == ["full", "loha", "lora"]


def test_the_report_names_no_remedy_that_is_not_there(imported):
    text = (imported.store.folder / "report.html").read_text(encoding="utf-8")
    assert "To reproduce" not in text
    assert "tune with training.learning_rate" not in text
    assert "lora.json" in text  # what a cell was read from
    kinds = {f.kind for f in check(analyse(imported.store))}
    assert {"one_seed", "untuned_rates"} <= kinds
    assert not kinds & {"missing", "prediction_off", "metric_absent", "no_reference", "mixed_environments"}


def test_it_comes_back_from_its_archive(imported, tmp_path):
    pack(imported.store, tmp_path)
    with opened(tmp_path) as store:
        assert [r.source for r in store.results()] == [r.source for r in imported.results]


def test_it_cannot_be_run_in_any_way(imported, tmp_path, capsys):
    folder = imported.store.folder
    words = "was imported (peft) and has nothing to run"
    for command in (["run", str(folder / "study.yaml")], ["evaluate", str(folder)]):
        assert main(command) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(lb.LorabenchError, match="was imported"):
        lb.expand(imported.study)
    with pytest.raises(lb.LorabenchError, match="was imported"):
        lb.load_study(folder / "study.yaml")
    assert main(["run", "studies/quickstart.yaml", "--dry-run", "--out", str(folder)]) == 2
    assert "which nothing is run into" in capsys.readouterr().err


def test_a_study_that_runs_is_checked_as_before(tmp_path):
    """No word in a study file makes a foreign method one that may run."""
    study = yaml.safe_load(Path("studies/quickstart.yaml").read_text(encoding="utf-8"))
    assert "imported" not in paths_of()
    for change, words in (
        ({"method": "loha"}, "'loha' is not built into lorabench"),
        ({"imported": {"importer": "peft", "sources": []}}, "was imported"),
        ({"include": [{"imported": {"importer": "peft"}}]}, "unknown key of include 'imported'"),
    ):
        path = tmp_path / "s.yaml"
        path.write_text(yaml.safe_dump(study | change))
        with pytest.raises(lb.LorabenchError, match=words):
            lb.load_study(path)
    with pytest.raises(ValueError, match="is not built into lorabench"):
        MethodSpec(name="loha")


def test_ids_of_cells_that_run_are_what_they_were_and_say_nothing_of_imports():
    cells = lb.expand(lb.load_study("studies/quickstart.yaml"))
    with opened("reports/quickstart") as store:
        stored = [c.id for c in store.plan()]
    assert {c.id for c in cells} & set(stored)
    assert "imported" not in cells[0].condition.model_dump_json(exclude_none=True)


def test_advice_takes_what_lorabench_can_run(imported):
    (group,) = comparison_groups_in(analyse(imported.store), Here("m", 3_200_000_000), imported.store.folder)
    assert {r.key for r in group.results} == {("lora", "none"), ("full", "none")}
    assert (group.left_out, group.made_up) == (1, False)


def test_explain_leaves_out_of_a_condition_what_is_not_told(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("method,rank,accuracy\nlora,8,0.5\nlora,8,0.6\nfull,,0.7\n")
    lb.import_results("csv", tmp_path / "t.csv", tmp_path / "out")
    assert main(["explain", "LoRA r=8", "--in", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "2 cells" in told and "method.rank" in told
    assert "method.alpha" not in told and "None" not in told


def test_advice_fills_what_is_not_told_with_its_rules(tmp_path):
    """A table that tells rank, alpha, modules and rate: schedule, warm-up and decay are the rules', and no batch of its
    own is named."""
    rows = "lora,8,16,all-linear,3e-4,0.5,1000\nfull,,,,1e-5,0.6,100000\n"
    (tmp_path / "t.csv").write_text(
        f"method,rank,alpha,target_modules,learning_rate,accuracy,trainable_parameters\n{rows}"
    )
    results = lb.import_results("csv", tmp_path / "t.csv", tmp_path / "out")
    (group,) = comparison_groups_in(analyse(results.store), Here("m", 1_000_000_000), tmp_path)
    (spec,) = (s for s in candidate_specs(10**9, 10**6, {8: 1000}, group, (), 16) if s.key == ("lora", "none"))
    rate = rules().learning_rate
    assert (spec.method.rank, spec.schedule, spec.warmup) == (8, rate.schedule, rate.schedule_warmup)
    assert not any("sequences a step" in caveat for caveat in spec.caveats)


def test_some_files_that_cannot_be_read_end_with_code_2_and_the_rest_is_there(tmp_path, capsys):
    write(tmp_path / "files" / "a.json")
    (tmp_path / "files" / "b.json").write_text('{"run_info": ')
    assert main(["import", "peft", str(tmp_path / "files"), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert "1 result of 1 condition imported" in told.out
    assert told.err.count("left out:") == 1
    assert "b.json is truncated or damaged" in told.err
    assert len(Store.open(tmp_path / "out").results()) == 1


def test_another_reference_can_be_named(tmp_path):
    for name, changes in (("lora", {}), ("full", FULL), ("loha", LOHA)):
        write(tmp_path / f"{name}.json", changes)
    files = [tmp_path / f"{name}.json" for name in ("lora", "full", "loha")]
    results = lb.import_results("peft", files, tmp_path / "out", reference={"method": "lora", "method.rank": "32"})
    against = {c.reference for c in analyse(results.store).comparisons}
    assert [analyse(results.store).label(c) for c in against] == ["LoRA r=32"]
    with pytest.raises(lb.LorabenchError, match="there are method: full, loha, lora"):
        lb.import_results("peft", files, tmp_path / "other", reference={"method": "lhoa"})
    assert not (tmp_path / "other").exists()


def test_nothing_is_written_where_nothing_can_be_read_or_the_folder_is_used(tmp_path, capsys):
    (tmp_path / "b.json").write_text("{}")
    assert main(["import", "peft", str(tmp_path / "b.json"), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(lb.LorabenchError, match=r"b\.json is no result"):
        lb.import_results("peft", [write(tmp_path / "a.json"), tmp_path / "b.json"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert main(["import", "peft", str(tmp_path / "a.json"), "--out", str(tmp_path)]) == 2
    assert "holds a.json, b.json; choose a new or empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cvs", "x"], "unknown importer 'cvs'; did you mean 'csv'?"),
        (["peft", "x", "--map", "a=rank"], "columns (--map): only csv takes that; leave it out for peft"),
        (["csv", "x", "--map", "rank"], "--map rank has no value; write --map score=accuracy"),
        (["csv", "nowhere.csv"], "there is no file or folder nowhere.csv"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path, capsys, words, told):
    assert main(["import", *words, "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err


def test_an_adapter_with_bd_is_its_own_method_and_the_copy_lies_beside_the_result(tmp_path):
    write(tmp_path / "a.json", {"run_info.peft_config": {**LORA, "use_bdlora": {"nblocks": 2}}})
    results = lb.import_results("peft", tmp_path / "a.json", tmp_path / "out")
    (cell,) = results.store.plan()
    copy = results.store.cells_folder / cell.id / "source.json"
    assert cell.method.name == "bdlora"
    assert json.loads(copy.read_text()) == json.loads((tmp_path / "a.json").read_text())
