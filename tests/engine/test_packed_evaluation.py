"""Held-out rows through a pack are what each adapter makes of them alone: the oracles are dense weights put together by
hand, and PEFT's own layers, one row at a time, without padding.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch

from lorabench.config.settings import MethodSpec, TrainingSpec
from lorabench.engine import kept_base
from lorabench.engine.answers import end_tokens
from lorabench.engine.cell import run_cell
from lorabench.engine.checkpoint import TrainingProgress
from lorabench.engine.data import Example
from lorabench.engine.loss import CHUNK
from lorabench.engine.measure import LiveBytes, held_tensors
from lorabench.engine.model import load_base, load_tokenizer
from lorabench.engine.pack import learned_before, train_pack
from lorabench.engine.packed import PackedTraining
from lorabench.engine.packed_adapters import AdapterStart, Learned, attached
from lorabench.engine.packed_evaluation import PassLimits, evaluating
from tests.engine import conftest
from tests.engine.conftest import cell_of, cells_of
from tests.engine.peft_loops import based, eight, pack_training, rows


def learned(base, *methods):
    """What eight adapters begin with and hold, as if they had trained: B and magnitudes are drawn, in the base's
    dtype."""
    starts, trained = [], []
    for method, (rank, alpha, targets, *_, seed) in eight(*methods):
        spec = MethodSpec(name=method, rank=rank, alpha=alpha, dropout=0.0, target_modules=targets)
        exact = base.dtype
        narrow = method == "pissa" and exact == torch.float64  # whose start PEFT makes in float32 alone
        with attached(base.float() if narrow else base, spec, seed) as model:
            start = AdapterStart.of(model, seed)
        base = base.double() if narrow else base
        chance = torch.Generator().manual_seed(seed)
        pairs = {n: (a.to(exact), b.to(exact)) for n, (a, b) in start.factors.items()}
        magnitudes = {n: m.to(exact) for n, m in start.learned.magnitudes.items()}
        starts.append(dataclasses.replace(start, learned=Learned(pairs, magnitudes)))
        own = Learned(
            {n: (a, b + 0.1 * torch.randn(b.shape, generator=chance, dtype=exact)) for n, (a, b) in pairs.items()},
            {n: m * (1 + 0.1 * torch.rand(m.shape, generator=chance, dtype=exact)) for n, m in magnitudes.items()},
        )
        trained.append(PackedTraining(own, TrainingProgress(), None, 8))
    return starts, trained


def by_hand(model, example):
    """-log p of a row's predicted tokens, from logits of the row alone."""
    ids = torch.from_numpy(example.ids).long()[None]
    with torch.no_grad():
        log_p = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), -1)
    nats = -log_p.gather(1, ids[0, 1:, None])[:, 0]
    return float(nats[torch.from_numpy(example.predicted[1:])].sum())


def dense(base, start, own, method):
    """Puts W + s B A, dora's rescaled, pissa's less its start, in place of the base's weights; returns the former
    ones."""
    before = {}
    for name, (a, b) in own.factors.items():
        layer = base.get_submodule(name)
        before[layer], whole = layer.weight.data, layer.weight.data + start.scaling * b @ a
        if method == "pissa":
            a0, b0 = start.factors[name]
            whole = whole - start.scaling * b0 @ a0
        if method == "dora":
            whole = own.magnitudes[name][:, None] * whole / whole.norm(dim=1, keepdim=True)
        layer.weight.data = whole
    return before


def choices(examples):
    """Rows with two answers of one token each after the same prompt, and rows with answers of several tokens."""
    one, several = [], []
    for example in examples:
        last, prompt = np.arange(len(example.ids)) == len(example.ids) - 1, example.ids[:-1]
        own = [Example(np.append(prompt, n).astype(np.int32), last, 1) for n in (7, 9)]
        one.append(dataclasses.replace(own[1], choices=tuple(own), answer=1))
        ends = [np.append(prompt, more).astype(np.int32) for more in ((5,), (6, 8, 4))]
        longer = [Example(ids, np.arange(len(ids)) >= len(prompt), 1) for ids in ends]
        several.append(dataclasses.replace(longer[0], choices=tuple(longer), answer=0))
    return one, several


