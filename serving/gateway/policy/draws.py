"""Randomness that is a hash: the same words draw the same, on any machine and on any day."""

from __future__ import annotations

import hashlib


def uniform(*words: str) -> float:
    """A number in [0, 1) that only these words decide."""
    digest = hashlib.blake2b(digest_size=8)
    for word in words:
        data = word.encode()
        digest.update(len(data).to_bytes(4, "big") + data)
    return (int.from_bytes(digest.digest(), "big") >> 11) / 2**53
