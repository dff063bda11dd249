"""Rows of a pack end to end: the oracles are the engine's own loop over each adapter alone, whose rows lie end to end,
too, and a table that is filled up by torch itself.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, Olmo2Config

from lorabench.config.packs import pack_key
from lorabench.engine.batches import IGNORED, Layout
from lorabench.engine.cell import run_cell
from lorabench.engine.data import task_data
from lorabench.engine.model import load_base, load_tokenizer
from lorabench.engine.pack import train_pack
from lorabench.engine.packed_spans import Spans
from lorabench.engine.row_attention import attends_by_rows
from lorabench.errors import ModelError
from tests.engine.conftest import cell_of, cells_of, small_config
from tests.engine.test_packed import CPU, MIXED, alone, assert_equal_training, pack_of, same_bits, together, uneven

UNDROPPED = [own for own in MIXED if not any("dropout" in setting for setting in own)]
END_TO_END = Layout(0, end_to_end=64, by_rows=True)


@pytest.fixture(scope="module")
def rows():
    cell = cell_of()
    return uneven(task_data(cell, load_tokenizer(cell.model)).train[:40])


def trained_on(seen):
    """A hook that notes the shape of what each pass with a derivative sees."""
    return lambda _, __, named: seen.append(named["input_ids"].shape) if torch.is_grad_enabled() else None


def wide_loss(model, batch, reduction="sum"):
    """token_loss without its step to float32."""
    targets = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
    logits = model(**batch.inputs).logits
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction=reduction)
    return loss.view(targets.shape) if reduction == "none" else loss


@pytest.mark.parametrize("tokens", [[3, 1, 5], [4, 4], [2]])
def test_filled_rows_are_what_torch_pads_and_their_gradient_is_that_of_the_tokens(tokens):
    spans, longest = Spans(tokens, CPU), max(tokens)
    x = torch.randn(1, sum(tokens), 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(len(tokens), longest, 6, dtype=torch.float64)
    filled = spans.filled(x)
    own = torch.zeros(len(tokens), longest, dtype=torch.bool)
    for k, (n, part) in enumerate(zip(tokens, x[0].split(tokens), strict=True)):
        own[k, :n] = True
        assert torch.equal(filled[k, :n], part)
        assert torch.equal(filled[k, n:], part[-1:].expand(longest - n, 6)), "what fills up is the adapter's own"
    assert torch.equal(spans.taken(filled), x[0])
    (gradient,) = torch.autograd.grad((spans.taken(filled * weights) ** 2).sum(), x)
    (expected,) = torch.autograd.grad(((x[0] * weights[own]) ** 2).sum(), x)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize(
    "extra",
    [
        ("training.steps=4",),
        ("training.steps=4", "training.gradient_accumulation=2", "training.gradient_checkpointing=true"),
    ],
    ids=["plain", "accumulated"],
)
def test_in_float64_a_pack_end_to_end_is_each_of_its_adapters_alone(rows, extra):
    cells = pack_of(*extra, cells=UNDROPPED)
    base = load_base(cells[0], CPU).double()
    packed = together(base, cells, rows, loss_of=wide_loss, layout=END_TO_END)
    for cell, ours in zip(cells, packed, strict=True):
        solo = alone(base, cell, rows, loss_of=wide_loss, layout=END_TO_END)
        assert_equal_training(solo, ours, 1e-9)
        assert ours.progress.positions == ours.progress.tokens, "no padding"


@pytest.mark.parametrize(
    ("name", "method"),
    [("none", "dora"), ("none", "pissa"), ("nf4", "lora"), ("int8", "lora")],
)
def test_every_method_and_storage_end_to_end_is_what_it_is_alone_to_rounding(rows, name, method):
    others = [("method.rank=3", "training.learning_rate=1e-3"), ("method.rank=16", "seeds=[4]")]
    own = [(f"method.name={method}", *other) for other in others]
    cells = pack_of("training.steps=4", f"quantization={name}", cells=own)
    packed = together(load_base(cells[0], CPU), cells, rows, layout=END_TO_END)
    for cell, ours in zip(cells, packed, strict=True):
        solo = alone(load_base(cell, CPU), cell, rows, layout=END_TO_END)
        assert_equal_training(solo, ours, 1e-4, wide=1e-3)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_over_a_bfloat16_base_it_ends_where_its_adapters_do_alone(rows, autocast):
    cells = pack_of("training.steps=6", "model={name: lorabench/tiny-300k, dtype: bfloat16}", cells=MIXED[1:4])
    base = load_base(cells[0], CPU)
    for cell, ours in zip(cells, together(base, cells, rows, autocast, layout=END_TO_END), strict=True):
        done, _ = alone(base, cell, rows, autocast, layout=END_TO_END)
        for a, b in zip(ours.progress.curve, done.curve, strict=True):
            assert a.loss == pytest.approx(b.loss, rel=2**-8)  # of a product in bfloat16
            assert a.grad_norm == pytest.approx(b.grad_norm, rel=2**-4)


def test_an_adapter_that_diverges_changes_no_bit_of_its_neighbours_end_to_end(rows):
    wild = ("method.rank=4", "training.learning_rate=1e30", "training.warmup=0", "training.schedule=constant")
    tame = ("method.rank=4", "training.learning_rate=1e-3")
    base = load_base(cell_of(), CPU)
    found = []
    for own in (tame, wild):
        cells = pack_of("training.steps=6", cells=[UNDROPPED[0], own, *UNDROPPED[1:3]])
        found.append(together(base, cells, rows, layout=END_TO_END))
    without, beside = found
    assert "not finite at step" in str(beside[1].diverged)
    for place in (0, 2, 3):
        assert same_bits(without[place], beside[place])
        assert [s.loss for s in without[place].progress.curve] == [s.loss for s in beside[place].progress.curve]


@pytest.mark.parametrize(
    ("layout", "cells"),
    [(END_TO_END, MIXED[4:6]), (dataclasses.replace(END_TO_END, by_rows=False), UNDROPPED[:2])],
    ids=["dropout", "masked attention"],
)
def test_rows_are_padded_where_an_adapter_drops_out_or_attention_sees_all_rows(rows, layout, cells):
    """Masked attention multiplies what a neighbour's rows hold by zero, which is no zero where they are not finite."""
    cells = pack_of("training.steps=2", cells=cells)
    base = load_base(cells[0], CPU)
    seen = []
    hook = base.register_forward_pre_hook(trained_on(seen), with_kwargs=True)
    together(base, cells, rows, layout=layout)
    hook.remove()
    assert {shape[0] for shape in seen} == {2 * cells[0].training.batch_size}


