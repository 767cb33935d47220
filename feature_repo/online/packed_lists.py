"""How lists of a row are kept small: times as gaps, words as places in a list beside them. Their readers unpack them.

Protobuf, and so Feast, takes five bytes for a time, two and its letters for a word, but one for a small number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import sub


def gaps(times: Sequence[int]) -> list[int]:
    """Of times newest first: the newest, then how long before the one before it each was.

    >>> gaps([1_000, 990, 990, 400])
    [1000, 10, 0, 590]
    """
    return [*times[:1], *(later - earlier for later, earlier in pairwise(times))]


def times(gaps: Sequence[int]) -> list[int]:
    """The times again.

    >>> times([1_000, 10, 0, 590])
    [1000, 990, 990, 400]
    """
    return list(accumulate(gaps, sub))


def places(words: Sequence[str], listed: Sequence[str]) -> list[int]:
    """Where each word stands in `listed`, which has them all.

    >>> places(["view", "click", "view"], ["click", "view"])
    [1, 0, 1]
    """
    place_of = {word: place for place, word in enumerate(listed)}
    return [place_of[word] for word in words]


def words(places: Sequence[int], listed: Sequence[str]) -> list[str]:
    """The words again; "" where `listed` is too short, which no writer of ours leaves.

    >>> words([1, 0, 2], ["click", "view"])
    ['view', 'click', '']
    """
    return [listed[place] if 0 <= place < len(listed) else "" for place in places]
