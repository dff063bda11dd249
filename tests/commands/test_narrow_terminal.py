"""Tables in a terminal that is narrower than they are: nothing is lost or too wide, and a pipe gets them whole."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from lorabench.formatting import aligned

COMMAND = [sys.executable, "-c", "import sys; from lorabench.commands.main import main; sys.exit(main())"]
ROWS = [
    ("group", "modules", "stable rank", "entropy rank", "utilisation"),
    ("mlp.down_proj", "4", "1.96", "8.68", "79 %"),
    ("all", "28", "2.01", "8.76", "80 %"),
]


def in_terminal(columns: int, *arguments: str) -> str:
    """What a command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    run = subprocess.Popen([*COMMAND, *arguments], stdout=theirs, env=environment)
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # the terminal of a process that has ended
        pass
    finally:
        os.close(ours)
    assert run.wait() == 0
    return written.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("width", [20, 25, 30, 40, 60, 61])
def test_no_line_is_wider_and_no_field_is_lost(width: int) -> None:
    lines = aligned(ROWS, (0,), width)
    assert max(map(len, lines)) <= max(width, len("mlp.down_proj  utilisation"))
    words = " ".join(lines).split()
    assert all(word in words for row in ROWS for field in row for word in field.split())


def test_heads_are_folded_first_and_what_does_not_fit_then_follows_below() -> None:
    assert aligned(ROWS, (0,), 52) == [
        "                        stable  entropy",
        "group          modules    rank     rank  utilisation",
        "mlp.down_proj        4    1.96     8.68         79 %",
        "all                 28    2.01     8.76         80 %",
    ]
    assert aligned(ROWS, (0,), 32) == [
        "                        stable",
        "group          modules    rank",
        "mlp.down_proj        4    1.96",
        "all                 28    2.01",
        "",
        "               entropy",
        "group             rank",
        "mlp.down_proj     8.68",
        "all               8.76",
        "",
        "group          utilisation",
        "mlp.down_proj         79 %",
        "all                   80 %",
    ]


def test_a_table_with_room_is_as_it_is_without_a_width() -> None:
    whole = aligned(ROWS)
    assert aligned(ROWS, (0,), max(map(len, whole))) == whole


def test_a_terminal_gets_what_it_has_room_for_and_a_pipe_all() -> None:
    piped = subprocess.run([*COMMAND, "gpus"], capture_output=True, text=True, check=True).stdout
    table = piped.split("\n\n")[0]
    assert in_terminal(200, "gpus") == piped
    narrow = in_terminal(60, "gpus").rsplit("\n\n", 1)[0]
    assert max(map(len, table.splitlines())) > 60 >= max(map(len, narrow.splitlines()))
    assert set(table.split()) == set(narrow.split())


def test_evidence_stays_within_a_terminal() -> None:
    table = in_terminal(70, "evidence", "--source", "biderman-2024", "--task", "chat").rsplit("\n\n", 1)[0]
    assert max(map(len, table.splitlines())) <= 70
