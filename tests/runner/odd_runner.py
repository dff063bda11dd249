"""The command lorabench with the odd engine in the local executor's place of torch: python -m tests.runner.odd_runner
run STUDY.yaml"""

from __future__ import annotations

import functools
import sys

from lorabench.commands import main as cli
from lorabench.executors import local

if __name__ == "__main__":
    local.open_worker = functools.partial(
        local.open_worker, engine="tests.runner.odd_engine", predictor="tests.runner.odd_engine.predict_cell"
    )
    sys.exit(cli.main(sys.argv[1:]))
