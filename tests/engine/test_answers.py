"""Claims about how a task's answers are judged: labels as lm-eval does, generated answers as transformers generates
them, all over one test set.
"""

import json

import numpy as np
import pytest
import torch

from lorabench.config import EvaluationSpec
from lorabench.engine import answers
from lorabench.engine.answers import accuracy, choice_losses, end_tokens, exact_match, generate, task_readings
from lorabench.engine.cell import run_cell
from lorabench.engine.data import Example, Generation, task_data
from lorabench.engine.extraction import extracted
from lorabench.engine.lm_eval_runner import LmEvalRunner
from lorabench.engine.model import load_base, load_tokenizer
from lorabench.record.items import load_items
from tests.engine.conftest import cell_of

CPU = torch.device("cpu")
WORDS = ["red", "green", "blue", "black", "white", "small", "large"]


def reviews(folder, n=60):
    """Rows of two labels, of which the word tells the label."""
    path = folder / f"reviews{n}.tsv"
    path.write_text(
        "sentence\tlabel\n"
        + "".join(f"{WORDS[i % 7]}{' very' * (i % 4)} {WORDS[i % 5]} film {i}\t{i % 7 % 2}\n" for i in range(n)),
        encoding="utf-8",
    )
    return path


def sums(folder, n=24):
    """Questions with an answer that ends as GSM8K's do."""
    path = folder / f"sums{n}.jsonl"
    path.write_text(
        "".join(
            json.dumps({"question": f"{WORDS[i % 7]} {i}?", "answer": f"It is\n#### {i % 4}"}) + "\n" for i in range(n)
        ),
        encoding="utf-8",
    )
    return path


def loaded(task, *settings):
    cell = cell_of(f"task={task}", "method=base", *settings)
    tokenizer = load_tokenizer(cell.model)
    return load_base(cell, CPU), tokenizer, task_data(cell, tokenizer)


def test_accuracy_is_lm_evals_on_the_same_rows(tmp_path, monkeypatch):
    model, tokenizer, data = loaded(f"{{name: classify, train: {reviews(tmp_path)}, test_percent: 40}}")
    assert {len(c.choices) for c in data.test} == {2}
    most = len(data.test) - 3  # both measure the first rows alone
    own, items = task_readings(model, tokenizer, data, EvaluationSpec(batch_size=5, max_sequences=most), CPU)
    import lm_eval.models.huggingface as huggingface

    plain = huggingface.HFLM
    monkeypatch.setattr(
        huggingface, "HFLM", lambda **k: plain(**k, add_bos_token=True)
    )  # the task's rows begin as its training does
    theirs, their_items = LmEvalRunner(
        data.choice_sets, EvaluationSpec(lm_eval=("classify",), max_sequences=most), tmp_path
    ).score(model, tokenizer)
    ours, lm = {r.metric: r for r in own}, {r.metric: r for r in theirs}
    assert 0 < lm["classify/acc"].value < 1
    np.testing.assert_array_equal(items["accuracy"].sums, their_items["classify/acc"].sums)
    assert (ours["accuracy"].value, ours["accuracy"].count) == (lm["classify/acc"].value, most)
    assert lm["classify/acc"].count == most
    assert ours["accuracy"].stderr == pytest.approx(lm["classify/acc"].stderr)
    assert LmEvalRunner(data.choice_sets, EvaluationSpec(), tmp_path).names == [], (
        "one scorer, unless lm-eval's is named"
    )


def test_the_held_out_loss_is_of_the_labels_tokens_alone(tmp_path):
    model, tokenizer, data = loaded(f"{{name: classify, train: {reviews(tmp_path)}}}")
    ((seen, _),) = choice_losses(model, data.test, 3, tokenizer.pad_token_id, CPU)
    for row, nats in zip(data.test, seen.nats, strict=True):
        label = (" negative", " positive")[row.answer]
        text = tokenizer.decode(row.ids, skip_special_tokens=True)
        assert text.endswith(label) and tokenizer.eos_token_id not in row.ids[1:]
        assert tokenizer.decode(row.ids[row.predicted]) == label
        with torch.no_grad():
            logs = model(input_ids=torch.tensor(row.ids[None]).long()).logits[0].float().log_softmax(-1)
        by_hand = -sum(logs[i - 1, row.ids[i]].item() for i in np.flatnonzero(row.predicted))
        assert nats == pytest.approx(by_hand, rel=1e-4)
    assert all(tokenizer.eos_token_id not in row.ids[1:] for row in data.train), "training does not learn an end either"


def test_macro_f1_is_the_mean_over_labels_by_hand():
    nats = np.array([[1, 2, 9], [1, 2, 9], [2, 1, 9], [2, 1, 9], [1, 2, 9]])  # says 0 0 1 1 0
    readings, items = accuracy(nats, np.array([0, 0, 1, 0, 1]))
    found = {r.metric: r.value for r in readings}
    assert items["accuracy"].sums.tolist() == [1, 1, 1, 0, 0]
    assert found["accuracy"] == 0.6
    assert found["macro_f1"] == pytest.approx(
        (2 * 2 / (3 + 3) + 2 * 1 / (2 + 2)) / 2
    )  # label 2 is neither right nor given
    assert accuracy(np.full((2, 2), np.nan), np.array([0, 1])) == ([], {}), (
        "of losses that are no numbers there is no accuracy"
    )
    tie = accuracy(np.array([[1.0, 1.0]]), np.array([0]))[0][0]
    assert tie.value == 1, "the first of two equal ones, as lm-eval has it"


