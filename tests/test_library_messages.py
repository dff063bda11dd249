"""What a library prints whenever it is imported is dropped; everything else that it says is not."""

import logging
import subprocess
import sys

from lorabench import library_messages

NAME = "bitsandbytes.backends.cpu.ops"


def test_a_known_message_is_dropped_and_others_of_the_same_library_pass(caplog):
    library_messages.drop()
    library_messages.drop()
    logger = logging.getLogger(NAME)
    assert len([f for f in logger.filters if type(f).__module__ == library_messages.__name__]) == 1
    with caplog.at_level(logging.WARNING, NAME):
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'")
        logger.warning("something else")
    assert [r.message for r in caplog.records if r.name == NAME] == ["something else"]


def test_a_command_that_imports_bitsandbytes_prints_its_answer_alone():
    code = "import sys; from lorabench.cli import entry; sys.argv = ['lorabench', 'quantization-error', 'lorabench/tiny-300k']; entry()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nf4" in ran.stdout
    assert ran.stderr == ""
