"""Many settings on a card from few traces: the same bytes as each traced by itself, in whatever process."""

import multiprocessing
from dataclasses import replace

import pytest

from lorabench.config.gpus import find_gpu
from lorabench.memory.card_planner import CardPlanner
from lorabench.memory.step_profile import predict_step
from lorabench.memory.validate import setting_from


def setting(**training):
    return setting_from(
        {
            "model": {"name": "lorabench/tiny-300k"},
            "method": {"rank": 4},
            "training": {"batch_size": 1, "sequence_length": 256, **training},
        }
    )


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_a_batch_on_the_line_takes_what_it_takes_when_it_is_traced(batch):
    room = CardPlanner(find_gpu("rtx4090"))
    wanted = setting(batch_size=batch)
    assert room.need(wanted).step.peak_bytes == predict_step(wanted).peak_bytes
    assert len(room.traced) <= 2


def test_a_rank_between_two_that_are_known_takes_what_it_takes_when_it_is_traced():
    room = CardPlanner(find_gpu("rtx4090"))
    of = {r: replace(setting(), method=setting().method.model_copy(update={"rank": r})) for r in (2, 32, 4, 16)}
    told = {r: room.need(s).step for r, s in of.items()}  # the ends first
    assert told == {r: predict_step(s) for r, s in of.items()}
    by_itself = replace(of[16], training=of[16].training.model_copy(update={"optimizer": "adamw-8bit"}))
    with_ends = [replace(of[r], training=by_itself.training) for r in (2, 32)]
    traced = CardPlanner(find_gpu("rtx4090"))
    for s in (*with_ends, by_itself):  # whose smallest tensors keep whole states
        assert traced.need(s).step == predict_step(s)


def test_what_is_traced_side_by_side_is_what_is_traced_in_a_row():
    ahead, alone = CardPlanner(find_gpu("rtx4090")), CardPlanner(find_gpu("rtx4090"))
    wanted = [setting(), setting(batch_size=2), setting(gradient_checkpointing=True)]
    ahead.prefetch(wanted[:2])
    ahead.prefetch(wanted)  # by the processes that are there
    for s in wanted:
        assert ahead.need(s) == alone.need(s)
    ahead.close()
    assert not multiprocessing.active_children()


def test_the_longest_sequence_fits_and_the_next_does_not():
    card = find_gpu("rtx4090")
    small = replace(card, memory_bytes=CardPlanner(card).need(setting()).high_bytes)
    room = CardPlanner(small)
    longest = room.longest(setting(), 512)
    assert 256 <= longest < 512
    at = [
        room.need(replace(setting(), training=setting().training.model_copy(update={"sequence_length": n}))).high_bytes
        for n in (longest, longest + 1)
    ]
    assert at[0] <= small.memory_bytes < at[1]


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_is_known_to_be_beyond_a_card_is_beyond_it(method, optimizer):
    """The bound from a step with accumulated gradients is the need of the step without, where no gradient is alive at
    its highest point."""
    whole = setting_from(
        {
            "model": {"name": "lorabench/tiny-300k"},
            "method": method,
            "training": {"batch_size": 8, "sequence_length": 256, "optimizer": optimizer},
        }
    )
    card = find_gpu("rtx4090")
    high = CardPlanner(card).need(whole).high_bytes
    assert not CardPlanner(replace(card, memory_bytes=high)).beyond(whole)
    assert CardPlanner(replace(card, memory_bytes=high - 1)).beyond(whole)
    assert not CardPlanner(replace(card, memory_bytes=1)).beyond(
        replace(whole, training=whole.training.model_copy(update={"gradient_accumulation": 2}))
    )