def test_a_pass_end_to_end_holds_the_tokens_of_all_adapters_and_nothing_else(rows):
    cells = pack_of("training.steps=3", cells=UNDROPPED[:3])
    base = load_base(cells[0], CPU)
    seen, told = [], []
    hook = base.register_forward_pre_hook(trained_on(seen), with_kwargs=True)
    together(base, cells, rows, layout=END_TO_END, on_step=lambda step, tokens, _: told.append(tokens))
    hook.remove()
    assert seen == [(1, after - before) for before, after in itertools.pairwise([0, *told])]


def test_cells_with_and_without_padding_are_no_pack():
    keys = [pack_key(cells_of(f"training.padding_free={kind}")[0]) for kind in ("auto", "never", "auto")]
    assert keys[0] == keys[2] != keys[1]


def test_a_pack_pays_by_the_tokens_that_its_passes_have(monkeypatch, tmp_path):
    """Rows of 8 tokens and one in fifty of 400: padded to the longest of a batch they are too many for a pack, as they
    are where a window keeps attention from going row by row."""
    from lorabench.engine import pack_gain

    size = ("training.steps=400", "training.batch_size=8", "training.sequence_length=400")
    (cell,) = cells_of(*size)
    (example,) = task_data(cell, load_tokenizer(cell.model)).train[:1]
    long = dataclasses.replace(example, ids=np.resize(example.ids, 400), predicted=np.resize(example.predicted, 400))
    short = dataclasses.replace(long, ids=long.ids[:8], predicted=long.predicted[:8])
    data = dataclasses.replace(task_data(cell, load_tokenizer(cell.model)), train=[long, *[short] * 49])
    monkeypatch.setattr(pack_gain, "task_data", lambda *_: data)
    (padded,) = cells_of(*size, "training.padding_free=never")
    assert pack_gain.useful_cells(cell) > pack_gain.useful_cells(padded)
    for window, pays in ((256, False), (512, True)):
        tokenizer = load_tokenizer(cell.model)
        settings = {"sliding_window": window, "vocab_size": len(tokenizer), "max_position_embeddings": 512}
        folder = tmp_path / str(window)
        random_model("mistral", **settings).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (other,) = cells_of(*size, f"model={folder}")
        assert (pack_gain.useful_cells(other) > 1) == pays


