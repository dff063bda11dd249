"""The loop takes the steps that a plain PEFT and PyTorch loop takes, and its measures are what they say."""

import math
import time

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from lorabench.config import TrainingSpec
from lorabench.engine.batches import Layout, batches, collate
from lorabench.engine.cell import run_cell
from lorabench.engine.checkpoint import StepRecord
from lorabench.engine.data import Example, task_data
from lorabench.engine.loss import token_loss
from lorabench.engine.model import load_tokenizer
from lorabench.engine.paces import paces
from lorabench.engine.train import learning_rate, make_optimizer, take_step, train
from tests.engine.conftest import MODEL, cell_of, small_model

CPU = torch.device("cpu")


def example(*ids, predicted=None):
    ids = np.array(ids, dtype=np.int32)
    mask = np.ones(len(ids), dtype=bool) if predicted is None else np.array(predicted, dtype=bool)
    mask[0] = False
    return Example(ids, mask, len(ids))


def test_the_curve_equals_a_bare_peft_loop_step_for_step(folder):
    cell = cell_of("training.warmup=0", "training.schedule=constant", "training.max_grad_norm=1e9")
    result = run_cell(cell, folder)
    assert result.outcome == "finished", result.error
    ours = [float(row.split(",")[1]) for row in (folder / "curve.csv").read_text().splitlines()[1:]]

    torch.manual_seed(cell.seed)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)
    rows = batches(task_data(cell, load_tokenizer(cell.model)).train, 4, cell.seed)
    theirs = []
    for _ in range(6):
        ids = torch.tensor(np.stack([e.ids for e in next(rows)])).long()
        loss = model(input_ids=ids, labels=ids).loss  # transformers shifts and averages by itself
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        theirs.append(loss.item())
    assert ours == pytest.approx(theirs, rel=2e-5)


def test_accumulated_micro_batches_are_one_large_batch_even_when_padded():
    chance = np.random.default_rng(0)
    rows = [example(*chance.integers(3, 64, n)) for n in (5, 12, 7, 3)]
    grads = []
    for parts in ([rows], [rows[:2], rows[2:]], [[r] for r in rows]):
        model = small_model("llama")
        parameters = list(model.parameters())
        kept = []
        optimizer = torch.optim.SGD(parameters, lr=0.0)
        optimizer.step = lambda kept=kept, parameters=parameters: kept.extend(p.grad.clone() for p in parameters)
        loss, norm = take_step(model, [collate(p, Layout(0), CPU) for p in parts], parameters, optimizer, 1e9, None)
        grads.append((loss, norm, kept))
    for loss, norm, kept in grads[1:]:
        assert loss == pytest.approx(grads[0][0], rel=1e-5)
        assert norm == pytest.approx(grads[0][1], rel=1e-4)
        for a, b in zip(kept, grads[0][2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_right_padding_without_a_mask_gives_the_loss_of_each_row_alone(kind):
    model = small_model(kind).eval()
    rows = [example(5, 9, 11, 30, 7), example(8, 4, 6), example(3, 3, 9, 12, 50, 51, 52)]
    with torch.no_grad():
        together = token_loss(model, collate(rows, Layout(0), CPU), "none").sum(dim=1)
        alone = [
            model(input_ids=torch.tensor(r.ids[None]).long(), labels=torch.tensor(r.ids[None]).long()).loss
            * (len(r.ids) - 1)
            for r in rows
        ]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-4)


def test_only_predicted_tokens_count():
    model = small_model("llama").eval()
    row = example(5, 9, 11, 30, 7, predicted=[0, 0, 0, 1, 1])
    logp = model(input_ids=torch.tensor(row.ids[None]).long()).logits.log_softmax(-1)[0]
    by_hand = -(logp[2, 30] + logp[3, 7])
    torch.testing.assert_close(token_loss(model, collate([row], Layout(0), CPU)), by_hand)


@pytest.mark.parametrize(
    ("schedule", "theirs"), [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)]
)
def test_the_schedule_is_transformers_own_one_step_on(schedule, theirs):
    spec = TrainingSpec(steps=40, warmup=0.25, schedule=schedule, learning_rate=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = theirs(optimizer, num_warmup_steps=10, num_training_steps=40)
    for step in range(1, 41):
        if step > 10:  # theirs starts the warm-up at zero, a step that would change nothing; ours ends it on the peak
            assert learning_rate(spec, step) == pytest.approx(scheduler.get_last_lr()[0])
        else:
            assert learning_rate(spec, step) == pytest.approx(0.1 * step / 10)
        optimizer.step()
        scheduler.step()
    assert learning_rate(TrainingSpec(steps=40, schedule="constant", warmup=0, learning_rate=0.1), 40) == 0.1


def test_an_epoch_sees_every_example_once_in_an_order_of_the_seed():
    rows = [example(i, i) for i in range(10)]

    def first_epoch(seed):
        stream = batches(rows, 5, seed)
        return [int(e.ids[0]) for _ in range(2) for e in next(stream)]

    assert sorted(first_epoch(0)) == list(range(10))
    assert first_epoch(0) == first_epoch(0)
    assert first_epoch(0) != first_epoch(1)


def test_tokens_are_counted_without_padding():
    rows = [example(1, 2, 3, 4), example(1, 2)]
    model = small_model("llama")
    seen = []
    spec = TrainingSpec(steps=3, batch_size=2, sequence_length=4)
    done = train(
        model, rows, spec, seed=0, layout=Layout(0), where=CPU, autocast=None, on_step=lambda s, t: seen.append(t)
    )
    assert (done.tokens, done.positions) == (18, 24)
    assert seen == [6, 12, 18]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit", "sgd"])
def test_optimizers_decay_matrices_alone_and_lower_the_loss(optimizer):
    model = small_model("llama")
    spec = TrainingSpec(optimizer=optimizer, weight_decay=0.5, learning_rate=1e-2 if optimizer != "sgd" else 1.0)
    made = make_optimizer(list(model.parameters()), spec)
    for group in made.param_groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] == 0.5) for p in group["params"])
    batch = [collate([example(*range(3, 20))], Layout(0), CPU)]
    losses = [take_step(model, batch, list(model.parameters()), made, 1.0, None)[0] for _ in range(20)]
    assert losses[-1] < losses[0] - 0.05


