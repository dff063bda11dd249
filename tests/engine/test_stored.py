"""What is loaded is what the files say, to the last tensor: wrappers are undone, and what is missing, unexpected or of
another shape is named.
"""

from pathlib import Path

import pytest
import torch
import transformers

from lorabench.engine.cell import run_cell
from lorabench.engine.check import check_cells
from lorabench.engine.model import load_base
from lorabench.errors import ModelError
from tests.engine.checkpoints import SMALL, copied, pickled, put, random_model, renamed, sharded, weights
from tests.engine.conftest import cell_of, faults

CPU = torch.device("cpu")


@torch.no_grad()
def logits(path):
    return load_base(cell_of(f"model={path}", "method=base", "model.dtype=float32"), CPU)(
        input_ids=torch.arange(8, 40)[None]
    ).logits


@pytest.fixture(scope="module")
def original():
    return logits("lorabench/tiny-300k")


def fault_of(path):
    """The one problem of the dry run; the cell of it ends before training, too, with the same words."""
    (problem,) = check_cells((cell_of(f"model={path}"),))
    assert problem.fatal
    assert problem.field == "model"
    assert "\n" not in problem.message
    with pytest.raises(ModelError):
        load_base(cell_of(f"model={path}"), CPU)
    return problem.message


WRAPPED = {
    "torch.compile": lambda n: f"_orig_mod.{n}",
    "DDP": lambda n: f"module.{n}",
    "FSDP": lambda n: (
        "_fsdp_wrapped_module." + n.replace("layers.1.", "layers.1._fsdp_wrapped_module._checkpoint_wrapped_module.")
    ),
    "torch.compile of a layer": lambda n: n.replace("layers.0.self_attn", "layers.0._orig_mod.self_attn"),
    "DDP of a part": lambda n: n.replace(".mlp.", ".module.mlp."),
    "PEFT": lambda n: f"base_model.model.{n}",
    "PEFT, unloaded by halves": lambda n: n.replace("_proj.weight", "_proj.base_layer.weight"),
    "Lightning": lambda n: f"model.{n}",
    "a trainer's own": lambda n: f"student.net.{n}",
    "the model without its head": lambda n: n.removeprefix("model."),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_that_a_wrapper_left_lead_to_the_same_model(tmp_path, original, wrapper):
    path = renamed(copied(tmp_path / "m"), WRAPPED[wrapper])
    assert faults((cell_of(f"model={path}"),)) == ()
    assert torch.equal(logits(path), original)


def test_wrapped_shards_and_pickled_files_are_read_alike(tmp_path, original):
    shards = sharded(renamed(copied(tmp_path / "a"), WRAPPED["FSDP"]))
    old = pickled(
        copied(tmp_path / "b"),
        lambda tensors: {f"module.{n}": t for n, t in tensors.items()},
        _use_new_zipfile_serialization=False,
    )
    new = pickled(copied(tmp_path / "c"))
    bare = sharded(copied(tmp_path / "d"))  # an index of names alone, which transformers itself cannot read
    for path in (shards, old, new, bare):
        assert faults((cell_of(f"model={path}"),)) == ()
        assert torch.equal(logits(path), original)


def test_an_adapter_of_a_wrapped_base_names_the_base_by_its_path(tmp_path, folder):
    import json

    path = renamed(copied(tmp_path / "m"), WRAPPED["DDP"])
    assert run_cell(cell_of(f"model={path}", "training.steps=1"), folder).outcome == "finished"
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(path)


def without(part):
    return lambda path: put(path, {n: t for n, t in weights(path).items() if part not in n})


def with_more(name, tensor):
    return lambda path: put(path, weights(path) | {name: tensor})


def cut(name, rows):
    return lambda path: put(path, weights(path) | {name: weights(path)[name][:rows]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("layers.3."), ["missing: model.layers.3.input_layernorm.weight", "and 5 more"]),
        (without("model.norm"), ["missing: model.norm.weight"]),
        (with_more("score.weight", torch.zeros(3, 64)), ["unexpected: score.weight"]),
        (
            cut("model.embed_tokens.weight", 1000),
            ["model.embed_tokens.weight has shape 1000 x 64, but config.json implies 1024 x 64"],
        ),
        (
            cut("model.layers.1.mlp.up_proj.weight", 100),
            ["up_proj.weight has shape 100 x 64, but config.json implies 192 x 64"],
        ),
        (
            with_more("model.layers.0.self_attn.q_proj.lora_A.default.weight", torch.zeros(4, 64)),
            ["contain an unmerged adapter"],
        ),
    ],
)
def test_what_does_not_fit_is_named_before_training(tmp_path, change, words):
    path = copied(tmp_path / "m")
    change(path)
    message = fault_of(path)
    for word in words:
        assert word in message


