"""How long `lorabench spectrum` takes for a 7B-sized adapter, and against a dense SVD of the same changes.

    python benchmarks/spectrum.py [--out reports/spectrum.json] [--sample 3]

224 modules of Llama 7B's shapes, rank 64, random float32 factors (640 MB), written to a scratch file and read from it
again by a fresh process, as a user would. The dense peer forms scaling * B @ A of some modules (4096 x 4096, float64)
and calls LAPACK's svdvals.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorabench.engine.environment import environment
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.decompose import dense_singular_values

SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (4096, 4096),
    "self_attn.v_proj": (4096, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (11008, 4096),
    "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}
LAYERS, RANK, ALPHA = 32, 64, 16


def write_adapter(folder: Path) -> None:
    """A PEFT adapter of Llama 7B's shapes; factors fall off by index, as trained ones do."""
    generator = torch.Generator().manual_seed(0)
    fall = torch.linspace(1.0, 0.05, RANK)
    tensors = {}
    for layer in range(LAYERS):
        for name, (out, into) in SHAPES.items():
            stem = f"base_model.model.model.layers.{layer}.{name}.lora_"
            tensors[f"{stem}A.weight"] = torch.randn(RANK, into, generator=generator) * fall[:, None] * into**-0.5
            tensors[f"{stem}B.weight"] = torch.randn(out, RANK, generator=generator) * out**-0.5
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": sorted({n.rpartition(".")[2] for n in SHAPES}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def whole_command(folder: Path) -> tuple[float, int]:
    """(seconds, peak bytes) of the command in a process of its own."""
    code = (
        "import resource, sys; from lorabench.commands.main import main; code = main(sys.argv[1:]);"
        " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "spectrum", str(folder), "--json"], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - started
    assert len(json.loads(done.stdout)["modules"]) == LAYERS * len(SHAPES)
    return seconds, 1024 * int(done.stderr.split()[-1])


def against_dense(folder: Path, sample: int) -> tuple[list[float], list[float], float]:
    """(our seconds, dense seconds, worst relative difference of a value) of square modules, one after the other."""
    adapter = Adapter(folder)
    chosen = [e for e in adapter.entries if e.module.endswith("q_proj")][:: max(1, LAYERS // sample)][:sample]
    ours, dense, worst = [], [], 0.0
    for entry in chosen:
        delta = adapter.product(entry)
        delta.singular_values()
        started = time.perf_counter()
        for _ in range(5):
            values = delta.singular_values()
        ours.append((time.perf_counter() - started) / 5)
        started = time.perf_counter()
        exact = torch.linalg.svdvals(delta.matrix())
        dense.append(time.perf_counter() - started)
        worst = max(worst, float(((values - exact[:RANK]).abs() / exact[:RANK]).max()))
    return ours, dense, worst


def dense_change_seconds(side: int = 2048) -> dict[str, float]:
    """A dense change without factors: our way (Gram matrix) and LAPACK's svdvals, in float64."""
    matrix = torch.randn(side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {}
    for name, run in (("gram", dense_singular_values), ("svdvals", torch.linalg.svdvals)):
        started = time.perf_counter()
        run(matrix)
        found[name] = time.perf_counter() - started
    return found


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="reports/spectrum.json")
    parser.add_argument("--sample", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_adapter(folder)
        seconds, peak = whole_command(folder)
        ours, dense, worst = against_dense(folder, options.sample)
    ratios = sorted(d / o for o, d in zip(ours, dense, strict=True))
    found = {
        "command": "python benchmarks/spectrum.py",
        "environment": environment(torch.device("cpu")).model_dump(mode="json", exclude_none=True),
        "modules": LAYERS * len(SHAPES),
        "rank": RANK,
        "spectrum_seconds": seconds,
        "spectrum_peak_bytes": peak,
        "factor_seconds": ours,
        "dense_seconds": dense,
        "ratio_median": ratios[len(ratios) // 2],
        "ratio_least": ratios[0],
        "worst_relative_difference": worst,
        "dense_change_2048": dense_change_seconds(),
    }
    Path(options.out).write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"lorabench spectrum of {found['modules']} modules at rank {RANK}: {seconds:.1f} s, {peak / 1e9:.2f} GB at most"
    )
    print(
        f"one 4096 x 4096 module: {1000 * min(ours):.1f} ms from factors, {min(dense):.1f} s dense; ratio"
        f" {ratios[len(ratios) // 2]:.0f} in the median, {ratios[0]:.0f} at least"
    )
    print(f"values differ by {worst:.1e} at most (relative); dense 2048 x 2048: {found['dense_change_2048']}")


if __name__ == "__main__":
    main()
