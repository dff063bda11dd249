"""What a process of our own sets: a waiting policy where the user has none, and silence for what a library prints
whenever it is imported."""

import logging
import subprocess
import sys

import pytest

from lorabench import startup

NAME = "bitsandbytes.backends.cpu.ops"


def test_a_known_message_is_dropped_and_others_of_the_same_library_pass(caplog, monkeypatch):
    monkeypatch.setattr(startup.os, "environ", seen := {})
    startup.settle()
    startup.settle()
    assert seen["OMP_WAIT_POLICY"] == "PASSIVE"
    logger = logging.getLogger(NAME)
    assert len([f for f in logger.filters if type(f).__module__ == startup.__name__]) == 1
    with caplog.at_level(logging.WARNING, NAME):
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'")
        logger.warning("something else")
    assert [r.message for r in caplog.records if r.name == NAME] == ["something else"]


def test_a_command_that_imports_bitsandbytes_prints_its_answer_alone():
    code = (
        "import sys; from lorabench.commands.main import entry; sys.argv = ['lorabench', 'quantization-error',"
        " 'lorabench/tiny-300k']; entry()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nf4" in ran.stdout
    assert ran.stderr == ""


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_a_policy_that_the_user_set_stands(name):
    assert startup.waiting({name: "ACTIVE"}) == {}


def test_a_worker_that_watches_the_load_spins_longer_unless_the_user_has_set_a_policy():
    ours = startup.waiting({})
    longer = ours | {"GOMP_SPINCOUNT": startup.LONGER_SPINS}
    assert startup.spinning({}) == startup.spinning(ours) == longer  # a command that settled passes its own on
    assert startup.spinning({"OMP_WAIT_POLICY": "PASSIVE"}) == startup.spinning(ours | {"KMP_BLOCKTIME": "9"}) == {}
