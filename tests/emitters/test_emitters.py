"""What is written is what the tool accepts, means the candidate, and names stay data."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from lorabench import plugins
from lorabench.advice.candidates import by_rules
from lorabench.advice.ranking import variant
from lorabench.advice.types import Candidate
from lorabench.config.paths import shipped_models
from lorabench.emitters import _setting
from lorabench.errors import LorabenchError
from tests.emitters.candidates import (
    GRID,
    LLAMA,
    TINY,
    TOOLS,
    candidate,
    command,
    emit,
    fits,
    options,
    settings,
    workload,
)


@pytest.mark.parametrize("tool", TOOLS)
def test_files_open_with_who_wrote_them_and_for_what(tool: str) -> None:
    files = emit(tool, workload(), candidate("lora", "nf4", double_quant=True))
    opened = [text for name, text in files.items() if not name.endswith(".json")]
    assert opened
    for text in opened:
        lines = text.removeprefix("#!/bin/sh\n").splitlines()
        assert (
            lines[0]
            == "# Written by lorabench recommend: LoRA rank 8, alpha 16, dropout 0 on all-linear, nf4 with double"
            " quantization"
        )
        assert LLAMA in lines[1]
        assert text.endswith("\n")
    assert "data" in "".join(opened)


@pytest.mark.parametrize("tool", TOOLS)
def test_an_emitter_imports_nothing_heavy(tool: str) -> None:
    heavy = {"torch", "transformers", "peft", "bitsandbytes"}
    code = f"import lorabench.emitters.{tool}, sys; print([m for m in {sorted(heavy)} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
    assert 10 < len(plugins.describe("emitters", tool)) < 160


@pytest.mark.parametrize("tool", ["axolotl", "llamafactory", "trl"])
@pytest.mark.parametrize("asked", GRID, ids=lambda c: f"{c.method.name}-{c.quantization.name}")
def test_every_option_is_the_tools_own_and_of_its_type(tool: str, asked: Candidate) -> None:
    try:
        written = settings(tool, emit(tool, workload(), asked))
    except LorabenchError:
        assert (tool, asked.method.name) == ("trl", "pissa")
        return
    known = options(tool)
    if tool == "axolotl":
        (data,) = written["datasets"]
        written |= {f"datasets.{k}": v for k, v in data.items()} | {
            f"datasets.type.{k}": v for k, v in data["type"].items()
        }
        written |= {"datasets": [], "datasets.type": "str"}
    for name, value in written.items():
        assert name in known, f"{tool} has no option {name}"
        assert fits(value, known[name]), f"{tool}: {name}: {value!r} is no {known[name]}"


@pytest.mark.parametrize(
    ("tool", "asked", "written"),
    [
        (
            "trl",
            {"loss": "fused", "attention": "flash"},
            {"use_liger_kernel": "True", "attn_implementation": "flash_attention_2"},
        ),
        (
            "axolotl",
            {"loss": "fused", "attention": "eager"},
            {"attn_implementation": "eager", "cut_cross_entropy": True},
        ),
        ("llamafactory", {"loss": "fused", "attention": "flash"}, {"enable_liger_kernel": True, "flash_attn": "fa2"}),
        ("llamafactory", {"attention": "eager"}, {"flash_attn": "disabled"}),
    ],
)
def test_loss_and_attention_that_are_asked_for_stand_in_the_files(tool: str, asked: Any, written: Any) -> None:
    plain = workload()
    varied = replace(plain, trainer=plugins.load("emitters", tool).TRAINER.with_options(**asked))
    before, after = (settings(tool, emit(tool, w, candidate())) for w in (plain, varied))
    assert {k: after[k] for k in written} == written
    assert set(after) - set(before) <= {*written, "plugins"} and not set(before) - set(after)
    known = {**options(tool), "cut_cross_entropy": "bool"}  # a plug-in's own
    assert all(fits(after[k], known[k]) for k in written if known[k] != "AttentionFunction")


def test_peft_s_script_says_loss_attention_and_preparation() -> None:
    trainer = plugins.load("emitters", "peft").TRAINER.with_options("fused", "eager", True)
    asked = replace(workload(), trainer=trainer)
    script = emit("peft", asked, candidate("lora", "nf4"))["train.py"]
    compile(script, "train.py", "exec")
    assert "ATTENTION = 'eager'" in script and "LIGER_KERNEL = True" in script
    assert script.index("model = prepare_model_for_kbit_training(") < script.index("model = get_peft_model(")
    assert "prepare_model" not in emit("peft", asked, candidate())["train.py"], "nothing to prepare"
    assert "prepare_model" not in emit("peft", workload(), candidate("lora", "nf4"))["train.py"]


def test_the_check_of_types_can_fail() -> None:
    assert not fits("yes", "bool | None")
    assert not fits(1.5, "int")
    assert not fits("adam", ["adamw_torch"])
    assert not fits("8", "Literal['bnb']")


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("key", [("lora", "none"), ("lora", "nf4"), ("full", "none")])
def test_what_the_rules_recommend_can_be_written_for_every_tool(tool: str, key: tuple[str, str]) -> None:
    work = workload()
    family = by_rules(key, 8 * 10**9, None, {r: r * 2_621_440 for r in (8, 16)})
    for asked in (
        variant(family, work, 2, False, family.optimizers[0]),
        variant(family, work, 1, True, family.optimizers[-1]),
    ):
        assert emit(tool, work, asked)


@pytest.mark.parametrize(
    ("tool", "decay", "norm"),
    [
        ("trl", "weight_decay", "max_grad_norm"),
        ("axolotl", "weight_decay", "max_grad_norm"),
        ("llamafactory", "weight_decay", "max_grad_norm"),
        ("torchtune", "optimizer", "clip_grad_norm"),
    ],
)
def test_decay_and_clipping_are_the_candidates(tool: str, decay: str, norm: str) -> None:
    written = settings(tool, emit(tool, workload(), candidate(weight_decay=0.1, max_grad_norm=0.3)))
    found = written[decay]["weight_decay"] if tool == "torchtune" else written[decay]
    assert (float(found), float(written[norm])) == (0.1, 0.3)


def test_values_are_the_candidates() -> None:
    asked = candidate(
        "rslora",
        "fp4",
        rank=4,
        alpha=12,
        dropout=0.1,
        target_modules="attention",
        schedule="constant",
        warmup=0.1,
        gradient_checkpointing=True,
    )
    trl, axolotl, factory = (
        settings(tool, emit(tool, workload(), asked)) for tool in ("trl", "axolotl", "llamafactory")
    )
    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (trl["lora_r"], trl["lora_alpha"], trl["lora_dropout"], trl["use_rslora"], trl["lora_target_modules"]) == (
        "4",
        "12",
        "0.1",
        "True",
        names,
    )
    assert (trl["bnb_4bit_quant_type"], trl["use_bnb_nested_quant"], trl["lr_scheduler_type"]) == (
        "fp4",
        "False",
        "constant_with_warmup",
    )
    assert (axolotl["lora_r"], axolotl["lora_alpha"], axolotl["lora_target_modules"], axolotl["peft_use_rslora"]) == (
        4,
        12,
        names,
        True,
    )
    assert (axolotl["adapter"], axolotl["bnb_config_kwargs"]) == (
        "qlora",
        {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False},
    )
    assert (factory["lora_rank"], factory["lora_alpha"], factory["lora_target"], factory["use_rslora"]) == (
        4,
        12,
        ",".join(names),
        True,
    )
    assert (factory["quantization_bit"], factory["quantization_type"], factory["double_quantization"]) == (
        4,
        "fp4",
        False,
    )
    for tool in (axolotl, factory):
        assert (tool["learning_rate"], tool["warmup_ratio"], tool["gradient_accumulation_steps"]) == (2e-5, 0.1, 2)
    assert not factory["disable_gradient_checkpointing"]
    assert axolotl["gradient_checkpointing"]
    assert trl["gradient_checkpointing"] == "True"


def test_trl_hands_one_name_to_peft_as_an_expression_for_its_end() -> None:
    (target,) = settings("trl", emit("trl", workload(), candidate(target_modules=["q_proj"])))["lora_target_modules"]
    assert re.fullmatch(target, "model.layers.0.self_attn.q_proj")
    assert not re.fullmatch(target, "model.layers.0.self_attn.eq_proj")


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")
def test_trl_itself_reads_the_command_line() -> None:
    from trl import get_peft_config, get_quantization_config
    from trl.scripts.sft import make_parser

    asked = candidate("dora", "nf4", double_quant=True, target_modules="mlp", rank=4)
    words = command(emit("trl", workload(), asked)["sft.sh"])[4:]
    _, training, model, _ = make_parser().parse_args_into_dataclasses(
        [w for w in words if w != "--bf16=True"] + ["--bf16=False", "--use_cpu"]
    )
    lora, quantization = get_peft_config(model), get_quantization_config(model)
    assert (lora.r, lora.use_dora, lora.target_modules) == (4, True, {"gate_proj", "up_proj", "down_proj"})
    assert (quantization.bnb_4bit_quant_type, quantization.bnb_4bit_use_double_quant) == ("nf4", True)
    assert (training.warmup_steps, training.optim.value, training.gradient_checkpointing) == (
        0.05,
        "adamw_torch_fused",
        False,
    )


@pytest.mark.parametrize(
    ("tool", "name", "asked", "says"),
    [
        *((tool, LLAMA, candidate("base"), "base trains nothing") for tool in TOOLS),
        *((tool, LLAMA, candidate("full", "nf4"), "full cannot be combined with") for tool in TOOLS),
        *((tool, LLAMA, candidate("pissa", "int8"), "pissa cannot be combined with") for tool in TOOLS),
        *((tool, LLAMA, candidate(optimizer="lion"), "unknown optimizer 'lion'") for tool in TOOLS),
        *((tool, LLAMA, candidate(alpha=12.5), "alpha 12.5") for tool in ("axolotl", "llamafactory", "trl")),
        ("trl", LLAMA, candidate("pissa"), "pissa"),
        ("llamafactory", LLAMA, candidate("lora", "nf4", compute_dtype="float32"), "float32"),
        ("llamafactory", LLAMA, candidate(target_modules=["a,b"]), "a,b"),
        ("torchtune", "EleutherAI/pythia-70m", candidate(), "pythia-70m"),
        ("torchtune", LLAMA, candidate("pissa"), "pissa"),
        ("torchtune", LLAMA, candidate("lora", "int8"), "int8"),
        ("torchtune", LLAMA, candidate("lora", "nf4"), "nf4 without double_quant"),
        ("torchtune", LLAMA, candidate(schedule="linear"), "schedule linear"),
        ("torchtune", LLAMA, candidate(target_modules="mlp"), "down_proj"),
        ("torchtune", LLAMA, candidate(target_modules=["lm_head"]), "lm_head"),
    ],
)
def test_what_a_tool_cannot_do_is_one_sentence(tool: str, name: str, asked: Candidate, says: str) -> None:
    with pytest.raises(LorabenchError, match=re.escape(says)) as caught:
        emit(tool, workload(name), asked)
    assert "\n" not in str(caught.value)
    assert re.search("allowed|takes|goes with", str(caught.value))


@pytest.mark.parametrize(
    ("tool", "quantization", "options", "says"),
    [
        ("trl", "none", {"loss": "full"}, "the loss full"),
        ("trl", "nf4", {"kbit_preparation": True}, "prepare_model_for_kbit_training"),
        ("torchtune", "none", {"attention": "eager"}, "eager attention"),
    ],
)
def test_a_variant_that_a_tool_has_not_is_one_sentence(tool: str, quantization: str, options: Any, says: str) -> None:
    trainer = plugins.load("emitters", tool).TRAINER.with_options(**options)
    with pytest.raises(LorabenchError, match=re.escape(says)) as caught:
        emit(tool, replace(workload(), trainer=trainer), candidate("lora", quantization, double_quant=True))
    assert "\n" not in str(caught.value)


def test_frozen_weights_have_the_engines_precision() -> None:
    assert _setting.precision(workload(), candidate()) == "bfloat16"
    assert _setting.precision(workload(), candidate("full")) == "float32"
    assert _setting.precision(workload(TINY), candidate()) == "float32"
    assert _setting.precision(workload(str(shipped_models()[TINY])), candidate()) == "float32"
    assert _setting.precision(workload(dtype="float16"), candidate("full")) == "float16"
