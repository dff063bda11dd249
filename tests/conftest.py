"""Settings of all tests: no network, nothing compiled, and one thread each that waits asleep, on a machine that runs
several things."""

import os

from lorabench import plugins

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE"), ("TORCHDYNAMO_DISABLE", "1")):
    os.environ.setdefault(name, value)

plugins.register("executors", "synthetic", "tests.synthetic")  # invents results; no user can name it
