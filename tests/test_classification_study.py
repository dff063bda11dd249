"""A classification study of six lines: accuracy decides, one test set, and every row that is not measured is told."""

import re

import pytest

from lorabench.analysis.decisions import compute_decisions
from lorabench.api import write_outputs
from lorabench.commands import main as cli
from lorabench.config.decision import deciding_metric
from lorabench.config.settings import ComparisonSpec
from lorabench.record.items import load_items
from lorabench.record.store import Store
from lorabench.report.view import View, make_view

STUDY = """schema: 1
name: films
model: lorabench/tiny-300k
task: {name: classify, train: train.tsv, eval: dev.tsv}
training: {steps: 4, learning_rate: 3e-3, sequence_length: 64}
grid: {method: [lora, full]}
"""


def films(folder, name, n, long=0):
    """GLUE's layout: sentence, label; the word good or bad tells the label."""
    rows = [f"{'so ' * (90 if i < long else 0)}{('bad', 'good')[i % 2]} film number {i}\t{i % 2}\n" for i in range(n)]
    (folder / name).write_text("sentence\tlabel\n" + "".join(rows), encoding="utf-8")


def seen(results) -> View:
    return make_view(Store(results))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    films(folder, "train.tsv", 300)
    films(folder, "dev.tsv", 400, long=10)
    (folder / "study.yaml").write_text(STUDY)
    return folder / "study.yaml", folder / "out"


def test_six_lines_give_an_accuracy_that_decides(out, capsys):
    study, results = out
    assert len(study.read_text().splitlines()) == 6
    assert cli.main(["run", str(study), "--out", str(results)]) == 0
    shown = capsys.readouterr().out
    assert re.search(
        r"test: 400 rows read, 10 dropped because no response fits in 64 tokens.*; the first 256 of the"
        r" 390 test rows are measured \(evaluation.max_sequences\)",
        shown,
    )
    assert re.search(r"finished in .*, held-out loss [\d.]+, accuracy [\d.]+ %", shown)
    head = next(line for line in shown.splitlines() if line.startswith("condition") or "accuracy" in line)
    assert "accuracy" in head
    view = seen(results)
    assert view.analysis.metric == "accuracy"
    assert view.analysis.study.comparison.metric == "auto"
    for cell, result in view.analysis.results.items():
        counts = {r.metric: r.count for r in result.readings}
        assert counts["accuracy"] == 256
        assert {
            len(i.sums)
            for name, i in load_items(view.analysis.file(cell, "items.safetensors")).items()
            if name != "forgetting"
        } == {256}
        assert result.value("accuracy") == load_items(view.analysis.file(cell, "items.safetensors"))["accuracy"].value


def test_answer_recommendation_and_findings_go_by_the_accuracy(out):
    view = seen(out[1])
    assert {
        d.chosen.metric
        for d in compute_decisions(view.analysis.summaries, view.analysis.comparisons, view.analysis.metric)
    } == {"accuracy"}
    write_outputs(Store(out[1]))
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", (out[1] / "report.html").read_text(encoding="utf-8")))
    assert re.search(r"The highest mean accuracy is|by its mean accuracy", page)
    told = {f.kind: f.sentence for f in view.findings}
    assert "256 of 390 test rows" in told["rows_unmeasured"] and "10 of 400 test rows" in " ".join(told.values())
    assert "metric_absent" not in told


@pytest.mark.parametrize(
    ("given", "metric"), [("auto", "accuracy"), ("eval_loss", "eval_loss"), ("classify/acc", "accuracy")]
)
def test_a_metric_that_is_named_stands(out, given, metric):
    """A store that wrote eval_loss shows what it showed; lm-eval's former name means the accuracy where that alone was
    measured."""
    store = Store(out[1])
    study, measured = store.study(), seen(out[1]).analysis.metrics
    rules = study.comparison.model_copy(update={"metric": given})
    assert deciding_metric(rules, [study.task], measured) == metric
    path = out[1] / "plan.json"
    plan = path.read_text()
    assert plan.count('"metric":"auto"') + plan.count('"metric": "auto"') == 1
    try:
        path.write_text(re.sub(r'"metric": ?"auto"', f'"metric": "{given}"', plan))
        assert seen(out[1]).analysis.metric == metric
    finally:
        path.write_text(plan)


def test_tasks_that_differ_in_their_metric_are_judged_by_the_loss():
    from lorabench.tasks import classify, instruct

    rules = ComparisonSpec()
    labels, asked = classify.Options(train="a.tsv"), instruct.Options(train="a.jsonl", metric="exact_match")
    assert [
        deciding_metric(rules, tasks)
        for tasks in ([labels, labels], [asked], [labels, asked], [instruct.Options(train="a.jsonl")])
    ] == ["accuracy", "exact_match", "eval_loss", "eval_loss"]
    old = rules.model_copy(update={"metric": "classify/acc"})
    assert deciding_metric(old, [labels], ("classify/acc", "accuracy")) == "classify/acc", (
        "where lm-eval measured it, it is that"
    )