def random_model(kind, **settings):
    torch.manual_seed(0)
    config = small_config(kind)
    config.update(settings)
    return AutoModelForCausalLM.from_config(config)


def loaded_layout(model, rows):
    return Layout(0, end_to_end=64, by_rows=attends_by_rows(model, max(len(e.ids) for e in rows)))


def within(rows, words):
    return [dataclasses.replace(e, ids=e.ids % words) for e in rows]


def test_a_window_shorter_than_a_row_keeps_adapters_apart(rows):
    """Masked attention would hand the numbers of an adapter that diverged to its neighbour."""
    wild = ("training.learning_rate=1e30", "training.warmup=0", "training.schedule=constant")
    base = random_model("mistral", sliding_window=16)
    rows = within(rows, base.config.vocab_size)
    layout = loaded_layout(base, rows)
    assert not layout.by_rows and loaded_layout(random_model("mistral", sliding_window=64), rows).by_rows
    first, second = together(base, pack_of("training.steps=4", cells=[("method.rank=2",), wild]), rows, layout=layout)
    assert first.diverged is None and second.diverged is not None
    with pytest.raises(ModelError, match="see each other"):
        together(base, pack_of("training.steps=4", cells=[("method.rank=2",), wild]), rows, layout=END_TO_END)


def test_a_layer_that_reads_its_blocks_input_is_recomputed(rows):
    """In OLMo-2 no norm comes before the projections, so that a recomputed block reads the very tensor it read."""
    cells = pack_of(
        "training.steps=3",
        "training.gradient_checkpointing=true",
        "method.target_modules=[q_proj]",
        cells=[("method.rank=2",), ("method.rank=4", "seeds=[1]")],
    )
    config = Olmo2Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config)
    rows = within(rows, 64)
    for cell, ours in zip(cells, together(base, cells, rows, layout=END_TO_END), strict=True):
        assert_equal_training(alone(base, cell, rows, layout=END_TO_END), ours, 1e-4, wide=1e-3)


@pytest.mark.parametrize("dropped", [0, 1], ids=["the first has dropout", "the second has"])
def test_a_cell_records_the_positions_that_it_has_alone_whichever_has_dropout(tmp_path, dropped):
    lines = [f'{{"q": "{"x" * n}", "a": "{n}"}}\n' for n in range(1, 30)]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    task = f'{{name: instruct, train: {tmp_path}/rows.jsonl, prompt: "{{q}}", response: " {{a}}", test_percent: 40}}'
    settings = ("training.steps=3", "training.batch_size=4", "analysis.spectra=none", "evaluation.max_sequences=2")
    cells = [
        cells_of(*settings, f"method.dropout={0.1 * (place == dropped)}", f"seeds=[{place}]", f"task={task}")[0]
        for place in (0, 1)
    ]
    trained = train_pack(cells)
    for place, cell in enumerate(cells):
        (folder := tmp_path / "cells" / cell.id).mkdir(parents=True)
        alone = run_cell(cell, folder)
        done = trained[cell.id].progress
        assert (done.positions > done.tokens) == (place == dropped)
        assert alone.value("padding_percent") == pytest.approx(100 * (1 - done.tokens / done.positions))
