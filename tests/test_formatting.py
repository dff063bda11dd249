"""Units for people."""

from __future__ import annotations

import pytest

from lorabench import formatting


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (512, "bytes", "512 B"),
        (1234, "bytes", "1.23 kB"),
        (999_900, "bytes", "1.00 MB"),
        (184_300, "bytes", "184 kB"),
        (1_310_720, "bytes", "1.31 MB"),
        (16_060_000_000, "bytes", "16.1 GB"),
        (1234, "count", "1,234"),
        (4_718_592, "count", "4.72M"),
        (8_030_261_248, "count", "8.03B"),
        (999_700, "count", "1.00M"),
        (2.03123, "nats", "2.031"),
        (12.0312, "nats", "12.03"),
        (0.00042, "nats", "0.0004"),
        (0.6149, "share", "61.5"),
        (1.0819, "percent", "1.08"),
        (100, "percent", "100"),
        (0.0423, "seconds", "0.04 s"),
        (83.21, "seconds", "83.2 s"),
        (250, "seconds", "4 min 10 s"),
        (7500, "seconds", "2 h 5 min"),
        (20_000, "tokens/s", "20,000"),
        (-0.034, "nats", "−0.034"),
        (0, "nats", "0"),
        (float("inf"), "ratio", formatting.DASH),
    ],
)
def test_a_value_reads_as_people_write_it(value: float, unit: str, shown: str) -> None:
    assert formatting.number(value, unit) == shown


def test_a_difference_carries_its_sign() -> None:
    assert [formatting.difference(v, "nats") for v in (0.034, -0.034, 0.0)] == ["+0.034", "−0.034", "0"]
    assert formatting.difference(-0.012, "share") == "−1.2"


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert "\x1b" not in formatting.one_line("a\x1b[31mb\nc\u202ed")
    assert "\n" not in formatting.one_line("a\nb")
