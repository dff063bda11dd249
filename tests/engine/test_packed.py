"""Adapters trained as a pack learn what each learns alone: the oracle is the engine's own loop over PEFT's layers,
which is itself held against a bare PEFT loop in test_train.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lorabench import plugins
from lorabench.engine import packed_adapters
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.engine.batches import IGNORED, Layout
from lorabench.engine.data import task_data
from lorabench.engine.library_messages import quiet
from lorabench.engine.model import load_base, load_tokenizer
from lorabench.engine.pack_checkpoint import PackCheckpoint, trained_before
from lorabench.engine.packed import train_packed, unpackable
from lorabench.engine.packed_adapters import AdapterStart, Learned, arranged
from lorabench.engine.train import train
from lorabench.engine.weight_deltas import adapted_layers
from tests.engine.conftest import cell_of, cells_of, small_model

CPU = torch.device("cpu")
PADDED = Layout(0)
MIXED = (
    ("method.rank=1", "method.alpha=2", "training.learning_rate=1e-3"),
    ("method.rank=4", "method.alpha=16", "training.learning_rate=5e-3", "training.schedule=constant"),
    ("method.rank=64", "method.alpha=8", "training.learning_rate=2e-3", "method.target_modules=attention"),
    ("method.rank=4", "method.alpha=3", "method.target_modules=[q_proj,down_proj]", "training.max_grad_norm=0.1"),
    ("method.name=rslora", "method.rank=8", "training.weight_decay=0.1", "training.warmup=0.3"),
    ("method.rank=3", "method.dropout=0.2", "training.learning_rate=1e-2"),
    ("method.rank=3", "method.dropout=0.1", "method.target_modules=mlp"),
    ("method.rank=64", "method.alpha=64", "seeds=[3]"),
)


def attached(base, cell):
    torch.manual_seed(cell.seed)
    targets = peft_targets(base, resolve_targets(base, cell.method.target_modules))
    with quiet():
        return plugins.load("methods", cell.method.name).attach(base, cell.method, targets)


def detached(model):
    with quiet():
        model.unload()


def uneven(rows, seed=0):
    """Rows of many lengths, so that those of two adapters are padded differently."""
    chance = np.random.default_rng(seed)
    return [
        dataclasses.replace(e, ids=e.ids[:n], predicted=e.predicted[:n]) for e in rows for n in [chance.integers(5, 48)]
    ]


def sixty_four_bits(model, batch, reduction="sum"):
    """token_loss without its step to float32."""
    logits = model(input_ids=batch.ids).logits
    targets = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction=reduction)
    return loss.view(targets.shape) if reduction == "none" else loss


def alone(base, cell, rows, autocast=None, layout=PADDED, **options):
    """Curve and factors of a cell trained by the engine's own loop."""
    model = attached(base, cell)
    torch.manual_seed(cell.seed)
    done = train(
        model,
        rows,
        cell.training,
        seed=cell.seed,
        layout=layout,
        where=CPU,
        autocast=autocast,
        on_step=lambda *_: None,
        **options,
    )
    factors = {
        name: (layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone())
        for name, layer in adapted_layers(model)
    }
    detached(model)
    return done, factors


def together(base, cells, rows, autocast=None, layout=PADDED, **options):
    starts = []
    for cell in cells:
        with packed_adapters.attached(base, cell.method, cell.seed) as model:
            starts.append(AdapterStart.of(model, cell.seed))
    seeds = [c.seed for c in cells]
    return train_packed(
        base,
        starts,
        rows,
        [c.training for c in cells],
        seeds=seeds,
        layout=layout,
        where=CPU,
        autocast=autocast,
        **options,
    )


def pack_of(*shared, cells=MIXED):
    return [cells_of("training.steps=10", *shared, *own)[0] for own in cells]


@pytest.fixture(scope="module")
def rows():
    cell = cell_of()
    return uneven(task_data(cell, load_tokenizer(cell.model)).train[:40])


