"""Cells, adapters and checkpoints are found and read; what is none of them is one sentence."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorabench.engine.cell import run_cell
from lorabench.errors import LorabenchError
from lorabench.record.spectrum import load_spectra
from lorabench.record.store import Store
from lorabench.spectra.analyse import analyse, compare
from lorabench.spectra.files import Weights
from lorabench.spectra.source import open_learned, resolve
from tests.engine.conftest import MODEL, cell_of, small_model
from tests.spectra.conftest import peft_adapter


def ran(tmp_path, *settings):
    """A finished cell in a store; gives its folder."""
    store = Store(tmp_path / "store")
    cell = cell_of("training.steps=4", *settings)
    folder = store.partial(cell.id)
    folder.mkdir(parents=True)
    return store.put(run_cell(cell, folder))


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("method.name=dora",),
        ("method.name=pissa",),
        ("method.name=dora", "quantization=nf4"),
        ("quantization=nf4", "quantization.double_quant=true"),
    ],
)
def test_a_cells_folder_gives_what_was_stored_when_it_ran(settings, tmp_path):
    folder = ran(tmp_path, *settings)
    learned = open_learned(str(folder))
    stored = {s.module: s for s in load_spectra(folder / "spectra.safetensors")}
    found = {s.module: s for s in analyse(learned)}
    assert set(found) == set(stored)
    for name, s in found.items():
        n = 4 if "method.name=dora" not in settings else len(s.singular_values)
        assert s.singular_values[:n] == pytest.approx(
            stored[name].singular_values[:n], rel=1e-4, abs=1e-5 * s.singular_values[0]
        )
        assert s.alignment.base_norm == pytest.approx(stored[name].alignment.base_norm)
        assert s.alignment.projected_norm == pytest.approx(stored[name].alignment.projected_norm, rel=1e-2)
        assert (s.repair is None) == (stored[name].repair is None)
        if s.repair:
            assert s.repair.cosine == pytest.approx(stored[name].repair.cosine, abs=1e-4)


def test_a_fully_fine_tuned_cell_gives_its_stored_values_and_says_so(tmp_path):
    learned = open_learned(str(ran(tmp_path, "method=full")))
    assert "saves no weights" in learned.notes[0]
    found = list(analyse(learned))
    assert len(found) == 28
    assert all(s.alignment and s.rank == min(s.in_features, s.out_features) for s in found)
    with pytest.raises(LorabenchError, match="stores its singular values, not its weights"):
        learned.deltas()


def test_cells_that_learned_nothing_or_did_not_finish_say_so(tmp_path):
    base = ran(tmp_path, "method=base")
    with pytest.raises(LorabenchError, match="untouched base: nothing was learned"):
        open_learned(str(base))
    diverged = ran(tmp_path, "training.learning_rate=1e9", "training.max_grad_norm=1e9", "training.warmup=0")
    with pytest.raises(LorabenchError, match="has not finished"):
        open_learned(str(diverged))


def checkpoints(tmp_path, sharded=False):
    """(before, after, planted): two checkpoints of a small Llama that differ by planted changes of rank 2."""
    model = small_model("llama")
    model.save_pretrained(tmp_path / "before")
    planted = {}
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("proj.weight"):
                change = (
                    0.5
                    * torch.randn(p.shape[0], 2, generator=generator).double()
                    @ torch.randn(2, p.shape[1], generator=generator).double()
                )
                planted[name.removesuffix(".weight")] = change
                p.copy_((p.double() + change).float())
    model.save_pretrained(tmp_path / "after", **({"max_shard_size": "20KB"} if sharded else {}))
    return tmp_path / "before", tmp_path / "after", planted


@pytest.mark.parametrize("sharded", [False, True])
def test_two_checkpoints_give_their_difference_module_by_module(sharded, tmp_path):
    before, after, planted = checkpoints(tmp_path, sharded)
    assert len(list(after.glob("*.safetensors"))) > 2 or not sharded
    found = {s.module: s for s in analyse(open_learned(str(after), base=str(before)))}
    for name, change in planted.items():
        assert found[name].numerical_rank == 2
        assert found[name].singular_values[:2] == pytest.approx(torch.linalg.svdvals(change)[:2].numpy(), rel=1e-5)
        assert found[name].relative_norm == pytest.approx(
            float(change.norm() / Weights(before).weight(name).norm()), rel=1e-5
        )
    rest = set(found) - set(planted)
    assert rest
    assert all(found[n].frobenius_norm == 0 for n in rest), "embeddings stayed"


def test_gpt2_checkpoints_are_read_as_out_by_in_whatever_the_prefix(tmp_path):
    model = small_model("gpt2")
    model.save_pretrained(tmp_path / "a")
    state = load_file(tmp_path / "a" / "model.safetensors")
    shorter = tmp_path / "hub"  # the hub's own GPT-2 leaves out "transformer."
    shutil.copytree(tmp_path / "a", shorter)
    save_file(
        {k.removeprefix("transformer."): v for k, v in state.items()},
        shorter / "model.safetensors",
        metadata={"format": "pt"},
    )
    for folder in (tmp_path / "a", shorter):
        weights = Weights(folder)
        for name in ("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj", "transformer.h.0.attn.c_proj"):
            assert torch.equal(weights.weight(name), model.get_submodule(name).weight.T)
        assert torch.equal(weights.weight("transformer.wte"), model.transformer.wte.weight)
    assert Weights(shorter).find("nothing.here") is None


def test_an_adapter_beside_itself_is_alike_and_beside_another_like_a_random_one(tmp_path):
    _, _, one = peft_adapter(tmp_path / "one")
    tensors = load_file(one / "adapter_model.safetensors")
    shutil.copytree(one, tmp_path / "two")
    generator = torch.Generator().manual_seed(9)
    save_file(
        {k: torch.randn(v.shape, generator=generator) for k, v in tensors.items()},
        tmp_path / "two" / "adapter_model.safetensors",
    )
    itself = list(compare(open_learned(str(one)), open_learned(str(one))))
    assert len(itself) == 14
    assert all(s.whole("left") == pytest.approx(1) and s.whole("right") == pytest.approx(1) for s in itself)
    other = list(compare(open_learned(str(one)), open_learned(str(tmp_path / "two"))))
    mean = sum(s.whole("right") for s in other) / len(other)
    assert mean == pytest.approx(sum(s.random("right") for s in other) / len(other), rel=0.25)
    _, _, gpt2 = peft_adapter(tmp_path / "gpt2", "gpt2")
    with pytest.raises(LorabenchError, match="no module of the same name and size in common"):
        list(compare(open_learned(str(one)), open_learned(str(gpt2))))


@pytest.mark.parametrize(
    ("name", "base", "words"),
    [
        ("nowhere", None, "it is not a path, a cell under reports/"),
        ("{tmp}", None, "is not an adapter, cell or checkpoint"),
        ("{tmp}/text.txt", None, "is not an adapter, cell or checkpoint"),
        ("{model}", None, "is a whole checkpoint; name the model that it was trained from with --base MODEL"),
        ("{model}", "{tmp}/absent", "cannot be found: it is not a directory, a shipped model (lorabench/tiny-"),
        ("{model}", "{tmp}", "holds no weights"),
        ("someone/some-adapter", None, "or a hub id that can be reached"),
    ],
)
def test_what_is_nothing_of_the_kind_is_one_sentence(name, base, words, tmp_path):
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(LorabenchError) as e:
        open_learned(name.format(tmp=tmp_path, model=MODEL), base and base.format(tmp=tmp_path, model=MODEL))
    assert words in str(e.value)
    assert "\n" not in str(e.value)


def test_checkpoints_of_two_architectures_are_told(tmp_path):
    small_model("llama").save_pretrained(tmp_path / "llama")
    small_model("gpt2").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(LorabenchError, match="share no weight matrix"):
        list(analyse(open_learned(str(tmp_path / "llama"), base=str(tmp_path / "gpt2"))))
    with pytest.raises(LorabenchError, match="share no weight matrix"):
        list(analyse(open_learned(str(tmp_path / "llama"), base="lorabench/tiny-300k")))


def test_a_resized_embedding_is_left_out_and_told(tmp_path):
    model = small_model("llama")
    model.save_pretrained(tmp_path / "before")
    model.resize_token_embeddings(66)
    model.save_pretrained(tmp_path / "after")
    learned = open_learned(str(tmp_path / "after"), base=str(tmp_path / "before"))
    assert "left out: 2 weights" in learned.notes[0]
    assert len(list(analyse(learned))) == 14


def test_values_that_are_not_finite_are_one_sentence(tmp_path):
    before, after, _ = checkpoints(tmp_path)
    tensors = load_file(after / "model.safetensors")
    name = next(n for n in tensors if n.endswith("up_proj.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, after / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LorabenchError, match="not finite; the checkpoint is damaged"):
        list(analyse(open_learned(str(after), base=str(before))))


def test_what_lies_at_a_path_is_told_once(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "kohya.safetensors").touch()
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "result.json").write_text("{}")
    kinds = {n: resolve(str(tmp_path / n)).kind for n in ("model", "adapter", "kohya.safetensors", "cell", "gone")}
    assert list(kinds.values()) == ["checkpoint", "adapter", "adapter", "cell", "absent"]
    assert resolve("3fc2", lambda name: tmp_path / "cell").kind == "cell"


def test_an_adapters_files_are_looked_up_once(tmp_path, monkeypatch):
    _, _, folder = peft_adapter(tmp_path / "adapter")
    at = resolve(str(folder))

    def look(*_):
        raise AssertionError("looked at the folder again")

    for name in ("exists", "is_dir", "iterdir", "glob"):
        monkeypatch.setattr(Path, name, look)
    learned = open_learned(at)
    assert learned.adapter.place == folder
    assert learned.adapter.file.path == folder / "adapter_model.safetensors"
