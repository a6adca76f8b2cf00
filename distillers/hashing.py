"""Random numbers as a function of whole numbers, such as (salt, epoch, image), computed wherever those lie.

No stream has a state, so nothing has to be saved, and no lane disturbs another.
"""

from __future__ import annotations

from torch import Tensor

#: numbers are below
END = 1 << 32
_32_BITS = END - 1
#: shifts and factors of a round (C. Wellons, hash-prospector); no product leaves 63 bits
_ROUND, _LAST_SHIFT = ((16, 0x21F0AAAD), (15, 0x735A2D97)), 15


def hashed(salt: Tensor, *values: Tensor | int) -> Tensor:
    """Mix whole numbers, the salt below `END`, to one from 0 to `END` - 1, int64.

    An epoch may be a tensor of floats, as it is inside a captured step.
    """
    mixed = salt
    for value in values:
        mixed = (mixed + (value.long() if isinstance(value, Tensor) else value)) & _32_BITS
        for shift, factor in _ROUND:
            mixed = ((mixed ^ (mixed >> shift)) * factor) & _32_BITS
        mixed = mixed ^ (mixed >> _LAST_SHIFT)
    return mixed