def assert_equal_training(solo, packed, rel, wide=None):
    wide = wide or rel
    (done, factors), ours = solo, packed
    assert ours.diverged is None
    assert [s.step for s in ours.progress.curve] == [s.step for s in done.curve]
    assert (ours.progress.tokens, ours.progress.positions) == (done.tokens, done.positions)
    for a, b in zip(ours.progress.curve, done.curve, strict=True):
        assert a.learning_rate == b.learning_rate
        assert a.loss == pytest.approx(b.loss, rel=max(rel, 1e-7))  # the loop reads both in float32
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=max(10 * rel, 1e-7))
    assert ours.learned.factors.keys() == factors.keys()
    for name, pair in factors.items():
        for mine, theirs in zip(ours.learned.factors[name], pair, strict=True):
            assert mine.shape == theirs.shape
            assert (mine - theirs).norm() <= wide * theirs.norm(), name


ACCUMULATED = ("training.gradient_accumulation=2", "training.gradient_checkpointing=true")


@pytest.mark.parametrize(
    "extra",
    [("training.steps=4",), *(pytest.param(own, marks=pytest.mark.slow) for own in ((), ACCUMULATED))],
    ids=["short", "plain", "accumulated"],
)
def test_in_float64_a_pack_of_mixed_adapters_is_each_of_them_alone(rows, extra):
    cells = pack_of(*extra)
    base = load_base(cells[0], CPU).double()
    packed = together(base, cells, rows, loss_of=sixty_four_bits)
    for cell, ours in zip(cells, packed, strict=True):
        assert_equal_training(alone(base, cell, rows, loss_of=sixty_four_bits), ours, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "nf4", "int8"])
def test_over_every_storage_a_pack_is_each_of_its_adapters_alone_to_rounding(rows, name):
    cells = pack_of(f"quantization={name}")
    base = load_base(cells[0], CPU)
    packed = together(base, cells, rows)
    for cell, ours in zip(cells, packed, strict=True):
        assert_equal_training(alone(base, cell, rows), ours, 1e-4, wide=1e-3)  # AdamW: g / sqrt(g^2) near zero


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "nf4", "int8"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_over_a_bfloat16_base_a_pack_ends_where_its_adapters_do_alone(rows, name, autocast):
    cells = pack_of("model={name: lorabench/tiny-300k, dtype: bfloat16}", f"quantization={name}", cells=MIXED[1:6:2])
    base = load_base(cells[0], CPU)
    for cell, ours in zip(cells, together(base, cells, rows, autocast), strict=True):
        done, factors = alone(base, cell, rows, autocast)
        assert {t.dtype for pair in (*ours.learned.factors.values(), *factors.values()) for t in pair} == {
            torch.float32
        }
        for a, b in zip(ours.progress.curve, done.curve, strict=True):
            assert a.loss == pytest.approx(b.loss, rel=2**-8)  # of a product in bfloat16
            assert a.grad_norm == pytest.approx(b.grad_norm, rel=2**-4)


