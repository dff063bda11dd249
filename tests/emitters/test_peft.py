"""What PEFT reads is the candidate, module names mean what the engine means, and train.py trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lorabench.advice.types import Candidate
from lorabench.config.architectures import architectures
from lorabench.config.paths import shipped_models
from lorabench.config.settings import MethodSpec, ModelSpec, TrainingSpec
from lorabench.emitters import _setting
from tests.emitters.candidates import GRID, LLAMA, TINY, candidate, emit, workload


def _families() -> list[str]:
    found = {
        a.config.get("model_type"): name
        for name, a in architectures().items()
        if not a.parameters_only and "vision_config" not in a.config
    }
    return sorted(found.values())


@pytest.mark.parametrize("group", ["attention", "mlp"])
@pytest.mark.parametrize("name", _families())
def test_group_names_mean_the_modules_that_the_engine_means(name: str, group: str) -> None:
    import torch

    from lorabench.engine.adapt import resolve_targets
    from lorabench.errors import ModelError
    from lorabench.memory.meta_model import build, configuration, with_layers

    model = build(with_layers(configuration(ModelSpec(name=name)), 2), torch.bfloat16)
    try:
        wanted = set(resolve_targets(model, group))
    except ModelError:
        pytest.skip("the engine finds no such linear modules")
    everything = [n for n, _ in model.named_modules()]
    known = _setting.modules(ModelSpec(name=name), MethodSpec(target_modules=group))
    assert known is not None
    for names in (known, _setting._USUAL[group == "mlp"]):
        met = {
            full for full in everything if any(full == n or full.endswith(f".{n}") for n in names)
        }  # as PEFT takes a list
        assert met == wanted or (names is not known and met and met <= wanted), names


def test_adapter_config_is_the_candidate(tmp_path: Path) -> None:
    from peft import LoraConfig

    for asked in GRID[:-1]:
        (tmp_path / "adapter_config.json").write_text(
            emit("peft", workload(), asked)["adapter_config.json"], encoding="utf-8"
        )
        config, method = LoraConfig.from_pretrained(tmp_path), asked.method
        targets = _setting.modules(workload().model, method)
        assert (config.r, config.lora_alpha, config.lora_dropout) == (method.rank, method.alpha, method.dropout)
        assert config.target_modules == ("all-linear" if targets is None else set(targets))
        assert (config.use_rslora, config.use_dora) == (method.name == "rslora", method.name == "dora")
        assert config.init_lora_weights == ("pissa" if method.name == "pissa" else True)
        assert (config.task_type, config.bias, config.base_model_name_or_path) == ("CAUSAL_LM", "none", LLAMA)
    assert set(emit("peft", workload(), GRID[-1])) == {"train.py"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        candidate("dora", target_modules="attention", gradient_checkpointing=True, learning_rate=1e-2),
        candidate("lora", "nf4", double_quant=True, learning_rate=1e-2, schedule="constant"),
        candidate("pissa", rank=4, learning_rate=1e-2, optimizer="sgd"),
        candidate("full", learning_rate=1e-3, schedule="linear"),
    ],
    ids=lambda c: f"{c.method.name}-{c.quantization.name}",
)
def test_train_py_trains_and_saves_what_can_be_loaded(asked: Candidate, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for name, text in emit("peft", workload(TINY), asked).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    rows = [
        {"text": "def one(): return 1\n" * 20},
        *({"prompt": f"def f{i}(x):", "response": f" return x + {i}"} for i in range(12)),
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "train.py", "--data", "data.jsonl", "--steps", "2", "--output", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    source, ids = shipped_models()[TINY], torch.arange(20, 60)[None]
    base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        before = base(ids).logits
        if asked.method.name == "full":
            trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
        else:
            trained = PeftModel.from_pretrained(base, str(tmp_path / "out"))
            config = trained.peft_config["default"]
            assert config.r == (asked.method.rank or 0) * (2 if asked.method.name == "pissa" else 1)
            assert config.use_dora == (asked.method.name == "dora")
        after = trained.eval()(ids).logits
    assert not torch.equal(before, after)
    assert (before - after).abs().mean() < 2.0  # two steps away from the base, so it loads onto the unchanged one
    assert not (tmp_path / "out" / "start").exists()


def test_what_is_copied_from_the_spec_is_still_its_own() -> None:
    assert set(_setting.OPTIMIZERS) == set(TrainingSpec.model_fields["optimizer"].annotation.__args__)
