"""Settings of all tests: no network, nothing compiled, no file of the user's (calibrations of cards), and one thread
each that waits asleep, on a machine that runs several things."""

import os
import tempfile
from functools import cache

import pytest

from lorabench import plugins

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="lorabench-tests-cache-")
for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE"), ("TORCHDYNAMO_DISABLE", "1")):
    os.environ.setdefault(name, value)

plugins.register("executors", "synthetic", "tests.synthetic")  # invents results; no user can name it


@cache
def _cached_course():
    from lorabench.memory import step_profile

    return cache(step_profile.course)


@pytest.fixture(scope="module")
def traces():
    """Each setting is traced once for all modules that ask for this, whose claims are not about tracing: a trace is a
    pure function of its setting and takes half a second."""
    from lorabench.memory import card_planner, interpolate

    with pytest.MonkeyPatch.context() as patch:
        for module in (card_planner, interpolate):
            patch.setattr(module, "course", _cached_course())
        patch.setattr(
            card_planner.CardPlanner, "prefetch", lambda self, settings: None
        )  # another process would not know the cache
        yield
