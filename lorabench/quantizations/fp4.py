"""4-bit floats (2 exponent bits, 1 mantissa bit) in blocks of 64"""

from __future__ import annotations

from functools import partial

from lorabench.quantizations import _four_bit

DOUBLE_QUANT = True

config = partial(_four_bit.config, "fp4")
roundtrip = partial(_four_bit.roundtrip, "fp4")
