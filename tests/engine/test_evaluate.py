"""Losses and accuracies are what transformers and a hand count give."""

import json

import numpy as np
import pytest
import torch

from lorabench.config import EvaluationSpec
from lorabench.engine.data import ChoiceSet, Example, MultipleChoice, task_data
from lorabench.engine.evaluate import Losses, base_text, forgetting_reading, held_out_readings, losses, ratio_stderr
from lorabench.engine.lm_eval_runner import LmEvalRunner
from lorabench.engine.model import load_base, load_tokenizer
from tests.engine.conftest import cell_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base():
    cell = cell_of("method=base")
    tokenizer = load_tokenizer(cell.model)
    return load_base(cell, CPU), tokenizer, task_data(cell, tokenizer)


def test_the_held_out_loss_is_transformers_own(base):
    model, _, data = base
    rows = data.test[:6]
    seen = losses(model, rows, 4, 0, CPU)
    with torch.no_grad():
        theirs = []
        for row in rows:
            ids = torch.tensor(row.ids[None]).long()
            theirs.append(model(input_ids=ids, labels=ids).loss.item())
    np.testing.assert_allclose(seen.nats / seen.tokens, theirs, rtol=1e-5)
    assert seen.tokens.tolist() == [len(r.ids) - 1 for r in rows]


def test_bits_per_byte_and_perplexity_follow_from_the_loss():
    seen = Losses(np.array([10.0, 20.0]), np.array([5, 5]), np.array([20, 10]))
    readings = {r.metric: r for r in held_out_readings(seen)}
    assert readings["eval_loss"].value == 3.0
    assert readings["perplexity"].value == pytest.approx(np.exp(3.0))
    assert readings["bits_per_byte"].value == pytest.approx(30 / np.log(2) / 30)


def test_the_standard_error_of_a_ratio_is_that_of_a_simulation():
    chance = np.random.default_rng(0)

    def draw(n):
        tokens = chance.integers(20, 60, n)
        return chance.normal(3.0, 0.5, n) * tokens, tokens

    ratios, errors = [], []
    for _ in range(2000):
        nats, tokens = draw(40)
        ratios.append(nats.sum() / tokens.sum())
        errors.append(ratio_stderr(nats, tokens))
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.05)
    assert ratio_stderr(np.array([1.0]), np.array([2.0])) is None


def test_sampling_from_the_base_is_the_same_every_time_and_leaves_the_generator_alone(base):
    model, tokenizer, _ = base
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = base_text(model, tokenizer, 48, CPU)
    assert torch.equal(torch.rand(1), expected)
    second = base_text(model, tokenizer, 48, CPU)
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(first, second, strict=True))
    assert {len(e.ids) for e in first} == {48}
    assert len({e.ids.tobytes() for e in first}) == len(first)
    text = losses(model, first, 16, 0, CPU)
    other = losses(
        model,
        tuple(Example(np.random.default_rng(0).permutation(e.ids).astype(np.int32), e.predicted, 1) for e in first),
        16,
        0,
        CPU,
    )
    assert text.mean < other.mean - 0.5, "the base finds its own text likelier than the same tokens shuffled"


def test_a_model_that_did_not_change_forgot_nothing(base):
    model, tokenizer, _ = base
    rows = base_text(model, tokenizer, 32, CPU)
    before = losses(model, rows, 16, 0, CPU)
    same, items = forgetting_reading(before, losses(model, rows, 16, 0, CPU))
    assert items.value == same.value
    assert abs(same.value) < 1e-9
    worse, _ = forgetting_reading(before, Losses(before.nats + 0.25 * before.tokens, before.tokens, before.n_bytes))
    assert worse.value == pytest.approx(0.25)


def test_lm_eval_scores_a_choice_set_as_a_hand_count_of_likelihoods_does(base, tmp_path):
    model, tokenizer, data = base
    (cloze,) = data.choice_sets
    items = cloze.items[:24]
    right = []
    for item in items:
        scores = []
        for choice in item.choices:
            start = tokenizer(item.context, add_special_tokens=False).input_ids
            whole = tokenizer(item.context + choice, add_special_tokens=False).input_ids
            with torch.no_grad():
                logp = model(input_ids=torch.tensor([whole])).logits.log_softmax(-1)[0]
            scores.append(sum(logp[i - 1, whole[i]].item() for i in range(len(start), len(whole))))
        right.append(int(np.argmax(scores)) == item.answer)
    readings = LmEvalRunner((ChoiceSet("by-hand", items),), EvaluationSpec(), tmp_path / "lm-eval").score(
        model, tokenizer
    )[0]
    accuracy = next(r for r in readings if r.metric == "by-hand/acc")
    assert accuracy.value == pytest.approx(np.mean(right))
    assert accuracy.count == 24


@pytest.mark.slow
def test_lm_eval_runs_tasks_of_a_users_folder_and_the_limit_holds(base, tmp_path):
    model, tokenizer, _ = base
    rows = [{"text": "The cat sat on the", "options": [" mat", " xylophone"], "gold": 0}] * 9
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: "
        f"{tmp_path / 'rows.jsonl'}}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: text\ndoc_to_choice: options\ndoc_to_target: "
        "gold\ntarget_delimiter: ''\nmetric_list: [{metric: acc}]\n"
    )
    spec = EvaluationSpec(lm_eval=("mine", "own"), include_path=str(tmp_path), limit=4)
    own = ChoiceSet("own", (MultipleChoice("a b c", (" d", " zzzz"), 0),) * 6)
    readings = {r.metric: r for r in LmEvalRunner((own,), spec, tmp_path / "scratch").score(model, tokenizer)[0]}
    assert readings["mine/acc"].count == 4
    assert readings["own/acc"].count == 4


def test_two_sets_of_one_name_are_kept_apart(base, tmp_path):
    model, tokenizer, _ = base
    accuracies = []
    for answer in (0, 1):
        own = ChoiceSet("same", (MultipleChoice("The cat sat on the", (" mat", " qqqqzzzz"), answer),) * 3)
        (accuracy,) = (
            r.value
            for r in LmEvalRunner((own,), EvaluationSpec(), tmp_path).score(model, tokenizer)[0]
            if r.metric == "same/acc"
        )
        accuracies.append(accuracy)
    assert accuracies == [1.0, 0.0]


def test_the_models_generation_settings_do_not_bend_its_sample(base):
    model, tokenizer, _ = base
    plain = base_text(model, tokenizer, 24, CPU)
    model.generation_config.repetition_penalty = 5.0
    try:
        bent = base_text(model, tokenizer, 24, CPU)
        assert model.generation_config.repetition_penalty == 5.0
    finally:
        model.generation_config.repetition_penalty = None
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(plain, bent, strict=True))
