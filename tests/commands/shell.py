"""The command line in a process of its own, and what it loads there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = ("--set", "model=lorabench/tiny-300k", "--executor", "synthetic")
STUDY = ROOT / "studies" / "quickstart.yaml"
RUN = """
from lorabench import plugins
from lorabench.commands.main import main
plugins.register("executors", "synthetic", "tests.synthetic")
main()
"""
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "lm_eval", "plotly")


def shell(*arguments, cwd=ROOT, code="import sys; from lorabench.commands.main import main; sys.exit(main())"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, env=environment, timeout=120
    )


def probe(code, *arguments, names=HEAVY, cwd=ROOT):
    """Which of the named modules are loaded after some code ran with these arguments."""
    tail = f"\nimport sys, json; print('\\n' + json.dumps([m for m in {names!r} if m in sys.modules]))"
    done = shell(*arguments, code=code + tail, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
