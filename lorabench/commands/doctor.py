"""What this machine has, and what of lorabench works on it.

Each probe runs in a process of its own (`python -m lorabench.commands.doctor NAME`), all at the same time, so that
a library that crashes is reported, not suffered.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lorabench.formatting import plural

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "lm_eval",
    "safetensors",
    "pydantic",
    "pandas",
)
PROBES = ("torch", "nf4", "int8", "hub")
SECONDS = 120  # a cold import of torch and bitsandbytes from a slow disk


def report() -> str:
    """All that is known, as lines of name and finding."""
    with tempfile.TemporaryDirectory() as folder:
        running = {name: _begin(name, Path(folder)) for name in PROBES}
        rows = [*_system(), *_packages()]
        findings = {name: _finish(name, process, Path(folder)) for name, process in running.items()}
    rows += [
        ("device", findings["torch"]),
        ("nf4 training", findings["nf4"]),
        ("int8 training", findings["int8"]),
        ("hub", findings["hub"]),
        *_calibrations(),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {line}" for name, text in rows for line in text.splitlines() or [""])


def _system() -> list[tuple[str, str]]:
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    cores = plural(os.cpu_count() or 1, "CPU core")
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) != os.cpu_count():
        cores += f", {len(os.sched_getaffinity(0))} of them for this process"
    return [
        ("system", f"{platform.platform()}, {cores}"),
        ("memory", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free"),
        ("disk here", f"{disk.total / 1e9:.1f} GB, {disk.free / 1e9:.1f} GB free"),
        ("python", f"{platform.python_version()} ({sys.executable})"),
    ]


def _packages() -> list[tuple[str, str]]:
    import lorabench

    rows = [("lorabench", lorabench.__version__)]
    for name in PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "not installed; pip install " + name.replace("_", "-")))
    return rows


def _calibrations() -> list[tuple[str, str]]:
    """A line for each card that was measured; none where none was."""
    from lorabench.errors import LorabenchError
    from lorabench.record.card_calibration import calibrations_folder, installed_versions, stored_calibrations

    here, rows = installed_versions(), []
    for stored in stored_calibrations(calibrations_folder()).values():
        words = str(stored) if isinstance(stored, LorabenchError) else f"{stored.card}, {stored.measured(here).words}"
        rows.append(("calibration", words))
    return rows


def _begin(name: str, folder: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(Path(__file__).resolve().parents[2])) if p)
    with (folder / name).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "lorabench.commands.doctor", name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        )


def _finish(name: str, process: subprocess.Popen[bytes], folder: Path) -> str:
    try:
        code = process.wait(3 * SECONDS if name == "torch" else SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"does not work: no answer in {SECONDS} s"
    lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
    answer = next((line for line in reversed(lines) if line.startswith('{"finding"')), None)
    if answer and code == 0:
        return str(json.loads(answer)["finding"])
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing was printed")
    return (
        f"does not work: the process {f'was killed by signal {-code}' if code < 0 else f'ended with exit code {code}'}"
        f" ({last})"
    )


def probe(name: str) -> str:
    """One probe, run in the child."""
    if name == "torch":
        return _devices()
    return _hub() if name == "hub" else _quantized(name)


def _devices() -> str:
    import torch

    from lorabench.engine.model import computes_in_bfloat16

    quick = computes_in_bfloat16(torch.device("cpu"))
    words = "computes in bfloat16" if quick else "does not compute in bfloat16: float32 where model.dtype is auto"
    lines = [f"CPU, {plural(torch.get_num_threads(), 'thread')}, {words}"]
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        free, total = torch.cuda.mem_get_info(i)
        lines.append(
            f"cuda:{i} {card.name}, {total / 1e9:.1f} GB, {free / 1e9:.1f} GB free, compute capability"
            f" {card.major}.{card.minor}"
        )
    if torch.cuda.is_available():
        lines[1] += "; cells run here"
    elif torch.version.cuda:
        lines.append(f"no CUDA card is visible (torch is built for CUDA {torch.version.cuda}); cells run on the CPU")
    else:
        lines.append("torch is built without CUDA; cells run on the CPU")
    return "\n".join(lines)


def _quantized(name: str) -> str:
    import torch

    layers = importlib.import_module("bitsandbytes.nn")
    place = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "nf4":
        layer = layers.Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    else:
        layer = layers.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
    layer = layer.to(place)
    inputs = torch.randn(4, 64, device=place, requires_grad=True)
    layer(inputs).square().sum().backward()
    if inputs.grad is None or not bool(torch.isfinite(inputs.grad).all()):
        return f"does not work on {place}: the gradient is not finite"
    finding = f"works on {place}: forward and backward through a frozen {name} layer"
    if name == "nf4" and place == "cpu" and importlib.import_module("bitsandbytes.functional").has_avx512bf16():
        finding += (
            "\nbitsandbytes has another 4-bit kernel for this processor (AVX-512 BF16); lorabench does not use it, so"
            " that losses agree with those of other processors"
        )
    return finding


def _hub() -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "not checked: HF_HUB_OFFLINE is set; shipped models, local directories and cached hub models work"
    import urllib.error
    import urllib.request

    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=3).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, ValueError) as e:
        return (
            f"{address} is not reachable ({getattr(e, 'reason', None) or e}); shipped models and local directories work"
        )
    return f"{address} is reachable"


def doctor(options: argparse.Namespace) -> int:
    """Prints what this machine has and what works on it."""
    print(report())
    return 0


if __name__ == "__main__":
    print(json.dumps({"finding": probe(sys.argv[1])}), flush=True)
    os._exit(0)  # some builds of CUDA libraries take seconds to unload