def test_all_metrics_of_a_cell_are_over_the_same_rows(tmp_path, folder):
    rows = reviews(tmp_path, 90)
    rows.write_text(rows.read_text() + "".join(f"{'long ' * 60}{i}\t{i % 2}\n" for i in range(20)))
    task = f"{{name: classify, train: {reviews(tmp_path, 60)}, eval: {rows}}}"
    result = run_cell(cell_of(f"task={task}", "evaluation={max_sequences: 70, limit: 5, forgetting: none}"), folder)
    assert result.outcome == "finished", result.error
    assert (result.resolved.data.test.read, result.resolved.data.test.dropped, result.resolved.test_examples) == (
        110,
        20,
        90,
    )
    items = load_items(folder / "items.safetensors")
    assert {name: len(i.sums) for name, i in items.items()} == {"eval_loss": 70, "bits_per_byte": 70, "accuracy": 70}
    assert next(r.count for r in result.readings if r.metric == "accuracy") == 70


def test_a_label_that_does_not_fit_whole_takes_its_row_from_every_metric(tmp_path):
    _, _, data = loaded(
        f"{{name: classify, train: {reviews(tmp_path)}, choices: {{'0': ' no', '1': ' extraordinarily wonderful'}}}}"
    )
    assert data.facts.test.dropped == data.facts.test.cut == 0
    room = max(len(c.ids) for row in data.test for c in row.choices) - 1
    _, _, tight = loaded(
        f"{{name: classify, train: {reviews(tmp_path)}, choices: {{'0': ' no', '1': ' extraordinarily wonderful'}}}}",
        f"training.sequence_length={room}",
    )
    lost = sum(max(len(c.ids) for c in row.choices) > room for row in data.test)
    assert 0 < lost == tight.facts.test.dropped and tight.facts.test.cut == 0
    assert len(tight.test) == len(data.test) - lost and all(len(row.choices) == 2 for row in tight.test)


def test_an_answer_is_what_the_pattern_finds_first():
    gsm8k = Generation(8, r"####\s*(-?[\d,.]+)", numeric=True)
    seen = {"so 5\n#### 1,234.": "1234", "#### 18.5 and #### 3": "18.5", "####-7": "-7", "#### $5": None, "18": None}
    assert {text: extracted(text, gsm8k) for text in seen} == seen
    assert extracted(" yes \n", Generation(8)) == "yes"
    assert extracted("the answer: Yes!", Generation(8, "answer: (.+)")) == "Yes!"


def test_exact_match_counts_by_hand():
    rows = [
        Example(np.zeros(3, np.int32), np.zeros(3, bool), 0, prompt_length=1, reference=r)
        for r in ("#### 1", "#### 2", "#### 1,000", "#### 4")
    ]
    texts = [
        answers.Generated(t, e, 1)
        for t, e in (("a #### 1", True), ("#### 3", True), ("#### 1000.", True), ("no number", False))
    ]
    readings, items = exact_match(texts, rows, Generation(8, r"####\s*(-?[\d,.]+)", numeric=True))
    assert {r.metric: r.value for r in readings} == {"exact_match": 0.5, "unanswered": 0.25, "unended": 0.25}
    assert items["exact_match"].sums.tolist() == [1, 0, 1, 0]
    assert readings[0].stderr == pytest.approx(np.array([1, 0, 1, 0]).std(ddof=1) / 2)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_answers_in_batches_are_those_of_transformers_one_by_one(tmp_path, method):
    from lorabench import plugins

    model, tokenizer, data = loaded(
        f"{{name: instruct, train: {sums(tmp_path)}, test_percent: 30, metric: exact_match}}"
    )
    if method == "lora":
        cell = cell_of("method={name: lora, rank: 4}")
        torch.manual_seed(0)
        model = plugins.load("methods", "lora").attach(model, cell.method, ["q_proj", "down_proj"])
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.2)
        model.eval()
    rows = data.test
    assert len({row.prompt_length for row in rows}) > 1, "rows of several lengths, so that some are padded"
    told = []
    batched = generate(model, tokenizer, rows, 12, 4, CPU, lambda done, total: told.append((done, total)))
    assert told[-1] == (len(rows), len(rows))
    assert batched == generate(model, tokenizer, rows, 12, 1, CPU)
    for row, found in zip(rows, batched, strict=True):
        ids = torch.tensor(row.ids[None, : row.prompt_length]).long()
        whole = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=0,
        )
        assert found.text == tokenizer.decode(whole[0, row.prompt_length :], skip_special_tokens=True)
    assert end_tokens(model, tokenizer, rows) == [tokenizer.eos_token_id]


def test_a_model_that_knows_its_rows_by_heart_matches_them_all(tmp_path, folder):
    file = sums(tmp_path, 8)
    copy = tmp_path / "copy.jsonl"
    copy.write_text(
        file.read_text().splitlines(keepends=True)[0] + file.read_text()
    )  # else the test is the training whole
    task = (
        f"{{name: instruct, train: {file}, eval: {copy}, validation_percent: 1, metric: exact_match, "
        f"answer_pattern: gsm8k, max_new_tokens: 24}}"
    )
    cell = cell_of(
        f"task={task}",
        "method=full",
        "training={steps: 120, learning_rate: 3e-3, batch_size: 8}",
        "evaluation={lm_eval: [], forgetting: none}",
    )
    result = run_cell(cell, folder)
    assert result.outcome == "finished", result.error
    known = result.resolved.data.test.in_training / result.resolved.data.test.read
    assert result.value("exact_match") >= known > 0.8
    assert result.value("unanswered") == result.value("unended") == 0
    items = load_items(folder / "items.safetensors")
    assert len(items["exact_match"].sums) == len(items["eval_loss"].sums) == 9
