"""The command lorabench with the drawn engine in the local executor's place of torch: python -m
tests.runner.drawn_runner run STUDY.yaml"""

from __future__ import annotations

import functools
import sys

from lorabench.commands import main as cli
from lorabench.executors import local

if __name__ == "__main__":
    local.open_worker = functools.partial(
        local.open_worker, engine="tests.runner.drawn_engine", predictor="tests.runner.drawn_engine.predict_cell"
    )
    sys.exit(cli.main(sys.argv[1:]))
