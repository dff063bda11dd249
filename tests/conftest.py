"""Settings of all tests: no network, nothing compiled, no file of the user's (calibrations of cards), and one thread
each that waits asleep, on a machine that runs several things."""

import gc
import os
import tempfile

from lorabench import plugins

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="lorabench-tests-cache-")
for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE"), ("TORCHDYNAMO_DISABLE", "1")):
    os.environ.setdefault(name, value)

gc.disable()  # what libraries make as they are imported stays


def pytest_collection_finish() -> None:
    """No later collection looks through the million objects of imported libraries: a tenth of a traced step's time."""
    gc.enable()
    gc.freeze()


plugins.register("executors", "synthetic", "tests.synthetic")  # invents results; no user can name it