def test_in_float64_each_adapter_has_the_losses_of_its_dense_weights():
    base, examples, methods = based(), rows(4), ("lora", "dora", "rslora", "pissa")
    one, several = choices(examples[:2])
    starts, trained = learned(base, *methods)
    with evaluating(base, starts, trained, 40, 0) as pack:
        found, answered = pack.losses(examples, 3), [pack.answers(rows, 2) for rows in (one, several)]
    for place, (method, _) in enumerate(eight(*methods)):
        before = dense(base, starts[place], trained[place].learned, method)
        expected = [by_hand(base, e) for e in examples]
        assert found[place].nats == pytest.approx(expected, rel=1e-12), method
        for rows_of, said in zip((one, several), answered, strict=True):
            nats = [[by_hand(base, c) for c in row.choices] for row in rows_of]
            assert said[place].nats == pytest.approx(np.array(nats), rel=1e-12), method
            right = [own[row.answer] for own, row in zip(nats, rows_of, strict=True)]
            assert said[place].losses.nats == pytest.approx(right, rel=1e-12)
            assert said[place].losses.tokens.tolist() == [int(r.choices[r.answer].predicted.sum()) for r in rows_of]
        for layer, weight in before.items():
            layer.weight.data = weight


def test_in_float64_each_adapter_generates_what_its_dense_weights_do_token_by_token():
    base, methods, tokenizer = based(), ("lora", "dora", "rslora", "pissa"), load_tokenizer(cell_of().model)
    examples = [dataclasses.replace(e, prompt_length=len(e.ids)) for e in rows(3)]
    starts, trained = learned(base, *methods)
    ends = end_tokens(base, tokenizer, examples)
    with evaluating(base, starts, trained, 40, 0) as pack:
        found = pack.texts(tokenizer, examples, 2, 6)
    for place, (method, _) in enumerate(eight(*methods)):
        before = dense(base, starts[place], trained[place].learned, method)
        for example, said in zip(examples, found[place], strict=True):
            new = []
            while len(new) < 6 and not (new and new[-1] in ends):
                ids = torch.tensor([[*example.ids.tolist(), *new]])
                with torch.no_grad():
                    new.append(int(base(input_ids=ids).logits[0, -1].argmax()))
            ended = new[-1] in ends
            text = tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True)
            assert said == (text, ended, len(new)), method
        for layer, weight in before.items():
            layer.weight.data = weight
    assert len({tuple(said) for said in found}) == 8, "each its own"


def test_over_a_quantized_base_they_are_those_of_pefts_layers():
    base, examples, methods = based("nf4"), rows(3), ("lora", "dora", "rslora")
    starts, trained = learned(base, *methods)
    with evaluating(base, starts, trained, 40, 0) as pack:
        found = pack.losses(examples, 2)
    for place, (method, (rank, alpha, targets, *_, seed)) in enumerate(eight(*methods)):
        spec = MethodSpec(name=method, rank=rank, alpha=alpha, dropout=0.0, target_modules=targets)
        with attached(base, spec, seed) as model:
            for name, parameter in model.named_parameters():
                parameter.data = parameter.data.double() if "lora_" in name else parameter.data
            trained[place].learned.put(model)
            expected = [by_hand(model.eval(), e) for e in examples]
        assert found[place].nats == pytest.approx(expected, rel=1e-12), method


def test_a_diverged_adapter_changes_no_bit_of_its_neighbours_losses():
    base, examples = based(dtype=torch.float32), rows(6)
    starts, trained = learned(base, "lora", "dora", "rslora", "pissa")
    with evaluating(base, starts, trained, 40, 0) as pack:
        before = pack.losses(examples, 3)
    for place in (1, 4):
        for pair in trained[place].learned.factors.values():
            pair[1].fill_(math.nan)
    with evaluating(base, starts, trained, 40, 0) as pack:
        after = pack.losses(examples, 3)
    for place, (one, other) in enumerate(zip(before, after, strict=True)):
        assert np.isnan(other.nats).all() if place in (1, 4) else (one.nats == other.nats).all()


