"""Candidates for the tests of emitters, and what a tool reads of the files that are written for them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from lorabench import plugins
from lorabench.advice.types import Candidate, Workload
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec

TOOLS = ("axolotl", "llamafactory", "peft", "torchtune", "trl")
LLAMA = "meta-llama/Llama-3.1-8B"
TINY = "lorabench/tiny-300k"


def workload(name: str = LLAMA, **model: Any) -> Workload:
    return Workload(ModelSpec(name=name, **model), sequence_length=64, batch_size=4, examples=400)


def candidate(method: str = "lora", quantization: str = "none", **changed: Any) -> Candidate:
    adapter = (
        {}
        if method in ("full", "base")
        else {k: changed.pop(k) for k in ("rank", "alpha", "dropout", "target_modules") if k in changed}
    )
    double, compute = changed.pop("double_quant", False), changed.pop("compute_dtype", "auto")
    step = {"micro_batch_size": 2, "gradient_accumulation": 2, "gradient_checkpointing": False, "optimizer": "adamw"}
    values = {
        **step,
        "learning_rate": 2e-5,
        "schedule": "cosine",
        "warmup": 0.05,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        **changed,
    }
    return Candidate(
        MethodSpec(name=method, **adapter),
        QuantizationSpec(name=quantization, double_quant=double, compute_dtype=compute),
        **values,
    )


def emit(tool: str, work: Workload, asked: Candidate) -> dict[str, str]:
    return plugins.load("emitters", tool).emit(work, asked)


def options(tool: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "schemas" / f"{tool}.json").read_text(encoding="utf-8"))["options"]


def command(script: str) -> list[str]:
    """The words of a script, as a shell takes them."""
    return shlex.split(script.replace(" \\\n", " "), comments=True)


def settings(tool: str, files: dict[str, str]) -> dict[str, Any]:
    """Option to value, as the tool will read it."""
    if tool != "trl":
        return yaml.safe_load(files[f"{tool}.yaml"])
    words = command(files["sft.sh"])
    assert words[:4] == ["set", "-e", "trl", "sft"]
    read: dict[str, Any] = {}
    for word in words[4:]:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            read[name] = value if equals else []
        else:
            read[name].append(word)
    return read


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an option's annotation, or one of its choices; words of a command line are read first."""
    if isinstance(kind, list):
        return value in kind
    kinds = {
        "bool": lambda v: isinstance(v, bool) or v in ("True", "False"),
        "int": lambda v: (isinstance(v, int) and not isinstance(v, bool)) or (isinstance(v, str) and v.isdigit()),
        "float": lambda v: (
            not isinstance(v, bool)
            and (isinstance(v, int | float) or (isinstance(v, str) and re.fullmatch(r"[\d.]+(e-?\d+)?", v) is not None))
        ),
        "str": lambda v: isinstance(v, str),
        "dict": lambda v: isinstance(v, dict) or (isinstance(v, str) and isinstance(json.loads(v), dict)),
        "list": lambda v: isinstance(v, list),
        "Literal": lambda v: repr(v) in kind,
        "None|Optional": lambda v: v is None,
    }
    known = [test for word, test in kinds.items() if re.search(rf"(?i)(?<![a-z_])(?:{word})(?![a-z_])", kind)]
    return any(test(value) for test in known) if known else True


GRID = [
    candidate(),
    candidate(alpha=12),
    candidate("rslora", rank=16, target_modules="attention", gradient_checkpointing=True),
    candidate("dora", "nf4", double_quant=True, optimizer="paged-adamw-8bit"),
    candidate("lora", "nf4", double_quant=True, target_modules=["q_proj"], gradient_checkpointing=True),
    candidate("lora", "fp4", target_modules="mlp", optimizer="adamw-8bit", schedule="constant"),
    candidate("lora", "int8", schedule="linear", warmup=0.0, optimizer="sgd", dropout=0.1),
    candidate("pissa", rank=4, schedule="constant", warmup=0.0),
    candidate("full", optimizer="paged-adamw"),
]