def test_buffers_that_are_computed_anew_are_no_fault(tmp_path, original):
    path = copied(tmp_path / "m")
    with_more("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(16))(path)
    assert torch.equal(logits(path), original)


def test_a_head_that_the_file_holds_beside_tied_embeddings_is_the_one_that_counts(tmp_path):
    path = copied(tmp_path / "m")
    head = torch.randn(1024, 64)
    with_more("lm_head.weight", head)(path)
    assert torch.equal(load_base(cell_of(f"model={path}"), CPU).lm_head.weight, head)


def test_experts_are_merged_and_a_lost_one_is_named(tmp_path):
    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)
    path = random_model(tmp_path / "m", config)
    name = "model.layers.1.block_sparse_moe.experts.3.w1.weight"
    stored = weights(path)[name]
    model = load_base(cell_of(f"model={renamed(path, WRAPPED['FSDP'])}"), CPU)
    assert torch.equal(model.model.layers[1].mlp.experts.gate_up_proj[3, :96], stored)
    without("layers.1._fsdp_wrapped_module._checkpoint_wrapped_module.block_sparse_moe.experts.3.w1.")(path)
    assert "missing: model.layers.1." in fault_of(path)
    assert "experts.3.w1.weight" in fault_of(path)


def adapter(path):
    (path / "model.safetensors").unlink()
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')


def pointer(path):
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def truncated(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def gguf(path):
    (path / "model.safetensors").rename(path / "model.gguf")


def code(path):
    pickled(path, lambda tensors: tensors | {"x": Path("/")})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (adapter, "is an adapter of org/base, not a model; give org/base as the model"),
        (
            lambda p: (p / "adapter_config.json").write_text("{}"),
            "holds an adapter (adapter_config.json) beside a model",
        ),
        (pointer, "is a Git LFS pointer"),
        (truncated, "is not a complete safetensors file"),
        (lambda p: (p / "model.safetensors").write_bytes(b""), "is not a complete safetensors file"),
        (gguf, "holds weights as GGUF"),
        (
            lambda p: (p / "model.safetensors").rename(p / "consolidated.safetensors"),
            "no weights as transformers names them",
        ),
        (lambda p: (p / "model.safetensors").unlink(), "holds no weights"),
        (
            lambda p: sharded(p, leave_out="model-00002-of-00002.safetensors"),
            "lacks model-00002-of-00002.safetensors, which its index names",
        ),
        (lambda p: sharded(p, index=False), "without the index that names them"),
        (code, "holds more than tensors, and reading it would run code"),
        (lambda p: pickled(p, lambda tensors: {"state_dict": tensors}), "holds no named tensors at its top"),
    ],
)
def test_a_folder_without_the_whole_weights_is_one_sentence(tmp_path, change, words):
    path = copied(tmp_path / "m")
    change(path)
    assert words in fault_of(path)


def test_a_weight_that_is_not_finite_is_named_and_no_learning_rate_blamed(tmp_path, folder):
    path = copied(tmp_path / "m")
    tensors = weights(path)
    tensors["model.layers.2.mlp.up_proj.weight"][3, 4] = float("nan")
    put(path, tensors)
    for quantization in ("none", "int8", "nf4"):
        result = run_cell(cell_of(f"model={path}", f"quantization={quantization}"), folder)
        assert result.outcome == "failed"
        assert "not finite in float32 (model.layers.2.mlp.up_proj.weight)" in result.error.message
        assert result.error.step is None
        assert "learning rate is" not in result.error.message


def test_predictions_that_are_not_finite_are_the_bases_fault(tmp_path):
    path = copied(tmp_path / "m")
    put(
        path,
        {
            n: t.float() * (1e30 if "up_proj" in n or "down_proj" in n or "norm" in n else 1)
            for n, t in weights(path).items()
        },
    )
    with pytest.raises(ModelError, match="predictions of m are not finite before any training"):
        load_base(cell_of(f"model={path}"), CPU)