def test_the_base_is_as_it_was():
    base, examples = based(dtype=torch.float32), rows(3)
    layers, alone = dict(base.named_modules()), by_hand(base, examples[0])
    starts, trained = learned(base, "lora")
    with evaluating(base, starts, trained, 40, 0) as pack:
        pack.losses(examples, 1)
    assert dict(base.named_modules()) == layers and by_hand(base, examples[0]) == alone


@pytest.mark.parametrize("loss", [pytest.param("labelled", marks=pytest.mark.slow), "full"])
def test_a_pass_holds_no_more_than_a_training_step(loss):
    base, examples, held_out = based(dtype=torch.float32), rows(), rows(64)
    adapters = eight("lora", "dora", "rslora")
    spec, starts = TrainingSpec(batch_size=4, loss=loss), learned(base, "lora", "dora", "rslora")
    most = PassLimits.of(examples, spec, 8).rows(held_out, 16)
    assert 1 <= most <= 4
    with LiveBytes(held_tensors(base)) as training:
        pack_training(base, adapters, examples, 2, 1, False)
    with LiveBytes(held_tensors(base)) as evaluation, evaluating(base, *starts, 40, 0) as pack:
        pack.losses(held_out, most)
    assert evaluation.peak < training.peak


def test_a_pass_takes_as_many_rows_as_a_step_has_positions_and_labels():
    def row(length, labels):
        return Example(np.zeros(length, np.int32), np.arange(length) >= length - labels, 0)

    train, spec = [row(40, 2), row(20, 20), row(30, 1)], TrainingSpec(batch_size=2)
    limits = PassLimits.of(train, spec, 8)
    assert (limits.positions, limits.labels) == (80, 3), "the two longest rows, as memory is predicted"
    assert [limits.rows([row(n, 1)] * 9, 16) for n in (10, 30, 40, 81)] == [3, 2, 2, 0]
    assert limits.rows([row(10, 4)], 16) == 0
    assert PassLimits.of(train, spec.model_copy(update={"loss": "full"}), 8).labels == 80
    assert PassLimits.of(train, spec.model_copy(update={"loss": "chunked"}), 8).labels == CHUNK // 8
    prompt = [dataclasses.replace(row(14, 4), prompt_length=10)] * 9
    assert [limits.rows_answered(prompt, new, 6) for new in (2, 10, 30, 71)] == [6, 4, 2, 0]
    saving = spec.model_copy(update={"gradient_checkpointing": True})
    assert PassLimits.of(train, saving, 8).rows_answered(prompt, 10, 6) == 2


WILD = "{training.learning_rate: 1e30, training.warmup: 0}"
STUDY = f"""
schema: 1
name: s
model: lorabench/tiny-300k
task: python-docs
method: {{name: lora, rank: 4, alpha: 16}}
training: {{steps: 12, batch_size: 4, sequence_length: 48, learning_rate: {{tune: [5e-3, 1e-2]}}, schedule: constant}}
include: [{{method: {{name: dora, rank: 2}}}}, {{method: {{name: pissa, rank: 2}}}}, {WILD}]
evaluation: {{lm_eval: [], max_sequences: 48, batch_size: 2, forgetting: self}}
analysis: {{spectra: none}}
"""


def answered(tmp_path):
    """Its answers are generated, too."""
    chance = np.random.default_rng(0)
    pairs = [chance.integers(0, 50, 2).tolist() for _ in range(100)]
    (tmp_path / "sums.jsonl").write_text("".join(f'{{"q": "{a} + {b} =", "a": "{a + b}"}}\n' for a, b in pairs))
    columns = 'prompt: "{q}", response: " {a}"'
    rest = f"{columns}, test_percent: 40, metric: exact_match, max_new_tokens: 8"
    return STUDY.replace("python-docs", f"{{name: instruct, train: {tmp_path}/sums.jsonl, {rest}}}")


def bits(held):
    """All that was measured, without the clock."""
    sets = (one for one in (held.answers.losses, held.validation, held.domain) if one is not None)
    return held.texts, [(s.nats.tolist(), s.tokens.tolist(), s.n_bytes.tolist()) for s in sets]


