"""PEFT's result files: each number under the name of what it is, methods by their name, refusals by file."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from lorabench.analysis.study import analyse
from lorabench.errors import DataError
from lorabench.importers import peft
from lorabench.record.imported_run import Request, write_import
from lorabench.report.tables import study_table
from tests.importers.peft_files import FULL, LORA, rerun, write

PUBLISHED = Path(__file__).parents[3] / "shared" / "reference" / "evidence" / "peft_method_comparison"


def read(*paths):
    return peft.read(Request(tuple(paths)))


def values(run):
    return {r.metric: r.value for r in run.readings}


@pytest.fixture(scope="module")
def published():
    if not PUBLISHED.is_dir():
        pytest.skip(f"{PUBLISHED} is absent: published data is not part of the project")
    return read(PUBLISHED)


def test_every_number_stands_under_the_name_of_what_it_is(tmp_path):
    (run,) = read(write(tmp_path / "a.json")).runs
    accuracy = run.readings[0]
    assert (accuracy.metric, accuracy.value, accuracy.count) == ("accuracy", 631 / 1319, 1319)
    assert accuracy.stderr == pytest.approx(0.013754, abs=1e-6)  # sqrt(0.47839 x 0.52161 / 1319)
    assert values(run) == {
        "accuracy": 631 / 1319,
        "total_parameters": 3_221_924_864,
        "trainable_parameters": 9_175_040,
        "trainable_percent": pytest.approx(0.28477, abs=1e-5),
        "adapter_bytes": 36_715_216,
        "run_reserved_bytes": 22_000_000_000,
        "step_reserved_99th_bytes": 20_000_000_000,
        "step_reserved_mean_bytes": 14_000_000_000,
        "train_seconds": 585.0,  # the steps alone; train_time has the test's evaluation in it
        "run_seconds": 942.0,
        "train_tokens": 4_198_050,
        "tokens_per_second": pytest.approx(7176.15, abs=0.01),
        "last_interval_loss": 0.6068,
        "wikipedia_forgetting": 0.05,
    }


def test_what_the_file_does_not_tell_is_unknown_and_not_a_default(tmp_path):
    readout = read(write(tmp_path / "a.json", {"run_info.train_config.optimizer_kwargs": {"lr": 0.001}}))
    store = write_import(readout, tmp_path / "out", [tmp_path])
    (cell,) = store.plan()
    row = analyse(store).planned[0].declared
    assert row["training"]["learning_rate"] == 0.001
    assert row["training"]["weight_decay"] is None  # AdamW's own default, which the file does not name
    assert row["evaluation"]["max_sequences"] is None
    assert cell.method.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("changes", "method", "rank", "variant"),
    [
        ({}, "lora", 32, None),
        ({"run_info.peft_config": {**LORA, "use_dora": True},
          "run_info.experiment_name": "lora/llama-3.2-3B-rank32-dora"}, "dora", 32, None),
        ({"run_info.peft_config": {**LORA, "use_rslora": True, "r": 64},
          "run_info.experiment_name": "lora/llama-3.2-3B-rank64-rslora"}, "rslora", 64, None),
        ({"run_info.train_config.optimizer_type": "lora-fa",
          "run_info.experiment_name": "lora/llama-3.2-3B-rank32-lorafa"}, "lora-fa", 32, None),
        ({"run_info.peft_config": {**LORA, "init_lora_weights": "pissa_niter_4"}}, "pissa", 32, None),
        ({"run_info.peft_config": {"peft_type": "ADALORA", "r": 8, "target_r": 32}}, "adalora", 32, None),
        ({"run_info.peft_config": {"peft_type": "PREFIX_TUNING"},
          "run_info.experiment_name": "prefixtuning/llama-3.2-3B-tokens50-init_prefix-lr_0.005"},
         "prefix-tuning", None, "tokens50-init_prefix"),
        (FULL, "full", None, None),
        ({"run_info.train_config.optimizer_type": "riemannian"}, "lora", 32, "riemannian"),
    ],
)  # fmt: skip
def test_methods_are_called_as_people_call_them(tmp_path, changes, method, rank, variant):
    (run,) = read(write(tmp_path / "a.json", changes)).runs
    assert (run.settings["method.name"], run.settings.get("method.rank"), run.variant) == (method, rank, variant)


@pytest.mark.parametrize(("dtype", "quantization"), [("int8", "int8"), ("int4", "fp4"), ("bfloat16", "none")])
def test_int4_is_bitsandbytes_default_type(tmp_path, dtype, quantization):
    (run,) = read(write(tmp_path / "a.json", {"run_info.train_config.dtype": dtype})).runs
    assert run.settings["quantization.name"] == quantization


def test_the_two_meanings_of_forgetting_never_meet(tmp_path):
    old = {"run_info.created_at": "2026-01-10T03:01:00+00:00", "forgetting": 0.4157}
    unclear = {"run_info.created_at": "2026-07-12T03:01:00+00:00"}
    paths = [write(tmp_path / f"{i}.json", c) for i, c in enumerate((old, unclear, {}))]
    readout = read(*paths)
    names = [{n for n in values(r) if "forgetting" in n} for r in readout.runs]
    assert names == [{"wikipedia_forgetting_before_2026_07"}, set(), {"wikipedia_forgetting"}]
    assert "left out of 1 of the runs" in readout.notes[-1]
    columns = {c.key for c in study_table(write_import(readout, tmp_path / "out", paths)).columns}
    assert {"wikipedia_forgetting", "wikipedia_forgetting_before_2026_07"} <= columns
    assert "forgetting" not in columns


def test_files_of_2025_and_placeholders_are_read(tmp_path):
    old = {"train_info.file_size": 99999999, "train_info.accelerator_memory_max": None,
           "train_info.cuda_memory_max": 21_000_000_000, "train_info.num_trainable_params": None}  # fmt: skip
    (run,) = read(write(tmp_path / "a.json", old)).runs
    assert values(run)["run_reserved_bytes"] == 21_000_000_000
    assert not {"adapter_bytes", "trainable_parameters", "trainable_percent"} & set(values(run))


def test_an_accuracy_that_is_no_number_of_1319ths_has_no_error(tmp_path):
    (run,) = read(write(tmp_path / "a.json", {"accuracy": 0.5})).runs
    assert run.readings[0].stderr is None


def test_a_metric_that_no_file_has_is_refused(tmp_path):
    path = write(tmp_path / "a.json")
    assert peft.read(Request((path,), metric="wikipedia_forgetting")).metric == "wikipedia_forgetting"
    with pytest.raises(DataError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        peft.read(Request((path,), metric="acuracy"))


def test_a_run_that_was_cancelled_is_shown_as_failed(tmp_path):
    lost = {"train_info.status": "canceled", "run_info.error_msg": "CUDA out of memory. Tried to allocate 2 GiB"}
    readout = read(write(tmp_path / "a.json"), write(tmp_path / "b.json", {**FULL, **lost}))
    assert [r.outcome for r in readout.runs] == ["finished", "out_of_memory"]
    assert "out of memory" in str(study_table(write_import(readout, tmp_path / "out", [tmp_path])))


def test_re_runs_are_replicates_and_pairs_lie_within_a_version(tmp_path):
    """Rank 32 as it was published four times, and full fine-tuning three times."""
    runs = [("2025-06-17T12:00:00+00:00", "0.15.2", 636), ("2025-06-19T19:15:00+00:00", "0.15.2", 636),
            ("2026-01-10T03:01:00+00:00", "0.18.1", 647), ("2026-07-15T05:41:18+00:00", "0.19.2", 631)]  # fmt: skip
    for i, (created, version, right) in enumerate(runs):
        write(tmp_path / f"{i}" / "lora.json", rerun(created, version, right))
        if i:
            write(tmp_path / f"{i}" / "full.json", {**FULL, **rerun(created, version, 600 + 10 * i)})
    readout = read(*(tmp_path / f"{i}" for i in range(4)))
    store = write_import(readout, tmp_path / "out", [tmp_path])
    analysis = analyse(store)
    by_method = {s.method: s for s in analysis.summaries}
    lora = by_method["lora"].statistics["accuracy"]
    assert (lora.n, 100 * lora.mean) == (4, pytest.approx(48.33, abs=0.005))
    assert 100 * lora.std == pytest.approx(0.5123, abs=0.0001)  # sqrt(137 / 3) / 13.19: 636, 636, 647 and 631 right
    seeds = {
        m: {c.seed: store.get(c.id).environment.packages["peft"] for c in store.plan() if c.method.name == m}
        for m in ("lora", "full")
    }
    shared = seeds["lora"].keys() & seeds["full"].keys()
    assert len(shared) == 3
    assert all(seeds["lora"][s] == seeds["full"][s] for s in shared)
    assert any("all name seed 0" in note for note in store.study().imported.notes)


def test_a_copy_of_a_file_counts_once(tmp_path):
    write(tmp_path / "a" / "x.json")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    store = write_import(read(tmp_path / "a", tmp_path / "b"), tmp_path / "out", [tmp_path])
    assert len(store.plan()) == 1
    assert "1 result is a copy of others and left out." in store.study().imported.notes


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t[: len(t) // 2], "truncated or damaged (it ends in the middle)"),
        (lambda t: "", "is empty"),
        (lambda t: t.replace('"test accuracy"', '"best accuracy"'), "is damaged (its last entry has no test accuracy;"),
        (lambda t: t.replace('"created_at": "2026', '"created_at": "yesterday'), "is damaged"),
        (lambda t: t.replace('"train_time": 942.0', '"train_time": "long"'), "is damaged ('long' is no number)"),
        (lambda t: json.dumps({"results": {}}), "is no result of PEFT's method comparison (it has no run_info"),
        (lambda t: "[1, 2]", "holds no JSON object"),
    ],
)
def test_what_is_none_is_one_sentence_and_the_others_are_read(tmp_path, spoil, words):
    whole, spoilt = write(tmp_path / "a.json"), tmp_path / "b.json"
    spoilt.write_text(spoil(whole.read_text()))
    readout = read(tmp_path)
    assert len(readout.runs) == 1
    (sentence,) = readout.refused
    assert sentence.startswith(f"{spoilt} ")
    assert words in sentence
    assert "\n" not in sentence


def test_a_folder_without_files_and_an_absent_one_are_told(tmp_path):
    with pytest.raises(DataError, match="holds no file"):
        read(tmp_path)
    with pytest.raises(DataError, match="there is no file or folder"):
        read(tmp_path / "nowhere")


def test_all_published_files_are_read_as_they_stand(published):
    """Against the JSON itself: every file, its accuracy, binomial error, memory, parameters and time."""
    assert (len(published.runs), published.refused) == (63, ())
    for run in published.runs:
        plain = json.loads(Path(run.source).read_text(encoding="utf-8"))
        train, last = plain["train_info"], plain["train_info"]["metrics"][-1]
        by_name = values(run)
        right = round(last["test accuracy"] * 1319)
        assert by_name["accuracy"] == pytest.approx(right / 1319, abs=1e-12)
        assert run.readings[0].stderr == pytest.approx(math.sqrt(right * (1319 - right) / 1319**3), abs=1e-12)
        assert by_name["run_reserved_bytes"] == train["accelerator_memory_max"]
        assert by_name["step_reserved_99th_bytes"] == train["accelerator_memory_reserved_99th"]
        assert by_name["trainable_parameters"] == train["num_trainable_params"]
        assert by_name["adapter_bytes"] == train["file_size"]
        assert by_name["run_seconds"] == train["train_time"]
        assert by_name["train_seconds"] < train["train_time"]
        assert by_name["wikipedia_forgetting"] == last["forgetting"]
        assert run.settings["training.learning_rate"] == plain["run_info"]["train_config"]["optimizer_kwargs"]["lr"]


@pytest.mark.slow
def test_the_published_study_has_63_conditions_and_decides_nothing(published, tmp_path):
    analysis = analyse(write_import(published, tmp_path / "out", [PUBLISHED]))
    labels = [s.label.text for s in analysis.summaries]
    assert len(set(labels)) == 63
    assert {"full", "LoRA r=32", "DoRA r=32", "rsLoRA r=64", "LoHa r=32", "IA3, lr=0.001", "BOFT"} <= set(labels)
    assert {c.verdict for c in analysis.comparisons} == {"not decisive"}
    assert {s.statistics["accuracy"].n for s in analysis.summaries} == {1}
    assert not any("train_peak_bytes" in s.statistics for s in analysis.summaries)
