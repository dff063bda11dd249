"""Conditions are what the file means, and a cell's id is a hash of what affects its outcome and of nothing else."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from lorabench.config import Cell, expand, load_study
from lorabench.config.fingerprint import References, fingerprint_model, hash_path
from lorabench.config.load import read_study
from lorabench.config.source import override, parse_source
from lorabench.errors import StudyError

BASE = """
schema: 1
name: s
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 4, alpha: 8}
quantization: {name: nf4, double_quant: true}
"""


def cells_of(text, *settings):
    return expand(read_study(override(parse_source(text, "s.yaml", Path.cwd()), settings)))


def test_a_name_keeps_the_fields_beside_it_and_unused_ones_are_emptied():
    cells = cells_of(BASE + "grid: {quantization: [none, nf4, int8], method: [lora, base]}")
    seen = [(c.quantization.name, c.quantization.double_quant, c.method.name, c.method.alpha) for c in cells]
    assert seen == [
        ("none", False, "lora", 8),
        ("none", False, "base", None),
        ("nf4", True, "lora", 8),
        ("nf4", True, "base", None),
        ("int8", False, "lora", 8),
        ("int8", False, "base", None),
    ]


def test_full_fine_tuning_is_one_condition_however_many_ranks():
    cells = cells_of(BASE.replace("nf4", "none") + "grid: {method: [full, lora], method.rank: [1, 2, 3]}")
    assert [(c.method.name, c.method.rank) for c in cells] == [("full", None), ("lora", 1), ("lora", 2), ("lora", 3)]


def test_exclude_drops_what_agrees_and_include_has_a_grid_of_its_own():
    text = (
        BASE
        + "grid: {method.rank: [1, 2], quantization: [none, nf4]}\nexclude: [{method.rank: 2, quantization: nf4}]\n"
    )
    assert [(c.method.rank, c.quantization.name) for c in cells_of(text)] == [(1, "none"), (1, "nf4"), (2, "none")]
    text += "include:\n  - {method: full, quantization: none, grid: {training.learning_rate: [1e-3, 1e-4]}}\n"
    assert [c.training.learning_rate for c in cells_of(text)][3:] == [1e-3, 1e-4]


def test_the_id_survives_json_and_ignores_notation():
    (cell,) = cells_of(BASE, "training.learning_rate=1e-3")
    (again,) = cells_of(BASE, "training.learning_rate=0.001")
    assert cell.id == again.id
    assert Cell.model_validate_json(cell.model_dump_json()).id == cell.id
    assert len(cell.id) == 12


def test_the_id_changes_with_everything_that_affects_the_outcome():
    (cell,) = cells_of(BASE)
    changes = [
        "training.steps=3",
        "method.rank=5",
        "method.alpha=9",
        "quantization=fp4",
        "seeds=[1]",
        "evaluation.limit=5",
        "model.dtype=bfloat16",
        "training.batch_size=3",
        "method.target_modules=mlp",
    ]
    ids = [cells_of(BASE, c)[0].id for c in changes]
    assert len({cell.id, *ids}) == len(changes) + 1
    (other_seed,) = cells_of(BASE, "seeds=[1]")
    assert other_seed.condition_id == cell.condition_id


def test_a_model_is_its_bytes_not_its_path(tmp_path):
    source = Path(__file__).parents[2] / "lorabench" / "models" / "tiny-300k"
    shutil.copytree(source, tmp_path / "copy")
    assert fingerprint_model(str(tmp_path / "copy")) == fingerprint_model("lorabench/tiny-300k")
    assert cells_of(BASE, f"model={tmp_path / 'copy'}")[0].id == cells_of(BASE)[0].id
    weights = tmp_path / "copy" / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    fingerprint_model.cache_clear()
    assert fingerprint_model(str(tmp_path / "copy")) != fingerprint_model("lorabench/tiny-300k")


def test_data_is_its_bytes_not_its_path(tmp_path):
    words = "one two three four five six seven. " * 400
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(words)
    text = BASE.replace("task: python-docs", f"task: {{name: text, train: {tmp_path / 'a.txt'}}}")
    (first,) = cells_of(text)
    assert cells_of(text.replace("a.txt", "b.txt"))[0].id == first.id
    (tmp_path / "b.txt").write_text(words + "!")
    assert cells_of(text.replace("a.txt", "b.txt"))[0].id != first.id


def test_large_files_are_sampled_over_their_length(tmp_path, monkeypatch):
    monkeypatch.setattr("lorabench.config.checkpoint_files.SAMPLE_ABOVE", 2**20)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(bytes(8 * 2**20))
    before = hash_path(file)
    for start, stop in ((0, 1), (4 * 2**20, 4 * 2**20 + 2**18), (8 * 2**20 - 1, 8 * 2**20)):
        raw = bytearray(8 * 2**20)
        raw[start:stop] = b"x" * (stop - start)
        file.write_bytes(raw)
        assert hash_path(file) != before


def test_the_reference_of_a_condition_shares_most_with_it():
    cells = cells_of(BASE.replace("nf4", "none") + "grid: {method: [full, lora], training.learning_rate: [1e-3, 1e-4]}")
    plain = [c.model_dump(mode="json", exclude={"seed", "fingerprints"}) for c in cells]
    full = [p for p in plain if p["method"]["name"] == "full"]
    for p in plain:
        assert References(full).of(p)["training"]["learning_rate"] == p["training"]["learning_rate"]


def test_a_hub_model_is_pinned_to_the_commit_of_the_local_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from lorabench.config.fingerprint import pinned
    from lorabench.config.settings import ModelSpec

    pinned.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "a" * 40
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(commit)
    assert pinned(ModelSpec(name="org/name")).revision == commit
    assert pinned(ModelSpec(name="org/name", revision="b" * 40)).revision == "b" * 40
    assert pinned(ModelSpec(name="lorabench/tiny-300k")).revision is None
    cell = cells_of(BASE, "model=org/name")[0]
    assert cell.model.revision == commit
    assert cell.fingerprints.model == f"org/name@{commit}"
    pinned.cache_clear()


def test_settings_that_nothing_uses_make_no_second_condition():
    text = BASE.replace("quantization: {name: nf4, double_quant: true}", "")
    assert len(cells_of(text + "grid: {quantization.compute_dtype: [auto, float16, bfloat16]}")) == 1
    assert len(cells_of(text + "grid: {method: [base], training.batch_size: [2, 4]}")) == 1
    assert len(cells_of(BASE + "grid: {quantization.compute_dtype: [auto, float16, bfloat16]}")) == 3


def test_two_grids_of_rates_for_one_condition_are_refused(tmp_path):
    text = (
        "schema: 1\nname: s\nmodel: lorabench/tiny-300k\ntask: python-docs\ngrid: {training.learning_rate: [{tune:"
        " [1e-3, 3e-3]}, {tune: [3e-3, 1e-2]}]}\n"
    )
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(
        StudyError, match=r"s.yaml:5: one condition is tuned over two grids \(0.001, 0.003; 0.003, 0.01\)"
    ):
        load_study(tmp_path / "s.yaml")


def test_only_cells_whose_precision_of_evaluation_changed_have_other_ids(tmp_path, monkeypatch):
    """Full fine-tuning under auto of a model of 100M parameters or more: it was evaluated in float32 beside adapters on
    bfloat16."""
    from safetensors.numpy import save_file

    from lorabench.config import fingerprint

    save_file(
        {"a": np.zeros((10_000, 6_000), dtype=np.int8), "b": np.zeros((40_000, 1_000), dtype=np.int8)},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text("{}")
    assert fingerprint.may_be_large(str(tmp_path))
    (tmp_path / "b").mkdir()
    save_file({"a": np.zeros((10_000, 6_000), dtype=np.int8)}, tmp_path / "b" / "model.safetensors")
    assert not fingerprint.may_be_large(str(tmp_path / "b"))
    assert fingerprint.may_be_large("org/name"), (
        "its files may come between two runs, and the id must not change by that"
    )

    text = BASE.replace("nf4, double_quant: true", "none")

    def ids(*settings):
        (small,) = cells_of(text, *settings)
        large = small.model_copy(update={"fingerprints": small.fingerprints.model_copy(update={"large": True})})
        return small.id, large.id, small.condition_id, large.condition_id

    for settings in (
        (),
        ("method=base",),
        ("method=full", "model.dtype=float32"),
        ("method=full", "model.dtype=bfloat16"),
    ):
        before, now, *conditions = ids(*settings)
        assert before == now
        assert len(set(conditions)) == 1
    assert len(set(ids("method=full"))) == 4


@pytest.mark.parametrize("name", ["quickstart", "learned", "planted", "facts"])
def test_stored_results_keep_their_ids(name):
    """The cells of a stored study, expanded anew from its study.yaml, are those of its cells.csv."""
    folder = Path(__file__).parents[2] / "reports" / name
    with (folder / "cells.csv").open(encoding="utf-8") as stream:
        stored = {row["cell"]: row["condition"] for row in csv.DictReader(stream)}
    assert {c.id: c.condition_id for c in expand(load_study(folder / "study.yaml"))} == stored


# ids as they were before there were conversations and other formats: a stored result is found again
@pytest.mark.parametrize(
    ("task", "cell_id", "condition_id"),
    [
        ({"name": "instruct", "train": "a.jsonl"}, "663dca9fbb7b", "7d2b2264f6f2"),
        (
            {
                "name": "instruct",
                "train": "a.txt",
                "separator": "||",
                "columns": ["mr", "ref"],
                "prompt": "{mr}\n",
                "response": "{ref}",
            },
            "9f9a4e894c2a",
            "ed43e44feb9e",
        ),
        ({"name": "instruct", "train": "a.csv", "format": "csv"}, "8eb582245428", "62021fd938d2"),
        ({"name": "instruct", "train": "a.x", "format": "jsonl"}, "5ab0c3ac6a9b", "5d8254f7ef1b"),
        ({"name": "classify", "train": "a.tsv", "max_train": 300}, "ef5ca85d621a", "9a0229449ef4"),
        ({"name": "instruct", "dataset": "x/y"}, "58488a54d949", "a29ca2a75d18"),
        ({"name": "text", "train": "a.txt"}, "a8ab6375a211", "c5ba7ca00248"),
    ],
)
def test_later_options_of_a_task_leave_the_ids_of_older_cells(task, cell_id, condition_id):
    plain = {"seed": 0, "fingerprints": {"model": "m", "data": "d"}, "model": "lorabench/tiny-300k"}
    cell = Cell.model_validate({**plain, "task": task})
    assert (cell.id, cell.condition_id) == (cell_id, condition_id)
    if task["name"] == "instruct" and "prompt" not in task:
        assert Cell.model_validate({**plain, "task": {**task, "messages": "chat"}}).id != cell_id
        assert Cell.model_validate({**plain, "task": {**task, "chat_template": "plain"}}).id != cell_id
        assert (
            Cell.model_validate({**plain, "task": {**task, "chat_template": "tokenizer", "messages": None}}).id
            == cell_id
        )


def test_stored_cells_of_a_real_study_keep_their_ids():
    import csv

    shared = Path(__file__).parents[3] / "shared"
    if not shared.is_dir():
        pytest.skip(f"{shared} is absent: real data is not part of the project")
    root = Path(__file__).parents[2]
    with (root / "reports" / "e2e-stories260K" / "cells.csv").open(encoding="utf-8") as rows:
        stored = {row["cell"] for row in csv.DictReader(rows)}
    assert {
        c.id for c in expand(load_study(root / "studies" / "e2e.yaml", (f"model={shared / 'models' / 'stories260K'}",)))
    } == stored
