"""Shares of a card, by hand: a card of 24 GB, a context of 1 GB, a base of 4 GB and 2 GB for each cell."""

import pytest

from lorabench.record.card_need import COUNTED, MOST, CardNeed

NEED = CardNeed(24 * 10**9, 10**9, 4 * 10**9, 2 * 10**9)


@pytest.mark.parametrize(
    ("cells", "bytes_needed", "share"),
    [(1, 7, 1 / 3), (2, 9, 1 / 2), (3, 11, 1 / 2), (4, 13, 1), (10, 25, 1)],  # 24 // 7 = 3, 24 // 9 = 2, 24 // 13 = 1
)
def test_as_many_share_a_card_as_it_has_bytes_for(cells, bytes_needed, share):
    assert NEED.bytes(cells) == bytes_needed * 10**9
    assert NEED.share(cells) == pytest.approx(share, abs=1 / COUNTED)
    assert round(1 / NEED.share(cells)) * NEED.bytes(cells) <= 24 * 10**9 or share == 1


@pytest.mark.parametrize("own", [10**6, 10**7, 3 * 10**8, 7 * 10**9])
def test_shares_of_a_card_never_sum_to_more_than_it_in_what_schedulers_count(own):
    need = CardNeed(80 * 10**9, 5 * 10**8, 0, own)
    share = need.share()
    assert round(share * COUNTED) == pytest.approx(share * COUNTED)
    assert int(1 / share + 1e-9) * need.bytes() <= 80 * 10**9
    assert min(MOST, 80 * 10**9 // need.bytes()) * share <= 1


def test_what_a_process_may_allocate_of_a_share_is_without_its_context():
    assert NEED.available(0.5) == 11 * 10**9
    assert NEED.available(0.01) == 0


def test_several_cards_are_whole_ones():
    assert CardNeed(24 * 10**9, 10**9, 0, 90 * 10**9, cards=4).share() == 4.0
