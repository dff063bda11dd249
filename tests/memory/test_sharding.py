"""What a GPU keeps of a sharded training, against the shards that torch really makes on two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lorabench.memory.sharding import PREFETCHED, Sharding, sharded

RANKS = """
import json, os, sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def adapted():
    import peft
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=132, intermediate_size=301, num_hidden_layers=3, num_attention_heads=3,
                         num_key_value_heads=3, head_dim=44, vocab_size=1001)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).requires_grad_(False)
    return peft.get_peft_model(model, peft.LoraConfig(r=5, target_modules="all-linear"))


def local_bytes(tensors):
    return sum(t.to_local().numel() * t.element_size() for t in tensors if hasattr(t, "to_local"))


def rank(number, folder):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    model, mesh = adapted(), init_device_mesh("cpu", (2,))
    for layer in model.base_model.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    ids = torch.randint(0, 1000, (2, 16))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    made = {
        "weights": local_bytes(p for n, p in model.named_parameters() if "lora_" not in n),
        "adapters": local_bytes(p for n, p in model.named_parameters() if "lora_" in n),
        "gradients": local_bytes(p.grad for p in model.parameters() if p.grad is not None),
        "optimizer": local_bytes(t for state in optimizer.state.values() for t in state.values()),
    }
    with open(f"{folder}/{number}.json", "w") as file:
        json.dump(made, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    import peft, transformers.models.llama  # once for both ranks, which are forked

    mp.start_processes(rank, args=(sys.argv[1],), nprocs=2, start_method="fork")
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sharding") / "two_ranks.py"
    path.write_text(RANKS)
    return path


def predicted(script: Path, strategy: str) -> tuple[dict[str, int], dict[str, int]]:
    space: dict = {"__name__": "two_ranks"}
    exec(compile(script.read_text(), script, "exec"), space)
    model = space["adapted"]()
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    parts = {"weights": sum(p.numel() * p.element_size() for p in model.parameters()) - trained, "adapters": trained,
             "gradients": trained, "optimizer": 2 * trained, "activations": 1000}  # fmt: skip
    return parts, sharded(parts, model, list(model.base_model.model.model.layers), Sharding(strategy, 2))  # type: ignore[arg-type]


def test_fully_sharded_bytes_are_those_of_the_fullest_of_two_real_ranks(script: Path) -> None:
    subprocess.run([sys.executable, str(script), str(script.parent)], check=True, capture_output=True, timeout=300)
    ranks = [json.loads((script.parent / f"{n}.json").read_text()) for n in (0, 1)]
    _, found = predicted(script, "fsdp")
    for category in ("weights", "adapters", "gradients", "optimizer"):
        buffers = 0 if category != "weights" else found["weights"] - max(r["weights"] for r in ranks)
        assert found[category] - buffers == max(r[category] for r in ranks), category
        assert buffers < 1000  # the frequencies of the rotary embedding, which are no parameters


def test_each_strategy_shards_what_it_says(script: Path) -> None:
    one, ddp = predicted(script, "ddp")
    assert {k: v for k, v in ddp.items() if k != "communication"} == one
    assert ddp["communication"] == one["gradients"]
    _, two = predicted(script, "zero2")
    assert (two["weights"], two["adapters"], two["activations"]) == (one["weights"], one["adapters"], 1000)
    assert two["optimizer"] == pytest.approx(one["optimizer"] / 2, rel=0.02)
    assert two["gradients"] == pytest.approx(one["gradients"] / 2, rel=0.02)
    _, three = predicted(script, "zero3")
    hidden, ff, vocabulary, rank = 132, 301, 1001, 5
    layer = 2 * (4 * hidden**2 + 3 * hidden * ff + 2 * hidden)  # bfloat16
    adapter = 4 * rank * (4 * 2 * hidden + 3 * (hidden + ff))  # float32
    root = 2 * (2 * vocabulary * hidden + hidden)
    assert three["communication"] == adapter + root + PREFETCHED * (layer + adapter)