@pytest.mark.parametrize("at", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_an_adapter_that_diverges_changes_no_bit_of_its_neighbours(rows, at):
    wild = ("method.rank=4", "training.learning_rate=1e30", "training.warmup=0", "training.schedule=constant")
    tame = ("method.rank=4", "training.learning_rate=1e-3")
    quiet_pack, loud = ([*MIXED[:at], own, *MIXED[at:6]] for own in (tame, wild))
    base = load_base(cell_of(), CPU)
    without = together(base, pack_of("training.steps=6", cells=quiet_pack), rows)
    beside = together(base, pack_of("training.steps=6", cells=loud), rows)
    assert "not finite at step" in str(beside[at].diverged)
    assert beside[at].diverged.step == len(beside[at].progress.curve) + 1
    assert all(math.isfinite(s.loss) for s in beside[at].progress.curve)
    for place, (a, b) in enumerate(zip(without, beside, strict=True)):
        if place != at:
            assert a.diverged is b.diverged is None
            assert [(s.loss, s.grad_norm) for s in a.progress.curve] == [
                (s.loss, s.grad_norm) for s in b.progress.curve
            ]
            assert all(
                torch.equal(t, u)
                for n in a.learned.factors
                for t, u in zip(a.learned.factors[n], b.learned.factors[n], strict=True)
            )


def test_a_diverged_adapter_stops_at_the_step_at_which_it_stops_alone(rows):
    from lorabench.engine.train import Diverged

    wild = ("training.learning_rate=1e30", "training.warmup=0", "training.schedule=constant")
    cells = pack_of("training.steps=4", cells=[wild, MIXED[0]])
    base = load_base(cells[0], CPU)
    first, _ = together(base, cells, rows)
    with pytest.raises(Diverged) as alone_too:
        alone(base, cells[0], rows)
    assert str(first.diverged) == str(alone_too.value)


def same_bits(one, other):
    ours, theirs = one.learned, other.learned
    assert ours.factors.keys() == theirs.factors.keys() and ours.magnitudes.keys() == theirs.magnitudes.keys()
    pairs = [(t, u) for n in ours.factors for t, u in zip(ours.factors[n], theirs.factors[n], strict=True)]
    return all(torch.equal(t, u) for t, u in [*pairs, *((m, theirs.magnitudes[n]) for n, m in ours.magnitudes.items())])


def test_a_pack_that_was_killed_goes_on_to_the_same_bits_and_its_cells_find_what_it_learned(rows, tmp_path):
    wild = ("training.learning_rate=1e30", "training.warmup=0", "training.schedule=constant")
    dora = ("method.name=dora", "method.rank=4", "method.dropout=0.1", "training.learning_rate=5e-3")
    cells = pack_of("training.steps=5", cells=[dora, wild, MIXED[5], MIXED[6]])
    ids, base, seen = [c.id for c in cells], load_base(cells[0], CPU), []

    def kill(step, tokens, seconds):
        if step == 4:
            raise KeyboardInterrupt

    def kept():
        return PackCheckpoint(tmp_path / "packs", ids, 2, CPU)

    with pytest.raises(KeyboardInterrupt):
        together(base, cells, rows, on_step=kill, checkpoint=kept())
    assert trained_before(tmp_path / "packs", ids[0], CPU) == ({}, False), "it is not done"
    again = together(base, cells, rows, on_step=lambda step, *_: seen.append(step), checkpoint=kept())
    assert seen == [3, 4, 5], "the fourth was taken and not written down"
    found, evaluated = trained_before(tmp_path / "packs", ids[2], CPU)
    assert list(found) == ids and not evaluated
    assert trained_before(tmp_path / "packs", "another", CPU) == ({}, False)
    for whole, one, cell in zip(together(base, cells, rows), again, cells, strict=True):
        assert same_bits(whole, one) and same_bits(whole, found[cell.id])
        curve = [(s.step, s.loss, s.grad_norm) for s in whole.progress.curve]
        assert curve == [(s.step, s.loss, s.grad_norm) for s in one.progress.curve]
        assert str(whole.diverged) == str(one.diverged) == str(found[cell.id].diverged)
        assert (whole.progress.tokens, whole.cells) == (one.progress.tokens, found[cell.id].cells)
    assert again[1].diverged is not None
    (file,) = (tmp_path / "packs").glob("*.pt")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    assert trained_before(tmp_path / "packs", ids[2], CPU) == ({}, False), "a flipped bit is no training"


@pytest.mark.parametrize(("kind", "why"), [("mixtral", "experts"), ("gpt2", "dropout of its own"), ("llama", None)])
def test_what_sees_the_rows_of_all_adapters_at_once_is_not_packed(kind, why):
    reason = unpackable(small_model(kind))
    assert reason is None if why is None else why in reason


def test_the_base_is_as_it_was_and_the_process_keeps_its_random_numbers(rows):
    cells = pack_of("training.steps=2", cells=MIXED[4:6])
    base = load_base(cells[0], CPU)
    before = {n: t.clone() for n, t in base.state_dict().items()}
    starts = [AdapterStart.of(attached(base, cells[0]).eval(), 0)]
    base_again = load_base(cells[0], CPU)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train_packed(base_again, starts, rows, [cells[0].training], seeds=[0], layout=PADDED, where=CPU, autocast=None)
    assert torch.equal(torch.rand(3), expected)
    assert not base_again.training
    after = base_again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_ranks_are_padded_where_that_is_cheaper_than_operators_of_their_own():
    def start(rank, sides):
        return AdapterStart(Learned({"layer": (torch.empty(rank, sides), torch.empty(sides, rank))}), 1.0, 0.0, 0)

    def ranks(sides, tokens):
        return [(sorted(m), r) for m, r in arranged([start(r, sides) for r in (1, 2, 4, 64)], tokens)]

    assert ranks(8, 1) == [([0, 1, 2, 3], 64)]  # 6 * 1 * 16 * 63 operations: nothing beside an operator's start
    assert ranks(4096, 4096) == [([3], 64), ([2], 4), ([1], 2), ([0], 1)]