@pytest.mark.slow
def test_a_pack_that_was_killed_while_it_was_evaluated_or_after_it_is_measured_to_the_same_bits(tmp_path):
    def kill(event):
        if event.phase == "evaluate":
            raise KeyboardInterrupt

    cells = [c for c in cells_of(text=answered(tmp_path)) if c.seed == 0 and c.training.learning_rate == 5e-3]
    whole, kept, seen = train_pack(cells), tmp_path / "packs", []
    assert all(len(t.held_out.texts) == 40 for t in whole.values())
    with pytest.raises(KeyboardInterrupt):
        train_pack(cells, kill, kept)
    assert all(t.held_out is None for t in learned_before(cells[1:], kept, seen.append).values()), "one is not there"
    assert not seen
    resumed = learned_before(cells, kept, seen.append)
    assert any(e.phase == "evaluate" for e in seen)
    assert not any(e.step for e in seen), "no step of the training is taken again"
    later = learned_before(cells[2:], kept, lambda event: pytest.fail("it is evaluated"))
    assert list(whole) == list(resumed) == list(later) == [c.id for c in cells]
    for cell in whole:
        assert bits(whole[cell].held_out) == bits(resumed[cell].held_out) == bits(later[cell].held_out)


@pytest.mark.slow
@pytest.mark.parametrize("generates", [False, True])
def test_a_packs_cells_store_what_they_store_when_each_is_evaluated_alone(tmp_path, generates):
    events, cells = [], cells_of(text=answered(tmp_path) if generates else STUDY)
    trained = train_pack([c for c in cells if c.seed == 0], events.append)
    assert any(e.phase == "evaluate" for e in events)
    chosen = {(c.method.name, c.training.learning_rate == 1e30): c for c in cells}
    for cell in chosen.values():
        packed = trained[cell.id]
        if packed.diverged is not None:
            assert packed.held_out is None
            continue
        held = packed.held_out
        assert held.answers is not None and held.validation is not None
        assert (held.texts is not None) == generates and (held.domain is None) == generates, "rows above a step's"
        beside, alone = (
            run_cell(cell, tmp_path / way / "cells" / cell.id, packed=one)
            for way, one in (("beside", packed), ("alone", dataclasses.replace(packed, held_out=None)))
            if (tmp_path / way / "cells" / cell.id).mkdir(parents=True) is None
        )
        assert beside.outcome == alone.outcome == "finished"
        shares = ("exact_match", "unended") if generates else ()
        for metric in ("eval_loss", "bits_per_byte", "validation_loss", "forgetting", *shares):
            assert beside.value(metric) == pytest.approx(alone.value(metric), rel=1e-5, abs=1e-6), metric
        assert {r.metric for r in beside.readings} - {r.metric for r in alone.readings} == {"pack_eval_seconds"}
        assert {r.metric for r in alone.readings} <= {r.metric for r in beside.readings}
        assert beside.value("eval_seconds") > 0
    assert sum(p.held_out is None for p in trained.values()) == 1, "the diverged one's alone"


@pytest.mark.slow
def test_a_pack_and_lm_eval_of_each_of_its_cells_load_the_base_once(tmp_path, monkeypatch):
    settings = ("quantization=nf4", "method.rank=2", "training.steps=2", "analysis.spectra=none")
    text = conftest.STUDY.replace("lm_eval: []", "lm_eval: [python-docs-cloze], limit: 8")
    cells = [cells_of(*settings, f"seeds=[{seed}]", text=text)[0] for seed in (0, 1)]
    loaded = []
    monkeypatch.setattr(kept_base, "_KEPT", {})
    monkeypatch.setattr(kept_base, "load_base", lambda *of: loaded.append(of) or load_base(*of))
    trained = train_pack(cells)
    for cell in cells:
        (folder := tmp_path / "cells" / cell.id).mkdir(parents=True)
        result = run_cell(cell, folder, packed=trained[cell.id])
        assert result.outcome == "finished" and result.value("python-docs-cloze/acc") is not None
        assert result.value("pack_cells") == 2
    assert len(loaded) == 1
