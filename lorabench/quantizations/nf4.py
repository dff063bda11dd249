"""4-bit NormalFloat in blocks of 64 (QLoRA section 3, Dettmers et al. 2023, arXiv:2305.14314)"""

from __future__ import annotations

from functools import partial

from lorabench.quantizations import _four_bit

DOUBLE_QUANT = True

config = partial(_four_bit.config, "nf4")
roundtrip = partial(_four_bit.roundtrip, "nf4")
