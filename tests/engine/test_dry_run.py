"""What a dry run passes can run: tokenizer, configuration, adapters and a training step are tried before the first
cell.
"""

import json

import pytest
import torch
import transformers as t

from lorabench.commands.main import main
from lorabench.engine.cell import run_cell
from lorabench.engine.check import check_cells
from lorabench.errors import ModelError, StudyError
from tests.engine.checkpoints import SMALL, configured, copied, random_model
from tests.engine.conftest import STUDY, cell_of, faults, told

MAMBA = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 1024, "state_size": 8}


def fault_of(path, *settings):
    (problem,) = check_cells((cell_of(f"model={path}", *settings),))
    assert problem.fatal
    assert "\n" not in problem.message
    return problem


def test_tokens_beyond_the_embedding_are_counted_against_it(tmp_path):
    path = copied(tmp_path / "m")
    tokenizer = t.AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["<a>", "<b>"])
    tokenizer.save_pretrained(path)
    problem = fault_of(path)
    assert "has 2 tokens beyond the 1,024 rows of the model's embedding (up to id 1,025, '<b>')" in problem.message
    assert "resize_token_embeddings" in problem.message


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        (
            {"version": "1.0", "model": {"type": "foo"}, "added_tokens": []},
            "cannot be read (data did not match any variant",
        ),
        ({}, "cannot be read (KeyError('added_tokens'))"),
        (
            {
                "version": "1.0",
                "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "?"},
                "added_tokens": [],
            },
            "cannot read the text of the task (WordLevel error: Missing [UNK] token",
        ),
    ],
    ids=["of no kind", "empty", "that lacks its word for the unknown"],
)
def test_a_tokenizer_that_reads_nothing_is_a_sentence(tmp_path, plain, words):
    path = copied(tmp_path / "m")
    (path / "tokenizer.json").write_text(json.dumps(plain))
    problem = fault_of(path)
    assert problem.field == "model"
    assert words in problem.message


def test_an_image_placeholder_beyond_the_embedding_is_fine(tmp_path, folder):
    """As in Gemma 3 1B, whose tokenizer is that of the larger models, which see images."""
    path = copied(tmp_path / "m")
    tokenizer = t.AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(path)
    assert "<image_soft_token>" in fault_of(path).message
    file = path / "tokenizer_config.json"
    plain = {k: v for k, v in json.loads(file.read_text()).items() if k != "extra_special_tokens"}
    file.write_text(json.dumps(plain | {"image_token": "<image_soft_token>"}))
    cell = cell_of(f"model={path}", "training.steps=1")
    assert faults((cell,)) == ()
    assert run_cell(cell, folder).outcome == "finished"


def test_an_embedding_with_rows_to_spare_is_fine(tmp_path):
    path = random_model(tmp_path / "m", t.LlamaConfig(**SMALL | {"vocab_size": 1088}))
    assert faults((cell_of(f"model={path}"),)) == ()


def test_a_tokenizer_without_begin_end_and_padding_trains_and_is_scored(tmp_path, folder):
    path = copied(tmp_path / "m")
    file = path / "tokenizer_config.json"
    file.write_text(
        json.dumps(
            {k: v for k, v in json.loads(file.read_text()).items() if k not in ("bos_token", "eos_token", "pad_token")}
        )
    )
    tokenizer = t.AutoTokenizer.from_pretrained(path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (None, None, None)
    settings = ("training.steps=2", "evaluation={max_sequences: 8, limit: 4, forgetting: self}")
    cell = cell_of(f"model={path}", *settings)
    assert faults((cell,)) == ()
    result = run_cell(cell, folder)
    assert result.outcome == "finished", result.error
    assert {"eval_loss", "forgetting", "python-docs-cloze/acc"} <= {r.metric for r in result.readings}


def lfs(name):
    return lambda path: (path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: (p / "tokenizer.json").unlink(), "holds no tokenizer (tokenizer.json)"),
        (lambda p: (p / "tokenizer.json").write_text("{"), "tokenizer.json is not readable JSON"),
        (lfs("tokenizer.json"), "tokenizer.json is a Git LFS pointer"),
        (lambda p: (p / "generation_config.json").write_text("{"), "generation_config.json is not readable JSON"),
        (lambda p: configured(p, pad_token_id=5000), "transformers cannot build a llama model from its config.json"),
        (lambda p: configured(p, model_type="llama9"), "does not know the model type llama9"),
        (lambda p: (p / "config.json").write_text("{}"), "its config.json names no model_type"),
        (
            lambda p: configured(p, model_type="t5"),
            "is not a causal language model that transformers knows: it has none for type t5",
        ),
        (
            lambda p: configured(p, num_attention_heads=3, head_dim=None),
            "not a multiple of the number of attention heads",
        ),
        (
            lambda p: configured(p, rope_parameters={"rope_type": "odd", "rope_theta": 1.0}),
            "transformers cannot build a llama model from its config.json",
        ),
        (
            lambda p: configured(p, auto_map={"AutoConfig": "c.C"}, model_type="own"),
            "set model.trust_remote_code: true if you trust it",
        ),
    ],
)
def test_tokenizer_and_configuration_are_one_sentence(tmp_path, change, words):
    path = copied(tmp_path / "m")
    change(path)
    assert words in fault_of(path).message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: (p / "config.json").write_text("{"), "config.json is not readable JSON"),
        (lambda p: (p / "config.json").write_text("[]"), "does not hold a JSON object"),
        (lfs("config.json"), "config.json is a Git LFS pointer"),
        (lambda p: (p / "config.json").unlink(), "holds no config.json; a local model is a transformers directory"),
    ],
)
def test_what_the_study_alone_can_tell_stands_with_its_place(tmp_path, change, words):
    path = copied(tmp_path / "m")
    change(path)
    with pytest.raises(StudyError, match=r"--set model: ") as caught:
        cell_of(f"model={path}")
    assert words in str(caught.value)


