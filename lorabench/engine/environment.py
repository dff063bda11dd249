"""The machine and the software that a cell runs on, read once per worker."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch

from lorabench import startup
from lorabench.engine.model import computes_in_bfloat16
from lorabench.record.result import Environment

PACKAGES = (
    "lorabench",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "lm_eval",
    "numpy",
    "tokenizers",
    "safetensors",
)


def environment(where: torch.device) -> Environment:
    """Versions, device, commit, and the threads that the process may take now."""
    threads = int(os.environ.get(startup.THREADS) or torch.get_num_threads())
    return _lasting(where).model_copy(update={"cores": threads})


@lru_cache(maxsize=2)
def _lasting(where: torch.device) -> Environment:
    cuda = where.type == "cuda"
    return Environment(
        device=torch.cuda.get_device_name(where) if cuda else "cpu",
        driver=f"CUDA {torch.version.cuda}" if cuda else None,
        processor=_processor(),
        instructions=_instructions(),
        platform=platform.platform(),
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := _version(name))},
        git=_commit(),
    )


def _instructions() -> str:
    """What decides which kernels libraries take on a CPU, and with them the last digits of a loss."""
    bf16 = computes_in_bfloat16(torch.device("cpu"))
    return torch.backends.cpu.get_cpu_capability() + (" with BF16" if bf16 else "")


def _processor() -> str | None:
    """The CPU's name, as Linux and other systems tell it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split()) or None
    return platform.processor() or None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Short commit of the checkout that lorabench runs from; absent where it was installed from a wheel."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None
