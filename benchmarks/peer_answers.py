"""What a peer answers to questions of benchmarks/peers.py: `PYTHON benchmarks/peer_answers.py PEER < questions.json`,
in an environment that has the peer. Prints its version and, for each question in turn, the bytes or its refusal.

The hub's cache that HF_HUB_CACHE names holds the models' configurations and nothing else. What a peer would ask the hub
over the network, each model's exact number of parameters, is handed to it instead; the rest is its own code.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import sys
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

Question = dict[str, Any]
MEBIBYTE, GIBIBYTE = 2**20, 2**30
SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
CARD = 141
"""GB of the card that is named; both peers take it for overhead alone, which is not compared"""


def fitcheck(parameters: dict[str, int]) -> Callable[[Question], float]:
    """Its total without its overhead: weights, adapters, optimizer, gradients, activations. `flash_attn` is what its
    measurements call so, sdpa's memory-efficient kernel."""
    from fitcheck import TrainingConfig, config_parser, estimate, get_gpu

    config_parser._reported_param_count = lambda model, token: parameters[model]

    def answer(question: Question) -> float:
        full = question["method"] == "full"
        training = TrainingConfig(
            # its compute dtype; float32 weights under autocast are its bf16 with a float32 master copy
            precision="bf16" if question["dtype"] == "float32" else SHORT[question["dtype"]],
            quantization=question["quantization"],
            double_quant=question["double_quant"],
            optimizer="adam8bit" if "8bit" in question["optimizer"] else "adamw",
            batch_size=question["batch"],
            seq_len=question["length"],
            lora_rank=None if full else question["rank"],
            **({} if full else {"lora_targets": question["targets"]}),
            grad_checkpoint=question["checkpointing"],
            flash_attn=question["attention"] == "sdpa",
        )
        report = estimate(config_parser.fetch_model_config(question["model"]), training, get_gpu("h200"))
        return (report.total_mib - report.overhead_mib) * MEBIBYTE

    return answer


def canifinetune(parameters: dict[str, int]) -> Callable[[Question], float]:
    """Its total without `cuda_overhead` and `safety_margin`. Its target is the reserved peak; these are the parts that
    its own calibration holds against `max_memory_allocated`."""
    from canifinetune.estimator import EstimateRequest, estimate, model_metadata

    model_metadata.fetch_model_parameter_count = lambda model, revision="main": parameters[model]
    scopes = {4: "attention", 7: "all_linear", 2: "conservative"}

    def answer(question: Question) -> float:
        quantized = question["quantization"] != "none"
        full = question["method"] == "full"
        scope = {} if full else {"lora_rank": question["rank"], "lora_target_scope": scopes[len(question["targets"])]}
        memory = estimate(
            EstimateRequest(
                model_id=question["model"],
                gpu_vram_gb=CARD,
                method="full" if full else "qlora" if quantized else "lora",
                quantization=question["quantization"] + ("_double_quant" if question["double_quant"] else ""),
                seq_len=question["length"],
                micro_batch_size=question["batch"],
                base_dtype=SHORT[question["dtype"]],
                **scope,
                optimizer=question["optimizer"],
                gradient_checkpointing=question["checkpointing"],
                attention_implementation=question["attention"],
            )
        ).memory
        return (memory.total_estimated_gb - memory.cuda_overhead_gb - memory.safety_margin_gb) * GIBIBYTE

    return answer


def accelerate(parameters: dict[str, int]) -> Callable[[Question], float]:
    """`accelerate estimate-memory`, column "Training using Adam" (batch size 1, no activations), in the row of the
    weights' dtype; it has no bfloat16, and float16 stands for it. The command looks each name up on the hub first and
    fails without a network, so it runs with that look-up answered."""
    from accelerate.commands import estimate

    estimate.verify_on_hub = lambda repo, token=None: SimpleNamespace(library_name="transformers", config={})

    @cache
    def training(model: str, dtype: str) -> float:
        arguments = SimpleNamespace(
            model_name=model, library_name="transformers", trust_remote_code=False, dtypes=[dtype]
        )
        ((_, _, _, parts),) = estimate.gather_data(arguments)
        return max(parts.values())

    return lambda question: training(question["model"], "float32" if question["dtype"] == "float32" else "float16")


PEERS = {"fitcheck": "fitcheck-llm", "canifinetune": "canifinetune", "accelerate": "accelerate"}


def main() -> None:
    name, asked = sys.argv[1], json.load(sys.stdin)
    out, sys.stdout = sys.stdout, io.StringIO()  # they print
    answer = globals()[name](asked["parameters"])
    answers: list[dict[str, Any]] = []
    for question in asked["questions"]:
        try:
            answers.append({"bytes": round(answer(question))})
        except (ValueError, OSError, RuntimeError) as e:
            answers.append({"refused": str(e).splitlines()[0][:200]})
    json.dump({"version": importlib.metadata.version(PEERS[name]), "answers": answers}, out)


if __name__ == "__main__":
    main()
