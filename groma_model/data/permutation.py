"""A shuffled order as a function: where each place goes, without a list of all of them.

A Feistel network over the next even power of two, walked until it falls into the range (Black and Rogaway, Ciphers
with Arbitrary Finite Domains, 2002), keyed by a hash. It needs no memory and no start-up time, whatever the length.
"""

from __future__ import annotations

import hashlib

_ROUNDS = 6
_MASK = (1 << 64) - 1


class Permutation:
    """A bijection of ``range(length)`` that depends on ``key`` alone; ``permutation[i]`` for ``0 <= i < length``."""

    def __init__(self, length: int, key: str):
        self.length = length
        self.half = max(1, ((max(length - 1, 1)).bit_length() + 1) // 2)
        digest = hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest()
        self.keys = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        """Where place ``index`` goes. Raises IndexError outside the range."""
        if not 0 <= index < self.length:
            raise IndexError(f"{index} is not among {self.length} places")
        half, low = self.half, (1 << self.half) - 1
        while True:
            left, right = index >> half, index & low
            for key in self.keys:
                left, right = right, left ^ (_mix(right + key) & low)
            index = left << half | right
            if index < self.length:
                return index


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the result depends on every bit."""
    value &= _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
