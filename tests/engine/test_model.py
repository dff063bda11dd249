"""Models load as asked, in memory that holds them once, or say in one sentence why not."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from lorabench.config import ModelSpec
from lorabench.engine.check import check_cells
from lorabench.engine.model import load_base, load_tokenizer, resolve_dtype
from lorabench.errors import ModelError
from tests.engine.conftest import cell_of, cells_of, faults

CPU = torch.device("cpu")


def test_a_hub_model_that_cannot_be_reached_says_how_to_point_to_a_copy():
    with pytest.raises(ModelError) as caught:
        load_tokenizer(ModelSpec(name="meta-llama/Llama-3.1-8B"))
    words = str(caught.value)
    assert "meta-llama/Llama-3.1-8B" in words
    assert "--set model=/path/to/directory" in words
    assert "\n" not in words


@pytest.mark.parametrize(
    ("setting", "field", "parts"),
    [
        ("method.rank=65", "method.rank", ["rank 65", "at most 64"]),
        ("method.target_modules=[q_prj]", "method.target_modules", ["did you mean 'q_proj'", "all-linear"]),
        ("method.target_modules=atention", "method.target_modules", ["did you mean 'attention'"]),
        ("training.sequence_length=1024", "training.sequence_length", ["512"]),
        ("training.optimizer=paged-adamw-8bit", "training.optimizer", ["CUDA", "adamw"]),
        ("model=meta-llama/Llama-3.1-8B", "model", ["--set model="]),
    ],
)
def test_what_only_the_model_can_tell_is_found_before_any_cell_runs(setting, field, parts):
    (problem,) = check_cells(cells_of(setting))
    assert problem.field == field
    for part in parts:
        assert part in problem.message


def test_a_study_that_fits_its_model_has_no_problem():
    assert faults(cells_of("method.rank=64", "training.sequence_length=512")) == ()


def test_auto_is_float32_for_small_models_and_declared_dtypes_are_kept():
    assert resolve_dtype(cell_of()) == torch.float32
    assert load_base(cell_of("method=base", "model.dtype=bfloat16"), CPU).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precisions_train_with_adapters_in_float32(dtype, folder):
    from lorabench.engine.cell import run_cell

    cell = cell_of(f"model.dtype={dtype}", "training.steps=2")
    result = run_cell(cell, folder)
    assert result.outcome == "finished", result.error
    assert result.resolved.dtype == dtype
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 4


@pytest.mark.slow
def test_loading_never_holds_two_copies_of_the_weights(tmp_path):
    """Anonymous memory (mapped files apart) rises by the weights once in float32 from a bfloat16 file, and by less than
    half of that in nf4.

    Large tensors are allocated by mmap, so that a freed one leaves the process: with malloc's own threshold, which
    moves, its holes count as memory in some runs and not in others.
    """
    script = textwrap.dedent("""
        import sys, threading, time, torch, transformers as t
        from pathlib import Path
        def anonymous():
            return next(int(r.split()[1]) * 1024 for r in open("/proc/self/status") if r.startswith("RssAnon"))
        path, quantization = sys.argv[1:]
        from lorabench.engine.model import load_base
        from tests.engine.conftest import cell_of
        import bitsandbytes
        cell = cell_of("method=base", f"quantization={quantization}", f"model={{name: {path}, dtype: float32}}")
        # imports and warms what is lazy
        load_base(cell_of("method=base", f"quantization={quantization}"), torch.device("cpu"))
        before = peak = anonymous()
        done = False
        def watch():
            global peak
            while not done:
                peak = max(peak, anonymous()); time.sleep(0.001)
        thread = threading.Thread(target=watch); thread.start()
        model = load_base(cell, torch.device("cpu"))
        done = True; thread.join()
        weights = sum(p.numel() for p in model.parameters()) * 4 if quantization == "none" else None
        print(peak - before, weights)
    """)
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=12,
        vocab_size=1024,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    parameters = sum(p.numel() for p in model.parameters())
    model.save_pretrained(tmp_path / "m")
    del model
    seen = {}
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    for quantization in ("none", "nf4"):
        run = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "m"), quantization],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=environment,
        )
        assert run.returncode == 0, run.stderr
        seen[quantization] = int(run.stdout.split()[-2])
    largest = 4 * 768 * 2048  # one matrix on its way
    assert seen["none"] < 1.25 * 4 * parameters + 4 * largest
    assert seen["nf4"] < 0.5 * 4 * parameters
