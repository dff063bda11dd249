"""What a run shows: time left, plain lines, words for cells."""

from __future__ import annotations

import io

import pytest

from lorabench.engine.events import Event
from lorabench.formatting import duration
from lorabench.runner import progress
from lorabench.runner.display import Lines
from lorabench.runner.plan import make_plan
from lorabench.runner.progress import Tally
from tests.runner.conftest import study_of
from tests.synthetic import open_worker


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_time_left_comes_from_steps_at_first_and_from_finished_cells_then(clock, tmp_path):
    plan = make_plan(study_of(0, 1, 2), tmp_path)
    a, b, _ = plan.cells
    tally = Tally(plan, 0, {c.id: c for c in plan.cells})
    assert tally.time_left() == "time left not known yet"
    tally.start(a)
    for step in range(1, 12):
        clock.now += 0.5
        tally.see(Event(a.id, "train", step, 20, 2.0, 100.0))
    assert (
        tally.time_left() == "more than 24 s left"
    )  # 9 steps here, 20 in each of two cells, half a second each; no evaluation yet
    tally.end(a, 15.0)
    tally.start(b)
    assert (
        tally.time_left() == "about 29 s left"
    )  # twice 15 s less the half second before the first step: a condition's memory is predicted once
    clock.now += 5
    assert tally.time_left() == "about 24 s left"
    clock.now += 60  # slower than the first: never below zero, never unknown
    assert tally.time_left() == "about 14 s left"


def test_cells_whose_steps_are_taken_with_anothers_have_little_left_to_train(clock, tmp_path):
    plan = make_plan(study_of(0, 1, 2, 3), tmp_path)
    first = plan.cells[0]
    tally = Tally(plan, 0, {c.id: c for c in plan.cells})
    now = tally.start(first)
    tally.see(Event(first.id, "train", pack=tuple(c.id for c in plan.cells[:3])))
    for step in range(1, 12):
        clock.now += 0.5
        tally.see(Event(first.id, "train", step, 20, None, 100.0))
    # 9 steps here; of each of its two mates 6 of 20 steps, whose 10 s took three cells; the fourth has 10 s of its own
    assert tally.time_left() == f"more than {duration(9 * 0.5 + 2 * 10 * 6 / 20 / 3 + 10)} left"
    assert progress.state(now) == "training step 11 of 20, 100 tokens/s, 3 cells at once"


def test_two_at_a_time_end_when_the_later_one_does(clock, tmp_path):
    plan = make_plan(study_of(0, 1, 2, 3), tmp_path)
    tally = Tally(plan, 0, {c.id: c for c in plan.cells}, workers=2)
    tally.start(plan.cells[0])
    tally.see(Event(plan.cells[0].id, "train"))
    clock.now += 10
    tally.end(plan.cells[0], 10.0)
    tally.start(plan.cells[1])
    tally.start(plan.cells[2])
    assert tally.time_left() == "about 20 s left", "three cells of 10 s: one worker has two of them"
    for cell in plan.cells[1:3]:
        tally.see(Event(cell.id, "train"))
    clock.now += 10
    tally.end(plan.cells[1], 10.0)
    tally.end(plan.cells[2], 10.0)
    assert tally.time_left() == "about 10 s left", "the last cell alone, whoever takes it"


def test_plain_lines_come_every_ten_seconds_or_tenth_of_the_steps(clock, tmp_path):
    plan = make_plan(study_of(0), tmp_path)
    cell, stream = plan.cells[0], io.StringIO()
    lines = Lines(stream)
    lines.begin(plan)
    lines.start(cell)
    for step in range(1, 1001):
        clock.now += 0.5
        lines.event(Event(cell.id, "train", step, 1000, 1.5, 5230.4))
    said = [line for line in stream.getvalue().splitlines() if "training step" in line]
    assert 45 <= len(said) <= 50  # 500 s
    assert said[0].startswith(
        "[1/1] LoRA r=4, seed 0: training step 20 of 1000, loss 1.500, 5,230 tokens/s, more than "
    )
    result = open_worker().run(cell, tmp_path / "cell", lambda event: None)
    lines.end(cell, result, 503.0)
    assert "finished in 8 min 23 s, held-out loss " in stream.getvalue().splitlines()[-1]


def test_words_tell_what_differs_and_nothing_else(tmp_path):
    more = "grid: {method.rank: [1, 4], training.learning_rate: [0.001, 0.01]}\ninclude: [{method: {name: base}}]\n"
    words = list(make_plan(study_of(0, more=more), tmp_path).words.values())
    assert words[0] == "LoRA r=1, lr=0.001, seed 0"
    assert words[-1] == "base"
    assert len(set(words)) == len(words)
    assert list(make_plan(study_of(0, 1), tmp_path).words.values()) == ["LoRA r=4, seed 0", "LoRA r=4, seed 1"]


def test_durations_read_well():
    assert [duration(s) for s in (0.44, 9.96, 59.4, 61, 599, 640, 7500)] == [
        "0.4 s",
        "10 s",
        "59 s",
        "1 min 01 s",
        "9 min 59 s",
        "11 min",
        "2 h 05 min",
    ]