def test_gradient_checkpointing_changes_no_number(folder):
    plain = run_cell(cell_of(), folder)
    thrifty = run_cell(cell_of("training.gradient_checkpointing=true"), folder)
    assert thrifty.outcome == "finished", thrifty.error
    assert thrifty.value("eval_loss") == pytest.approx(plain.value("eval_loss"), rel=1e-5)
    assert thrifty.value("train_peak_bytes") < plain.value("train_peak_bytes")


def test_a_loss_that_is_not_finite_ends_the_cell_as_diverged_with_its_step(folder):
    result = run_cell(
        cell_of("training.learning_rate=1e30", "training.max_grad_norm=1e30", "method=full", "training.optimizer=sgd"),
        folder,
    )
    assert result.outcome == "diverged"
    assert 1 <= result.error.step <= 6
    assert f"step {result.error.step}" in result.error.message
    assert result.value("eval_loss") is None, "nothing is reported of a model that diverged"
    assert result.value("trainable_parameters"), "what was read before is kept"
    assert len((folder / "curve.csv").read_text().splitlines()) == result.error.step, "the steps before it are kept"
    assert all(
        math.isfinite(float(v)) for row in (folder / "curve.csv").read_text().splitlines()[1:] for v in row.split(",")
    )


def test_epochs_are_counted_as_transformers_counts_them(tmp_path):
    from transformers import Trainer, TrainingArguments

    row = {"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor([1, 2, 3])}
    for rows, batch, accumulation, epochs in [
        (10, 4, 1, 1),
        (10, 4, 2, 1),
        (17, 4, 3, 2),
        (8, 4, 1, 1.5),
        (3, 8, 1, 3),
        (10, 3, 4, 0.3),
    ]:
        asked = TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=epochs,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(small_model("llama"), asked, train_dataset=[row] * rows)
        trainer.train()
        spec = TrainingSpec(epochs=epochs, batch_size=batch, gradient_accumulation=accumulation)
        assert spec.over(rows).steps == trainer.state.max_steps == trainer.state.global_step


def test_paces_leave_out_the_first_step_and_tell_the_spread():
    curve = [StepRecord(1, 1.0, 1e-3, 1.0, 9.0, 40)]
    for step, (seconds, tokens) in enumerate([(1.0, 30), (2.0, 50), (3.0, 40), (6.0, 40)], start=2):
        curve.append(StepRecord(step, 1.0, 1e-3, 1.0, curve[-1].seconds + seconds, tokens))
    told = {r.metric: r.value for r in paces(curve)}
    assert told == {"tokens_per_second": 160 / 12, "step_seconds": 2.5, "step_spread_seconds": 3.75 - 1.75}
    assert {r.metric: r.value for r in paces(curve[:1])} == {"tokens_per_second": 40 / 9, "step_seconds": 9.0}


def test_whoever_listens_to_steps_is_on_no_clock():
    model = small_model("llama")
    spec = TrainingSpec(steps=3, batch_size=1, sequence_length=4)
    slow = lambda step, tokens: time.sleep(0.5)  # noqa: E731
    done = train(model, [example(1, 2, 3)], spec, seed=0, layout=Layout(0), where=CPU, autocast=None, on_step=slow)
    assert done.seconds < 0.75, "of 1.5 s that were slept"
