"""What holds of every answer, whatever the card, the length and the batch: random worlds with a formula for memory, and a small model traced."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from lorabench.advice.candidates import THOUGHT_OF, CandidateSpec, candidate_specs
from lorabench.advice.ranking import order, rank_candidates, variant
from lorabench.advice.types import Needs, Quality, Workload
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec
from tests.advice.formula_memory import FormulaMemory

GB = 10**9
PARAMETERS = 7 * 10**9
TRAINABLE = {r: r * 2_500_000 for r in (1, 2, 4, 8, 16, 32, 64, 128, 256)}
CARDS = [
    int(gib * 2**30)
    for gib in (0, 2, 4, 6, 8, 10, 11.6, 12, 14.56, 16, 20, 24, 32, 40, 48, 64, 80, 96, 141, 192, 288, 1000)
]
PRIORITIES = ("accuracy", "memory", "speed")
BATCHES = (1, 2, 6, 16, 17, 64)
WORLDS = range(60)
KEPT = {
    "accuracy": 3,
    "memory": 2,
    "speed": 2,
}  # how much of the order a larger card may not worsen: the rest, memory that is there anyway, breaks ties


class World:
    """Families and what they take, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        draw = self.random.uniform
        self.batch = BATCHES[seed % len(BATCHES)]
        self.workload = Workload(ModelSpec(name="llama-2-7b"), 512, self.batch)
        tokens = None if seed % 3 == 0 else int(10 ** draw(5, 11))
        given = candidate_specs(PARAMETERS, tokens, TRAINABLE)
        self.candidate_specs = (
            given if seed % 2 == 0 else tuple(self._measured(f) for f in (*given, *self._others(given)))
        )
        self.weights = {"none": 14.0 * GB, "int8": draw(7, 8) * GB, "nf4": draw(3.5, 5) * GB, "fp4": draw(3.5, 5) * GB}
        self.activation = {
            "none": draw(0.2, 4) * GB,
            "int8": draw(0.2, 5) * GB,
            "nf4": draw(0.2, 4) * GB,
            "fp4": draw(0.2, 4) * GB,
        }
        self.kept = draw(0.05, 0.5)
        self.slow = {"none": 1.0, "int8": draw(1, 3), "nf4": draw(1, 2), "fp4": draw(1, 2)}
        self.timed = seed % 4 != 3

    def _measured(self, f: CandidateSpec) -> CandidateSpec:
        worse, half = self.random.normal(0, 0.03), abs(self.random.normal(0, 0.02))
        basis = self.random.choice(["measured", "unknown", "as it is"])
        if basis == "as it is" or f.method.name == "full":
            return f
        if basis == "unknown":
            return replace(f, quality=Quality("none"))
        against = self.random.choice(["full fine-tuning", "the best of a study"])
        return replace(
            f,
            quality=Quality(
                "measured", against, "eval_loss", worse, worse - half, worse + half, worse + 0.8 * half, 0.02
            ),
        )

    @staticmethod
    def _others(given: tuple[CandidateSpec, ...]) -> list[CandidateSpec]:
        lora = given[0]
        spec = MethodSpec(name="dora", rank=16, alpha=16, target_modules="all-linear")
        return [replace(lora, method=spec), replace(lora, quantization=QuantizationSpec(name="fp4", double_quant=True))]

    def needs(self, c):
        """Weights, gradients and optimizer state, and activations of a micro-batch."""
        stored = self.weights[c.quantization.name]
        trained = PARAMETERS if c.method.name == "full" else TRAINABLE[c.method.rank]
        state = trained * {"adamw": 12, "paged-adamw-8bit": 4}[c.optimizer]
        peak = (
            stored
            + state
            + c.micro_batch_size * self.activation[c.quantization.name] * (self.kept if c.gradient_checkpointing else 1)
        )
        seconds = c.gradient_accumulation * (
            0.05 + c.micro_batch_size * self.slow[c.quantization.name] * (1.33 if c.gradient_checkpointing else 1)
        )
        return Needs(
            trained, round(peak), round(0.94 * peak), round(1.06 * peak), (seconds, 4 * seconds) if self.timed else None
        )

    def advice(self, memory_bytes, priority="accuracy"):
        memory = FormulaMemory(memory_bytes, self.needs)
        return rank_candidates(self.workload, self.candidate_specs, memory, priority)


def of(found):
    return {(r.candidate.method.name, r.candidate.quantization.name) for r in found}


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("seed", WORLDS)
def test_more_memory_never_gives_a_worse_first_recommendation(seed, priority):
    world = World(seed)
    firsts = [(m, a.ranked[0]) for m in CARDS if (a := world.advice(m, priority)).ranked]
    assert firsts
    for (less, before), (more, after) in pairwise(firsts):
        told = f"{less / 2**30:g} to {more / 2**30:g} GiB: {before.candidate} became {after.candidate}"
        assert order(after, priority)[: KEPT[priority]] <= order(before, priority)[: KEPT[priority]], told


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("seed", WORLDS)
def test_what_is_recommended_fits_and_what_is_ruled_out_does_not(seed, priority):
    world = World(seed)
    for memory in CARDS:
        advice = world.advice(memory, priority)
        for r in advice.ranked:
            assert r.needs == world.needs(r.candidate)
            assert r.needs.high_bytes <= memory
            assert r.headroom_bytes == memory - r.needs.high_bytes
            assert r.candidate.micro_batch_size * r.candidate.gradient_accumulation == world.batch
        for e in advice.excluded:
            assert e.over_bytes == e.needs.high_bytes - memory > 0
            assert e.cheapest_change
        assert [order(r, priority) for r in advice.ranked] == sorted(order(r, priority) for r in advice.ranked)


