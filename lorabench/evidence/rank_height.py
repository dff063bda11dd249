"""How the loss of an adapter falls with its rank.

    height(r) = -4 / (p ln 2) / (1 + (r / 16)^p)     0 in the limit, rising by one a doubling at rank 16

Rank 0 is the untrained model, and the limit of high ranks is full fine-tuning written otherwise (Schulman et al. 2025,
"LoRA Without Regret": the two are alike until an adapter's capacity is used up). What is missed falls from the one to
the other, in between as a power of the rank: so does what is left of singular values beyond the first r where they fall
as a power of their number. p is the most probable of `POWERS` by the sources at hand (calibration.py), never by those
that are left out.
"""

from __future__ import annotations

import math

CENTER = 16.0
POWERS = (0.25, 0.5, 1.0)
"""norms of what is left of singular values that fall as their number to the power of -0.75, -1 and -1.5"""
LOGARITHM = 0.0
"""the power that knows no limit: doublings, as a comparison"""


def height(rank: float | None, power: float) -> float:
    """Of a rank, in doublings at rank 16; a rank that is not known is 16."""
    doublings = math.log2(rank / CENTER) if rank else 0.0
    return -4 / (power * math.log(2)) / (1 + 2 ** (power * doublings)) if power else doublings