def test_a_link_into_a_cache_that_was_emptied_is_named(tmp_path):
    path = copied(tmp_path / "m")
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(
        ModelError, match=r"model\.safetensors cannot be read \(No such file or directory\); download the model again"
    ):
        cell_of(f"model={path}")


def test_an_adapter_given_as_a_model_names_its_base(tmp_path, folder):
    run_cell(cell_of("training.steps=1"), folder)
    with pytest.raises(StudyError, match=r"is an adapter of .*tiny-300k, not a model; give .*tiny-300k as the model"):
        cell_of(f"model={folder / 'adapter'}")


def test_modules_that_peft_does_not_take_are_found_by_attaching(tmp_path):
    path = random_model(tmp_path / "m", t.MambaConfig(**MAMBA))
    problem = fault_of(path)
    assert problem.field == "method"
    assert problem.message.startswith("PEFT cannot adapt out_proj of a mamba model")
    assert "such as [in_proj]" in problem.message


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_a_model_that_reads_weights_past_their_modules_does_not_run_on_codes(tmp_path, form):
    path = random_model(tmp_path / "m", t.MambaConfig(**MAMBA))
    problem = fault_of(path, "method.target_modules=[in_proj]", f"quantization={form}")
    assert problem.field == "quantization"
    assert problem.message.startswith(f"a mamba model does not run in {form} (")


def test_the_modules_of_mamba_that_it_takes_are_trained(tmp_path, folder):
    cell = cell_of(
        f"model={random_model(tmp_path / 'm', t.MambaConfig(**MAMBA))}",
        "method.target_modules=[in_proj]",
        "training.sequence_length=16",
    )
    assert [p.fatal for p in told((cell,))] == [False]  # its convolutions are not reached
    assert run_cell(cell, folder).outcome == "finished"


def test_a_training_step_that_fails_is_found_on_a_small_copy(tmp_path):
    shape = {
        "axial_pos_shape": (8, 16),
        "axial_pos_embds_dim": (32, 32),
        "attn_layers": ["local", "local"],
        "attention_head_size": 32,
        "feed_forward_size": 64,
    }
    config = t.ReformerConfig(
        is_decoder=True, vocab_size=1024, hidden_size=64, num_attention_heads=2, max_position_embeddings=128, **shape
    )
    problem = fault_of(random_model(tmp_path / "m", config), "training.sequence_length=32")
    assert problem.field == "method"
    assert (
        "a training step of lora on this model fails: If training, make sure that config.axial_pos_shape"
        in problem.message
    )


def test_the_dry_run_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_cells((cell_of("method.dropout=0.1", "quantization=nf4"),))
    assert torch.equal(before, torch.get_rng_state())


def test_on_the_command_line_it_is_exit_code_2_and_one_line(tmp_path, capfd):
    study, path = tmp_path / "s.yaml", copied(tmp_path / "m")
    study.write_text(STUDY)
    (path / "model.safetensors").unlink()
    assert main(["run", str(study), "--dry-run", "--set", f"model={path}", "--out", str(tmp_path / "out")]) == 2
    told = [line for line in capfd.readouterr().err.splitlines() if "kernels" not in line]
    assert told == [
        f"lorabench: --set model: {path} holds no weights (model.safetensors, pytorch_model.bin or their "
        "shards); download them"
    ]


LOCAL = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dataset_path: json", "dataset_path: [json", "mine.yaml is not valid YAML (while parsing a flow sequence"),
        (
            "DATA",
            "/nowhere/rows.jsonl",
            "its data cannot be found (Unable to find '/nowhere/rows.jsonl'); fix its data_files",
        ),
        ("doc_to_text: question", "doc_to_text: '{{prompt}}'", "'prompt' is undefined"),
        ("doc_to_target: answer", "doc_to_target: label", "its answer 'label' is not one of its 2 choices"),
        ("test_split: test", "test_split: tset", "tset"),
        (
            "doc_to_text: question",
            "doc_to_text: !function lost.text",
            "it cannot be loaded (Cannot import module 'lost' for function 'text'",
        ),
    ],
    ids=[
        "broken YAML",
        "a missing data file",
        "a missing column",
        "a missing answer",
        "a missing split",
        "a missing function",
    ],
)
def test_a_broken_local_lm_eval_task_is_a_sentence(tmp_path, old, new, words):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "The sky is", "choices": [" blue", " green"], "answer": 0}) + "\n")
    (tmp_path / "mine.yaml").write_text(LOCAL.replace(old, new).replace("DATA", str(rows)))
    (problem,) = check_cells((cell_of("evaluation.lm_eval=[mine]", f"evaluation.include_path={tmp_path}"),))
    assert problem.fatal and problem.field == "evaluation.lm_eval"
    assert words in problem.message
    assert "network" not in problem.message
