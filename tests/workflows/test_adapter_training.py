"""lb.train_adapters: what it saves PEFT loads, and each adapter is what transformers and PEFT train alone."""

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import lorabench as lb
from tests.engine.conftest import MODEL


def rows(count=12):
    chance = np.random.default_rng(3)
    return [{"input_ids": chance.integers(3, 500, chance.integers(6, 20)).tolist()} for _ in range(count)]


def setting(seed=0, **method):
    training = {"steps": 4, "batch_size": 3, "learning_rate": 5e-3, "schedule": "constant", "warmup": 0}
    return lb.AdapterSetting(method=method, training=training, seed=seed)


SETTINGS = [
    setting(rank=2),
    setting(seed=1, rank=8, alpha=4),
    setting(name="dora", rank=4),
    setting(name="pissa", rank=4),
]


def base():
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    model = base().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    done = lb.train_adapters(model, SETTINGS, rows(), out=tmp_path_factory.mktemp("out"))
    return model, before, done


def test_what_may_be_packed_is_and_the_rest_trains_alone(trained):
    assert [t.pack for t in trained[2]] == [2, 2, 1, 1]
    assert all(len(t.curve) == 4 and t.loss == t.curve[-1].loss and t.diverged is None for t in trained[2])


def test_the_model_is_as_it_was(trained):
    model, before, _ = trained
    assert model.training and all(p.requires_grad for p in model.parameters()) and not hasattr(model, "peft_config")
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("place", range(len(SETTINGS)))
def test_peft_loads_it_with_the_loss_that_was_left(trained, place):
    t = trained[2][place]
    model = peft.PeftModel.from_pretrained(base(), t.folder).eval()
    ids = torch.tensor([rows()[0]["input_ids"]])
    with torch.no_grad(), model.disable_adapter():
        start = model(input_ids=ids, labels=ids).loss.item()
    with torch.no_grad():
        assert model(input_ids=ids, labels=ids).loss.item() < start
    assert (t.folder / "adapter_config.json").is_file() and not (t.folder / "adapter").exists()


def test_a_packed_one_is_what_a_bare_peft_loop_trains(trained):
    from lorabench.engine.batches import batches

    torch.manual_seed(1)
    config = peft.LoraConfig(r=8, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base(), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)
    order = batches(rows(), 3, 1)
    for step in range(4):
        drawn = [torch.tensor(r["input_ids"]) for r in next(order)]
        ids = torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True)
        labels = torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True, padding_value=-100)
        loss = model(input_ids=ids, labels=labels).loss
        assert trained[2][1].curve[step].loss == pytest.approx(loss.item(), rel=2e-5)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def test_labels_and_attention_masks_are_those_of_transformers():
    from lorabench.workflows.adapter_training import _example

    e = _example({"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4], "attention_mask": [0, 1, 1, 1]}, 3, 0)
    assert e.ids.tolist() == [2, 3, 4] and e.predicted.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lb.AdapterSetting(method={"rnk": 4}), "unknown key 'method.rnk'; did you mean"),
        (lambda: lb.AdapterSetting(method="full"), "allowed: dora, lora, pissa, rslora"),
        (lambda: lb.AdapterSetting(training={"learning_rate": {"tune": [1e-3, 1e-4]}}), "learning_rate is one number"),
        (lambda: lb.train_adapters(MODEL, SETTINGS, rows(), out="x"), "a loaded model is needed"),
        (lambda: lb.train_adapters(base(), [], rows(), out="x"), "no adapter is to be trained"),
        (lambda: lb.train_adapters(base(), SETTINGS, [], out="x"), "there are no rows"),
        (lambda: lb.train_adapters(base(), SETTINGS, [{"text": "a"}], out="x"), "row 0 has no input_ids, only text"),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_sentence(call, words):
    with pytest.raises(lb.LorabenchError) as told:
        call()
    assert words in str(told.value) and "\n" not in str(told.value)
