"""lm-eval's result files, as lm-eval writes them: models and adapters are conditions, tasks are metrics."""

from __future__ import annotations

import json

import pytest

from lorabench.analysis.study import analyse
from lorabench.importers import lm_eval
from lorabench.record.imported_run import Request, write_import

BASE = "meta-llama/Llama-3.2-1B"


def result(arguments, task="gsm8k", value=0.4, date=1795783534.3):
    """What its EvaluationTracker writes, less the configurations of the tasks (the slow test writes a whole one)."""
    return {
        "results": {task: {"alias": task, "sample_len": 100, "exact_match,strict-match": value,
                           "exact_match_stderr,strict-match": 0.049, "acc,none": 0.6, "acc_stderr,none": "N/A"}},
        "higher_is_better": {task: {"exact_match": True, "acc": True}},
        "n-samples": {task: {"original": 1319, "effective": 100}},
        "config": {"model": "hf", "model_args": arguments, "random_seed": 0},
        "date": date, "lm_eval_version": "0.4.13", "transformers_version": "5.24.0",
        "total_evaluation_time_seconds": "2.5",
    }  # fmt: skip


def write(folder, name, plain):
    path = folder / name / "results_2026-11-27T12-45-48.178083.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(plain), encoding="utf-8")
    return path


def read(folder):
    return lm_eval.read(Request((folder,)))


def test_tasks_are_metrics_with_their_errors_and_items(tmp_path):
    write(tmp_path, "a", result(f"pretrained={BASE},dtype=bfloat16"))
    (run,) = read(tmp_path).runs
    match, acc, seconds = run.readings
    assert (match.metric, match.value, match.stderr, match.count) == ("gsm8k/exact_match:strict-match", 0.4, 0.049, 100)
    assert (acc.metric, acc.stderr) == ("gsm8k/acc", None)
    assert (seconds.metric, seconds.value) == ("eval_seconds", 2.5)
    assert run.settings == {"model.name": BASE, "task.name": "lm-eval", "model.dtype": "bfloat16",
                            "method.name": "checkpoint"}  # fmt: skip


def test_an_adapter_is_what_its_own_configuration_says_and_its_base_is_the_base(tmp_path):
    adapter = tmp_path / "my-lora"
    adapter.mkdir()
    config = {
        "peft_type": "LORA",
        "r": 16,
        "lora_alpha": 32,
        "use_rslora": True,
        "target_modules": ["q_proj", "v_proj"],
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    quantized = {"pretrained": BASE, "peft": str(adapter), "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    write(tmp_path / "out", "a", result(f"pretrained={BASE}"))
    write(tmp_path / "out", "b", result(f"pretrained={BASE},peft={adapter}"))
    write(tmp_path / "out", "c", result(quantized))
    write(tmp_path / "out", "d", result(f"pretrained={BASE},peft=user/elsewhere,load_in_8bit=True"))
    store = write_import(read(tmp_path / "out"), tmp_path / "store", [tmp_path])
    labels = [s.label.text for s in analyse(store).summaries]
    assert sorted(labels) == ["adapter int8, elsewhere", "base", "rsLoRA r=16 nf4, my-lora", "rsLoRA r=16, my-lora"]
    assert [c.method.alpha for c in store.plan() if c.method.name == "rslora"] == [32, 32]


def test_other_tasks_join_and_the_same_again_is_a_run_of_its_own(tmp_path):
    write(tmp_path, "a", result(f"pretrained={BASE}", "gsm8k", 0.4, 1))
    write(tmp_path, "b", result(f"pretrained={BASE}", "arc", 0.5, 2))
    write(tmp_path, "c", result(f"pretrained={BASE}", "gsm8k", 0.44, 3))
    (summary,) = analyse(write_import(read(tmp_path), tmp_path / "store", [tmp_path])).summaries
    assert summary.statistics["gsm8k/exact_match:strict-match"].mean == pytest.approx(0.42)
    assert (summary.statistics["arc/exact_match:strict-match"].n, summary.outcomes.finished) == (1, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"results": {"a": {"acc,none": 0.', "truncated or damaged (it ends in the middle)"),
        ('{"run_info": {}}', "is no result file of lm-eval"),
        ('{"results": {}, "config": {"model_args": "parallelize=True"}}', "does not say which model was evaluated"),
        ('{"results": {"a": {"alias": "a"}}, "config": {"model_args": "pretrained=m"}}', "has no metric of any task"),
        ('{"results": {"a": 3}, "config": {"model_args": "pretrained=m"}}', "is damaged"),
    ],
)
def test_what_is_none_is_one_sentence(tmp_path, text, words):
    write(tmp_path, "a", result(f"pretrained={BASE}"))
    (tmp_path / "results_b.json").write_text(text)
    readout = read(tmp_path)
    assert len(readout.runs) == 1
    (sentence,) = readout.refused
    assert words in sentence
    assert "results_b.json" in sentence


@pytest.mark.slow
def test_a_file_of_lm_evals_own_writer(tmp_path, monkeypatch):
    """lm-eval evaluates its dummy model and writes its file; what is imported is what it returned."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"q": f"{i}", "c": [" 1", " 2"], "l": i % 2}) for i in range(40)))
    (tmp_path / "toy.yaml").write_text(
        f"task: toy\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows}}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: q\ndoc_to_choice: c\ndoc_to_target: l\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    returned = simple_evaluate(
        model="dummy",
        model_args={"pretrained": BASE, "peft": "me/adapter", "dtype": "bfloat16"},
        tasks=["toy"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        evaluation_tracker=tracker,
    )
    returned.pop("samples")
    tracker.save_results_aggregated(results=returned)
    (run,) = read(tmp_path / "out").runs
    own = returned["results"]["toy"]
    (acc,) = (r for r in run.readings if r.metric == "toy/acc")
    assert (acc.value, acc.stderr, acc.count) == (own["acc,none"], own["acc_stderr,none"], 40)
    assert (run.variant, run.settings["method.name"], run.settings["model.dtype"]) == ("adapter", "adapter", "bfloat16")
