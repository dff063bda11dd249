"""The told time left against the truth, for made-up cells of known phases on a clock of their own: within a factor of
two from the first telling on."""

from __future__ import annotations

import heapq
import itertools

import pytest

from lorabench.engine.events import Event
from lorabench.runner import progress
from lorabench.runner.plan import make_plan
from lorabench.runner.progress import UNKNOWN, Tally

WHOLE = {"evaluate": 16, "decompose": 21}


class Clock:
    now = 1000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    Clock.now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)


def phases_of(cell, first, new_base, new_memory, scale):
    """[(phase, seconds)] as such a cell really takes on a laptop: the first of a process imports lm-eval, the first on
    a base samples it and decomposes it, and a process measures the memory of a condition once."""
    quantized, steps, full = cell.quantization.name != "none", cell.training.steps, cell.method.name == "full"
    pace = 2.5 * (1.3 if quantized else 1.0) * (1.4 if full else 1.0)
    found = [("start", 1.5), ("load", 2.0 + quantized)]
    if steps:
        found += [("train", pace * steps)] + ([("sample", 8.0)] if new_base else [])
    found += [("prepare", 6.0)] if first else []
    found += [("evaluate", 8.0 * (1.2 if quantized else 1.0)), ("save", 0.2)]
    if steps:
        found += [("decompose", (8.0 if new_base else 5.0) * (1.3 if quantized else 1.0) * (2 if full else 1))]
        found += [("truncate", 8.0 * len(cell.analysis.truncation))] if cell.analysis.truncation else []
        found += [("measure", 3.0 * pace * new_memory)]
    return [(p, s * scale) for p, s in found]


def ahead_of(cell, first, new_base, new_memory, error, scale):
    """What the engine tells before the first step: right to a factor `error`."""
    steps = cell.training.steps
    if not steps:
        return None
    told = {
        "save": (0.3, 0.0),
        "evaluate": (0.0, 3.0 * error),
        "decompose": ((8.0 if new_base else 5.0) * error, 0.0),
    }
    told |= {"measure": (0.0, 3.0 * error)} if new_memory else {}
    told |= {"prepare": (6.0 if first else 0.0, 0.0)} | ({"sample": (0.0, 3.0 * error)} if new_base else {})
    told |= {"truncate": (0.0, 3.0 * len(cell.analysis.truncation))} if cell.analysis.truncation else {}
    return {phase: (scale * seconds, steps) for phase, (seconds, steps) in told.items()}


def script(cells, workers, error, scale):
    """(when, what, cell, event) of a whole run, in order of time, and when it ends."""
    made, bases, free = [], set(), [(0.0, i, True) for i in range(workers)]
    known = set()
    order = itertools.count()
    for cell in cells:
        at, worker, first = heapq.heappop(free)
        base = cell.quantization.name
        new_base = base not in bases and cell.training.steps > 0
        new_memory = cell.quantization.name == "int8" or (worker, cell.condition_id) not in known
        known.add((worker, cell.condition_id))
        made.append((at, next(order), "start", cell, None))
        for phase, seconds in phases_of(cell, first, new_base, new_memory, scale):
            if phase != "start":
                told = ahead_of(cell, first, new_base, new_memory, error, scale)
                ahead = told if phase == "train" else None
                made.append(
                    (at, next(order), "event", cell, Event(cell.id, phase, total=WHOLE.get(phase), ahead=ahead))
                )
            n = cell.training.steps if phase == "train" else WHOLE.get(phase, 0)
            for i in range(1, n + 1):
                told = Event(cell.id, phase, i, n, 2.0) if phase == "train" else Event(cell.id, phase, done=i, total=n)
                made.append((at + seconds * i / n, next(order), "event", cell, told))
            at += seconds
        if new_base:
            bases.add(base)
        made.append((at, next(order), "end", cell, None))
        heapq.heappush(free, (at, worker, False))
    return sorted(made, key=lambda m: m[:2]), max(m[0] for m in made)


def tellings(plan, workers, error=1.0, scale=1.0, known=()):
    """(when, told, truth) of every moment at which a time left is told, in seconds; the last two seconds of a run are
    left out."""
    events, end = script(plan.pending, workers, error, scale)
    tally = Tally(plan, plan.done, {c.id: c for c in plan.pending}, workers)
    tally.estimator.measured += known
    found, began = [], {}
    for at, _, what, cell, event in events:
        Clock.now = 1000.0 + at
        if what == "start":
            began[cell.id] = at
            tally.start(cell)
        elif what == "event":
            tally.see(event)
        else:
            tally.end(cell, at - began[cell.id])
        told, truth = tally.time_left(), end - at
        if told not in ("", UNKNOWN) and truth > 2 * scale:
            found.append((at, seconds(told), truth, told.split()[0]))
    return found, end


def seconds(told):
    """ "about 1 min 05 s left" as 65."""
    words = told.split()
    return sum(
        float(n) * {"s": 1, "min": 60, "h": 3600}[unit]
        for n, unit in itertools.pairwise(words)
        if unit in ("s", "min", "h")
    )


STUDIES = {
    "one cell": "training: {steps: 10}\n",
    "three seeds": "seeds: [0, 1, 2]\n",
    "ranks": "grid: {method.rank: [1, 4, 16, 32]}\n",
    "quantizations": "grid: {quantization: [none, nf4, int8]}\nseeds: [0, 1]\n",
    "steps": "grid: {training.steps: [10, 40, 160]}\n",
    "long first": "grid: {training.steps: [200, 10, 10]}\n",
    "methods": "grid: {method.rank: [4, 16]}\ninclude: [{method: {name: full}, training.learning_rate: 1.0e-4}]\n",
    "the base first": "grid: {method: [{name: base}, {name: lora, rank: 4}, {name: lora, rank: 8}]}\n",
    "cuts": "grid: {method.rank: [8, 16]}\nanalysis: {truncation: [1, 2, 4]}\n",
    "no spectra": "grid: {method.rank: [8, 16]}\nanalysis: {spectra: none}\n",
}


def plan_of(more, tmp_path):
    base = ("" if "seeds:" in more else "seeds: [0]\n") + ("" if "training:" in more else "training: {steps: 10}\n")
    text = (
        "schema: 1\nname: odd\nmodel: lorabench/tiny-300k\ntask: python-docs\nmethod: {name: lora, rank: 4}\n"
        + base
        + more
    )
    from pathlib import Path

    from lorabench.config.load import read_study
    from lorabench.config.source import parse_source

    return make_plan(read_study(parse_source(text, "odd.yaml", Path.cwd())), tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 0.05])
@pytest.mark.parametrize("name", STUDIES)
def test_every_time_left_that_is_told_is_within_a_factor_of_two_of_the_truth(name, scale, workers, tmp_path):
    plan = plan_of(STUDIES[name], tmp_path)
    found, end = tellings(plan, workers, scale=scale)
    assert found, "something is told"
    if scale == 1.0 and name != "the base first":
        assert found[0][0] < 0.5 * end if len(plan.cells) == 1 else found[0][0] < 15, (
            "as soon as a second step shows the pace"
        )
    off = [
        (at, told, truth)
        for at, told, truth, _ in found
        if not 0.5 <= told / max(truth, 1.0) <= 2 and abs(told - truth) > 1
    ]
    assert not off, f"{name}: {off[:5]}"
    assert {word for *_, word in found} == {"about"}
