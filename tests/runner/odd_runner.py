"""The command lorabench with the odd engine in the local executor's place of torch: python -m tests.runner.odd_runner run STUDY.yaml"""

from __future__ import annotations

import functools
import sys

from lorabench.commands import main as cli
from lorabench.executors import local

if __name__ == "__main__":
    local.open_slot = functools.partial(local.open_slot, engine="tests.runner.odd_engine", foresight="tests.runner.odd_engine.foresee")
    sys.exit(cli.main(sys.argv[1:]))