@pytest.mark.parametrize("seed", WORLDS)
def test_no_family_is_lost_but_int8_that_saves_nothing_and_is_not_measured(seed):
    world = World(seed)
    given = {(f.method.name, f.quantization.name) for f in world.candidate_specs}
    assert given >= set(THOUGHT_OF)
    for memory in CARDS:
        advice = world.advice(memory)
        fit, out = of(advice.ranked), of(advice.excluded)
        assert len(fit) + len(out) == len(advice.ranked) + len(advice.excluded)
        assert not fit & out
        lost = given - fit - out
        assert lost <= {("lora", "int8")}
        int8 = next(f for f in world.candidate_specs if f.quantization.name == "int8")
        if lost:
            assert ("lora", "none") in fit
            assert int8.quality.basis != "measured"


@pytest.mark.parametrize("seed", WORLDS)
def test_what_fits_on_a_card_fits_on_every_larger_one(seed):
    world = World(seed)
    out = [of(world.advice(m).excluded) for m in CARDS]
    assert all(after <= before for before, after in pairwise(out))
    assert out[0] == {(f.method.name, f.quantization.name) for f in world.candidate_specs}
    assert not out[-1]


@pytest.mark.parametrize("seed", WORLDS)
def test_a_family_is_ruled_out_only_where_none_of_its_variants_fits(seed):
    world = World(seed)
    sizes = [n for n in range(1, world.batch + 1) if world.batch % n == 0]
    for memory in CARDS:
        out = of(world.advice(memory).excluded)
        for f in world.candidate_specs:
            tried = [
                variant(f, world.workload, n, again, o) for n in sizes for again in (False, True) for o in f.optimizers
            ]
            fits = any(world.needs(c).high_bytes <= memory for c in tried)
            assert fits == ((f.method.name, f.quantization.name) not in out)


def test_the_order_is_the_priority_s():
    world = World(2)
    assert not of(world.advice(CARDS[-1]).excluded)
    by = {p: world.advice(CARDS[-1], p).ranked for p in PRIORITIES}
    assert by["memory"][0].needs.high_bytes == min(r.needs.high_bytes for r in by["memory"])
    assert by["speed"][0].needs.seconds == min(r.needs.seconds for r in by["speed"])
    assert by["accuracy"][0].candidate.method.name == "full"


@pytest.mark.parametrize("priority", PRIORITIES)
def test_what_is_shown_to_be_beyond_the_margin_comes_last(priority):
    world = World(4)
    bad = Quality("measured", "full fine-tuning", "eval_loss", 0.2, 0.15, 0.25, 0.24, 0.02)
    world.candidate_specs = tuple(
        replace(f, quality=bad) if f.quantization.name == "nf4" else f for f in world.candidate_specs
    )
    assert world.advice(CARDS[-1], priority).ranked[-1].candidate.quantization.name == "nf4"


LENGTHS = (256, 512, 1024)
SMALL = "smollm2-135m"


@cache
def answer(gpu, length, priority="accuracy", batch=2):
    from lorabench.workflows.recommend import recommend

    return recommend(SMALL, gpu, length, batch_size=batch, priority=priority)


@pytest.mark.slow
@pytest.mark.usefixtures("traces")
def test_a_longer_sequence_never_leaves_more_headroom_in_the_same_setting():
    """Of an answer's entries that holds at the least setting: a longer sequence may take a smaller micro-batch."""
    from lorabench.config.gpus import find_gpu
    from lorabench.memory.card_planner import CardPlanner
    from lorabench.memory.validate import model_from, setting_from
    from lorabench.workflows.traced_memory import setting_of

    card = find_gpu("24GB")
    room, model = CardPlanner(card), model_from(SMALL)
    first = setting_from(
        {"model": model.model_dump(), "training": {"batch_size": 1, "sequence_length": 256}}, card.kind
    )
    for family in candidate_specs(135_000_000, None, TRAINABLE):
        takes = []
        for length in LENGTHS:
            workload = Workload(model, length, 2)
            takes.append(
                room.need(
                    setting_of(variant(family, workload, 1, True, family.optimizers[-1]), workload, first)
                ).high_bytes
            )
        assert all(short < long for short, long in pairwise(takes)), (
            family.method.name,
            family.quantization.name,
            takes,
        )


@pytest.mark.slow
@pytest.mark.usefixtures("traces", "nothing_at_hand")
def test_what_fits_at_a_length_fits_at_every_shorter_one():
    out = [of(answer("1.2GB", n).excluded) for n in LENGTHS]
    assert all(short <= long for short, long in pairwise(out))


@pytest.mark.slow
@pytest.mark.usefixtures("traces", "nothing_at_hand")
@pytest.mark.parametrize("priority", PRIORITIES)
def test_traced_answers_keep_the_rules_of_drawn_ones(priority):
    worst = None
    for gib in ("0.8GB", "1GB", "1.5GB", "2GB", "3GB", "8GB"):
        found = answer(gib, 512, priority)
        for r in found.ranked:
            assert r.headroom_bytes >= 0
            assert r.needs.low_bytes < r.needs.peak_bytes < r.needs.high_bytes
            assert r.candidate.micro_batch_size * r.candidate.gradient_accumulation == 2
        assert all(e.over_bytes > 0 and e.cheapest_change for e in found.excluded)
        if found.ranked:
            key = order(found.ranked[0], priority)[: KEPT[priority]]
            assert worst is None or key <= worst, (gib, found.ranked[0].candidate)
            worst = key
    assert worst is not None
